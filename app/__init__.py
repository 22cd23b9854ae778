"""The forecasting service."""

"""What the routes rely on: models, inference, and the way from a request to its forecast."""

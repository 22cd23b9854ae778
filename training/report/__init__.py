"""A run reviewed: figures, sentences, one HTML document, the terminal, and two runs side by side."""

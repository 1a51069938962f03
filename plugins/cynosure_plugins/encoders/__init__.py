"""Built-in encoders, one plugin a file."""

"""Built-in bases, one plugin a file."""

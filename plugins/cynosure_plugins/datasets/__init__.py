"""Built-in datasets, one plugin a file."""

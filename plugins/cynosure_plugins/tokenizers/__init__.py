"""Built-in tokenizers, one plugin a file."""

"""Built-in quantizers, one plugin a file."""

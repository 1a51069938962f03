"""Built-in priors, one plugin a file."""

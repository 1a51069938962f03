"""Built-in optimizers, one plugin a file; a stage names one with `optimizer`."""

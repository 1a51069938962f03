"""What one does with a model: build, load, predict, evaluate."""

"""One training loop for every stage, on accelerate."""

"""Built-in criteria: losses of stage `codes` that need a network of their own."""

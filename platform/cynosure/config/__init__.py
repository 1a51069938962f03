"""Configuration: YAML with line numbers, and the recipe of a run."""

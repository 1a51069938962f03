"""Networks that look at a small picture and write maps of curves for a large one."""

"""Pictures, rows, mixing, paired augmentation and the scenes generator."""

"""Convolutional networks that tokenizers and bases share, one family a file."""

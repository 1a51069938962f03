"""Readers of other people's checkpoints, for `cynosure convert`."""

"""Metrics: how far predictions are from the truth, accumulated over lists of both."""

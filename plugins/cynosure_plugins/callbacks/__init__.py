"""Plugins that watch a training and change nothing, one a file."""

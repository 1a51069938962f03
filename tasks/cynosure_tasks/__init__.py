"""The vision tasks that come with Cynosure, one file each, every one a plugin."""

"""The `cynosure` command. One module per command, each with `add(app)`; heavy imports stay inside the commands."""

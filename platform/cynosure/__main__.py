"""`python -m cynosure`: the same as the `cynosure` command."""

from cynosure.cli.app import main

main()

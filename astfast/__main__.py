"""Entry point of ``python -m astfast``: the command line."""

from astfast.commands.main import entry

entry()

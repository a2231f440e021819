"""Entry point of ``python -m astfast``: the command line."""

import sys

from astfast.commands.main import main

sys.exit(main())

"""``python -m astfast`` is the command line."""

import sys

from astfast.commands.main import main

sys.exit(main())

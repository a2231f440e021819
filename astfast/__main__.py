"""``python -m astfast`` is the command line."""

import sys

from astfast.cli import main

sys.exit(main())

"""The tests, in the folders of astfast. ``cases``: inputs; ``fakes``: stand-ins; ``emulation``: other machines."""

from pathlib import Path

ROOT = Path(__file__).parent.parent  # of the checkout

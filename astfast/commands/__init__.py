"""Command line ``astfast``: a file a command, the parser in ``main``, all output in ``terminal``.

No other package of astfast prints.
"""

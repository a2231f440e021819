"""How fast a model runs on this machine, and how that compares."""

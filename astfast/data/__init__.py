"""Files that ship with astfast: the built-in model and the label tables."""

"""Where checkpoints come from and the file formats they are in. Knows no model family."""

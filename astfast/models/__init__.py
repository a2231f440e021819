"""Forward passes, each on one page and written only against the Ops protocol."""

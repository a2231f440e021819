"""DASS: distilled audio state-space models."""

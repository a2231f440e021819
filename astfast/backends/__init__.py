"""Backends: one Ops protocol, one reference, one place that chooses."""

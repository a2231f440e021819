"""Tagging at volume: any number of inputs, listed as they are read, into an output folder that a run can go on with."""

"""Integer PCM samples: how they map to floating-point numbers in [-1, 1]."""

INT16_FULL_SCALE = 32768.0  # an int16 sample divided by this lies in [-1, 1)

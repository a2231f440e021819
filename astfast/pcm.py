"""Integer PCM samples: how they map to floating-point numbers in [-1, 1]."""

LIVE = "<live audio>"  # what messages call PCM without an end
INT16_FULL_SCALE = 32768.0  # an int16 sample divided by this lies in [-1, 1)
RAW = {"u8": "u1", "s16le": "<i2", "s32le": "<i4", "f32le": "<f4"}  # FFmpeg's names of PCM encodings -> NumPy's

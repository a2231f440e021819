"""The Audio Spectrogram Transformer: its forward pass, geometry, key layouts and export."""

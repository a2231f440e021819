"""astfast: audio tagging with Audio Spectrogram Transformers, as fast as the hardware allows."""

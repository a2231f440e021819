"""A model on a backend: batches of waveforms or spectrograms in, logits out."""

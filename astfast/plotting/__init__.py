"""A picture of a recording: its spectrogram, and its tags below."""

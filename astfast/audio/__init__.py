"""Every kind of audio input -> mono float32 at the model's rate. Knows nothing of models."""

"""The public Tagger and everything between an engine's logits and tags."""

"""PaSST: audio transformers trained with patchout (Koutini et al. 2021)."""

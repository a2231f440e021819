"""MAEST: music transformers that tag styles of Discogs (Alonso-Jiménez et al. 2023)."""

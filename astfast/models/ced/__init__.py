"""CED: transformers over 64 mel bins, distilled for audio tagging (Dinkel et al. 2023)."""

"""The GPU backend: Triton kernels, and torch's own ops as their fallback."""

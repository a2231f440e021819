"""Triton kernels of astfast; imported only as astfast.kernels."""

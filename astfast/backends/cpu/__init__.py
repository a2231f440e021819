"""The native CPU backend: numpy in, C++ kernels below."""

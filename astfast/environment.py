"""The only reader of environment variables. Each is documented here and in the README."""

from __future__ import annotations

import os
from pathlib import Path

from astfast.errors import BackendError

MAX_THREADS = 4096  # of one engine
PACKED_CACHE_MB = 2000  # of packed weights, where the user does not say


def cpu_tier() -> str | None:
    """ASTFAST_CPU_TIER: the instruction-set tier that the CPU engine must use, or None to take the fastest."""
    return os.environ.get("ASTFAST_CPU_TIER") or None


def num_threads() -> int | None:
    """ASTFAST_NUM_THREADS: threads of the CPU engine where ``threads=`` was not given, or None for all cores."""
    value = os.environ.get("ASTFAST_NUM_THREADS")
    if not value:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= 6 and 1 <= int(value) <= MAX_THREADS):
        shown = value if len(value) <= 20 else f"{value[:20]}..."
        raise BackendError(f"ASTFAST_NUM_THREADS is {shown!r}: set it to 1 to {MAX_THREADS} threads, or unset it")
    return int(value)


def without_blas_threads() -> None:
    """Has NumPy, if it is imported after this, multiply on one thread, unless the environment says how many.

    OpenBLAS starts a thread a core when it is loaded, and they spin for 50 ms of processor time that the engine, which
    does not use them, and other processes could have had.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def persistent_kernels() -> bool:
    """ASTFAST_PERSISTENT_KERNELS: whether Hopper's persistent kernels may be tried (default: yes; 0: no)."""
    return os.environ.get("ASTFAST_PERSISTENT_KERNELS") != "0"


def dependent_launches() -> bool:
    """ASTFAST_DEPENDENT_LAUNCHES: whether GPU kernels start while the one before ends (1: yes; default: no)."""
    return os.environ.get("ASTFAST_DEPENDENT_LAUNCHES") == "1"


def cache_folder() -> Path:
    """ASTFAST_CACHE: where verdicts and packed weights are kept between runs (default: ~/.cache/astfast, by XDG).

    Raises RuntimeError for a user without a home.
    """
    if folder := os.environ.get("ASTFAST_CACHE"):
        return Path(folder)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "astfast"


def packed_cache_bytes() -> int:
    """ASTFAST_PACKED_CACHE_MB: megabytes of packed weights to keep in the cache folder (default 2000; 0: none)."""
    value = os.environ.get("ASTFAST_PACKED_CACHE_MB")
    if not value:
        return PACKED_CACHE_MB * 1_000_000
    if not (value.isascii() and value.isdecimal() and len(value) <= 9):
        shown = value if len(value) <= 20 else f"{value[:20]}..."
        raise BackendError(f"ASTFAST_PACKED_CACHE_MB is {shown!r}: set it to a number of megabytes, or unset it")
    return int(value) * 1_000_000

"""The peak of the multiply-add instruction that a kernel is built on, measured in the same run as the kernel."""

from __future__ import annotations

import ctypes
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(__file__).parent / "instruction_peak.c"
SECONDS = 0.05  # that every thread computes for one measurement


# The instruction behind each of the engine's kernels: (tier, precision) -> a name of instruction_peak.c. Tiers without
# one for bfloat16 multiply in float32.
INSTRUCTIONS = {
    ("scalar", "float32"): "sse2 float32",
    ("scalar", "bfloat16"): "sse2 float32",
    ("avx2", "float32"): "avx2 float32",
    ("avx2", "bfloat16"): "avx2 float32",
    ("avx2", "int8"): "avx2 int8",
    ("avx_vnni", "int8"): "avx_vnni int8",
    ("avx512", "float32"): "avx512 float32",
    ("avx512", "bfloat16"): "avx512 float32",
    ("avx512_vnni", "int8"): "avx512 int8",
    ("avx512_bf16", "bfloat16"): "avx512 bfloat16",
    ("avx512_bf16", "int8"): "avx512 int8",
    ("amx", "bfloat16"): "amx bfloat16",
    ("amx", "int8"): "amx int8",
}


class InstructionPeak:
    """Measures how many operations a second ``threads`` cores give of one instruction, such as "avx512 bfloat16"."""

    def __init__(self, instruction: str, threads: int, cache: Path) -> None:
        if instruction not in INSTRUCTIONS.values():
            raise ValueError(f"{instruction!r} is none of {', '.join(dict.fromkeys(INSTRUCTIONS.values()))}")
        self.instruction = instruction
        self._threads = threads
        self._measure = _library(cache).instruction_peak
        self._measure.argtypes, self._measure.restype = [ctypes.c_char_p, ctypes.c_double], ctypes.c_double
        self.rates: list[float] = []  # operations a second, of every measurement so far

    def __call__(self) -> float:
        """Operations a second of all threads together; kept in ``rates``."""
        self.rates.append(sum(self.of_threads(SECONDS)))
        return self.rates[-1]

    def of_threads(self, seconds: float) -> list[float]:
        """Operations a second of each thread, while all compute for so long."""
        ready = threading.Barrier(self._threads)  # or a thread that is done already would take another one's turn

        def rate(_: int) -> float:
            ready.wait()
            return float(self._measure(self.instruction.encode(), seconds))

        with ThreadPoolExecutor(self._threads) as pool:
            rates = list(pool.map(rate, range(self._threads)))
        if not all(rates):
            raise OSError(f"{self.instruction} can't be measured: the kernel grants no AMX tiles")
        return rates


def _library(cache: Path) -> ctypes.CDLL:
    """instruction_peak.c, compiled once for each version of it."""
    cache.mkdir(parents=True, exist_ok=True)
    library = cache / f"instruction_peak_{int(SOURCE.stat().st_mtime)}.so"
    if not library.exists():
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
    return ctypes.CDLL(str(library))


def tier_of(hardware: str) -> str:
    """The tier in what an Ops backend or a tagger says of its hardware, such as "amx, 2 threads"."""
    return hardware.split(",", maxsplit=1)[0]

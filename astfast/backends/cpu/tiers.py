"""The native C++ module and the instruction-set tier that it computes with.

Tiers: scalar (any machine), avx2 (AVX2, FMA, F16C), avx_vnni (of processors without AVX-512), avx512 (F, DQ, BW, VL),
avx512_vnni, avx512_bf16, amx, each with all that the ones before it have, but for AVX-VNNI. The fastest that the
machine has is taken unless ASTFAST_CPU_TIER names another.
"""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from types import ModuleType

from astfast import environment
from astfast.errors import BackendError


@cache
def native() -> ModuleType:
    """The native C++ module. Raises BackendError where it was not built, or from other sources than these.

    Those are told by the checksum of its typed stub, where that is installed: mypy holds the calls to it, and a test
    the module.
    """
    try:
        from astfast import _native
    except ImportError as error:
        raise BackendError(f"the native module is missing ({error}): {_cure()}") from error
    module: ModuleType = _native
    stub = Path(__file__).parents[2] / "_native.pyi"
    if stub.is_file() and getattr(module, "stub_crc32", None) != zlib.crc32(stub.read_bytes()):
        raise BackendError(
            f"the native module {module.__file__} was built from other sources than these: build it anew, with "
            f"python setup.py build_ext --inplace in {stub.parents[1]}, or install astfast again"
        )
    return module


def _cure() -> str:
    root = Path(__file__).parents[3]
    if (root / "csrc").is_dir():
        return (
            f"this is astfast's source folder, {root}, where Python finds it before one that is installed: start "
            "Python in another folder, or build it in this one with pip install -e ."
        )
    return "install a C++17 compiler and astfast again, from its source"


def choose_tier(tier: str | None = None) -> str:
    """Name of the tier to compute with: ``tier``, else the one of ASTFAST_CPU_TIER, else the fastest of this machine.

    Raises BackendError for a name that is unknown or a tier that the machine can't run.
    """
    missing: dict[str, str] = dict(native().tiers())  # for each tier what the machine lacks, "" if nothing
    name = tier or environment.cpu_tier()
    if name is None:
        return [known for known in missing if not missing[known]][-1]
    if name not in missing:
        raise BackendError(f"the CPU tier {name!r} is unknown: set ASTFAST_CPU_TIER to one of {', '.join(missing)}")
    if missing[name]:
        raise BackendError(f"the CPU tier {name} can't run here: {missing[name]}. Unset ASTFAST_CPU_TIER.")
    return name

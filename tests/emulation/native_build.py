"""The native module built apart from the installed one, and tests run with it in a process of their own.

``emulated_source`` is csrc for any machine with AVX2: the intrinsics of AVX-512, VNNI, BF16 and AMX become those of
tests/emulation, and every tier counts as present.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from astfast.backends.cpu.tiers import native
from tests import ROOT

EMULATION = ROOT / "tests" / "emulation"
EMULATION_FLAGS = ["-I", str(EMULATION), "-Wno-psabi"]  # no other compiler's code takes these vectors


def can_emulate() -> bool:
    """Whether this machine has what the emulation is made of: g++ and AVX2."""
    return shutil.which("g++") is not None and not dict(native().tiers())["avx2"]


emulates = pytest.mark.skipif(not can_emulate(), reason="emulated on AVX2, by g++")


def for_avx2(code: str) -> str:
    """A file of csrc as the emulation compiles it."""
    code = re.sub(r"#pragma GCC target\([^)]*(avx512|avxvnni)[^)]*\)", '#pragma GCC target("avx2,fma,f16c")', code)
    code = code.replace('"+v"(', '"+m"(')  # no register takes 64 bytes
    # Unrolled less: what is one instruction elsewhere is many here, and a sanitizer takes minutes to compile them.
    return code.replace("kLastUnits = 6", "kLastUnits = 1")


def emulated_source(folder: Path) -> Path:
    """A folder to build from, with csrc rewritten."""
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    shutil.copy(ROOT / "setup.py", folder)
    (folder / "astfast").mkdir()
    shutil.copy(ROOT / "astfast" / "_native.pyi", folder / "astfast")
    for path in (folder / "csrc").iterdir():
        path.write_text(for_avx2(path.read_text()))
    shutil.copy(EMULATION / "cpu_features.cpp", folder / "csrc")
    return folder


def build(source: Path, folder: Path, flags: list[str], **variables: str) -> Path:
    """``folder`` with the package and the native module of ``source``."""
    shutil.copytree(
        ROOT / "astfast", folder / "astfast", ignore=shutil.ignore_patterns("*.so", "__pycache__", "builtin")
    )
    places = ["--build-lib", str(folder), "--build-temp", str(folder / "objects")]
    in_all = " ".join(["-O1", *flags])
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", *places],
        cwd=source,
        env={**os.environ, "ASTFAST_REQUIRE_NATIVE": "1", "CXXFLAGS": in_all, "CFLAGS": in_all, **variables},
        check=True,
        timeout=600,
    )
    return folder


def run_python(package: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process that imports astfast from ``package``."""
    path = f"{package}{os.pathsep}{ROOT}"
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=package,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **variables},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def run_tests(
    package: Path, files: list[str], options: list[str], **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs test files with the native module of ``package``. What it says when it aborts is in stderr."""
    paths = [str(ROOT / "tests" / name) for name in files]
    arguments = ["-q", "-p", "no:cacheprovider", "--capture=sys", *options, *paths]
    script = (
        "import astfast._native as native, pytest, sys;"
        f"assert native.__file__.startswith({str(package)!r}), native.__file__;"
        f"sys.exit(pytest.main({arguments!r}))"
    )
    return run_python(package, script, **variables)

"""The engine on Arm: compiled for aarch64 and emulated, it gives the bits that this processor's scalar tier gives."""

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests import ROOT

COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-pthread", "-static"]


def compile_check(compiler: str, binary: Path) -> Path:
    sources = [path for path in sorted((ROOT / "csrc").glob("*.cpp")) if path.name != "bindings.cpp"]
    command = [
        compiler,
        *FLAGS,
        f"-I{ROOT / 'csrc'}",
        *map(str, sources),
        str(ROOT / "tests" / "emulation" / "arm_check.cpp"),
    ]
    subprocess.run([*command, "-o", str(binary)], check=True, timeout=300)
    return binary


@pytest.mark.slow
@pytest.mark.skipif(
    None in (COMPILER, EMULATOR) or platform.machine() != "x86_64",
    reason="needs x86-64 with the packages g++-aarch64-linux-gnu and qemu-user-static",
)
def test_the_emulated_arm_engine_gives_the_same_bits(tmp_path: Path) -> None:
    assert COMPILER is not None
    assert EMULATOR is not None
    native = subprocess.run([compile_check("g++", tmp_path / "x86")], capture_output=True, check=True, timeout=60)
    arm = subprocess.run(
        [EMULATOR, compile_check(COMPILER, tmp_path / "arm")], capture_output=True, check=True, timeout=60
    )
    results = np.frombuffer(arm.stdout, np.float32)
    assert len(results) == 3 * 37 * 96 + 2 * 64 * 40
    assert np.isfinite(results).all()
    assert len(np.unique(results)) > len(results) // 2
    np.testing.assert_array_equal(results, np.frombuffer(native.stdout, np.float32))

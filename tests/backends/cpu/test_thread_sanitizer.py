"""The thread pool's jobs under ThreadSanitizer: a race of two threads fails even where it happens to end well."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.emulation.native_build import ROOT

CHECK = Path(__file__).with_name("pool_check.cpp")
SOURCES = [ROOT / "csrc" / name for name in ("parallel.cpp", "memory.cpp")]
FLAGS = ["-std=c++17", "-O1", "-g", "-fsanitize=thread", "-pthread", f"-I{ROOT / 'csrc'}"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ and its sanitizers")
def test_jobs_have_no_race_and_run_each_task_once(tmp_path: Path) -> None:
    program = tmp_path / "pool_check"
    subprocess.run(["g++", *FLAGS, str(CHECK), *map(str, SOURCES), "-o", str(program)], check=True, timeout=120)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout == "wrong: 0\n"

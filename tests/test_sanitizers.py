"""The native tests again, under AddressSanitizer and UndefinedBehaviorSanitizer, on a build made for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Every kernel of every tier at two odd geometries, every edge of a panel, and log-mels of every length and tier. Forks
# and sweeps are left out: they are slow under a sanitizer and reach no memory that these don't.
SELECTED = "tiny or uneven or edge or few_queries or named or every_tier or any_length or bad_tables"


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package whose native module checks itself."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++ and its sanitizers")
    folder = tmp_path_factory.mktemp("sanitized")
    shutil.copytree(
        ROOT / "astfast", folder / "astfast", ignore=shutil.ignore_patterns("*.so", "__pycache__", "builtin")
    )
    subprocess.run(
        [
            sys.executable,
            "setup.py",
            "-q",
            "build_ext",
            "--build-lib",
            str(folder),
            "--build-temp",
            str(folder / "objects"),
        ],
        cwd=ROOT,
        env={**os.environ, "ASTFAST_SANITIZE": "1", "ASTFAST_REQUIRE_NATIVE": "1", "CXXFLAGS": "-O1", "CFLAGS": "-O1"},
        check=True,
        timeout=600,
    )
    return folder


def test_native_code_has_no_bad_access_and_no_undefined_behaviour(sanitized: Path) -> None:
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{sanitized}{os.pathsep}{ROOT / 'tests'}",
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",  # Python itself keeps what it allocates
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    files = [str(ROOT / "tests" / name) for name in ("test_cpu_ops.py", "test_log_mel.py")]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-k", SELECTED, *files]
    script = (
        "import astfast._native as native, pytest, sys;"
        f"assert native.__file__.startswith({str(sanitized)!r}), native.__file__;"
        f"sys.exit(pytest.main({options!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=sanitized,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "passed" in done.stdout

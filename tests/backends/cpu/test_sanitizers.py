"""The native tests again, under AddressSanitizer and UndefinedBehaviorSanitizer, on a build made for it.

Its tiers above AVX2 are emulated where there is AVX2: they run on machines without them, and loads and stores of tiles,
which no sanitizer sees in assembly, are checked too.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.emulation import native_build

# Every kernel of every tier at two odd geometries, every edge of a panel, and log-mels of every length and tier. Forks
# and sweeps are left out: they are slow under a sanitizer and reach no memory that these don't.
SELECTED = "tiny or uneven or edge or few_queries or named or every_tier or any_length or bad_tables"

# An access is checked by a call: checks in line take twice as long to compile, and the tests run no slower by it.
CALLS = "--param=asan-instrumentation-with-call-threshold=0"


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package whose native module checks itself."""
    folder = tmp_path_factory.mktemp("sanitized")
    if not native_build.can_emulate():
        return native_build.build(native_build.ROOT, folder, [CALLS], ASTFAST_SANITIZE="1")
    source = native_build.emulated_source(tmp_path_factory.mktemp("source"))
    return native_build.build(source, folder, [*native_build.EMULATION_FLAGS, CALLS], ASTFAST_SANITIZE="1")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ and its sanitizers")
def test_native_code_has_no_bad_access_and_no_undefined_behaviour(sanitized: Path) -> None:
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    done = native_build.run_tests(
        sanitized,
        ["backends/cpu/test_ops.py", "backends/test_log_mel.py"],
        ["-x", "-k", SELECTED],
        LD_PRELOAD=" ".join(libraries),
        ASAN_OPTIONS="detect_leaks=0:abort_on_error=0",  # Python itself keeps what it allocates
        UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1",
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "passed" in done.stdout

"""Memory of the CPU engine: none is lost over many calls, and loading keeps no float32 copy of the weights."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import astfast
from astfast import backends
from astfast.backends.cpu.tiers import native
from tests.backends.cpu.test_threads import work
from tests.cases import checkpoints

LEAK = 2**20  # bytes
PRECISIONS = backends.module_of("cpu").precisions()


def alone(function: Callable, *arguments):
    """Its result in a new process: what earlier tests of this one free late would hide a leak, or look like a loss."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def resident_bytes() -> int:
    found = re.search(r"VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def growth(folder: Path, precision: str, calls: int) -> int:
    """Bytes by which resident memory grows over so many calls on batches of all sizes, after a tenth more of them: the
    least of three times, if the first is not below LEAK. What is lost is lost each time; a larger page (2 MiB where the
    system gives them unasked) or another thread's arena comes once."""
    tagger = astfast.load(folder, device="cpu", precision=precision, threads=2)
    longest = tagger.config.front_end.input_samples
    rng = np.random.default_rng(0)

    def run(count: int, clips: int | None = None) -> None:
        for _ in range(count):
            sizes = rng.integers(1, longest, clips or rng.integers(1, 5))
            tagger.classify([0.1 * rng.standard_normal(n).astype(np.float32) for n in sizes], sampling_rate=16_000)

    run(calls // 10, clips=4)
    grown = []
    while len(grown) < 3 and min(grown, default=LEAK) >= LEAK:
        before = resident_bytes()
        run(calls)
        grown.append(resident_bytes() - before)
    return min(grown)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_memory_does_not_grow(tmp_path: Path, precision: str) -> None:
    folder = checkpoints.write_v4(checkpoints.random_model(), tmp_path)
    assert alone(growth, folder, precision, 200) < LEAK


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_memory_does_not_grow_over_a_thousand_calls(tmp_path: Path, precision: str) -> None:
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_hidden_layers": 4}
    model = checkpoints.random_model(**sizes, max_length=128, num_mel_bins=128, num_labels=35)
    folder = checkpoints.write_v4(model, tmp_path)
    assert alone(growth, folder, precision, 1000) < LEAK


LOAD = """
import json, pathlib, re, sys
import astfast.engines.load, astfast.tagging.tagger, astfast.backends.cpu.ops
astfast.backends.cpu.tiers.native()
def kilobytes():
    return {k: int(v) for k, v in re.findall(r"(Vm\\w+):\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())}
before = kilobytes()["VmRSS"]
tagger = astfast.load(sys.argv[1], device="cpu", precision=sys.argv[2], threads=2)
tagger.hardware
print(json.dumps(1024 * (kilobytes()["VmHWM"] - before)))
"""


def test_loading_never_holds_a_second_copy_of_the_weights(tmp_path: Path) -> None:
    """At its peak, bfloat16 weights take two bytes each, beside a few of the largest in float32."""
    model = checkpoints.random_model(
        hidden_size=768, num_attention_heads=12, intermediate_size=3072, num_hidden_layers=4
    )
    folder = checkpoints.write_v4(model, tmp_path)
    weights = sum(parameter.numel() for parameter in model.parameters())
    largest = max(parameter.numel() for parameter in model.parameters())
    script = [sys.executable, "-c", LOAD, str(folder), "bfloat16"]
    peak = json.loads(subprocess.run(script, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert 2 * weights < peak < 2 * weights + 3 * 4 * largest + 2**23, (peak, weights, largest)


BUFFERS = [(2 << 20) - 1, 2 << 20, (2 << 20) + 1, (7 << 20) + 5, 64 << 20]  # bytes


def resident_with_buffers() -> list[tuple[int, int]]:
    """Bytes that two buffers of each size take, all of them written, and then the small ones alone; three times."""
    empty = native().empty
    before = resident_bytes()
    found = []
    for _ in range(3):
        buffers = [empty(size) for size in BUFFERS for _ in range(2)]
        for buffer in buffers:
            buffer[...] = 1
            assert buffer.ctypes.data % (64 if buffer.size < 2 << 20 else 2 << 20) == 0
        full = resident_bytes() - before
        kept = [buffer for buffer in buffers if buffer.size < 4 << 20]
        del buffers, buffer
        found.append((full, resident_bytes() - before))
        assert all((small == 1).all() for small in kept)
    return found


def test_large_buffers_go_back_to_the_system_at_once() -> None:
    """Whatever was allocated after them, which on the heap would keep what is below it."""
    small = 2 * sum(size for size in BUFFERS if size < 4 << 20)
    for full, kept in alone(resident_with_buffers):
        assert full > 2 * sum(BUFFERS) - LEAK
        assert kept < small + 8 * LEAK


def growth_over_callers() -> int:
    """Bytes, over a hundred threads, one after the other, that have a job of one thread each."""
    run = work(1, rows=700)

    def callers(count: int) -> int:
        for _ in range(count):
            caller = threading.Thread(target=run)
            caller.start()
            caller.join()
        return resident_bytes()

    before = callers(5)
    return callers(100) - before


def test_what_a_caller_needed_goes_with_it() -> None:
    assert alone(growth_over_callers) < 8 * LEAK

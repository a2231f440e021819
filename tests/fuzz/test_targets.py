"""A few hundred inputs of each target, by hypothesis; hours of them: ``python -m tests.fuzz.run``."""

import random
import subprocess
import sys
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import run, targets, worker
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS

RUNS = {"decode": 100, "safetensors": 200, "torch": 200, "pickle": 300, "config": 100, "labels": 200, "native": 300}


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "native"])  # any row of bytes is a call of it
def test_the_inputs_to_begin_with_are_good(name, tmp_path):
    for data in TARGETS[name].seeds():
        TARGETS[name].run(data, tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_read_or_refused(name, tmp_path):
    target = TARGETS[name]
    seeds = target.seeds()

    @settings(max_examples=RUNS[name], deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32))
    def fuzz(seed: int) -> None:
        rng = random.Random(seed)
        data = mutated(rng.choice(seeds), seeds, target.tokens, rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                target.run(data, tmp_path)
            except target.allowed:
                return

    fuzz()


def test_a_foreign_exception_is_found(tmp_path, monkeypatch):
    """The harness sees foreign exceptions: a target that raises one is reported with its input."""
    broken = targets.Target(lambda: [b"good"], lambda data, folder: 1 // (data == b"good"), (ValueError,), (b"x",))
    monkeypatch.setitem(TARGETS, "broken", broken)
    fuzzing = worker.Run("broken", tmp_path)
    fuzzing.execute(b"good")
    assert not list(fuzzing.findings.iterdir())
    fuzzing.execute(b"bad")
    (found,) = fuzzing.findings.glob("exception-*.bin")
    assert found.read_bytes() == b"bad"


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("", ""),
        ("import os; os.abort()", "crash"),
        ("import time; time.sleep(60)", "hang"),
        ("while True: pass", "hang"),
    ],
)
def test_crashes_and_hangs_are_found(tmp_path, monkeypatch, script, ended):
    monkeypatch.setattr(run, "COMPUTING", 0.5)
    monkeypatch.setattr(run, "WAITING", 1.0)
    (tmp_path / "current").write_bytes(b"input")
    worker = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    assert run.watch(worker, tmp_path) == ended
    if ended:
        run.keep_last_input(tmp_path, ended, worker.returncode, 7)
        assert (tmp_path / "findings" / f"{ended}-7.bin").read_bytes() == b"input"

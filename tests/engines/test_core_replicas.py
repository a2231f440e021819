"""Engines on groups of cores that share one copy of a model's weights."""

import os
import pickle
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import astfast
from astfast.backends.cpu import core_groups
from astfast.engines.eager import EagerEngine
from astfast.engines.replicas import Replicas
from astfast.errors import BackendError
from astfast.tagging.tagger import opened

WAVES = [np.random.default_rng(i).standard_normal(4000 + 500 * i).astype(np.float32) * 0.1 for i in range(7)]
two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


def engine_of(model: Path, **options: Any) -> Any:
    return opened(astfast.load(model, backend="cpu", precision="bfloat16", **options))[0]


@pytest.fixture
def replicas(tiny_model: Path) -> Any:
    return engine_of(tiny_model, replicas=2)


@two_cores
def test_results_are_those_of_one_engine(tiny_model: Path, replicas: Any) -> None:
    single = engine_of(tiny_model)
    for count in (0, 1, 2, 3, 7):
        np.testing.assert_array_equal(replicas.logits(WAVES[:count]), single.logits(WAVES[:count]))
    np.testing.assert_array_equal(replicas.embed(WAVES), single.embed(WAVES))


@two_cores
def test_weights_are_one_copy_and_cores_are_apart(replicas: Any) -> None:
    first, second = replicas.engines
    assert first.weights is second.weights
    assert [engine.ops.threads for engine in replicas.engines] == [1, 1]
    masks = [thread.submit(os.sched_getaffinity, 0).result() for thread in replicas._threads]
    assert not masks[0] & masks[1]
    assert masks[0] | masks[1] == os.sched_getaffinity(0)  # the caller's own is as it was
    assert replicas.about.endswith("on 2 groups of cores")


@two_cores
def test_an_error_of_one_replica_is_the_callers_and_the_next_batch_is_whole(
    replicas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, run = replicas.logits(WAVES), EagerEngine._run

    def fails(self: Any, *args: Any) -> Any:
        if self is replicas.engines[1]:
            raise MemoryError("no memory for the second")
        return run(self, *args)

    with monkeypatch.context() as broken:
        broken.setattr(EagerEngine, "_run", fails)
        with pytest.raises(MemoryError, match="the second"):
            replicas.logits(WAVES)
    np.testing.assert_array_equal(replicas.logits(WAVES), expected)


@two_cores
def test_a_pickled_tagger_has_its_replicas_and_the_same_order(tiny_model: Path) -> None:
    tagger = astfast.load(tiny_model, backend="cpu", precision="bfloat16", replicas=2)
    copy = pickle.loads(pickle.dumps(tagger))
    with copy:
        assert copy.classify(WAVES, sampling_rate=16000) == [tagger.classify(w, sampling_rate=16000) for w in WAVES]
        assert "on 2 groups of cores" in repr(copy)


@two_cores
def test_single_clips_take_engines_in_turn(replicas: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    run = EagerEngine._run
    monkeypatch.setattr(EagerEngine, "_run", lambda self, *args: used.append(self) or run(self, *args))
    for _ in range(4):
        replicas.logits(WAVES[:1])
    assert used == [*replicas.engines, *replicas.engines]


@two_cores
def test_many_callers(tiny_model: Path, replicas: Any) -> None:
    expected = engine_of(tiny_model).logits(WAVES)
    wrong = []

    def call() -> None:
        wrong.extend(1 for _ in range(20) if not np.array_equal(replicas.logits(WAVES), expected))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@two_cores
def test_a_forked_child_has_threads_of_its_own(replicas: Any) -> None:
    expected = replicas.logits(WAVES)
    if (child := os.fork()) == 0:
        os._exit(0 if np.array_equal(replicas.logits(WAVES), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_auto_is_one_engine_on_a_machine_of_one_group(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = core_groups.CoreGroup(tuple(os.sched_getaffinity(0)), 1)
    monkeypatch.setattr(core_groups, "shared_by_cores", lambda *_: [everything])
    assert isinstance(engine_of(tiny_model, replicas="auto"), EagerEngine)


@two_cores
def test_auto_is_an_engine_a_group_unless_fewer_threads_are_asked_for(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = [core_groups.CoreGroup((cpu,), 1) for cpu in sorted(os.sched_getaffinity(0))]
    monkeypatch.setattr(core_groups, "shared_by_cores", lambda *_: apart)
    assert isinstance(engine_of(tiny_model, replicas="auto"), Replicas)
    assert isinstance(engine_of(tiny_model, replicas="auto", threads=1), EagerEngine)


def test_impossible_numbers(tiny_model: Path) -> None:
    with pytest.raises(BackendError, match=r"replicas is 100000: this process has \d+ cores"):
        engine_of(tiny_model, replicas=100_000)
    for wrong in (0, -1, 1.5, True, "two"):
        with pytest.raises(ValueError, match=r"replicas is .*'auto' or None"):
            astfast.load(tiny_model, replicas=wrong)  # type: ignore[arg-type]


@two_cores
def test_replicas_of_several_threads_end_with_their_engine(tiny_model: Path) -> None:
    def threads() -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.findall(r"Threads:\s*(\d+)", status)[0])

    expected, before = engine_of(tiny_model, threads=6).logits(WAVES), threads()
    engine = engine_of(tiny_model, replicas=2, threads=6)
    assert [each.ops.threads for each in engine.engines] == [3, 3]
    np.testing.assert_array_equal(engine.logits(WAVES), expected)
    assert threads() >= before + 4
    del engine
    deadline = time.monotonic() + 5.0
    while threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() <= before


@two_cores
def test_exit_handlers_may_call_them(tiny_model: Path) -> None:
    program = (
        "import atexit, sys, numpy, astfast\n"
        "tagger = astfast.load(sys.argv[1], backend='cpu', precision='bfloat16', replicas=2)\n"
        "def tag(): print(tagger.classify(numpy.ones(4000, 'f4') / 9, sampling_rate=16000)[0]['score'])\n"
        "atexit.register(tag)\n"
        "tag()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_model)], check=False, capture_output=True, text=True, timeout=60
    )
    first, at_exit = done.stdout.split()
    assert first == at_exit, done.stderr

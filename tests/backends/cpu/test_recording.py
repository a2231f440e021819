"""Forward passes that are recorded once and then run by one native call each."""

import gc
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from astfast.backends.cpu.ops import PRECISIONS, CpuOps
from astfast.backends.cpu.tiers import native
from astfast.engines.base import Output, compute
from astfast.engines.eager import RECORDED, EagerEngine
from astfast.models import recognise as checkpoint
from astfast.models.base import Model
from astfast.models.vit_family import merging
from tests.cases import checkpoints, dass, timm_vit

LAYERS = 12  # as many ops as published models have, each of microseconds
INTERVAL = 0.02  # seconds, after which a busy thread gives others the GIL
OUTPUTS: tuple[Output, ...] = ("logits", "embedding", "features")


def write(name: str, folder: Path) -> Path:
    if name == "DASS":
        return dass.write_hub(dass.random_state(dass.TINY), dass.TINY, folder, frames=70, mels=40)
    if name == "CED":  # all tokens are read, clips are of any length
        torch.save(timm_vit.random_state(timm_vit.ced_shapes(64, 3, 527)), folder / "model.pt")
        return folder / "model.pt"
    return checkpoints.write_v4(checkpoints.random_model(num_hidden_layers=LAYERS), folder)


@pytest.fixture(scope="module", params=["AST", "AST that merges tokens", "CED", "DASS"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    loaded = checkpoint.load(write(request.param.split(" ")[0], tmp_path_factory.mktemp("recorded")))
    return merging(loaded, 0.5 if "merges" in request.param else 0.0)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return checkpoint.load(write("AST", tmp_path_factory.mktemp("deep")))


def engine_of(model: Model, precision: str = "float32") -> EagerEngine:
    return EagerEngine(CpuOps(model.config.num_attention_heads, precision, threads=2), model)


def spectrograms_of(model: Model, clips: int, seed: int = 0, frames: int | None = None) -> np.ndarray:
    shape = clips, frames or model.config.max_length, model.config.num_mel_bins
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def op_by_op(engine: EagerEngine, spectrograms: np.ndarray, output: Output) -> np.ndarray:
    """An output of spectrograms by ops that run when they are called, in buffers of their own."""
    spec = engine.model.family.workspace(engine.config.at_length(spectrograms.shape[1]))
    ws = {name: engine.ops.empty((len(spectrograms), *shape), kind) for name, (shape, kind) in spec.items()}
    return np.array(compute(engine.ops, engine.model, engine.weights, spectrograms, ws, output))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_bits_as_op_by_op_however_often(model: Model, precision: str) -> None:
    engine = engine_of(model, precision)
    batches = [spectrograms_of(model, clips, seed) for seed, clips in enumerate((2, 1, 2, 3))]
    expected = {(i, output): op_by_op(engine, x, output) for i, x in enumerate(batches) for output in OUTPUTS}
    for _ in range(3):
        for i, x in enumerate(batches):
            np.testing.assert_array_equal(engine.logits(x), expected[i, "logits"])
            np.testing.assert_array_equal(engine.forward(x), expected[i, "logits"])
            np.testing.assert_array_equal(engine.embed(x), expected[i, "embedding"])
            np.testing.assert_array_equal(engine.features(x), expected[i, "features"])
    strided = np.repeat(batches[0], 2, axis=0).astype(np.float64)[::2]
    np.testing.assert_array_equal(engine.logits(strided), expected[0, "logits"])
    unaligned = np.ndarray(batches[0].shape, np.float32, b"\0" + batches[0].tobytes(), offset=1)
    np.testing.assert_array_equal(engine.logits(unaligned), expected[0, "logits"])


def test_ops_are_asked_for_once_for_each_shape_and_output(deep: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[int] = []
    record = CpuOps.record
    monkeypatch.setattr(CpuOps, "record", lambda ops, f, buffer: recorded.append(len(buffer)) or record(ops, f, buffer))
    engine = engine_of(deep)
    for clips in (2, 1, 2, 1):
        engine.logits(spectrograms_of(deep, clips))
        engine.embed(spectrograms_of(deep, clips))
    assert recorded == [2, 2, 1, 1]
    engine.logits(spectrograms_of(deep, 3))  # in a larger workspace
    engine.logits(spectrograms_of(deep, 2))
    assert recorded == [2, 2, 1, 1, 3, 2]


def test_of_many_lengths_the_last_used_are_kept(tmp_path: Path) -> None:
    model = checkpoint.load(write("CED", tmp_path))
    engine = engine_of(model)
    lengths = range(40, 40 + 2 * RECORDED)
    expected = [engine.logits(spectrograms_of(model, 1, frames, frames)) for frames in lengths]
    assert [frames for _, frames, _ in engine._recorded] == list(lengths)[-RECORDED:]
    for frames, logits in zip(lengths, expected, strict=True):
        np.testing.assert_array_equal(engine.logits(spectrograms_of(model, 1, frames, frames)), logits)


@contextmanager
def beside_a_busy_thread() -> Iterator[None]:
    """Context in which another thread runs Python code all the time, and gives the GIL away when it has to."""
    done = threading.Event()
    started = threading.Event()

    def spin() -> None:
        started.set()
        while not done.is_set():
            pass

    thread, interval = threading.Thread(target=spin), sys.getswitchinterval()
    sys.setswitchinterval(INTERVAL)
    thread.start()
    started.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_a_forward_pass_waits_for_a_busy_thread_a_few_times_not_after_every_op(deep: Model) -> None:
    """Waits of INTERVAL each: after the ops, and after the few calls of NumPy around them that let go of the GIL. With
    one after each op it took 5 * LAYERS of them, at the least."""
    engine, x = engine_of(deep), spectrograms_of(deep, 1)
    engine.forward(x)
    seconds = []
    with beside_a_busy_thread():
        for _ in range(5):
            start = time.perf_counter()
            engine.forward(x)
            seconds.append(time.perf_counter() - start)
    assert min(seconds) < 5 * LAYERS * INTERVAL / 3


def test_a_recording_keeps_what_it_reads_and_writes() -> None:
    ops = CpuOps(1, "float32", 1)
    recording = native().Recording()
    rng = np.random.default_rng(0)
    w = ops.context.pack_linear(rng.standard_normal((3, 4), np.float32), np.zeros(3, np.float32))
    x, residual = rng.standard_normal((1, 2, 4), np.float32), np.zeros((1, 2, 3), np.float32)
    ops.context.recorder(recording).linear_residual(x, w, residual)
    assert not residual.any()
    kept = [weakref.ref(array) for array in (x, residual)]
    buffer, counted = residual, sys.getrefcount(w)
    del x, residual
    recording.replay(np.ones((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32))
    assert buffer.all()
    del buffer, recording
    gc.collect()
    assert [reference() for reference in kept] == [None, None]
    assert sys.getrefcount(w) == counted - 1


def test_what_is_wrong_is_refused_by_name_when_it_is_recorded() -> None:
    ops = CpuOps(1, "float32", 1)
    recording = native().Recording()
    w = ops.context.pack_linear(np.zeros((3, 4), np.float32), np.zeros(3, np.float32))
    x, residual = np.ones((1, 2, 4), np.float32), np.ones((1, 2, 3), np.float32)
    with pytest.raises(ValueError, match=r"residual has shape \[1, 2, 2\], not \[1, 2, 3\]"):
        ops.context.recorder(recording).linear_residual(x, w, residual[..., :2])
    with pytest.raises(ValueError, match=r"x has shape \[1, 2, 3\], not \[1, 2, 4\]"):
        recording.replay(residual, x)
    with pytest.raises(ValueError, match="input is not contiguous"):
        recording.replay(x[:, :, :2].copy(), x[:, :, :2])
    x.flags.writeable = False
    with pytest.raises(ValueError, match="input is read-only"):
        recording.replay(x, x)


class Interrupted(Exception):
    """What the signal handler raises."""


def test_a_signal_interrupts_a_long_pass() -> None:
    """On the slowest tier each step takes some 10 ms or more, all together seconds; the signal comes after 0.05."""
    ops = CpuOps(1, "float32", 1, "scalar")
    recording = native().Recording()
    w = ops.context.pack_linear(np.ones((256, 256), np.float32), np.ones(256, np.float32))
    x, residuals = np.ones((1, 300, 256), np.float32), np.zeros((400, 1, 300, 256), np.float32)
    recorder = ops.context.recorder(recording)
    for residual in residuals:
        recorder.linear_residual(x, w, residual)

    def handler(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupted):
            recording.replay(x, x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert residuals[0].all()
    assert not residuals[-1].any()


def test_an_error_while_recording_leaves_the_engine_usable(deep: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, x = engine_of(deep), spectrograms_of(deep, 2)
    with monkeypatch.context() as patch:
        patch.setattr(CpuOps, "pool", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.logits(x)
    np.testing.assert_array_equal(engine.logits(x), op_by_op(engine, x, "logits"))

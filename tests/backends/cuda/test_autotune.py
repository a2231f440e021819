"""Kernels are checked against PyTorch's ops, timed, and replaced where they are wrong or slow; results are kept.

But for one test in Triton's interpreter, PyTorch's ops stand in for the kernels too: the choice is what is tested.
"""

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

from astfast.backends.cuda import autotune_cache
from astfast.backends.cuda.autotune import (
    CHECKED_CLIPS,
    NO_COMPILER,
    Autotuner,
    NotFinite,
    check,
)
from astfast.backends.cuda.op_call import OpCall
from astfast.backends.cuda.ops import CudaOps, Target
from astfast.backends.cuda.runtime import HostRuntime
from astfast.backends.reference import ReferenceOps
from astfast.engines.cuda_graphs import CudaGraphEngine
from astfast.engines.eager import EagerEngine
from astfast.errors import BackendError
from astfast.kernels.tuning import Tile, Tiles
from astfast.models import recognise as checkpoint
from astfast.notes import Note
from tests import launchers
from tests.cases import checkpoints

GPU = Target(80, 4, "a GPU that is not here")
LARGE = Tiles(  # few programs: the interpreter spends its time between them
    norm_linear=(Tile(64, 128, 64, 4, 2),),
    residual=(Tile(64, 64, 128, 4, 2),),
    attention=Tile(64, 64, 0, 4, 2),
    few_queries=Tile(16, 64, 0, 4, 2),
    patch_embed=Tile(64, 64, 256, 4, 2),
    **dict.fromkeys(("log_mel", "tf32_log_mel"), Tile(64, 256, 128, 4, 2)),
    head=Tile(16, 16, 64, 4, 2),
)
OPS = {"log_mel", "patch_embed", "norm_linear", "attention", "linear_residual", "pool", "head"}


class Clock(HostRuntime):
    """Times by decree: those of the kernel and of torch's ops are always ``times``."""

    def __init__(self, *times: float) -> None:
        super().__init__()
        self.times = times
        self.measured = 0

    def compare(self, *works: Any) -> list[float]:
        for work in works:
            work()
        self.measured += len(works)
        return list(self.times)


KERNEL_FIRST, TORCH_FIRST = (1e-5, 2e-5), (2e-5, 1e-5)  # the kernel is timed before torch's ops


@pytest.fixture
def loaded(tiny_model: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(tiny_model)


class Kernels:
    """A launcher of calls, as ``calls_for_launches`` has them: torch's ops in a kernel's place. Notes what it ran."""

    def __init__(self, spoilt: str = "", spoil: Any = None) -> None:
        self.spoilt, self.spoil = spoilt, spoil
        self.launched: list[OpCall] = []

    def __call__(self, call: Any) -> None:
        self.launched.append(call)
        call.clips[call.result].copy_(call.run_torch())
        if call.op == self.spoilt:
            self.spoil(call)


@pytest.fixture
def calls_for_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a call gives its launcher is the call itself."""
    monkeypatch.setattr(OpCall, "launch", lambda self: self)


quick = pytest.mark.usefixtures("calls_for_launches")


def backend(
    loaded: checkpoint.Checkpoint,
    launcher: Any = None,
    times: tuple[float, float] = KERNEL_FIRST,
    precision: str = "float32",
    deterministic: bool = False,
    environment: str = "an environment",
) -> tuple[EagerEngine, Autotuner]:
    autotuner = Autotuner(Clock(*times), launcher or Kernels(), environment, deterministic)
    how = {"target": GPU, "tiles": LARGE, "autotuner": autotuner, "deterministic": deterministic}
    ops = CudaOps(loaded.config.num_attention_heads, precision, "cpu", **how)
    return EagerEngine(ops, loaded), autotuner


def waves(count: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [0.1 * rng.standard_normal(9000 + 1000 * i).astype(np.float32) for i in range(count)]


def reference(loaded: checkpoint.Checkpoint) -> np.ndarray:
    return EagerEngine(ReferenceOps(loaded.config.num_attention_heads), loaded).logits(waves())


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_kernels_and_torchs_ops_agree_on_a_whole_model(precision: str, tmp_path: Path) -> None:
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_length": 40, "num_mel_bins": 32}
    folder = checkpoints.write_v4(checkpoints.random_model(seed=0, **small), tmp_path / "model")
    loaded = checkpoint.load(folder)
    ops = backend(loaded, launchers.interpret, precision=precision)[0].ops
    engine = CudaGraphEngine(ops, loaded, batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_kernels = engine.logits(waves(2))
    table = autotune_cache.load()["an environment"]
    assert {key.split()[0] for key in table} == {*OPS, "tf32x3"}
    assert all(result.failure is None and result.timed for result in table.values())
    by_torch = EagerEngine(ops, loaded)
    ops._autotuner.compiler_missing = True
    expected = EagerEngine(ReferenceOps(2), loaded).logits(waves(2))
    allowed = 2e-4 if precision == "float32" else 0.05
    np.testing.assert_allclose(by_kernels, expected, atol=allowed)
    np.testing.assert_allclose(by_torch.logits(waves(2)), expected, atol=allowed)


@quick
@pytest.mark.parametrize(
    ("times", "faster"),
    [((2e-5, 1e-5), False), ((1e-5, 2e-5), True), ((1.03e-5, 1e-5), True), ((1.031e-5, 1e-5), False)],
)
def test_the_faster_implementation_runs_and_the_kernel_within_a_margin(
    loaded: checkpoint.Checkpoint, times: tuple[float, float], faster: bool
) -> None:
    kernels = Kernels()
    engine, _ = backend(loaded, kernels, times)
    judged = engine.logits(waves())
    kernels.launched.clear()
    np.testing.assert_array_equal(engine.logits(waves()), judged)
    assert len(kernels.launched) == (4 + 5 * loaded.config.num_hidden_layers + 1 if faster else 0)


@quick
@pytest.mark.parametrize("op", sorted(OPS))
def test_a_wrong_kernel_is_replaced_with_one_warning(loaded: checkpoint.Checkpoint, op: str) -> None:
    def one_value(call: OpCall) -> None:
        out = call.clips[call.result]
        out[-1, -1] += 0.1 + 0.1 * out.abs().max()

    engine, _ = backend(loaded, Kernels(op, one_value))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = engine.logits(waves())
        engine.logits(waves(2))
    first, *further = (str(warning.message) for warning in caught)
    variants = ["tf32x3"] if op == "log_mel" else []  # further kernels, which are wrong as well
    assert re.search(rf"PyTorch's ops run in place of the kernel of {op}: \w+ is off by", first)
    assert [message.split(" kernel:")[0] for message in further] == [f"{op} runs without its {v}" for v in variants]
    np.testing.assert_allclose(got, reference(loaded), atol=2e-4)
    wrong = {key.split()[0] for key, result in autotune_cache.load()["an environment"].items() if result.failure}
    assert wrong == {op, *variants}


@quick
def test_a_kernel_that_leaves_a_value_unwritten_is_wrong(loaded: checkpoint.Checkpoint) -> None:
    engine, _ = backend(loaded, Kernels("head", lambda call: call.clips["out"][-1, -1].fill_(float("nan"))))
    with pytest.warns(RuntimeWarning, match="kernel of head: out is off by nan"):
        assert np.isfinite(engine.logits(waves())).all()


@quick
@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (OutOfResources(300_000, 232_448, "shared memory"), True),
        (CompilationError("x = tl.dot()", None, "no"), True),
        (RuntimeError("PassManager::run failed"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nand more"), False),
        (ValueError("another thing"), False),
    ],
)
def test_a_kernel_that_raises_is_replaced_with_one_warning(
    loaded: checkpoint.Checkpoint, error: Exception, kept: bool
) -> None:
    """What another kernel or a passing state may have caused is not remembered."""

    def fails(_: OpCall) -> None:
        raise error

    engine, _ = backend(loaded, Kernels("attention", fails))
    first = re.escape(f"{type(error).__name__}: {error}".splitlines()[0])
    with pytest.warns(RuntimeWarning, match=rf"kernel of attention: {first}$") as seen:
        got = engine.logits(waves())
    assert len(seen) == 1
    np.testing.assert_allclose(got, reference(loaded), atol=2e-4)
    table = autotune_cache.load()["an environment"]
    assert any(key.startswith("attention") for key in table) == kept


def test_an_error_of_earlier_work_condemns_no_kernel() -> None:
    class Broken(Clock):
        def synchronize(self) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    autotuner = Autotuner(Broken(*KERNEL_FIRST), lambda entry: entry(), "an environment")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        autotuner.run(made_up(0.0, 0.0))
    assert autotune_cache.load() == {}


@quick
def test_without_a_c_compiler_torchs_ops_run_with_one_warning(loaded: checkpoint.Checkpoint) -> None:
    tried = []

    def launcher(call: OpCall) -> None:
        tried.append(call)
        raise RuntimeError(f"{NO_COMPILER}. Please specify via CC environment variable")

    engine, _ = backend(loaded, launcher)
    with pytest.warns(RuntimeWarning, match="install gcc or clang") as caught:
        got = engine.logits(waves())
    assert [each.category for each in caught].count(RuntimeWarning) == 1
    assert len(tried) == 1
    np.testing.assert_allclose(got, reference(loaded), atol=2e-4)
    assert autotune_cache.load() == {}  # the next process looks for a compiler again


@quick
def test_a_compiler_that_has_gone_since_is_noticed(loaded: checkpoint.Checkpoint) -> None:
    backend(loaded)[0].logits(waves())

    def launcher(_: OpCall) -> None:
        raise RuntimeError(NO_COMPILER)

    engine, _ = backend(loaded, launcher)
    with pytest.warns(RuntimeWarning, match="install gcc or clang"):
        got = engine.logits(waves())
    np.testing.assert_allclose(got, reference(loaded), atol=2e-4)


@quick
def test_too_little_memory_is_no_fault_of_a_kernel(loaded: checkpoint.Checkpoint) -> None:
    def launcher(_: OpCall) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    engine, _ = backend(loaded, launcher)
    with pytest.raises(torch.OutOfMemoryError):
        engine.logits(waves())
    assert autotune_cache.load() == {}


@quick
def test_results_are_kept_for_the_environment_that_they_are_of(loaded: checkpoint.Checkpoint) -> None:
    def measured(environment: str) -> int:
        engine, autotuner = backend(loaded, environment=environment)
        engine.logits(waves())
        return autotuner.runtime.measured

    judged = measured("an environment")
    assert judged == 2 * len(autotune_cache.load()["an environment"])
    assert measured("an environment") == 0
    assert measured("another environment") == judged
    assert set(autotune_cache.load()) == {"an environment", "another environment"}


@quick
def test_deterministic_takes_every_right_kernel_and_times_none(loaded: checkpoint.Checkpoint) -> None:
    kernels = Kernels()
    fixed, autotuner = backend(loaded, kernels, TORCH_FIRST, deterministic=True)
    fixed.logits(waves())
    assert autotuner.runtime.measured == 0
    kernels.launched.clear()
    fixed.logits(waves())
    assert len(kernels.launched) == 4 + 5 * loaded.config.num_hidden_layers + 1
    table = autotune_cache.load()["an environment"]
    assert not any(result.timed for result in table.values())
    engine, timing = backend(loaded)
    engine.logits(waves())
    assert timing.runtime.measured == 2 * len(autotune_cache.load()["an environment"])  # checked before, timed only now
    again, autotuner = backend(loaded, kernels, deterministic=True)  # and times that are known change nothing
    again.logits(waves())
    assert autotuner.runtime.measured == 0


def test_deterministic_takes_one_tile_for_every_batch(loaded: checkpoint.Checkpoint) -> None:
    def tiles(deterministic: bool, clips: int) -> set[tuple[int, int]]:
        recorder = launchers.Recorder()
        target = Target(90, 132, "H100")
        how = {"launcher": recorder, "target": target, "deterministic": deterministic}
        ops = CudaOps(loaded.config.num_attention_heads, "bfloat16", "cpu", **how)
        spectrograms = torch.zeros(clips, loaded.config.max_length, loaded.config.num_mel_bins)
        EagerEngine(ops, loaded, batch_size=clips).forward(spectrograms)
        blocks = [entry.args for entry in recorder.launches if "linear" in entry.name]
        return {(args["BLOCK_M"], args["BLOCK_N"]) for args in blocks}

    assert tiles(True, 1) == tiles(True, 600)
    assert tiles(False, 1) != tiles(False, 600)


@quick
def test_a_cold_start_is_announced_once_and_a_warm_one_is_not(
    loaded: checkpoint.Checkpoint, recwarn: pytest.WarningsRecorder
) -> None:
    for expected in (["compiling, which takes a minute"], []):
        engine, autotuner = backend(loaded)
        autotuner._cold_start = Note("compiling, which takes a minute")
        engine.logits(waves())
        engine.logits(waves())
        assert [str(warning.message) for warning in recwarn] == expected
        recwarn.clear()


@quick
def test_nothing_is_judged_inside_a_capture(loaded: checkpoint.Checkpoint) -> None:
    engine, autotuner = backend(loaded)
    autotuner.runtime.capturing = True
    with pytest.raises(BackendError, match=r"log_mel .* is new inside a graph capture"):
        engine.logits(waves())
    autotuner.runtime.capturing = False
    expected = engine.logits(waves())
    autotuner.runtime.capturing = True
    np.testing.assert_array_equal(engine.logits(waves()), expected)


def made_up(error: float, torch_error: float, size: float = 8.0, dtype: torch.dtype = torch.float32) -> OpCall:
    """A call whose kernel and torch's ops are off by so much from ``size``."""

    def torch_op(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(x + (torch_error if x.dtype == dtype else 0.0))

    clips = {"x": torch.full((5, 3), size, dtype=dtype), "out": torch.zeros(5, 3, dtype=dtype)}
    kernel: Any = lambda x, out: lambda: out.copy_(x + error)  # noqa: E731
    return OpCall("made up", kernel, torch_op, clips, {}, {}, "out", ("out",))


def test_a_kernel_may_be_off_by_twice_as_much_as_torch_and_some_roundings() -> None:
    ulp = 2.0**-20  # of numbers from 8 to 16; the roundings that are granted to float32 are five of it
    for torchs in (0, 2):
        assert check(made_up((2 * torchs + 5) * ulp, torchs * ulp), lambda entry: entry()) is None
        assert check(made_up((2 * torchs + 6) * ulp, torchs * ulp), lambda entry: entry()) is not None
    ulp = 2.0**-7  # of bfloat16 from 1 to 2; half of it is granted
    for torchs in (0, 2):
        call = made_up((2 * torchs + 1) * ulp, torchs * ulp, 1.0, torch.bfloat16)
        assert check(call, lambda entry: entry()) is not None
        call = made_up(2 * torchs * ulp, torchs * ulp, 1.0, torch.bfloat16)
        assert check(call, lambda entry: entry()) is None


def test_inputs_that_are_not_finite_prove_nothing(loaded: checkpoint.Checkpoint) -> None:
    with pytest.raises(NotFinite, match="out that is not finite"):
        check(made_up(0.0, 0.0, size=float("inf")), lambda entry: entry())
    autotuner = Autotuner(Clock(*KERNEL_FIRST), lambda entry: entry(), "an environment")
    nan, good = made_up(0.0, 0.0, size=float("nan")), made_up(0.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert autotuner.run(nan).isnan().all()  # by torch's ops
    assert autotune_cache.load() == {}
    autotuner.run(good)  # the same shapes
    assert autotune_cache.load()["an environment"][good.key].failure is None


@quick
def test_a_check_takes_two_clips_and_writes_to_nothing_that_is_seen_outside(loaded: checkpoint.Checkpoint) -> None:
    kernels = Kernels()
    engine, _ = backend(loaded, kernels)
    judged = engine.logits(waves())
    seen = [call.clips["stream"] for call in kernels.launched if call.op == "linear_residual"]
    assert [len(x) for x in seen[:3]] == [CHECKED_CLIPS, 3, 3]  # the check, the clock, the call itself
    assert len({x.data_ptr() for x in seen[:3]}) == 3
    np.testing.assert_array_equal(engine.logits(waves()), judged)


def test_calls_of_other_shapes_types_and_settings_have_other_keys() -> None:
    call = made_up(0.0, 0.0)
    others = [
        replace(call, clips={"x": torch.zeros(4, 3), "out": torch.zeros(4, 3)}),
        replace(call, clips={"x": torch.zeros(5, 3, dtype=torch.int16), "out": torch.zeros(5, 3)}),
        replace(call, settings={"activation": "gelu"}),
        replace(call, settings={"heads": 3}),
        replace(call, weights={"weight": torch.zeros(3, 3)}),
        replace(call, tuning={"tile": Tile(64, 64, 32, 4, 3)}),
        replace(call, tuning={"tile": Tile(64, 64, 32, 4, 2)}),
    ]
    assert len({call.key, *(other.key for other in others)}) == 8
    assert replace(call, settings={"eps": 1e-6}).key == call.key

"""The GPU's engine on CPU tensors: a device that takes notes stands in for streams and graphs, torch's ops compute."""

import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import astfast
from astfast import checkpoint
from astfast.audio import load_audio
from astfast.backends import cuda
from astfast.backends.cuda import CudaOps, Target
from astfast.backends.cuda_chooser import NO_COMPILER, Chooser
from astfast.backends.cuda_resample import Resampler
from astfast.backends.cuda_streams import HostDevice
from astfast.backends.reference import ReferenceOps
from astfast.device_engine import DeviceEngine, buckets_up_to, next_bucket
from astfast.engine import Engine
from astfast.errors import AudioError, BackendError
from astfast.kernels import launch
from astfast.replicas import Replicas

GPU = Target(90, 132, "a GPU that is not here")


class Note:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def synchronize(self) -> None:
        self.log.append("host waits")


class Allocations(TorchDispatchMode):
    """Names of the operators that made new memory."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not (func.is_view or func._schema.is_mutable):
            self.made.append(str(func))
        return result


class NotedDevice(HostDevice):
    """Runs everything at once, as HostDevice, and notes what it was asked for; captures as a GPU does."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.uploading = False
        self.captures = 0
        self.made_in_captures: list[str] = []
        self.inside = 0

    @contextlib.contextmanager
    def copying(self) -> Iterator[None]:
        self.log.append("upload")
        self.uploading = True
        yield
        self.uploading = False

    def mark(self) -> Note:
        return Note(self.log)

    def wait(self, event: Note) -> None:
        self.log.append("uploads wait" if self.uploading else "stream waits")

    def synchronize(self) -> None:
        self.log.append("host waits")

    def capture(self, work: Callable[[], Any]) -> Callable[[], None]:
        work()
        self.capturing = True
        with Allocations() as allocations:
            work()
        self.capturing = False
        self.captures += 1
        self.made_in_captures += allocations.made

        def replay() -> None:
            self.log.append("replay")
            self.inside += 1
            assert self.inside == 1, "two calls use a graph's buffers at once"
            work()
            self.inside -= 1

        return replay


def no_compiler(_: launch.Launch) -> None:
    raise RuntimeError(f"{NO_COMPILER}. Please specify via CC environment variable")


def torch_ops(loaded: checkpoint.Checkpoint, device: NotedDevice) -> CudaOps:
    """The GPU backend in float32 with torch's own ops in the place of all kernels."""
    chooser = Chooser(device, no_compiler, "test")
    chooser._no_compiler = True
    return CudaOps(loaded.config.num_attention_heads, "float32", "cpu", target=GPU, streams=device, chooser=chooser)


@pytest.fixture
def loaded(tiny_model: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(tiny_model)


@pytest.fixture
def device() -> NotedDevice:
    return NotedDevice()


@pytest.fixture
def engine(loaded: checkpoint.Checkpoint, device: NotedDevice) -> DeviceEngine:
    return DeviceEngine(torch_ops(loaded, device), loaded.config, loaded.weights, batch_size=4)


@pytest.fixture
def reference(loaded: checkpoint.Checkpoint) -> Engine:
    return Engine(ReferenceOps(loaded.config.num_attention_heads), loaded.config, loaded.weights)


def waves(count: int) -> list[np.ndarray]:
    """From half of the model's input to twice as much, and one shorter than a frame."""
    rng = np.random.default_rng(0)
    lengths = [300, *(6000 + 1700 * i % 19000 for i in range(1, count))]
    return [0.1 * rng.standard_normal(length).astype(np.float32) for length in lengths[:count]]


def pcm(batch: list[np.ndarray]) -> list[np.ndarray]:
    return [(32768 * wave).astype(np.int16) for wave in batch]


@pytest.mark.parametrize(
    ("largest", "buckets"), [(1, (1,)), (2, (1, 2)), (12, (1, 2, 4, 8, 12)), (64, (1, 2, 4, 8, 16, 32, 64))]
)
def test_buckets_are_powers_of_two_up_to_the_largest(largest: int, buckets: tuple[int, ...]) -> None:
    assert buckets_up_to(largest) == buckets


def test_a_batch_is_split_with_little_waste() -> None:
    for clips in range(1, 300):
        taken, left = [], clips
        while left > 0:
            taken.append(next_bucket(left, buckets_up_to(64)))
            left -= taken[-1]
        assert sum(taken) * 3 / 4 <= clips <= sum(taken)
        assert taken == sorted(taken, reverse=True)


def test_a_bucket_is_padded_from_three_quarters_of_it() -> None:
    assert next_bucket(48, buckets_up_to(64)) == 64
    assert next_bucket(47, buckets_up_to(64)) == 32


@pytest.mark.parametrize("count", [1, 3, 4, 5, 11])
def test_results_are_those_of_the_reference(engine: DeviceEngine, reference: Engine, count: int) -> None:
    batch = waves(count)
    np.testing.assert_allclose(engine.features(batch), reference.features(batch), atol=1e-3)
    np.testing.assert_allclose(engine.logits(batch), reference.logits(batch), atol=2e-4)
    np.testing.assert_allclose(engine.embed(batch), reference.embed(batch), atol=2e-4)
    spectrograms = reference.features(batch)
    np.testing.assert_allclose(engine.logits(spectrograms), reference.logits(spectrograms), atol=2e-5)


def test_int16_waveforms_go_up_as_they_are(engine: DeviceEngine, device: NotedDevice) -> None:
    batch = waves(5)
    rounded = [wave.astype(np.float32) / 32768 for wave in pcm(batch)]
    np.testing.assert_allclose(engine.logits(pcm(batch)), engine.logits(rounded), atol=1e-5)
    assert {kind for _, kind, _ in engine._programs} == {"int16", "float32"}
    mixed = [pcm(batch)[0], *rounded[1:]]
    np.testing.assert_array_equal(engine.logits(mixed), engine.logits(rounded))


def test_a_graph_is_captured_once_for_each_batch_size(engine: DeviceEngine, device: NotedDevice) -> None:
    for count in (1, 5, 4, 1, 9):
        engine.logits(waves(count))
    assert set(engine._programs) == {(1, "float32", "logits"), (4, "float32", "logits")}
    assert device.captures == 2
    assert device.log.count("replay") == 1 + 2 + 1 + 1 + 3


def test_warming_up_captures_every_batch_size(engine: DeviceEngine, device: NotedDevice) -> None:
    engine.warmup()
    assert device.captures == 3
    engine.logits(waves(7))
    assert device.captures == 3


def test_the_host_waits_for_nothing_between_upload_and_download(engine: DeviceEngine, device: NotedDevice) -> None:
    engine.logits(waves(4))
    device.log.clear()
    engine.logits(waves(16))
    batch = ["upload", "uploads wait", "stream waits", "replay"]  # uploads: for the slot's last batch to be taken over
    turn = ["stream waits"]  # for the last call, on whatever stream that was
    collected = ["host waits"]
    # A batch is collected when the next one is on its way.
    assert device.log == turn + batch + batch + collected + batch + collected + batch + 2 * collected


def test_nothing_is_allocated_in_a_capture_and_a_layer_is_at_most_six_kernels(
    loaded: checkpoint.Checkpoint, device: NotedDevice
) -> None:
    recorder = launch.Recorder()
    heads = loaded.config.num_attention_heads
    ops = CudaOps(heads, "bfloat16", "cpu", target=GPU, streams=device, launcher=recorder)
    engine = DeviceEngine(ops, loaded.config, loaded.weights, batch_size=2)
    engine.logits(waves(2))
    assert device.made_in_captures == []
    forward_passes = 3  # one before the capture, the capture, its replay
    ends = {"log_mel_kernel", "patch_embed_kernel", "pool_kernel", "head_kernel"}
    in_layers = [entry for entry in recorder.launches if entry.name not in ends]
    assert len(recorder.launches) - len(in_layers) == 4 * forward_passes
    assert len(in_layers) <= 6 * loaded.config.num_hidden_layers * forward_passes


def test_the_allocation_watch_can_fail(
    loaded: checkpoint.Checkpoint, device: NotedDevice, engine: DeviceEngine
) -> None:
    engine.logits(waves(1))  # torch's ops allocate
    assert any("addmm" in name for name in device.made_in_captures)


def test_out_of_memory_goes_on_in_smaller_batches_with_one_warning(
    engine: DeviceEngine, reference: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = waves(9)
    expected = engine.logits(batch)
    engine._programs.clear()
    engine._workspaces.clear()
    empty = engine.ops.empty

    def small(shape: tuple[int, ...], kind: str) -> Any:
        if shape[0] > 1:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        return empty(shape, kind)

    monkeypatch.setattr(engine.ops, "empty", small)
    with pytest.warns(RuntimeWarning, match="not enough memory for 4 clips at a time") as caught:
        got = engine.logits(batch)
    assert len(caught) == 1
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert engine.buckets == (1,)
    assert {bucket for bucket, _, _ in engine._programs} == {1}


def test_out_of_memory_on_the_way_loses_no_clip(engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = waves(12)
    expected = engine.logits(batch)
    program = engine._programs[4, "float32", "logits"]
    replay, calls = program.replay, []

    def fails_once() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        replay()

    program.replay = fails_once
    with pytest.warns(RuntimeWarning, match="going on with 2"):
        got = engine.logits(batch)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert engine.buckets == (1, 2)


def test_too_little_memory_for_one_clip_is_an_error(engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr(engine.ops, "empty", none)
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(BackendError, match=r"even for 1 clip at a time: tried to allocate"),
    ):
        engine.logits(waves(4))


def test_without_graphs_every_kernel_is_launched_from_the_host(
    engine: DeviceEngine, device: NotedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = engine.logits(waves(3))
    engine._programs.clear()

    def fails(_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(device, "capture", fails)
    with pytest.warns(RuntimeWarning, match="no graph of the model can be captured"):
        np.testing.assert_array_equal(engine.logits(waves(3)), expected)


def test_spectrograms_on_the_device_give_logits_there(
    engine: DeviceEngine, device: NotedDevice, reference: Engine
) -> None:
    spectrograms = torch.from_numpy(reference.features(waves(7)))
    expected = engine.logits(spectrograms.numpy())
    device.log.clear()
    logits = engine.forward(spectrograms)
    assert isinstance(logits, torch.Tensor)
    assert not logits.is_inference()  # the caller may go on with it in autograd
    np.testing.assert_array_equal(logits.numpy(), expected)
    assert set(device.log) == {"stream waits", "replay"}  # nothing was uploaded, the host never waited


def test_calls_on_any_stream_follow_each_other(engine: DeviceEngine, device: NotedDevice) -> None:
    engine.logits(waves(1))
    device.log.clear()
    engine.forward(torch.zeros(1, engine.config.max_length, engine.config.num_mel_bins))
    engine.logits(waves(1))
    assert device.log[0] == "stream waits"
    assert device.log[device.log.index("replay") + 1] == "stream waits"


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "none"])
def test_the_best_labels_are_found_on_the_device(engine: DeviceEngine, reference: Engine, activation: str) -> None:
    scores, labels = engine.top_k(waves(5), 3, activation)
    expected_scores, expected_labels = reference.top_k(waves(5), 3, activation)
    assert scores.shape == (5, 3)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_allclose(scores, expected_scores, atol=2e-4)


def test_ties_are_kept_in_the_order_of_the_labels(engine: DeviceEngine) -> None:
    engine.logits(waves(1))
    program = engine._programs[1, "float32", "logits"]
    program.replay = lambda: program.output.copy_(torch.tensor([1.0, 2, 2, 1, 2, 1, 1]))
    scores, labels = engine.top_k(waves(1), 5, "none")
    assert labels.tolist() == [[1, 2, 4, 0, 3]]
    assert scores.tolist() == [[2, 2, 2, 1, 1]]


def test_threads_take_turns(engine: DeviceEngine) -> None:
    expected = engine.logits(waves(3))
    with ThreadPoolExecutor(4) as pool:
        for logits in pool.map(engine.logits, [waves(3)] * 12):
            np.testing.assert_array_equal(logits, expected)


def test_an_error_on_the_way_leaves_the_engine_usable(engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.logits(waves(6))
    with pytest.raises(TypeError):
        engine.logits([*waves(5), None])  # type: ignore[list-item]
    done = threading.Event()
    threading.Thread(target=lambda: (engine.logits(waves(1)), done.set())).start()
    assert done.wait(30)
    np.testing.assert_array_equal(engine.logits(waves(6)), expected)


def test_the_callers_random_numbers_are_left_alone(engine: DeviceEngine) -> None:
    state = torch.get_rng_state()
    engine.logits(waves(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_forked_child_is_told_what_to_do(engine: DeviceEngine) -> None:
    engine.logits(waves(1))
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def child() -> None:
        try:
            engine.logits(waves(1))
            there.send("no error")
        except BackendError as error:
            there.send(str(error))

    process = context.Process(target=child)
    process.start()
    assert here.poll(60)
    assert "'spawn' method" in here.recv()
    process.join()


def test_several_devices_share_a_batch(loaded: checkpoint.Checkpoint, reference: Engine) -> None:
    devices = [NotedDevice() for _ in range(3)]
    engines = [DeviceEngine(torch_ops(loaded, d), loaded.config, loaded.weights, batch_size=2) for d in devices]
    replicas = Replicas(engines)
    batch = waves(8)
    np.testing.assert_allclose(replicas.logits(batch), reference.logits(batch), atol=2e-4)
    assert [device.log.count("replay") for device in devices] == [1, 2, 2]  # 2, 3 and 3 clips
    np.testing.assert_allclose(replicas.embed(batch), reference.embed(batch), atol=2e-4)
    np.testing.assert_allclose(replicas.features(batch), reference.features(batch), atol=1e-3)
    np.testing.assert_array_equal(replicas.top_k(batch, 2, "sigmoid")[1], reference.top_k(batch, 2, "sigmoid")[1])
    assert replicas.logits(batch[:2]).shape == (2, 7)  # fewer clips than devices
    assert replicas.clips_a_call == sum(engine.clips_a_call for engine in engines)
    assert replicas.hardware.count(GPU.name) == 3


def test_an_error_of_one_device_reaches_the_caller(loaded: checkpoint.Checkpoint) -> None:
    engines = [
        DeviceEngine(torch_ops(loaded, NotedDevice()), loaded.config, loaded.weights, batch_size=2) for _ in range(2)
    ]
    engines[1]._process = -1
    with pytest.raises(BackendError, match="fork"):
        Replicas(engines).logits(waves(4))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[NotedDevice]:
    """``astfast.load`` on a machine that seems to have two GPUs."""
    devices: list[NotedDevice] = []

    def open_gpu(heads: int, precision: str, name: str, deterministic: bool) -> CudaOps:
        assert (precision, name, deterministic) == ("float32", f"cuda:{len(devices)}", True)
        devices.append(NotedDevice())
        chooser = Chooser(devices[-1], no_compiler, "test", deterministic)
        chooser._no_compiler = True
        return CudaOps(heads, precision, "cpu", target=GPU, streams=devices[-1], chooser=chooser)

    monkeypatch.setattr(cuda, "unavailable", lambda _: None)
    monkeypatch.setattr(cuda, "open_gpu", open_gpu)
    return devices


def test_a_list_of_gpus_shares_the_batches_of_a_tagger(tiny_model: Path, two_gpus: list[NotedDevice]) -> None:
    how = {"precision": "float32", "batch_size": 2, "deterministic": True}
    tagger = astfast.load(tiny_model, device=["cuda:0", "cuda:1"], **how).warmup()
    expected = astfast.load(tiny_model, device="cpu", precision="float32").scores(waves(7), sampling_rate=16000)
    np.testing.assert_allclose(tagger.scores(waves(7), sampling_rate=16000), expected, atol=1e-4)
    assert tagger.hardware == f"{GPU.name} + {GPU.name}"
    assert all(device.captures == 2 for device in two_gpus)
    assert all(device.log.count("replay") > 2 for device in two_gpus)


def test_only_gpus_share_a_batch(tiny_model: Path) -> None:
    with pytest.raises(BackendError, match="runs on one device, not on 2"):
        astfast.load(tiny_model, device=["cuda:0", "cuda:1"], backend="reference")


def at_rate(rate: int, count: int = 5, seconds: float = 0.7) -> torch.Tensor:
    """[count, samples] tones and noise, louder from clip to clip."""
    t = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(2)
    clips = [np.sin(6000 * (i + 1) ** 0.5 * t) + 0.3 * rng.standard_normal(len(t)) for i in range(count)]
    return torch.from_numpy(np.stack([0.02 * (i + 1) * clip for i, clip in enumerate(clips)]).astype(np.float32))


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 22050, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize("samples", [3, 1000, 30001])
def test_resampling_on_the_device_is_that_of_the_cpu(rate: int, samples: int) -> None:
    wave = at_rate(rate, 1, 4.0)[0, :samples].numpy()
    expected = load_audio(wave, rate).wave
    got = Resampler(rate, 16000, torch.device("cpu"))(torch.from_numpy(wave)[None])[0].numpy()
    assert len(got) == len(expected)
    error, peak = np.abs(got - expected), np.abs(wave).max()
    assert error[32:].max(initial=0) <= 1e-5 * peak
    assert error[:32].max() <= 0.05 * peak  # the first two milliseconds, where soxr settles


def test_what_is_heard_depends_on_no_more_of_a_clip_than_is_taken() -> None:
    resampler = Resampler(44100, 16000, torch.device("cpu"))
    wave = at_rate(44100, 1)
    needed = resampler.needed(5000)
    assert torch.equal(resampler(wave[:, :needed])[:, :5000], resampler(wave)[:, :5000])
    assert not torch.equal(resampler(wave[:, : needed - 700])[:, :5000], resampler(wave)[:, :5000])


def test_rates_without_a_short_period_are_refused() -> None:
    Resampler(3200 * 5, 16000 - 5, torch.device("cpu"))  # a period of 3,200
    with pytest.raises(AudioError, match="16001 Hz is resampled to 16000 Hz on the CPU only"):
        Resampler(16001, 16000, torch.device("cpu"))


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_tensors_on_the_device_are_heard_there(
    engine: DeviceEngine, device: NotedDevice, reference: Engine, rate: int, dtype: torch.dtype
) -> None:
    clips = at_rate(rate)
    if dtype == torch.int16:
        clips = (32768 * clips).to(torch.int16)
    expected = reference.logits([load_audio(clip, rate).wave for clip in clips])
    np.testing.assert_allclose(engine.hear(clips, rate).numpy(), expected, atol=1e-3)
    assert "upload" not in device.log
    assert "host waits" not in device.log
    assert {kind for _, kind, _ in engine._programs} == {
        "int16" if (rate, dtype) == (16000, torch.int16) else "float32"
    }


@pytest.fixture
def tagger(tiny_model: Path, device: NotedDevice, monkeypatch: pytest.MonkeyPatch) -> astfast.Tagger:
    """One that takes the noted device for a GPU."""
    monkeypatch.setattr(cuda, "unavailable", lambda _: None)
    monkeypatch.setattr(cuda, "open_gpu", lambda *_: torch_ops(checkpoint.load(tiny_model), device))
    return astfast.load(tiny_model, device="cuda", precision="float32")


def test_only_the_best_labels_come_back_to_a_tagger(tagger: astfast.Tagger) -> None:
    (engine,) = tagger._loaded()
    tags = tagger.classify(waves(3), sampling_rate=16000, top_k=2)
    (slot,) = (slot for program in engine._programs.values() for slot in program._slots)
    assert {tuple(result.shape[1:]) for result in slot.results.values()} == {(2,)}
    scores = tagger.scores(waves(3), sampling_rate=16000)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :2]
    assert [[tag["label"] for tag in clip] for clip in tags] == [[tagger.labels[i] for i in row] for row in best]
    np.testing.assert_allclose(
        [[tag["score"] for tag in clip] for clip in tags], np.take_along_axis(scores, best, 1), rtol=1e-6
    )


def test_int16_arrays_go_up_as_they_are(tagger: astfast.Tagger) -> None:
    """At the model's own rate; the same tags, to the bit, as of float32 samples."""
    (engine,) = tagger._loaded()
    samples = (32768 * at_rate(16000)).to(torch.int16).numpy()
    exact = samples.astype(np.float32) / 32768
    expected = tagger.classify(exact, sampling_rate=16000)
    engine._programs.clear()
    for batch in (samples, list(samples)):
        assert tagger.classify(batch, sampling_rate=16000) == expected
    assert {kind for _, kind, _ in engine._programs} == {"int16"}
    np.testing.assert_array_equal(
        tagger.logits(samples, sampling_rate=16000), tagger.logits(exact, sampling_rate=16000)
    )
    mixed = tagger.classify([samples[0], exact[1]], sampling_rate=16000)
    assert mixed == tagger.classify(exact[:2], sampling_rate=16000)
    engine._programs.clear()
    tagger.classify(samples, sampling_rate=8000)  # resampled on the host
    assert {kind for _, kind, _ in engine._programs} == {"float32"}
    bad = tagger.classify([samples[0], samples[0][:0]], sampling_rate=16000, on_error="return")
    assert bad[0] == tagger.classify(exact[0], sampling_rate=16000)
    assert "no samples" in bad[1]["error"]
    long = np.concatenate([samples[0]] * 2)
    with pytest.warns(UserWarning, match=r"<array> is 1\.4 s long and only its first 0\.78 s are heard"):
        assert tagger.classify(long, sampling_rate=16000) == tagger.classify(
            long[: tagger.config.front_end.input_samples], sampling_rate=16000
        )


def test_a_tagger_hears_tensors_where_they_are(tagger: astfast.Tagger, device: NotedDevice) -> None:
    clips = at_rate(44100)
    there = tagger.logits(clips, sampling_rate=44100), tagger.scores(clips, sampling_rate=44100)
    tags = tagger.classify(clips, sampling_rate=44100, top_k=2)
    assert "upload" not in device.log
    here = [clip.numpy() for clip in clips]
    np.testing.assert_allclose(there[0], tagger.logits(here, sampling_rate=44100), atol=1e-3)
    np.testing.assert_allclose(there[1], tagger.scores(here, sampling_rate=44100), atol=1e-4)
    expected = tagger.classify(here, sampling_rate=44100, top_k=2)
    assert [[tag["label"] for tag in clip] for clip in tags] == [[tag["label"] for tag in clip] for clip in expected]
    assert "upload" in device.log
    with pytest.warns(UserWarning, match=r"the clips are 0\.8 s long and only their first 0\.78 s are heard"):
        tagger.classify(torch.zeros(2, 12800), sampling_rate=16000)
    clips[3, 7] = float("nan")
    with pytest.raises(AudioError, match="input 3, <tensor>: not finite"):
        tagger.scores(clips, sampling_rate=44100)
    with pytest.raises(AudioError, match="a sampling rate of -1 Hz is not possible"):
        tagger.scores(clips, sampling_rate=-1)

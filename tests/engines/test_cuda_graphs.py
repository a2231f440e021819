"""The GPU engine on CPU tensors: a runtime that records stands in for streams and graphs, PyTorch's ops compute."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import astfast
from astfast.backends.cuda import backend as cuda
from astfast.backends.cuda.ops import CudaOps
from astfast.backends.reference import ReferenceOps
from astfast.engines.cuda_graphs import CudaGraphEngine, buckets_up_to, next_bucket
from astfast.engines.eager import EagerEngine
from astfast.engines.replicas import Replicas
from astfast.errors import BackendError
from astfast.models import recognise as checkpoint
from tests import launchers
from tests.fakes.recording_runtime import GPU, RecordingRuntime, gpu_engine, pcm, torch_ops, waves


@pytest.fixture
def loaded(tiny_model: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(tiny_model)


@pytest.fixture
def runtime() -> RecordingRuntime:
    return RecordingRuntime()


@pytest.fixture
def engine(loaded: checkpoint.Checkpoint, runtime: RecordingRuntime) -> CudaGraphEngine:
    return gpu_engine(loaded, runtime, 4)


@pytest.fixture
def reference(loaded: checkpoint.Checkpoint) -> EagerEngine:
    return EagerEngine(ReferenceOps(loaded.config.num_attention_heads), loaded)


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
def test_results_are_those_of_the_reference(engine: CudaGraphEngine, reference: EagerEngine, count: int) -> None:
    batch = waves(count)
    np.testing.assert_allclose(engine.features(batch), reference.features(batch), atol=1e-3)
    np.testing.assert_allclose(engine.logits(batch), reference.logits(batch), atol=2e-4)
    np.testing.assert_allclose(engine.embed(batch), reference.embed(batch), atol=2e-4)
    spectrograms = reference.features(batch)
    np.testing.assert_array_equal(engine.features(spectrograms), spectrograms)
    np.testing.assert_allclose(engine.logits(spectrograms), reference.logits(spectrograms), atol=2e-5)


def test_int16_waveforms_go_up_as_they_are(engine: CudaGraphEngine, runtime: RecordingRuntime) -> None:
    batch = waves(5)
    rounded = [wave.astype(np.float32) / 32768 for wave in pcm(batch)]
    np.testing.assert_allclose(engine.logits(pcm(batch)), engine.logits(rounded), atol=1e-5)
    assert {kind for _, _, kind, _ in engine._graphs} == {"int16", "float32"}
    mixed = [pcm(batch)[0], *rounded[1:]]
    np.testing.assert_array_equal(engine.logits(mixed), engine.logits(rounded))


def test_a_graph_is_captured_once_for_each_batch_size(engine: CudaGraphEngine, runtime: RecordingRuntime) -> None:
    for count in (1, 5, 4, 1, 9):
        engine.logits(waves(count))
    assert {(bucket, *rest) for bucket, _, *rest in engine._graphs} == {
        (1, "float32", "logits"),
        (4, "float32", "logits"),
    }
    assert runtime.captures == 2
    assert runtime.log.count("replay") == 1 + 2 + 1 + 1 + 3


def test_warming_up_captures_every_batch_size(engine: CudaGraphEngine, runtime: RecordingRuntime) -> None:
    engine.warmup()
    assert runtime.captures == 2 * 3
    engine.logits(waves(7))
    engine.logits(pcm(waves(7)))
    assert runtime.captures == 2 * 3


def test_the_host_waits_for_nothing_between_upload_and_download(
    engine: CudaGraphEngine, runtime: RecordingRuntime
) -> None:
    engine.logits(waves(4))
    runtime.log.clear()
    engine.logits(waves(16))
    batch = ["upload", "uploads wait", "stream waits", "replay"]  # uploads: for the slot's last batch to be taken over
    turn = ["stream waits"]  # for the last call, on whatever stream that was
    collected = ["host waits"]
    # A batch is collected when the next one is on its way.
    assert runtime.log == turn + batch + batch + collected + batch + collected + batch + 2 * collected


def test_nothing_is_allocated_in_a_capture_and_a_layer_is_at_most_six_kernels(
    loaded: checkpoint.Checkpoint, runtime: RecordingRuntime
) -> None:
    recorder = launchers.Recorder()
    heads = loaded.config.num_attention_heads
    ops = CudaOps(heads, "bfloat16", "cpu", target=GPU, runtime=runtime, launcher=recorder)
    engine = CudaGraphEngine(ops, loaded, batch_size=2)
    engine._run(waves(2), "logits")  # whatever memory holds: nothing is computed
    assert runtime.made_in_captures == []
    forward_passes = 3  # one before the capture, the capture, its replay
    ends = {"log_mel_kernel", "patch_embed_kernel", "pool_kernel", "head_kernel"}
    in_layers = [entry for entry in recorder.launches if entry.name not in ends]
    assert len(recorder.launches) - len(in_layers) == 4 * forward_passes
    assert len(in_layers) <= 6 * loaded.config.num_hidden_layers * forward_passes


def test_the_allocation_watch_can_fail(
    loaded: checkpoint.Checkpoint, runtime: RecordingRuntime, engine: CudaGraphEngine
) -> None:
    engine.logits(waves(1))  # torch's ops allocate
    assert any("addmm" in name for name in runtime.made_in_captures)


def test_out_of_memory_goes_on_in_smaller_batches_with_one_warning(
    engine: CudaGraphEngine, reference: EagerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = waves(9)
    expected = engine.logits(batch)
    engine._graphs.clear()
    engine._workspaces.clear()
    empty = engine.ops.empty

    def small(shape: tuple[int, ...], kind: str) -> Any:
        if shape[0] > 1:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        return empty(shape, kind)

    monkeypatch.setattr(engine.ops, "empty", small)
    with pytest.warns(RuntimeWarning, match="not enough memory for 4 clips at a time") as caught:
        got = engine.logits(batch)
    assert [each.category for each in caught].count(RuntimeWarning) == 1
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert engine.buckets == (1,)
    assert {bucket for bucket, *_ in engine._graphs} == {1}


def test_out_of_memory_on_the_way_loses_no_clip(engine: CudaGraphEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = waves(12)
    expected = engine.logits(batch)
    graph = engine._graphs[4, engine.config.max_length, "float32", "logits"]
    replay, calls = graph.replay, []

    def fails_once() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        replay()

    graph.replay = fails_once
    with pytest.warns(RuntimeWarning, match="going on with 2"):
        got = engine.logits(batch)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert engine.buckets == (1, 2)


def test_too_little_memory_for_one_clip_is_an_error(engine: CudaGraphEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr(engine.ops, "empty", none)
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(BackendError, match=r"even for 1 clip at a time: tried to allocate"),
    ):
        engine.logits(waves(4))


def test_without_graphs_every_kernel_is_launched_from_the_host(
    engine: CudaGraphEngine, runtime: RecordingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = engine.logits(waves(3))
    engine._graphs.clear()

    def fails(_: object) -> None:
        runtime.graphs_failure = "operation not permitted when stream is capturing"
        raise RuntimeError(runtime.graphs_failure)

    monkeypatch.setattr(runtime, "capture", fails)
    assert engine.hardware == GPU.name
    with pytest.warns(RuntimeWarning, match="can't be captured in a CUDA graph"):
        np.testing.assert_array_equal(engine.logits(waves(3)), expected)
    assert engine.hardware == f"{GPU.name}, without CUDA graphs (operation not permitted when stream is capturing)"


def test_spectrograms_on_the_device_give_logits_there(
    engine: CudaGraphEngine, runtime: RecordingRuntime, reference: EagerEngine
) -> None:
    spectrograms = torch.from_numpy(reference.features(waves(7)))
    expected = engine.logits(spectrograms.numpy())
    runtime.log.clear()
    logits = engine.forward(spectrograms)
    assert isinstance(logits, torch.Tensor)
    assert not logits.is_inference()  # the caller may go on with it in autograd
    np.testing.assert_array_equal(logits.numpy(), expected)
    assert set(runtime.log) == {"stream waits", "replay"}  # nothing was uploaded, the host never waited


def test_calls_on_any_stream_follow_each_other(engine: CudaGraphEngine, runtime: RecordingRuntime) -> None:
    engine.logits(waves(1))
    runtime.log.clear()
    engine.forward(torch.zeros(1, engine.config.max_length, engine.config.num_mel_bins))
    engine.logits(waves(1))
    assert runtime.log[0] == "stream waits"
    assert runtime.log[runtime.log.index("replay") + 1] == "stream waits"


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "none"])
def test_the_best_labels_are_found_on_the_device(
    engine: CudaGraphEngine, reference: EagerEngine, activation: str
) -> None:
    scores, labels = engine.top_k(waves(5), 3, activation)
    expected_scores, expected_labels = reference.top_k(waves(5), 3, activation)
    assert scores.shape == (5, 3)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_allclose(scores, expected_scores, atol=2e-4)


def test_ties_are_kept_in_the_order_of_the_labels(engine: CudaGraphEngine) -> None:
    engine.logits(waves(1))
    graph = engine._graphs[1, engine.config.max_length, "float32", "logits"]
    graph.replay = lambda: graph.output.copy_(torch.tensor([1.0, 2, 2, 1, 2, 1, 1]))
    scores, labels = engine.top_k(waves(1), 5, "none")
    assert labels.tolist() == [[1, 2, 4, 0, 3]]
    assert scores.tolist() == [[2, 2, 2, 1, 1]]


def test_threads_take_turns(engine: CudaGraphEngine) -> None:
    expected = engine.logits(waves(3))
    with ThreadPoolExecutor(4) as pool:
        for logits in pool.map(engine.logits, [waves(3)] * 12):
            np.testing.assert_array_equal(logits, expected)


def test_an_error_on_the_way_leaves_the_engine_usable(engine: CudaGraphEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.logits(waves(6))
    with pytest.raises(TypeError):
        engine.logits([*waves(5), None])  # type: ignore[list-item]
    done = threading.Event()
    threading.Thread(target=lambda: (engine.logits(waves(1)), done.set())).start()
    assert done.wait(30)
    np.testing.assert_array_equal(engine.logits(waves(6)), expected)


def test_the_callers_random_numbers_are_left_alone(engine: CudaGraphEngine) -> None:
    state = torch.get_rng_state()
    engine.logits(waves(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_forked_child_is_told_what_to_do(engine: CudaGraphEngine) -> None:
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


def test_scores_and_embeddings_are_of_one_forward_pass(engine: CudaGraphEngine, runtime: RecordingRuntime) -> None:
    batch = [wave[:8000] for wave in waves(4)]
    scores, embeddings = engine.scores_and_embeddings(batch)
    assert runtime.log.count("replay") == 1
    np.testing.assert_allclose(scores, engine.scores(batch), rtol=1e-6)
    np.testing.assert_array_equal(embeddings, engine.embed(batch))
    assert [part.shape for part in engine.scores_and_embeddings([])] == [(0, 7), (0, embeddings.shape[1])]


def test_several_devices_share_a_batch(loaded: checkpoint.Checkpoint, reference: EagerEngine) -> None:
    devices = [RecordingRuntime() for _ in range(3)]
    engines = [gpu_engine(loaded, d, 2) for d in devices]
    replicas = Replicas(engines)
    batch = waves(8)
    np.testing.assert_allclose(replicas.logits(batch), reference.logits(batch), atol=2e-4)
    assert [runtime.log.count("replay") for runtime in devices] == [1, 2, 2]  # 2, 3 and 3 clips
    np.testing.assert_allclose(replicas.embed(batch), reference.embed(batch), atol=2e-4)
    scores, embeddings = replicas.scores_and_embeddings(batch)
    np.testing.assert_allclose(
        scores, replicas.window_scores(batch), rtol=1e-6
    )  # some are longer than the model's input
    np.testing.assert_array_equal(embeddings[:4], replicas.embed(batch)[:4])
    np.testing.assert_allclose(replicas.features(batch), reference.features(batch), atol=1e-3)
    np.testing.assert_array_equal(replicas.top_k(batch, 2, "sigmoid")[1], reference.top_k(batch, 2, "sigmoid")[1])
    assert replicas.logits(batch[:2]).shape == (2, 7)  # fewer clips than devices
    assert replicas.preferred_batch_size == sum(engine.preferred_batch_size for engine in engines)
    assert replicas.hardware.count(GPU.name) == 3


def test_an_error_of_one_device_reaches_the_caller(loaded: checkpoint.Checkpoint) -> None:
    engines = [gpu_engine(loaded, RecordingRuntime(), 2) for _ in range(2)]
    engines[1]._process = -1
    with pytest.raises(BackendError, match="fork"):
        Replicas(engines).logits(waves(4))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[RecordingRuntime]:
    """``astfast.load`` on a machine that seems to have two GPUs."""
    devices: list[RecordingRuntime] = []

    def open_gpu(heads: int, precision: str, name: str, threads: int | None, deterministic: bool) -> CudaOps:
        assert (precision, name, deterministic) == ("float32", f"cuda:{len(devices)}", True)
        devices.append(RecordingRuntime())
        return torch_ops(heads, devices[-1], deterministic)

    monkeypatch.setattr(cuda, "unavailable", lambda _: None)
    monkeypatch.setattr(cuda, "open", open_gpu)
    return devices


def test_a_list_of_gpus_shares_the_batches_of_a_tagger(tiny_model: Path, two_gpus: list[RecordingRuntime]) -> None:
    how = {"precision": "float32", "batch_size": 2, "deterministic": True}
    tagger = astfast.load(tiny_model, device=["cuda:0", "cuda:1"], **how).warmup()
    expected = astfast.load(tiny_model, device="cpu", precision="float32").scores(waves(7), sampling_rate=16000)
    np.testing.assert_allclose(tagger.scores(waves(7), sampling_rate=16000), expected, atol=1e-4)
    assert tagger.hardware == f"{GPU.name} + {GPU.name}"
    assert all(runtime.captures == 2 * 2 for runtime in two_gpus)
    assert all(runtime.log.count("replay") > 2 for runtime in two_gpus)


def test_only_gpus_share_a_batch(tiny_model: Path) -> None:
    with pytest.raises(BackendError, match="runs on one device, not on 2"):
        astfast.load(tiny_model, device=["cuda:0", "cuda:1"], backend="reference")

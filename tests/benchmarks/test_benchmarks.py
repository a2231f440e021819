"""The benchmarks' own machinery, on a tiny geometry and with one repetition."""

import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import astfast
from astfast.backends.cpu.ops import CpuOps
from astfast.backends.cpu.tiers import choose_tier
from astfast.backends.reference import ReferenceOps
from astfast.benchmarking.peers import EngineUnderTest
from astfast.models import recognise as checkpoint
from astfast.models import vit
from benchmarks import (
    family_models,
    models,
    one_clip,
    op_calls,
    peaks,
    peers,
    profile_gpu,
    report,
    rows,
    run_accuracy,
    run_decoding,
    run_families,
    run_gpu,
    run_latency,
    run_merging,
    run_model,
    run_ops,
    run_pipeline,
    run_process,
    run_scaling,
)
from benchmarks.op_calls import op_cases

COMMON = {"benchmark", "commit", "date", "machine", "cpu", "versions", "threads", "background", "stolen"}
SCRIPTS = (
    one_clip,
    profile_gpu,
    report,
    run_accuracy,
    run_families,
    run_gpu,
    run_latency,
    run_merging,
    run_model,
    run_ops,
    run_pipeline,
    run_process,
    run_scaling,
)
QUICK = ["--turns", "1", "--seconds", "0"]
ALONE = ["--threads", "1", *QUICK]  # other tests may run beside


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(script: Any, cache: Path, out: Path, *arguments: str) -> list[dict[str, Any]]:
    script.main([*arguments, "--geometry", "tiny", "--cache", str(cache), "--out", str(out)])
    found = rows.read(out)
    assert found
    for row in found:
        assert row.keys() >= COMMON
        assert 0 <= row["background"] <= 1
        assert 0 <= row["stolen"] <= 1
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_start(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        script.main(["--help"])
    assert not stopped.value.code
    assert f"python -m {script.__name__} " in capsys.readouterr().out


def test_family_rows(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each precision beside the base and, where it has one, beside PyTorch; and the front end."""
    arguments = [*ALONE, "--model", "tiny-ced", "--base", "tiny", "--batch", "2", "--cache", str(cache)]
    run_families.main([*arguments, "--out", str(tmp_path / "rows")])
    found = rows.read(tmp_path / "rows")
    ours = {row["dtype"]: row for row in found if row["engine"] == "astfast" and "over_base" in row}
    assert ours.keys() == {"float32", "bfloat16", "int8"}
    assert all(len(row["over_base"]) == 3 and row["agrees"] for row in ours.values())
    assert {dtype: [*row["speedup"]] for dtype, row in ours.items()} == {
        "float32": ["PyTorch"],
        "bfloat16": ["PyTorch"],
        "int8": [],
    }
    (front_end,) = [row for row in found if row["engine"] == "front end"]
    assert front_end["over_base"][1] > 0
    assert "front end" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in family_models.MODELS if name.startswith(("tiny", "dass-small"))])
def test_peers_of_families_give_the_models_logits(name: str, cache: Path) -> None:
    source = family_models.checkpoint(name, cache)
    options = {"max_length": 64, **family_models.MODELS[name].options}
    tagger = astfast.load(source, device="cpu", precision="float32", **options)
    shape = (1, options["max_length"], tagger.config.num_mel_bins)
    features = 0.5 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    exact = tagger.forward(features)
    peer = family_models.torch_peer(name, "float32", 1).run(features)
    assert np.abs(peer - exact).max() <= 2e-4 * max(1.0, np.abs(exact).max())


def test_operations_are_those_that_torch_counts(cache: Path) -> None:
    loaded = checkpoint.load(models.checkpoint("tiny", cache))
    ops = ReferenceOps(loaded.config.num_attention_heads)
    weights = vit.pack(ops, loaded.weights)
    nothing = dict.fromkeys(vit.workspace(loaded.config))
    spectrogram = torch.zeros(1, loaded.config.max_length, loaded.config.num_mel_bins)
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):  # the fused attention is not counted
        vit.forward(ops, weights, spectrogram, nothing)
    assert models.operations(loaded.config) == counter.get_total_flops()
    base = models.GEOMETRIES["ast-base"].model_config()
    assert models.operations(base) == pytest.approx(242e9, rel=0.002)


def test_checkpoint_has_the_geometry_and_no_symmetric_weights(cache: Path) -> None:
    loaded = checkpoint.load(models.checkpoint("tiny", cache))
    assert loaded.config == models.GEOMETRIES["tiny"].model_config()
    gamma = np.asarray(loaded.weights.layers[0].qkv.norm.weight)
    outliers = np.asarray(
        checkpoint.load(models.checkpoint("tiny", cache, outliers=True)).weights.layers[0].qkv.norm.weight
    )
    assert gamma.std() > 0.1
    assert outliers.max() > 5 * gamma.max()


def test_no_commit_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows.commit()
    monkeypatch.setenv("PATH", "")
    assert not rows.commit()


def test_waves_differ_and_repeat() -> None:
    config = models.GEOMETRIES["tiny"].model_config()
    first, again = models.waves(2, config), models.waves(2, config)
    np.testing.assert_array_equal(first, again)
    assert len(first[0]) == config.front_end.input_samples
    assert np.abs(first[0] - first[1]).max() > 0.01


def test_peak_is_measured_on_every_thread(cache: Path) -> None:
    instruction = peaks.INSTRUCTIONS[choose_tier("scalar"), "float32"]
    one, two = (peaks.InstructionPeak(instruction, threads, cache) for threads in (1, 2))
    assert one() > 1e8
    assert two() > 1e8
    assert (len(one.rates), len(two.rates)) == (1, 1)
    with pytest.raises(ValueError, match="none of sse2 float32"):
        peaks.InstructionPeak("avx3 float32", 1, cache)


def test_every_tier_has_an_instruction_for_every_precision() -> None:
    for precision in ("float32", "bfloat16"):
        assert (peaks.tier_of(CpuOps(2, precision).hardware), precision) in peaks.INSTRUCTIONS


def test_decoding_rows(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_decoding, "SOUNDFILE", {"WAV": run_decoding.SOUNDFILE["WAV"]})
    monkeypatch.setattr(run_decoding, "FFMPEG", {})
    out = tmp_path / "decoding.jsonl"
    run_decoding.main([*ALONE, "--cache", str(cache), "--out", str(out)])
    (row,) = rows.read(out)
    assert row.keys() >= COMMON
    assert row["format"] == "WAV"
    for way in ("path", "bytes", "one thread", "two threads", "mean of NumPy", "beside a busy thread"):
        assert 0 < row[way][0] <= row[way][1] <= row[way][2]
    assert len(run_decoding.columns("WAV", row)) == 5


def test_model_rows(cache: Path, tmp_path: Path) -> None:
    arguments = ["--batch", "2", "--peer", "transformers float32", "--precision", "float32", *ALONE]
    found = run(run_model, cache, tmp_path / "model.jsonl", *arguments)
    by_engine = {row["engine"]: row for row in found}
    assert by_engine.keys() == {"astfast", "transformers", "instruction"}
    for engine in ("astfast", "transformers"):
        row = by_engine[engine]
        assert row["shape"] == [2, 64, 128]
        assert row["agrees"]
        assert row["relative_error"] < 1e-5
        assert row["clips_per_second"][1] == pytest.approx(2 / row["seconds"][1])
        assert row.keys() >= {"isa", "dtype", "version", "max_error", "largest_logit"}
    ours = by_engine["astfast"]
    assert ours["speedup"]["transformers float32"][1] == pytest.approx(
        by_engine["transformers"]["seconds"][1] / ours["seconds"][1]
    )
    peak = by_engine["instruction"]["operations_per_second"][1]
    assert ours["share_of_peak"] == pytest.approx(ours["operations_per_second"][1] / peak)


def test_a_peer_that_disagrees_is_reported_and_not_timed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(setup: peers.Setup) -> EngineUnderTest:
        return EngineUnderTest("broken", "float32", "", "", lambda features: np.zeros((len(features), 10), np.float32))

    monkeypatch.setitem(peers.PEERS, "broken float32", ((), broken))
    arguments = ["--batch", "1", "--peer", "broken float32", "--precision", "float32", *ALONE]
    found = run(run_model, cache, tmp_path / "model.jsonl", *arguments)
    [row] = [row for row in found if row["engine"] == "broken"]
    assert row["agrees"] is False
    assert "seconds" not in row


def test_a_peer_that_is_not_installed_is_left_out(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(peers.PEERS, "absent float32", (("no_such_package",), peers.transformers_float32))
        setup = peers.Setup(cache, models.GEOMETRIES["tiny"].model_config(), 1, 1, cache)
        assert list(peers.make(["absent float32"], setup)) == []
    assert "absent float32 left out: no_such_package is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("openvino float32", "openvino"),
        ("openvino bfloat16", "openvino"),
        ("onnxruntime float32", "onnxruntime"),
        ("onnxruntime dynamic int8", "onnxruntime"),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_peers_agree(name: str, package: str, batch: int, cache: Path) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    config = models.GEOMETRIES["tiny"].model_config()
    setup = peers.Setup(models.checkpoint("tiny", cache), config, batch, 2, cache)
    features = models.features(batch, config)
    [exact] = [c.run(features) for c in peers.make(["transformers float32"], setup)]
    [engine] = peers.make([name], setup)
    limit = {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.1}[engine.precision]
    assert np.linalg.norm(engine.run(features) - exact) <= limit * np.linalg.norm(exact)
    assert engine.isa


def test_op_rows(cache: Path, tmp_path: Path) -> None:
    found = run(run_ops, cache, tmp_path / "ops.jsonl", "--precision", "float32", "--op", "qkv", "--op", "pool", *ALONE)
    assert [row["op"] for row in found] == ["qkv", "pool"]
    assert 0 < found[0]["share_of_peak"] < 1
    assert "share_of_peak" not in found[1]
    assert found[0]["max_error"] < 1e-4


def test_op_rows_in_int8_and_of_a_part_alone(cache: Path, tmp_path: Path) -> None:
    options = ("--precision", "int8", "--op", "norm_rows", "--op", "proj", *ALONE)
    proj, norm_rows = run(run_ops, cache, tmp_path / "ops.jsonl", *options)
    assert (proj["op"], norm_rows["op"]) == ("proj", "norm_rows")
    assert proj["torch_dtype"] == "bfloat16"
    assert 0 < proj["max_error"] < 0.1
    assert "share_of_peak" not in norm_rows


def test_accuracy_rows(cache: Path, tmp_path: Path) -> None:
    found = run(run_accuracy, cache, tmp_path / "accuracy.jsonl", "--clips", "2")
    assert [row["weights"] for row in found] == ["plain", "massive", "neurons", "outliers"]
    assert all(0 < row["rms_over_spread"] < 1 for row in found)
    assert len(report.accuracy_table([{**row, "geometry": "ast-base"} for row in found]).splitlines()) == 2 + len(found)
    logits = np.arange(12, dtype=np.float32).reshape(2, 6) % 5
    assert run_accuracy.errors(logits, logits)["rms_error"] == 0
    assert run_accuracy.errors(logits + 1, logits)["rms_error"] == 1


def test_a_wrong_op_is_not_timed() -> None:
    [case] = [case for case in op_cases.cases(op_cases.TINY, "float32") if case.name == "qkv"]
    ops = CpuOps(op_cases.TINY.heads, "float32", 1)
    call = op_calls.native_call(case, ops)
    op_calls.errors(case, op_cases.TINY, ops, call)
    with pytest.raises(AssertionError, match="qkv in float32 is off by"):
        op_calls.errors(case, op_cases.TINY, ops, lambda: call() + np.float32(0.01))


def test_process_rows(cache: Path, tmp_path: Path) -> None:
    arguments = ["--engine", "astfast", "--precision", "float32", "--turns", "1", "--calls", "10"]
    *found, growth = run(run_process, cache, tmp_path / "process.jsonl", *arguments)
    alone, starts = found[:2], found[2:]
    assert [(start["measure"], start["cache"], start["turn"]) for start in alone] == [
        ("one start", x, 1) for x in run_process.CACHES
    ]
    assert [(start["measure"], start["cache"]) for start in starts] == [("cold start", x) for x in run_process.CACHES]
    for start, one in zip(starts, alone, strict=True):
        assert start["first_tag"] == one["tags"][0]
        assert start["first_tag"].startswith("LABEL_")
        assert [start[name] for name in run_process.MEASURED] == [[one[name]] * 3 for name in run_process.MEASURED]
        assert 0 < start["cpu_seconds"][1] < 60
        assert 0.05 < start["seconds"][1] < 60
        assert 0 < start["ready_seconds"][1] < start["seconds"][1]
        assert 2e7 < start["peak_bytes"][1] < 2e8
    assert growth["calls"] == 10
    assert growth["growth_bytes"] < 1e7


def test_latency_rows(cache: Path, tmp_path: Path) -> None:
    found = run(run_latency, cache, tmp_path / "latency.jsonl", "--calls", "15", "--precision", "float32")
    series = [(row["threads"], row["beside_a_process"], row["calls"]) for row in found]
    assert series == [(1, False, 15), (2, False, 15), (1, True, 15), (2, True, 15)]
    assert all(0 < row["seconds_p50"] <= row["seconds_p99"] for row in found)
    assert [row["speedup_over_one_thread"] for row in found if row["threads"] == 1] == [1.0, 1.0]


def test_latency_has_the_tail_of_the_machine(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its slowest thread: in one of ten measurements that takes four times as long."""
    asked, rates = [], itertools.cycle([[2.0, 1.0]] * 9 + [[2.0, 0.25]])
    monkeypatch.setattr(peaks.InstructionPeak, "of_threads", lambda _, seconds: asked.append(seconds) or next(rates))
    found = run(run_latency, cache, tmp_path / "latency.jsonl", "--calls", "15", "--precision", "float32")
    assert [row["machine_p99_over_p50"] for row in found] == [4.0] * 4
    assert len(asked) == 4 * 2 * run_latency.TURN
    assert 0 < min(asked) <= found[0]["seconds_p99"]


def test_latency_of_any_precision(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTFAST_CPU_TIER", "scalar")  # which has no instruction of its own for int8
    for precision in ("auto", "int8"):
        found = run(run_latency, cache, tmp_path / precision, "--seconds", "1e-9", "--precision", precision)
        assert len(found) == 4
    with pytest.raises(SystemExit):
        run(run_latency, cache, tmp_path / "none", "--calls", "0")


def test_latency_ends_in_time(cache: Path, tmp_path: Path) -> None:
    """After the turn in which the time is up."""
    found = run(run_latency, cache, tmp_path / "latency.jsonl", "--seconds", "1e-9", "--precision", "float32")
    assert {row["calls"] for row in found} == {run_latency.TURN}


def test_scaling_rows(cache: Path, tmp_path: Path) -> None:
    found = run(run_scaling, cache, tmp_path / "scaling.jsonl", "--precision", "float32", "--batch", "3", *QUICK)
    measures = [(row["measure"], row["threads"], row.get("batch")) for row in found]
    assert measures == [
        ("threads", 1, None),
        ("threads", 2, None),
        ("batch", 2, 1),
        ("batch", 2, 3),
        ("log-mel", 1, None),
    ]
    assert found[0]["over_one_thread"] == [1.0, 1.0, 1.0]
    assert found[-1]["max_error"] < 1e-3


def test_pipeline_rows(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_pipeline, "FORMATS", {"16 kHz WAV": run_pipeline.FORMATS["16 kHz WAV"]})
    monkeypatch.setattr(run_pipeline, "FEED_CLIPS", 8)
    arguments = ["--formats", "16 kHz WAV", "--precision", "float32", "--files", "2", *ALONE]
    found = run(run_pipeline, cache, tmp_path / "pipeline.jsonl", *arguments)
    stages = {row["stage"]: row for row in found}
    assert stages.keys() >= {"list", "decode", "resample", "front end", "model", "write", "classify, one file"}
    assert stages["model alone, a file"]["of_model"][1] == 1
    assert stages["run with threads, a file"]["of_model"][1] > 0
    assert stages["transformers pipeline, a clip"]["first_tag_agrees"]
    assert stages["transformers pipeline, a clip"]["runs_are_faster"].keys() == {"threads", "processes"}
    assert [row["workers"] for row in found if row.get("decoding") == "processes"] == [1, 2]
    page = "".join(report.sections({"pipeline": found}))
    assert "16 kHz WAV | processes" in page
    assert "16 kHz WAV, run with threads" in page
    assert all(row["seconds"][1] > 0 for row in found)

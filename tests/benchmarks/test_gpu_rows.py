"""Rows of the GPU benchmark on a CPU: their order, what they measure and say, and the sweep of tiles."""

import contextlib
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from astfast.backends.cuda.autotune_cache import KernelResult
from astfast.kernels import tuning
from astfast.kernels.launch import Launch
from benchmarks import gpu_bench, gpu_rows, gpu_table, gpu_tune, models, profile_gpu
from tests.fakes import cuda_allocator

ORDER = ["smoke", "batch 32", "waveforms to top-k", "families", "other batches"]
ORDER += ["dependent launches", "float8", "float16", "float32", "odd shapes", "tests", "compiled batches"]


def test_rows_come_in_the_order_that_matters() -> None:
    rows = gpu_rows.rows(90)
    assert list(dict.fromkeys(each.section for each in rows)) == ORDER
    assert len({(each.section, each.name) for each in rows}) == len(rows)
    names = [each.name for each in rows if each.section == "batch 32"]
    assert [name.split()[0] for name in names[:4]] == ["astfast", "sdpa", "compiled", "accelerated"]
    assert {each.section for each in gpu_rows.rows(86)} == {each.section for each in rows} - {
        "float8",
        gpu_rows.DEPENDENT,
    }


def test_table_has_ratios_and_shares_of_what_was_measured() -> None:
    common = {"gpu": "H900", "section": "batch 32", "precision": "bfloat16", "batch": 32, "geometry": ""}
    common |= {"model": "ast-base"}
    rows = [
        {**common, "name": "ceilings", "product_tflops": 800.0, "copy_tbs": 3.0},
        {**common, "name": "ours", "engine": "astfast", "clips_per_second": 2000.0},
        {**common, "name": "sdpa", "engine": "sdpa", "clips_per_second": 1000.0},
        {**common, "name": "compiled", "engine": "compiled", "failed": "no answer"},
        {**common, "name": "in turns", "over_sdpa": [1.9, 2.0, 2.1]},
        {**common, "name": "in turns", "with": "dependent launches", "over_astfast": [1.0, 1.04, 1.1]},
        {**common, "name": "fc1", "kernel_us": 400.0, "kernel_tflops": 450.0, "torch_us": 300.0, "torch_tflops": 600.0}
        | {"served_by": "torch"},
        {**common, "name": "top-5 of waves", "clips_per_second": 900.0, "milliseconds": 35.0},
    ]
    text = gpu_table.table(rows)
    share = models.operations(models.GEOMETRIES["ast-base"].model_config()) * 2000 / 800e12
    line = re.sub(" +", " ", next(line for line in text.splitlines() if line.startswith("bfloat16")))
    assert line.strip() == f"bfloat16 32 2,000 {share:.0%} 1,000 2.00x - - - -"
    assert "in turns, bfloat16, batch 32: 2.00x over sdpa" in text
    assert "in turns, bfloat16, batch 32, with dependent launches: 1.04x over astfast" in text
    assert "fc1: torch serves: kernel 400.0 us, 450 TFLOP/s (56%); torch 300.0 us, 600 TFLOP/s (75%)" in text
    assert "top-5 of waves: 900 clips/s, 35.00 ms a call" in text
    assert "ceilings: product 800 TFLOP/s, copy 3.00 TB/s" in text


@pytest.mark.parametrize("arch", [80, 89, 90, 120])
def test_candidates_of_the_sweep_begin_with_the_tile_in_use(arch: int) -> None:
    for name in gpu_tune.PROBLEMS:
        found = gpu_tune.candidates(arch, name, "bfloat16")
        table = tuning.tiles_for(arch, 2)
        in_use = {"attention": table.attention, "qkv": table.norm_linear[0], "fc1": table.norm_linear[0]}
        assert found[0] == in_use.get(name, table.residual[0])
        assert 10 < len(found) < (150 if name in ("proj", "fc2") else 90)
        assert any(tile.early for tile in found) == (name in ("proj", "fc2"))
        assert len(set(found)) == len(found)
        assert profile_gpu.in_use(arch, name) == found[0]


def test_sweep_refuses_a_tile_whose_results_differ_and_sorts_the_others(tmp_path: Path) -> None:
    bench, spoilt = gpu_bench.Bench(True, tmp_path), []

    def launcher(launch: Launch) -> None:
        columns = launch.args["BLOCK_N"]
        spoilt.append(columns)
        launch.args["stream_ptr"].fill_(2.0 if columns == 128 else 1.0)

    bench.launcher = launcher
    good, bad = gpu_tune.sweep(bench, "proj", "float32", 1)
    assert (good["tile"][1], bad["tile"][1]) == (64, 128)
    assert "off by 1" in bad["refused"]
    assert good["tflops"] > 0
    assert spoilt == [64, 64, 128]  # a wrong one is not timed
    early = {**good, "early": True, "gpu": "H900"}
    assert gpu_tune.table([early]).splitlines()[1].startswith("Tile(64, 64, 32, 4, 2, early=True),  # proj")
    text = gpu_tune.table([{**good, "gpu": "H900"}, {**bad, "gpu": "H900"}])
    assert text.splitlines()[0] == "# float32, timed on H900"
    assert text.splitlines()[1].startswith("Tile(64, 64, 32, 4, 2),  # proj, batch 1: ")
    assert len(text.splitlines()) == 2


def test_calls_on_a_device_are_timed_by_its_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_allocator.install(monkeypatch)
    monkeypatch.setattr(gpu_bench, "SPIN_SECONDS", 0.01)
    monkeypatch.setattr(gpu_bench, "SAMPLE_SECONDS", 0.001)
    readings = {"clock_rate": 1980, "power_draw": 650_000, "temperature": 60}
    for name, value in readings.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    bench = gpu_bench.Bench(True, tmp_path)
    bench.dry_run = False
    row = bench.timed(lambda: time.sleep(0.001), clips=32, seconds=0.02)
    assert row["clips_per_second"] == row["p20"] == row["p80"] == pytest.approx(32 / 1e-3)  # by the fake's events
    assert row["calls"] >= 5
    assert (row["clock_mhz"], row["watts"], row["celsius"]) == ([1980, 1980], 650.0, 60)

    def no_library() -> int:
        raise ModuleNotFoundError("pynvml does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "clock_rate", no_library)
    assert "pynvml" in bench.timed(lambda: time.sleep(0.001), 32, 0.02)["sensors"]
    assert bench.timed_on_the_host(lambda: time.sleep(0.001), 4, 0.02)["clips_per_second"] < 4 / 1e-3


def test_what_is_made_once_does_not_depend_on_how_arguments_are_passed() -> None:
    class Maker:
        @gpu_bench.once
        def make(self, precision: str, geometry: str = "", dependent: bool = False) -> object:
            return object()

    one, other = Maker(), Maker()
    made = one.make("bfloat16")
    assert made is one.make("bfloat16", "") is one.make(precision="bfloat16", dependent=False)
    assert len({id(x) for x in (made, one.make("bfloat16", dependent=True), other.make("bfloat16"))}) == 3


class Contestants:
    """Engines whose calls take as long as their names say; one of them fails."""

    dry_run = True
    contestants = dict.fromkeys([(name, "float32", 2, "") for name in ("astfast", "compiled", "accelerated")])

    def contestant(self, name: str, precision: str, batch: int, geometry: str = "") -> Any:
        def work() -> float:
            if name == "compiled":
                raise RuntimeError("no valid choice")
            return {"astfast": 1.0, "sdpa": 2.0, "accelerated": 4.0}[name]

        return work

    def call_seconds(self, work: Any, seconds: float) -> list[float]:
        return [work()]

    def sensors(self) -> Any:
        return contextlib.nullcontext({"watts": 300.0})


def test_an_engine_that_fails_costs_its_own_ratio_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = gpu_rows.in_turns(Contestants(), "float32", 2)  # type: ignore[arg-type]
    assert found == {
        "precision": "float32",
        "batch": 2,
        "over_sdpa": [2.0] * 3,
        "over_accelerated": [4.0] * 3,
        "without_compiled": "RuntimeError: no valid choice",
        "watts": 300.0,
    }
    with pytest.raises(RuntimeError, match="no valid choice"):
        gpu_rows.compared(Contestants(), ["compiled", "sdpa"], "float32", 2)  # type: ignore[arg-type]


@pytest.mark.slow
def test_rows_say_which_kernels_ran_and_which_were_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = gpu_bench.Bench(True, tmp_path)
    assert [row["served_by"] for row in gpu_rows.ops(bench, "float32", 1)].count("kernel") > 10  # type: ignore[index]
    with pytest.raises(AssertionError, match="no op has run with a batch of 2"):
        gpu_rows.of_batch(bench.engine("float32"), 2)
    results = bench.engine("float32", dependent=True).ops._autotuner.results  # type: ignore[union-attr]
    results["pool bfloat16 of another batch"] = KernelResult("out is off by 1")
    row = gpu_rows.dependent(bench, "float32", 1)
    assert row["failed"] == "kernels that are not used: pool bfloat16 of another batch: out is off by 1"  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("key", "flops"),
    [
        ("norm_linear bfloat16 32x1214x2304 32x1214x768 2304x768 eps tile=128x256x64/8w3s", 2 * 32 * 1214 * 2304 * 768),
        ("linear_residual bfloat16 32x2x768 32x2x3072 768x3072 tile=64x64x64/4w4s", 2 * 64 * 768 * 3072),
        ("attention bfloat16 32x1214x768 32x1214x768 heads=12", 4 * 32 * 1214 * 1214 * 768),
        ("head float32 32x527 32x768 527x768 tile=16x64x64/4w2s", 0),
    ],
)
def test_operations_are_read_off_the_key_of_a_call(key: str, flops: int) -> None:
    assert gpu_rows.operations(key, 1214) == flops

"""benchmarks/run_gpu.py on a CPU: what fails or hangs costs its row, results are kept, what matters comes first."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from triton import runtime
from triton.backends.compiler import GPUTarget

from astfast.backends.cuda.autotune_cache import KernelResult
from astfast.backends.cuda.target import Target
from astfast.kernels import tuning
from astfast.kernels.launch import Launch
from benchmarks import gpu_bench, gpu_checks, gpu_compile, gpu_rows, gpu_table, gpu_tune, models, profile_gpu, run_gpu
from benchmarks.gpu_rows import Row
from tests import ROOT
from tests.fakes import cuda_allocator

SAID = {"gpu": "H900", "arch": 90, "gpu_versions": {"triton": "3.6.0", "driver": "580"}}
ORDER = ["smoke", "batch 32", "waveforms to top-k", "families", "other batches"]
ORDER += ["dependent launches", "float8", "float16", "float32", "odd shapes", "tests", "compiled batches"]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def row(name: str, seconds: float = 20.0, section: str = "smoke") -> Row:
    return Row(section, name, seconds, lambda _: {})


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


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> run_gpu.Worker:
    """A worker that does as the names of rows say."""
    code = (
        "import json, os, sys, time\n"
        f"print(json.dumps({SAID!r}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    name = json.loads(line)[1]\n"
        "    if name == 'crash': os.kill(os.getpid(), 11)\n"
        "    if 'hang' in name: time.sleep(60)\n"
        "    if name == 'poisoned': print(json.dumps({'failed': 'an access', 'last': True}), flush=True); break\n"
        "    print(json.dumps({'pid': os.getpid(), 'of': name, 'with': sys.argv}), flush=True)\n"
    )
    monkeypatch.setattr(run_gpu, "WORKER", (sys.executable, "-S", "-c", code))
    options = run_gpu.argparse.Namespace(cache=tmp_path, dry_run=True, plan="measure", without_persistent=False)
    return run_gpu.Worker(options)


def test_a_crash_and_a_hang_cost_one_row_each(worker: run_gpu.Worker) -> None:
    assert worker.start() == SAID
    first = worker.measure(row("first"), 60)
    assert worker.measure(row("crash"), 60) == {"failed": "its process ended with status -11"}
    second = worker.measure(row("second"), 60)
    assert worker.measure(row("hang", seconds=0.2), 60) == {"failed": "no answer within 0 s"}
    third = worker.measure(row("third"), 60)
    assert worker.measure(row("poisoned"), 60) == {"failed": "an access"}
    fourth = worker.measure(row("fourth"), 60)
    answers = [first, second, third, fourth]
    assert [answer["of"] for answer in answers] == ["first", "second", "third", "fourth"]
    assert len({answer["pid"] for answer in answers}) == 4
    worker.stop()


@pytest.mark.parametrize(
    "name", ["check persistent norm_linear bfloat16", "engine bfloat16", "astfast bfloat16 batch 32"]
)
def test_persistent_kernels_are_left_out_after_a_row_that_may_have_hung_on_them(
    worker: run_gpu.Worker, name: str
) -> None:
    rows = (row("before"), row("hang", 0.2), row("between"), row(f"{name} hangs", 0.2), row("engine"), row("after"))
    found = [worker.measure(each, 60) for each in rows]
    assert ["failed" in each for each in found] == [False, True, False, True, False, False]
    assert [each["with"].count(run_gpu.WITHOUT) for each in found if "with" in each] == [0, 0, 1, 1]
    worker.stop()


def test_no_row_takes_longer_than_the_whole_run_may(worker: run_gpu.Worker) -> None:
    assert "failed" in worker.measure(row("hang", seconds=60), 1.5)


def test_results_take_the_place_of_others_only_when_complete(tmp_path: Path) -> None:
    out, also = tmp_path / "gpu.jsonl", tmp_path / "also"
    out.write_text('{"kept": "of the last run"}\n')
    stopped = run_gpu.Results(out, also, SAID, resume=False)
    stopped.write(row("a"), {"clips_per_second": 7.0})
    stopped.write(row("b"), {"failed": "a crash"})
    stopped.write(row("c"), {"skipped": "no time left"})
    assert stopped.finish(gpu_table.table) == 1
    assert rows_of(out) == [{"kept": "of the last run"}]
    assert [each["name"] for each in rows_of(also / "gpu.jsonl")] == ["a", "b", "c"]

    resumed = run_gpu.Results(out, None, SAID, resume=True)
    assert [resumed.has(row(name)) for name in "abc"] == [True, False, False]
    resumed.write(row("b"), [{"name": "b1", "x": 1}, {"name": "b2", "x": 2}])
    resumed.write(row("c"), [])
    assert resumed.finish(gpu_table.table) == 0
    assert [each["name"] for each in rows_of(out)] == ["a", "b1", "b2", "c"]
    assert rows_of(out)[0]["versions"]["triton"] == "3.6.0"
    assert rows_of(out)[0]["gpu"] == "H900"
    assert not out.with_suffix(".partial.jsonl").exists()


def test_a_stopped_run_on_another_gpu_is_not_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    run_gpu.Results(out, None, SAID, resume=False).write(row("a"), {"x": 1})
    assert not run_gpu.Results(out, None, {**SAID, "gpu": "another"}, resume=True).rows


def test_only_some_sections_have_a_file_of_their_own(
    worker: run_gpu.Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row("a"), row("b", section="batch 32"), row("c", section="tests")]
    monkeypatch.setitem(run_gpu.PLANS, "measure", run_gpu.PLANS["measure"]._replace(rows=lambda *_: rows))
    monkeypatch.setattr(run_gpu, "RESULTS", tmp_path)
    assert run_gpu.main(["--dry-run", "--section", "smoke", "--section", "batch 32"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_dry-run-smoke-batch-32.jsonl"]
    assert [each["of"] for each in rows_of(tmp_path / "gpu_dry-run-smoke-batch-32.jsonl")] == ["a", "b"]


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


class Driver:
    """An H100 as Triton's JIT sees it, which compiles and launches nothing."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        del device
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@pytest.mark.slow
def test_kernels_are_compiled_beforehand_as_their_launches_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(runtime.driver, "_active", Driver())
    config, target = models.GEOMETRIES["speech-commands"].model_config(), Target(90, 132, "H100")
    launches = gpu_compile.of_model(config, (8, 1), "bfloat16", target)
    assert {"log_mel_kernel", "norm_linear_kernel", "persistent_linear_kernel"} <= {each.name for each in launches}
    pools = [launch for launch in launches if launch.name == "pool_kernel"]
    assert len(pools) == 1  # whatever the batch
    gpu_compile.compile_one(pools[0])
    assert list(tmp_path.rglob("pool_kernel.cubin"))
    (used,) = gpu_bench.resources()
    assert used["name"] == "pool_kernel 2x1024/4w1s"
    assert used["shared"] > 0
    pools[0].kernel.device_caches.clear()


def no_launches() -> list[Any]:
    raise OSError("no GPU")


def test_checks_are_compiled_on_tensors_without_memory() -> None:
    names = {precision: gpu_checks.cases(90, precision, "meta") for precision in ("bfloat16", "float8")}
    persistent = f"{gpu_checks.PERSISTENT} linear_residual"
    for precision, name in (("bfloat16", "attention"), ("bfloat16", persistent), ("float8", "attention")):
        launch = names[precision][name]().launch
        assert launch.args["out_ptr"].device.type == "meta"


@pytest.mark.slow
def test_an_error_of_compiling_is_reported() -> None:
    assert gpu_compile.compile_all(no_launches, 60, processes=1) == (0, "OSError: no GPU")


@pytest.mark.slow
def test_a_gpu_needs_no_audio_library_and_no_native_engine(tmp_path: Path) -> None:
    """A lent machine has none of them: the rows of the smoke, and the tests of the engine."""
    missing = "sys.modules.update(dict.fromkeys(('soundfile', 'soxr', 'av', 'pyarrow', 'astfast._native')))"
    smoke = ["from benchmarks import run_gpu, gpu_rows, gpu_bench"]
    smoke += [f"bench = gpu_bench.Bench(True, __import__('pathlib').Path({str(tmp_path)!r}))"]
    smoke += ["print(gpu_rows.engine_works(bench, 'float32'), gpu_rows.to_top_k(bench, 'float32', 'int16', 1))"]
    tests = ["import pytest", "from benchmarks.gpu_rows import test_files"]
    arguments = "'-q', '-p', 'no:cacheprovider', '-m', 'gpu', '--collect-only', *test_files()"
    tests += [f"assert not pytest.main([{arguments}])"]
    tests += ["assert not pytest.main(['-q', '-p', 'no:cacheprovider', 'tests/engines/test_streams.py'])"]
    for lines in (smoke, tests):
        code = "\n".join(["import sys", missing, *lines])
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


PLANT = """
import os, signal, sys, time
from benchmarks import run_gpu
from tests.cases import gpu_cases, gpu_family_cases
gpu_cases.pool = lambda *_, **__: os.kill(os.getpid(), signal.SIGSEGV)
gpu_cases.head_ = lambda *_, **__: time.sleep(600)
gpu_family_cases.check_image_op = lambda case, *_: case.name == "x_proj" and os.kill(os.getpid(), signal.SIGSEGV)
sys.exit(run_gpu.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_dry_run_with_a_crash_and_a_hang_in_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = gpu_rows.rows(80, dry_run=True)
    limited = [each._replace(seconds=20.0 if " head " in each.name else 200.0) for each in rows]
    monkeypatch.setitem(run_gpu.PLANS, "measure", run_gpu.PLANS["measure"]._replace(rows=lambda *_: limited))
    monkeypatch.setattr(run_gpu, "WORKER", (sys.executable, "-c", PLANT, "--worker"))
    out = tmp_path / "rows.jsonl"
    arguments = ["--dry-run", "--cache", str(tmp_path), "--out", str(out), "--also", str(tmp_path / "also")]
    assert run_gpu.main([*arguments, "--seconds", "1000"]) == 1
    found = rows_of(out)
    assert list(dict.fromkeys((each["section"], each["row"]) for each in found)) == [row[:2] for row in limited]
    failed = {each["name"]: each["failed"] for each in found if "failed" in each}
    assert failed == {
        "check pool float32": "its process ended with status -11",
        "check head float32": "no answer within 20 s",
        "check DASS x_proj": "its process ended with status -11",
    }
    assert not [each for each in found if "skipped" in each]
    printed = capsys.readouterr().out
    assert "ours over" in printed
    assert "check head float32: no answer within 20 s" in printed
    assert (tmp_path / "also" / "rows.txt").read_text() in printed
    assert rows_of(tmp_path / "also" / "rows.jsonl") == found


@pytest.mark.slow
def test_make_gpu(tmp_path: Path) -> None:
    """Without an installation, from links to the checkout, its results also where the variable OUT says."""
    options = f"--dry-run --section smoke --cache {tmp_path} --out {tmp_path / 'rows.jsonl'}"
    command = ["make", "gpu", f"PYTHON={sys.executable}", f"LINKS={tmp_path / 'links'}", f"GPU_OPTIONS={options}"]
    command += [f"OUT={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "0 failed, 0 skipped" in done.stdout
    assert (tmp_path / "out" / "rows.jsonl").exists()


def planned() -> list[tuple[str, int]]:
    """(command, its limit in seconds) of each line of the plan of a half hour in docs/gpu.md."""
    rows = re.findall(r"^\| \d+ to \d+ \| `(.+?)` \| (\d+) s \|", (ROOT / "docs" / "gpu.md").read_text(), re.MULTILINE)
    return [(command.removeprefix("nvidia-smi; "), int(limit)) for command, limit in rows]


def test_the_plan_fits_into_a_half_hour() -> None:
    minutes = re.findall(r"^\| (\d+) to (\d+) \|", (ROOT / "docs" / "gpu.md").read_text(), re.MULTILINE)
    assert len(minutes) == len(planned()) >= 5
    assert [int(start) for start, _ in minutes] == [0, *(int(end) for _, end in minutes[:-1])]
    limits = [limit for _, limit in planned()]
    assert max(limits) <= 600
    assert sum(limits) <= 30 * 60


def test_an_unknown_section_is_refused(worker: run_gpu.Worker, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "rows.jsonl"
    arguments = ["--dry-run", "--cache", str(tmp_path), "--out", str(out), "--section", "smoke", "--section", "batch32"]
    assert run_gpu.main(arguments) == 1
    assert "no section 'batch32': use one of smoke, batch 2, " in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("command", "limit"), planned())
def test_commands_of_the_plan_are_understood(
    command: str, limit: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What make would run, given to the script's own parser: its sections exist, and it ends before its limit."""
    environment = {"PATH": os.environ["PATH"], "OUT": str(tmp_path)}
    line = [f"PYTHON={sys.executable}", f"LINKS={tmp_path / 'links'}"]
    shown = subprocess.run(
        ["make", "--dry-run", *shlex.split(command)[1:], *line],
        cwd=ROOT, capture_output=True, text=True, check=True, env=environment,
    ).stdout  # fmt: skip
    (ran,) = (each for each in shown.splitlines() if " -m benchmarks." in each)
    _, module, *arguments = shlex.split(ran.partition(f"{sys.executable} ")[2])
    taken: list[tuple[Any, ...]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run_gpu, "drive", lambda options: taken.append((options.also, options.seconds)) or options)
    monkeypatch.setattr(profile_gpu, "profile", lambda *given: taken.append(given) or 0)
    options = {"benchmarks.run_gpu": run_gpu, "benchmarks.profile_gpu": profile_gpu}[module].main(arguments)
    ((also, seconds),) = taken
    assert also == tmp_path, "its results come back in OUT"
    assert seconds < limit
    if module == "benchmarks.run_gpu":
        assert set(options.section or ()) <= {row.section for row in run_gpu.PLANS[options.plan].rows(90, False)}

"""benchmarks/run_gpu.py on a CPU: what fails or hangs costs its row, results are kept, what matters comes first."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from triton import runtime
from triton.backends.compiler import GPUTarget

from astfast.backends.cuda.target import Target
from benchmarks import gpu_bench, gpu_checks, gpu_compile, gpu_rows, gpu_table, models, profile_gpu, run_gpu
from benchmarks.gpu_rows import Row
from tests import ROOT

SAID = {"gpu": "H900", "arch": 90, "gpu_versions": {"triton": "3.6.0", "driver": "580"}}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def row(name: str, seconds: float = 20.0, section: str = "smoke") -> Row:
    return Row(section, name, seconds, lambda _: {})


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

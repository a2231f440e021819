"""Decoding in processes: the rows of threads, whatever happens to a process, and nothing left of any."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import astfast
from astfast.engines.load import LoadArguments
from astfast.volume import processes
from astfast.volume.options import Options
from astfast.volume.tag_files import Run
from astfast.volume.workers import ThisProcess
from tests.cases.recordings import RATE, clips, file_bytes
from tests.fakes.instant_engine import InstantEngine

# A process in which the decoder crashes at files of this name.
DEADLY = """
import os
from astfast.volume import inputs
opened = inputs.open_audio
inputs.open_audio = lambda x, *rest: os.abort() if "deadly" in str(x) else opened(x, *rest)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Clips of one and two channels, a long one, and one that is none."""
    for i, clip in enumerate(clips(6, 0.4)):
        soundfile.write(tmp_path / f"{i}.wav", np.stack([clip, clip[::-1]], 1), RATE if i % 2 else 22_050)
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "long.flac", rng.standard_normal(60 * RATE) * 0.1, RATE)
    (tmp_path / "text.flac").write_text("no audio")
    return tmp_path


def planned(source: Any, **options: Any) -> Run:
    asked = Options(order=True, **options)
    return Run(source, ThisProcess(InstantEngine(), asked), LoadArguments((None,)), asked)  # type: ignore[arg-type]


def rows(source: Any, **options: Any) -> list[dict[str, Any]]:
    return list(planned(source, **options).rows(lambda done: None))


def running(run: Run) -> list[subprocess.Popen[bytes]]:
    """The processes of a run that is on."""
    reader: Any = run.progress.reader
    return [decoder._running.process for decoder in reader._decoders if decoder._running is not None]


@pytest.mark.parametrize("options", [{}, {"window": 0.5, "hop": 0.2}, {"window": 0.3, "channel": "each"}])
def test_processes_give_the_rows_of_threads(folder: Path, options: dict[str, Any]) -> None:
    wave = clips(1, 0.4)[0]
    mixed = [
        folder,
        {"audio": file_bytes(wave, format="WAV"), "id": "bytes"},
        {"audio": {"array": wave, "sampling_rate": RATE}},
    ]
    found = rows(mixed, decoding="processes", **options)
    assert found == rows(mixed, decoding="threads", **options)
    assert [row["kind"] for row in found if "error" in row] == ["undecodable"]


def test_windows_larger_than_the_shared_memory_and_bytes_that_fill_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    noise = (np.random.default_rng(0).standard_normal(300 * RATE) * 1000).astype(np.int16)
    soundfile.write(path, noise, RATE)
    inputs = [path, *({"audio": path.read_bytes(), "id": str(i)} for i in range(2)), path.with_name("none.wav")]
    options = {"window": 270.0, "decoders": 1}
    assert rows(inputs, decoding="processes", **options) == rows(inputs, decoding="threads", **options)


def test_a_run_goes_on_behind_what_was_taken_from_a_process_that_was_killed(folder: Path) -> None:
    expected = rows(folder, window=0.05, decoders=1)
    run = planned(folder, window=0.05, decoders=1, decoding="processes")
    found, killed = [], set()
    for row in run.rows(lambda done: None):
        found.append(row)
        for process in running(run):
            if len(killed) < 3 and len(found) % 40 == 5 and process.pid not in killed:
                process.kill()
                killed.add(process.pid)
    assert found == expected
    assert len(killed) == 3


def test_an_input_over_which_two_processes_die_fails_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(folder / "deadly.wav", clips(1, 0.4)[0], RATE)
    monkeypatch.setattr(processes, "MAIN", processes.MAIN.replace("import sys", DEADLY + "import sys", 1))
    found = {row["file"]: row for row in rows(folder, decoding="processes")}
    failed = found.pop(str(folder / "deadly.wav"))
    assert (failed["kind"], "2 processes" in failed["error"], "SIGABRT" in failed["error"]) == ("killed", True, True)
    (folder / "deadly.wav").unlink()
    assert list(found.values()) == rows(folder)


def test_processes_end_with_the_run(folder: Path) -> None:
    run = planned(folder, window=0.05, decoding="processes")
    iterator = run.rows(lambda done: None)
    next(iterator)
    started = running(run)
    assert started
    iterator.close()  # type: ignore[attr-defined]
    assert all(process.poll() is not None for process in started)


def test_processes_end_when_the_one_that_runs_the_model_is_killed(folder: Path) -> None:
    program = (
        "import sys, time; from tests.volume.test_processes import planned, running\n"
        f"run = planned({str(folder)!r}, window=0.05, decoding='processes'); rows = run.rows(print); next(rows)\n"
        "print(*(process.pid for process in running(run)), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert pids
    end = time.monotonic() + 10
    while any(map(is_running, pids)):
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except OSError:
        return False


def test_processes_that_cannot_start_end_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAIN", "raise SystemExit(3)")
    with pytest.raises(astfast.BackendError, match=r"exit status 3.*decoding='threads'"):
        rows(folder, decoding="processes")
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(astfast.BackendError, match="No such file"):
        rows(folder, decoding="processes")


def test_ctrl_c_reaches_no_process(folder: Path) -> None:
    run = planned(folder, window=0.05, decoding="processes")
    iterator = run.rows(lambda done: None)
    next(iterator)
    (process, *_) = running(run)
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    os.kill(process.pid, signal.SIGKILL)
    assert len([*iterator]) > 0

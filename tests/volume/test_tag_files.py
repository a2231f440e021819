"""Runs of real size, in processes of their own: kills at any moment, full disks, long lists and long recordings."""

import json
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import astfast
from tests.cases.recordings import RATE, clips
from tests.fakes.instant_engine import InstantEngine

FULL_DISK = 74  # exit status


def start(code: str, *arguments: Any) -> "subprocess.Popen[str]":
    """A Python process with this code."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(code: str, *arguments: Any) -> dict[str, Any]:
    """What such a process prints as JSON."""
    process = start(code, *arguments)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


TAG = """
    import resource, sys
    from astfast.commands.main import main
    from astfast.volume import journal
    journal.PART_INPUTS = 150
    model, listed, out, file_size = sys.argv[1:]
    if int(file_size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_size), int(file_size)))
    shared = ["--device", "cpu", "--precision", "float32", "--model", model, "--top-k", "2"]
    sys.exit(main(["tag", "--from", listed, "--out", out, "--format", "jsonl,csv", *shared]))
"""


def write_clips(folder: Path, count: int) -> Path:
    """A list of files, one in twenty bad, in twelve ways."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    good = [0.1 * rng.standard_normal(1_600 + 160 * i) for i in range(10)]
    whole = folder / "whole.flac"
    soundfile.write(whole, clips(1, 1.0)[0], RATE)
    flac = whole.read_bytes()
    riff = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\0\0\0\0"
    bad = [
        *(b"", b"no audio", riff, riff[:30], riff[:22] + b"\0\0" + riff[24:], riff[:24] + b"\0\0\0\0" + riff[28:]),
        *(b"\x89PNG\r\n\x1a\n" + bytes(100), b"OggS" + bytes(100), b"fLaC" + bytes(100), b"ID3" + bytes(100)),
        flac[: len(flac) // 2] + bytes(500),
    ]
    names = []
    for i in range(count):
        path = folder / f"{i:04d}.wav"
        names.append(str(path))
        if i % 20 != 7:
            soundfile.write(path, good[i % 10], RATE)
        elif i // 20 % 12 < len(bad):  # the twelfth is not there
            path.write_bytes(bad[i // 20 % 12])
    listed = folder / "list"
    listed.write_text("\n".join(names))
    return listed


def results(out: Path) -> list[str]:
    """Rows and failures of a run, sorted."""
    files = [*(out / "tags").iterdir(), out / "failures.jsonl", out / "warnings.jsonl"]
    return sorted(line for file in files for line in file.read_text().splitlines() if not line.startswith("id,"))


def run_whole(tmp_path: Path, model: Path, listed: Path) -> list[str]:
    process = start(TAG, model, listed, tmp_path / "whole", 0)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors  # some files are bad
    return results(tmp_path / "whole")


@pytest.mark.parametrize(("files", "kills"), [(240, 2), pytest.param(2_000, 30, marks=pytest.mark.slow)])
def test_runs_that_are_killed_at_any_moment_end_as_if_undisturbed(
    tmp_path: Path, tiny_model: Path, files: int, kills: int
) -> None:
    listed = write_clips(tmp_path / "clips", files)
    expected = run_whole(tmp_path, tiny_model, listed)
    moments = random.Random(0)
    killed = number = 0
    while killed < kills:
        out = tmp_path / f"out {number}"
        number += 1
        while True:
            process = start(TAG, tiny_model, listed, out, 0)
            try:
                _, errors = process.communicate(timeout=moments.uniform(0.3, 2.0))
                assert process.returncode == 1, errors
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
        assert results(out) == expected


def test_a_full_disk_ends_a_run_that_goes_on_once_there_is_room(tmp_path: Path, tiny_model: Path) -> None:
    listed = write_clips(tmp_path / "clips", 240)
    expected = run_whole(tmp_path, tiny_model, listed)
    out = tmp_path / "out"
    for size in (15_000, 25_000):
        process = start(TAG, tiny_model, listed, out, size)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == FULL_DISK, errors
        assert f"astfast: error: {out}: can't be written (File too large): make room" in errors
        assert "Traceback" not in errors
    process = start(TAG, tiny_model, listed, out, 0)
    process.communicate(timeout=120)
    assert results(out) == expected


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_small_file_system_that_fills_up_loses_nothing(tmp_path: Path, tiny_model: Path) -> None:
    """Unlike a limit on the size of files, a full one has no room for renames and new names either."""
    listed = write_clips(tmp_path / "clips", 600)
    expected = run_whole(tmp_path, tiny_model, listed)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", out], check=True)
    try:
        for kilobytes in (40, 64, 100, 140, 180, 220):
            subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", out], check=True)
            process = start(TAG, tiny_model, listed, out, 0)
            _, errors = process.communicate(timeout=120)
            assert process.returncode == FULL_DISK, errors
            assert f"astfast: error: {out}: can't be written (No space left on device): make room" in errors
            assert "Traceback" not in errors
        subprocess.run(["mount", "-o", "remount,size=8m", out], check=True)
        process = start(TAG, tiny_model, listed, out, 0)
        process.communicate(timeout=120)
        assert results(out) == expected
    finally:
        subprocess.run(["umount", out], check=True)


MEASURED = """
    import json, resource, sys, time
    from pathlib import Path
    from astfast.engines.load import LoadArguments
    from astfast.volume.options import Options
    from astfast.volume.tag_files import Run
    from astfast.volume.workers import ThisProcess
    from tests.fakes.instant_engine import InstantEngine

    def run(source, **options):
        asked = Options(**options)
        return Run(source, ThisProcess(InstantEngine(), asked), LoadArguments((None,)), asked)

    def peak():  # MB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
"""


@pytest.mark.slow
def test_a_list_of_a_hundred_thousand_needs_little_memory_and_is_resumed_at_once(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(400), RATE)
    code = (
        MEASURED
        + """
    source, out = sys.argv[1:]
    start, before = time.perf_counter(), time.process_time()
    first = []
    note = lambda done: first or first.append(time.perf_counter() - start)
    report = run(source).into(out, ["jsonl"], False, False, note)
    print(json.dumps({"first": first, "peak": peak(), "seconds": time.process_time() - before, **report}))
    """
    )
    peaks = {}
    for count in (100, 100_000):
        manifest = tmp_path / f"{count}.jsonl"
        manifest.write_text("".join(f'{{"id": "clip {i}", "path": "{tmp_path}/a.wav"}}\n' for i in range(count)))
        measured = finished(code, manifest, tmp_path / f"out {count}")
        assert measured["tagged"] == count
        assert measured["first"][0] < 2.0
        peaks[count] = measured["peak"]
    assert peaks[100_000] - peaks[100] < 60
    again = finished(code, manifest, tmp_path / "out 100000")
    assert (again["tagged"], again["skipped"]) == (0, 100_000)
    assert again["seconds"] < 5.0  # of CPU: waiting for a core that others use is no work of a resume


@pytest.mark.slow
def test_a_recording_of_three_hours_is_tagged_window_by_window_in_little_memory(tmp_path: Path) -> None:
    path, hours, window = tmp_path / "long.wav", 3, 10.0
    rng = np.random.default_rng(0)
    minute = (3_000 * rng.standard_normal(RATE * 60)).astype(np.int16)
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for number in range(hours * 60):
            file.write(np.roll(minute, 1_000 * number))
    code = (
        MEASURED
        + """
    before, start = peak(), time.perf_counter()
    rows = run(sys.argv[1], window=10.0, top_k=None).rows(lambda done: None)
    found = [next(rows)]
    first = time.perf_counter() - start
    found += rows
    print(json.dumps({"first": first, "more": peak() - before, "rows": found}))
    """
    )
    measured = finished(code, path)
    assert measured["first"] < 2.0
    assert measured["more"] < 200
    assert len(measured["rows"]) == hours * 360
    engine = InstantEngine()
    for number, row in enumerate(measured["rows"]):
        wave, _ = soundfile.read(path, RATE * 10, RATE * 10 * number, dtype="float32")
        scores = {tag["label"]: tag["score"] for tag in row["tags"]}
        assert scores == dict(zip(engine.labels, engine.scores([wave])[0].tolist(), strict=True))
        assert row["start"] == number * window


def test_processes_end_soon_after_their_rows_are_left(tmp_path: Path) -> None:
    """Threads that still decode keep no interpreter from its end."""
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE * 60), 44_100)
    code = (
        MEASURED
        + """
    rows = run([{"id": str(i), "path": sys.argv[1]} for i in range(1000)], window=0.1).rows(lambda done: None)
    next(rows)
    print(json.dumps({}))
    """
    )
    begun = time.monotonic()
    assert finished(code, tmp_path / "a.wav") == {}
    assert time.monotonic() - begun < 20


def test_a_failure_that_is_mended_is_none_any_more(tiny_model: Path, tmp_path: Path) -> None:
    tagger = astfast.load(tiny_model, device="cpu")
    path = tmp_path / "a.wav"
    path.write_bytes(b"no audio")
    assert astfast.tag_files(path, tmp_path / "out", tagger=tagger)["failed"] == {"undecodable": 1}
    soundfile.write(path, clips(1, 1.0)[0], RATE)
    again = astfast.tag_files(path, tmp_path / "out", tagger=tagger)
    assert (again["tagged"], again["failed"], again["failed_before"]) == (1, {}, 0)


def test_options_of_folders_need_one_and_short_forms_are_understood(tiny_model: Path, tmp_path: Path) -> None:
    tagger = astfast.load(tiny_model, device="cpu")
    clip = tmp_path / "a.wav"
    soundfile.write(clip, clips(1, 1.0)[0], RATE)
    options: dict[str, Any]
    for options in ({"formats": "csv"}, {"scores": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is .* without out"):
            astfast.tag_files(clip, tagger=tagger, **options)
    for merge in ("1", -1, (1, 2, 3), (), True):
        with pytest.raises(ValueError, match=r"it must be a gap in seconds, or \(gap, shortest\)"):
            astfast.tag_files(clip, tagger=tagger, window=1, merge=merge)  # type: ignore[arg-type]
    astfast.tag_files(clip, tmp_path / "out", tagger=tagger, formats="csv", window=0.5, merge=1)
    assert [path.name for path in (tmp_path / "out" / "tags").iterdir()] == ["part-00000.csv"]


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ({"thresholds": ["dog"]}, "thresholds is .'dog'.: it must be a mapping from labels to numbers"),
        ({"thresholds": {"dog": "0.5"}}, "thresholds.'dog'. is '0.5': it must be a finite number"),
        ({"thresholds": {"dog": float("nan")}}, "thresholds.'dog'. is nan: it must be a finite number"),
        ({"thresholds": {"dog": True}}, "thresholds.'dog'. is True: it must be a finite number"),
        ({"labels": "dog"}, "labels is 'dog': it must be a list of the labels that may be tags"),
        ({"labels": []}, "labels is ..: it must be a list of the labels that may be tags"),
    ],
)
def test_impossible_options_are_errors_at_the_call(option: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        astfast.tag_files(["a.wav"], **option)

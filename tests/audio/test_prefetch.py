"""Inputs are read as they arrive, on the caller's thread: nothing that happens to them later changes a sample."""

import io
import itertools
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from astfast.audio import prefetch
from astfast.audio.inputs import load_audio
from astfast.audio.parts import samples_per_block
from astfast.audio.prefetch import ReadOptions, iter_windows
from astfast.audio.windows import Window
from astfast.errors import AudioError
from tests.cases.recordings import RATE, file_bytes

SAMPLES = RATE // 10  # of the model's input
REPEATS = 5  # of tests of what depends on time
BEGINNING = ReadOptions(RATE, SAMPLES, RATE)
WINDOWS = ReadOptions(RATE, SAMPLES, RATE, window=0.1)
both = pytest.mark.parametrize("options", [BEGINNING, WINDOWS], ids=["beginning", "windows"])


def wave_of(index: int, rate: int = RATE) -> np.ndarray:
    """A tenth of a second that no other input has."""
    return np.random.default_rng(index).standard_normal(rate // 10).astype(np.float32) / 8


def waves(inputs: Any, options: ReadOptions) -> list[np.ndarray]:
    """All samples of each input."""
    found: dict[int, list[np.ndarray]] = {}
    for part in iter_windows(inputs, options):
        assert isinstance(part.window, Window), part.window
        found.setdefault(part.input, []).append(part.window.wave)
    return [np.concatenate(found[index]) for index in range(len(found))]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(one, other, err_msg=f"input {index}")


# Inputs that share state


@both
def test_members_of_one_tar(options: ReadOptions, tmp_path: Path) -> None:
    """As WebDataset shards are read: all members share the position of one file."""
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as shard:
        for index in range(200):
            content = file_bytes(wave_of(index), format="WAV", subtype="FLOAT")
            member = tarfile.TarInfo(f"{index}.wav")
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    expected = [wave_of(index) for index in range(200)]
    for mode in ("r:", "r|") * REPEATS:  # with and without seeking
        with tarfile.open(path, mode) as shard:
            assert_same(waves((shard.extractfile(member) for member in shard), options), expected)


@both
@pytest.mark.parametrize("rate", [RATE, 44_100])
@pytest.mark.parametrize("kind", ["array", "int16", "tensor", "dict", "pair", "bytearray", "memoryview", "BytesIO"])
def test_one_buffer_that_is_filled_again(options: ReadOptions, kind: str, rate: int) -> None:
    """A ring buffer, as sounddevice fills it."""
    recordings = [wave_of(index, rate) for index in range(40)]
    expected = [load_audio(recording, rate).wave[:SAMPLES] for recording in recordings]
    if kind == "int16":
        recordings = [(recording * 32767).astype(np.int16) for recording in recordings]
        expected = [load_audio(recording, rate).wave[:SAMPLES] for recording in recordings]
    files = [file_bytes(recording, rate, format="WAV", subtype="FLOAT") for recording in recordings]
    buffer = recordings[0].copy()
    file, stream = bytearray(files[0]), io.BytesIO(files[0])
    inputs: dict[str, Any] = {
        "array": buffer,
        "int16": buffer,
        "tensor": torch.from_numpy(buffer),
        "dict": {"array": buffer, "sampling_rate": rate},
        "pair": (rate, buffer),
        "bytearray": file,
        "memoryview": memoryview(file),
        "BytesIO": stream,
    }

    def refilled() -> Iterator[Any]:
        for recording, content in zip(recordings, files, strict=True):
            buffer[:] = recording
            file[:] = content
            stream.seek(0)
            stream.write(content)
            yield inputs[kind]
        buffer[:] = 0

    read = ReadOptions(options.rate, options.samples, rate, options.window, int16=False)
    for _ in range(REPEATS):
        assert_same(waves(refilled(), read), expected)
    if kind == "int16" and rate == RATE and options.window is None:
        as_int16 = ReadOptions(RATE, SAMPLES, RATE, int16=True)
        assert_same(waves(refilled(), as_int16), recordings)


@both
def test_one_file_object_forty_times(options: ReadOptions, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(file_bytes(wave_of(0), format="WAV", subtype="FLOAT"))
    for _ in range(REPEATS):
        with path.open("rb") as file:
            assert_same(waves([file] * 40, options), [wave_of(0)] * 40)
        stream = io.BytesIO(path.read_bytes())
        assert_same(waves([stream] * 40, options), [wave_of(0)] * 40)


@both
def test_files_that_are_closed_once_they_were_given(options: ReadOptions, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(file_bytes(wave_of(0), format="WAV", subtype="FLOAT"))

    def opened() -> Iterator[Any]:
        for _ in range(40):
            with path.open("rb") as file:
                yield file

    assert_same(waves(opened(), options), [wave_of(0)] * 40)


@pytest.mark.parametrize("rate", [4000, 8000, 44_100, 192_000, 500_000])
def test_the_copied_beginning_of_an_array_is_resampled_as_the_whole_is(rate: int) -> None:
    whole = np.random.default_rng(rate).standard_normal(3 * rate).astype(np.float32) / 8
    stereo = {"array": np.stack([whole, whole[::-1]]), "sampling_rate": rate}
    options = ReadOptions(RATE, RATE, rate)
    with pytest.warns(UserWarning, match=r"3\.0 s long and only its first 1\.00 s"):
        found = waves([whole, stereo], options)
    assert_same(found, [load_audio(x, rate).wave[:RATE] for x in (whole, stereo)])


# Order, and how far ahead


@pytest.mark.parametrize("error", [KeyError, SystemExit])
@both
def test_what_was_read_before_the_inputs_raise_comes_first(options: ReadOptions, error: type[BaseException]) -> None:
    def inputs() -> Iterator[Any]:
        for index in range(7):
            yield wave_of(index)
        raise error("the database is gone")

    parts = iter_windows(inputs(), options)
    found = list(itertools.islice(parts, 7))
    assert [part.input for part in found] == list(range(7))
    assert all(part.is_last for part in found)
    with pytest.raises(error, match="the database is gone"):
        next(parts)


@pytest.mark.parametrize("ahead", [1, 2, 5, 32])
def test_inputs_are_taken_no_further_ahead_than_asked(ahead: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(file_bytes(wave_of(0), format="WAV"))
    taken = 0

    def inputs() -> Iterator[Any]:
        nonlocal taken
        while True:
            taken += 1
            yield (path, wave_of(1))[taken % 2]

    parts = iter_windows(inputs(), ReadOptions(RATE, SAMPLES, RATE, ahead=ahead))
    for given in range(100):
        next(parts)
        assert taken == given + ahead
    parts.close()
    assert taken == 99 + ahead


def test_the_last_window_of_an_input_is_marked() -> None:
    one, three = wave_of(0), np.concatenate([wave_of(1), wave_of(2), wave_of(3)])
    late = three.copy()
    late[-1] = np.nan
    block = samples_per_block(RATE, 1)
    large = np.concatenate([np.zeros(2 * block, np.float32), late])  # the blocks before the bad one are good
    parts = [(part.input, part.is_last) for part in iter_windows([one, three, "no such file", one], WINDOWS)]
    assert parts == [(0, True), (1, False), (1, False), (1, True), (2, True), (3, True)]
    *good, bad = iter_windows([large], WINDOWS)
    assert isinstance(bad.window, AudioError)
    assert bad.is_last
    assert len(good) == 2 * block // SAMPLES
    assert not any(part.is_last for part in good)


# Threads


def test_one_input_starts_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(file_bytes(wave_of(0), format="WAV"))
    monkeypatch.setattr(ThreadPoolExecutor, "submit", lambda *_: pytest.fail("a thread was started"))
    for inputs, ahead in (([path], 32), ([wave_of(0)] * 50, 32), ([path] * 50, 1)):
        assert len(list(iter_windows(inputs, ReadOptions(RATE, SAMPLES, RATE, ahead=ahead)))) == len(inputs)


def test_files_are_decoded_on_other_threads_and_their_errors_keep_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    load = prefetch.load_audio

    def noted(*args: Any, **kwargs: Any) -> Any:
        threads.add(threading.current_thread().name)
        return load(*args, **kwargs)

    monkeypatch.setattr(prefetch, "load_audio", noted)
    paths = []
    for index in range(50):
        paths.append(tmp_path / f"{index}.wav")
        paths[-1].write_bytes(file_bytes(wave_of(index), format="WAV", subtype="FLOAT") if index % 7 else b"no audio")
    for index, part in enumerate(iter_windows(paths, BEGINNING)):
        assert part.input == index
        if index % 7:
            assert isinstance(part.window, Window)
            np.testing.assert_array_equal(part.window.wave, wave_of(index))
        else:
            assert f"{index}.wav" in str(part.window)
    assert any(name.startswith("astfast-decode") for name in threads)
    assert threading.current_thread().name in threads  # the first


@pytest.mark.parametrize("step", ["start", "submit"])
def test_inputs_are_decoded_where_no_thread_can_be_started(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an atexit hook, or with too many threads."""
    path = tmp_path / "a.wav"
    path.write_bytes(file_bytes(wave_of(0), format="WAV", subtype="FLOAT"))

    def refused(*_: Any, **__: Any) -> Any:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(ThreadPoolExecutor, "__init__" if step == "start" else "submit", refused)
    assert_same(waves([path] * 5, BEGINNING), [wave_of(0)] * 5)


# Errors


class Raises:
    """An object whose every attribute is trouble."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"no {name} today")


class BadFile(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise ConnectionError("reset by peer")


class BadPath:
    def __fspath__(self) -> str:
        raise KeyError("nowhere")


def closed(file: io.BytesIO) -> io.BytesIO:
    file.close()
    return file


ODD: list[Callable[[], Any]] = [
    Raises,
    lambda: BadFile(b"RIFF"),
    BadPath,
    lambda: closed(io.BytesIO(b"RIFF")),
    lambda: io.StringIO("text"),
    lambda: {"bytes": Raises()},
    lambda: {"array": Raises(), "sampling_rate": RATE},
    lambda: {"array": [1.0], "sampling_rate": Raises()},
    lambda: {"array": [1.0], "sampling_rate": 10**400},
    lambda: {"audio": Raises()},
    lambda: (Raises(), RATE),
    lambda: np.array([object()]),
    lambda: np.array(["a.wav", "b.wav"]),
    lambda: np.full(SAMPLES, 1e300),
    lambda: {"array": np.float64([[np.inf] * SAMPLES, [-np.inf] * SAMPLES]), "sampling_rate": RATE},
    lambda: {"array": np.full((2, SAMPLES), 3e38, np.float32), "sampling_rate": 44_100},
    lambda: np.full(SAMPLES, np.nan, np.float16),
    lambda: torch.full((SAMPLES,), float("nan")),
    lambda: torch.zeros(3, device="meta"),
    lambda: file_bytes(wave_of(0), format="OGG")[:100],
    lambda: b"OggS" + bytes(range(256)) * 20,
    lambda: 10**400,
    lambda: None,
    lambda: [wave_of(0)],
    lambda: "\ud800.wav",
    lambda: "",
    lambda: "a" * 10_000,
    lambda: SimpleNamespace(get_all_samples=lambda: 1 / 0),
    lambda: SimpleNamespace(get_array_of_samples=lambda: 1 / 0),
]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@both
@pytest.mark.parametrize("threads", ["one", "several"])
def test_an_input_of_any_kind_is_read_or_an_error_of_its_own(options: ReadOptions, threads: str) -> None:
    odd = [make() for make in ODD]
    read = ReadOptions(RATE, SAMPLES, RATE, options.window, ahead=1 if threads == "one" else 8)
    with np.errstate(all="raise"):
        parts = list(iter_windows([x for bad in odd for x in (bad, wave_of(0))], read))
    assert [part.input for part in parts] == list(range(2 * len(ODD)))
    for part in parts:
        assert part.is_last
        if part.input % 2:
            assert isinstance(part.window, Window)
            np.testing.assert_array_equal(part.window.wave, wave_of(0))
        else:
            assert isinstance(part.window, AudioError), ODD[part.input // 2]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("quiet", [1e-30, 1e-42, 1e-300])
def test_almost_silent_audio_is_read_where_numpy_raises(quiet: float) -> None:
    for rate in (RATE, 44_100):
        x = {"array": np.full((2, rate // 10), quiet), "sampling_rate": rate}
        with np.errstate(all="raise"):
            assert len(waves([x], BEGINNING)[0]) == SAMPLES
            assert len(waves([x], WINDOWS)[0]) == SAMPLES

"""Every AudioError says in one word what is wrong, and the words are a closed set."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from astfast.audio.inputs import load_audio
from astfast.errors import AudioError, ErrorKind
from astfast.volume.items import Roots, located, of_row
from astfast.volume.sources import Sources
from tests.cases.recordings import RATE, clips, file_bytes


class Broken(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        raise ConnectionError("reset")


def loud(folder: Path) -> Path:
    """A file whose last second is not finite."""
    wave = clips(1, 2.0)[0].copy()
    wave[0] = np.nan
    path = folder / "nan.wav"
    path.write_bytes(file_bytes(wave, format="WAV", subtype="FLOAT"))
    return path


def cut(folder: Path) -> Path:
    path = folder / "cut.flac"
    path.write_bytes(file_bytes(clips(1, 2.0)[0], format="FLAC")[:20_000])
    return path


def no_file(folder: Path) -> AudioError:
    (item,) = Sources(str(folder / "*.nothing"))
    return item.audio  # type: ignore[no-any-return]


ARRAY = np.zeros(2 * RATE, np.float32)
CASES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a path of nothing": ("missing", lambda folder: load_audio(folder / "gone.wav")),
    "a broken link": ("missing", lambda folder: ((folder / "l").symlink_to("gone"), load_audio(folder / "l"))),
    "a pattern of nothing": ("missing", no_file),
    "a folder": ("unreadable", load_audio),
    "a device": ("unreadable", lambda _: load_audio("/dev/null")),
    "a name that is too long": ("unreadable", lambda folder: load_audio(folder / ("x" * 300))),
    "a connection that breaks": ("unreadable", lambda _: load_audio(Broken())),
    "no bytes": ("empty", lambda _: load_audio(b"")),
    "no samples": ("empty", lambda _: load_audio(file_bytes(ARRAY[:0], format="WAV"))),
    "an empty array": ("empty", lambda _: load_audio(ARRAY[:0], RATE)),
    "a web page": ("undecodable", lambda _: load_audio(b"<html>404</html>" * 100)),
    "noise behind a magic number": ("undecodable", lambda _: load_audio(b"fLaC" + bytes(500))),
    "a URL": ("unsupported", lambda _: load_audio("https://example.org/x.wav")),
    "a URL of a list": ("unsupported", lambda _: located("https://example.org/x.wav", Roots())),
    "a cut file": ("damaged", lambda folder: load_audio(cut(folder), on_damage="error")),
    "a long array": ("too_long", lambda _: load_audio(ARRAY, RATE, max_duration=1.0)),
    "NaN in a file": ("not_finite", lambda folder: load_audio(loud(folder))),
    "NaN in an array": ("not_finite", lambda _: load_audio(ARRAY + np.float32(np.nan), RATE)),
    "a number": ("invalid", lambda _: load_audio(3)),
    "a rate that is none": ("invalid", lambda _: load_audio(ARRAY, 3)),
    "text": ("invalid", lambda _: load_audio(io.StringIO("x"))),
    "a channel that is not there": ("invalid", lambda _: load_audio(file_bytes(ARRAY, format="WAV"), channel=1)),
    "a row without a path": ("invalid", lambda _: of_row({"id": 3}, "row 1", Roots()).audio),
}


@pytest.mark.parametrize("case", CASES)
def test_the_kind_of_an_error(case: str, tmp_path: Path) -> None:
    kind, make = CASES[case]
    try:
        error = make(tmp_path)
    except AudioError as raised:
        error = raised
    assert isinstance(error, AudioError)
    assert error.kind == kind, error
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.kind, str(copy)) == (kind, str(error))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(file_bytes(ARRAY, format="WAV"))
    path.chmod(0)
    with pytest.raises(AudioError) as raised:
        load_audio(path)
    assert raised.value.kind == "unreadable"


def test_the_kinds_are_these() -> None:
    assert {kind for kind, _ in CASES.values()} == {*get_args(ErrorKind)} - {"killed"}

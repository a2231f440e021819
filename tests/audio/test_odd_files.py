"""Files as people have them: what a good player plays, a word where something is lost, and never another exception."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from astfast.audio.inputs import load_audio
from astfast.errors import AudioError
from tests.cases.odd_audio import CUT, FOLDER, NEEDS_FFMPEG, RATE, manifest, tone

KINDS: dict[str, Callable[[Path], Any]] = {
    "path": str,
    "bytes": Path.read_bytes,
    "file object": lambda path: io.BytesIO(path.read_bytes()),
    "stream": lambda path: SimpleNamespace(read=io.BytesIO(path.read_bytes()).read),
    "open file": lambda path: path.open("rb"),
}
# Frames that are damaged: libmpg123 tells of them, and libsndfile doesn't set the flag that would stop it.
LIBMPG123_WRITES = {"mp3_damaged.mp3", "mp3_vbr_no_xing_up.mp3"}


def decoded(x: Any, rate: int) -> tuple[np.ndarray | None, list[str], str]:
    """(samples or None, notes, error), none of which says what the input was called."""
    try:
        clip = load_audio(x, target_rate=rate)
    except AudioError as error:
        return None, [], str(error).split(": ", 1)[1]
    return clip.wave, [note.message.split(": ", 1)[1] for note in clip.notes], ""


def is_right(entry: dict[str, Any], wave: np.ndarray | None, rate: int) -> bool:
    if wave is None:
        return entry["error"] is not None or entry["error_ok"]
    if entry["seconds"] is None:
        return bool(entry["error_ok"])
    return any(abs(len(wave) / rate - s) <= entry["tolerance"] for s in (entry["seconds"], *entry["also"]))


@pytest.mark.parametrize("entry", manifest())
def test_a_file_is_heard_as_a_good_player_plays_it(entry: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("av")
    rate = entry.get("rate") or 16_000
    path = FOLDER / entry["file"]
    wave, notes, error = decoded(str(path), rate)
    assert is_right(entry, wave, rate), (None if wave is None else len(wave) / rate, error)
    if wave is not None:
        assert len(notes) == (entry["say"] == "warning" or entry["file"] in CUT), notes
    misleading = tmp_path / ("page.raw" if path.suffix == ".mp3" else "page.mp3")
    misleading.symlink_to(path)
    for kind, source in [*((kind, make(path)) for kind, make in KINDS.items()), ("another name", misleading)]:
        same, same_notes, same_error = decoded(source, rate)
        assert (same_notes, same_error) == (notes, error), kind
        np.testing.assert_array_equal(same, wave, err_msg=kind)


@pytest.mark.parametrize("entry", manifest())
def test_without_pyav_the_error_names_the_extra(entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    rate = entry.get("rate") or 16_000
    wave, _, error = decoded(str(FOLDER / entry["file"]), rate)
    if entry["file"] in NEEDS_FFMPEG:
        assert wave is None
        assert "pip install 'astfast[ffmpeg]'" in error
    else:
        assert is_right(entry, wave, rate), error


def test_libraries_write_nothing_of_their_own(tmp_path: Path) -> None:
    odd = [parameters.values[0]["file"] for parameters in manifest() if parameters.values[0]]
    made = tmp_path / "its-info-frame-is-off.mp3"
    soundfile.write(made, tone(5.0), RATE, format="MP3")
    made.write_bytes(made.read_bytes() + bytes(60_000))
    code = (
        "import sys\nfrom astfast.audio.inputs import load_audio\nfrom astfast.errors import AudioError\n"
        "for path in sys.argv[1:]:\n    try: load_audio(path)\n    except AudioError: pass\n"
    )
    paths = [str(made), *(str(FOLDER / file) for file in odd if file not in LIBMPG123_WRITES)]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")

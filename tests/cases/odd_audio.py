"""Odd audio files beside the repository (../shared/data/odd_audio), and headers that tests make themselves."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared" / "data" / "odd_audio"
RATE = 8000  # Hz, of the headers
# What libsndfile can't read: other containers and codecs.
NEEDS_FFMPEG = {
    *("caf_unknown_size.caf", "flac_in_ogg.oga", "ogg_skeleton.ogg", "ogg_video.ogv", "ogg_speex.spx", "m4a_71.m4a"),
    *("m4a_aac.m4a", "m4a_faststart.m4a", "m4a_faststart_half.m4a", "m4a_alac.m4a", "mp4_fragmented.mp4"),
    *("mp4_fragmented_half.mp4", "mp4_video.mp4", "mov_pcm.mov", "aac_adts.aac", "aac_adts_half.aac", "avi_mp3.avi"),
    *("mkv_video_flac.mkv", "mkv_two_streams.mkv", "mka_vorbis.mka", "webm_opus.webm", "webm_live.webm", "wma.wma"),
    *("webm_half.webm", "webm_video_opus.webm", "flv_aac.flv", "ts_aac.ts", "ac3.ac3", "eac3.eac3", "dts.dts"),
    *("wavpack.wv", "tta.tta", "amr_nb.amr", "3gp_amr.3gp"),
}
# Cut files of which the manifest, which is older, expects no word.
CUT = {"mp4_fragmented_half.mp4", "aac_adts_half.aac"}


def manifest() -> list[Any]:
    """Parameters of a test: what is right of each file; one that skips where the files are missing."""
    if not FOLDER.is_dir():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"no odd audio files on this machine ({FOLDER})"))]
    files = json.loads((FOLDER / "manifest.json").read_text())["files"]
    return [pytest.param(entry, id=entry["file"]) for entry in files if not entry["recipe"]]


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    """A sweep: no moment of it is like another."""
    t = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (150 * t + rate / 8 / seconds * t * t))).astype(np.float32)


def pcm(samples: np.ndarray) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def wav(
    data: bytes,
    riff: int | None = None,
    size: int | None = None,
    before: bytes = b"",
    behind: bytes = b"",
    head: bytes = b"RIFF",
) -> bytes:
    """16-bit mono at RATE with these sizes in its header."""
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    body = b"WAVE" + before + fmt if before[:4] == b"ds64" else b"WAVE" + fmt + before
    riff = len(body) + 8 + len(data) + len(behind) if riff is None else riff
    counted = len(data) if size is None else size
    return head + struct.pack("<I", riff) + body + b"data" + struct.pack("<I", counted) + data + behind

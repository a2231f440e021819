"""What libsndfile can't read: by PyAV, without opening anything else, without crashing, and in bounded memory."""

import io
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astfast.audio import ffmpeg
from astfast.audio.inputs import load_audio, open_audio
from astfast.errors import AudioError
from tests.cases.odd_audio import tone
from tests.cases.recordings import RATE

av = pytest.importorskip("av")
X = tone(3.0, RATE)


def encoded(
    container: str, codec: str, samples: np.ndarray = X, rate: int = RATE, layout: str = "mono", **options: str
) -> bytes:
    """A file that PyAV writes. samples: [n] or [n, channels]; options: of the container."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=container, options=options) as output:
        track = output.add_stream(codec, rate=rate, layout=layout)
        track.bit_rate = 64_000
        resampler = av.AudioResampler(track.codec_context.format or "fltp", layout, rate)
        for start in range(0, len(samples), 1024):
            packed = np.ascontiguousarray(samples[start : start + 1024].reshape(1, -1), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            for piece in resampler.resample(frame):
                output.mux(track.encode(piece))
        for piece in [*resampler.resample(None), None]:
            output.mux(track.encode(piece))
    return stream.getvalue()


@pytest.fixture(scope="module")
def m4a() -> bytes:
    return encoded("mp4", "aac")


def likeness(found: np.ndarray, expected: np.ndarray) -> float:
    """Correlation in the first second, at the best of the delays that codecs have."""
    expected = expected[4000:12_000]
    parts = np.lib.stride_tricks.sliding_window_view(found, len(expected))[2000:8000:4]
    return float(np.max(parts @ expected / (np.linalg.norm(parts, axis=1) * np.linalg.norm(expected) + 1e-9)))


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("mp4", "aac", RATE),
        ("mp4", "alac", RATE),
        ("adts", "aac", RATE),
        ("matroska", "flac", RATE),
        ("matroska", "pcm_s24le", RATE),
        ("matroska", "pcm_u8", RATE),
        ("matroska", "pcm_f64le", RATE),
        ("webm", "libopus", 48_000),
        ("asf", "wmav2", RATE),
        ("ogg", "flac", RATE),
        ("ac3", "ac3", 48_000),
    ],
)
def test_formats(container: str, codec: str, rate: int) -> None:
    samples = tone(3.0, rate)
    clip = load_audio(encoded(container, codec, samples, rate), target_rate=rate)
    assert len(clip.wave) / rate == pytest.approx(3.0, abs=0.13)
    assert clip.notes == ()
    assert likeness(clip.wave, samples) > 0.95
    if codec in ("alac", "flac", "pcm_s24le", "pcm_f64le"):
        np.testing.assert_allclose(clip.wave[: len(samples)], samples, atol=2**-15)


def test_stereo_is_the_mean_of_both_and_has_channels(m4a: bytes) -> None:
    two = encoded("matroska", "pcm_f32le", np.stack([X, X / 2], axis=1), layout="stereo")
    np.testing.assert_allclose(load_audio(two).wave, X * 0.75, atol=1e-6)
    np.testing.assert_array_equal(load_audio(two, channel=1).wave, X / 2)


def test_a_cut_file_is_told_of_and_an_index_that_is_lost_is_an_error(m4a: bytes) -> None:
    assert m4a.find(b"moov") > m4a.find(b"mdat")
    with pytest.raises(AudioError, match="damaged, or no M4A or MP4 that can be read"):
        load_audio(m4a[: len(m4a) // 2])
    cut = encoded("matroska", "pcm_s16le")
    clip = load_audio(cut[: len(cut) // 2])
    assert len(clip.wave) / RATE == pytest.approx(1.5, abs=0.2)
    (note,) = clip.notes
    assert "cut off: its header counts 3.0 s, 1." in note.message
    with pytest.raises(AudioError, match="its header counts 3"):
        load_audio(cut[: len(cut) // 2], on_damage="error")


def test_no_audio_stream_in_it() -> None:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as output:
        track = output.add_stream("mpeg4", rate=5)
        track.width = track.height = 16
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        for packet in [*track.encode(frame), *track.encode(None)]:
            output.mux(packet)
    with pytest.raises(AudioError, match="no audio stream in it"):
        load_audio(stream.getvalue())


def test_only_what_is_needed_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    long = encoded("mp4", "aac", np.tile(X, 100))
    decoded = 0
    convert = ffmpeg._samples

    def counted(frame: Any) -> np.ndarray:
        nonlocal decoded
        decoded += frame.samples
        return convert(frame)

    monkeypatch.setattr(ffmpeg, "_samples", counted)
    clip = load_audio(long, max_samples=10 * RATE)
    assert (clip.truncated, clip.duration) == (True, pytest.approx(300, abs=0.2))
    assert decoded <= 10 * RATE + 2 * (1 << 18)
    with pytest.raises(AudioError, match="limit of 60 s"):
        load_audio(long, max_duration=60.0)


@pytest.mark.parametrize("channels", [8, 16])
def test_many_planar_channels_end_no_process(channels: int, tmp_path: Path) -> None:
    """PyAV reads behind a frame's table of planes."""
    noise = np.random.default_rng(0).standard_normal((RATE, channels)).astype(np.float32) / 8
    layout = "7.1" if channels == 8 else "hexadecagonal"
    path = tmp_path / "many.mka"
    path.write_bytes(encoded("matroska", "wavpack", noise, layout=layout))
    code = f"from astfast.audio.inputs import load_audio; print(len(load_audio({str(path)!r}).wave))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == RATE


PLAYLISTS = {
    "list.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:3,\nneighbour.wav\n#EXT-X-ENDLIST\n",
    "list.wav": b"ffconcat version 1.0\nfile neighbour.wav\n",
    "list.sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "list.mp4": b'FILE "neighbour.wav" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00\n',
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_opens_nothing_else(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(PLAYLISTS[name])
    (tmp_path / "neighbour.wav").write_bytes(encoded("wav", "pcm_s16le"))
    read = (tmp_path / "neighbour.wav").stat().st_atime_ns
    with pytest.raises(AudioError, match="not audio that can be read"):
        load_audio(tmp_path / name)
    assert (tmp_path / "neighbour.wav").stat().st_atime_ns == read


def test_a_web_page_is_no_audio_whatever_it_is_called(tmp_path: Path) -> None:
    for suffix in ("g722", "adx", "snd", "au", "vox", "gsm", "raw", "mp3", "wav", "txt"):
        path = tmp_path / f"page.{suffix}"
        path.write_bytes(b"<!doctype html><html><body><p>404 not found</p></body></html>\n" * 100)
        with pytest.raises(AudioError, match="not audio that can be read"):
            load_audio(path)


def test_many_threads_read_what_one_reads(m4a: bytes) -> None:
    expected = load_audio(m4a).wave
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(load_audio(m4a).wave)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for wave in found:
        np.testing.assert_array_equal(wave, expected)


def test_descriptors_are_closed(m4a: bytes) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    load_audio(m4a)
    before = count()
    for _ in range(5):
        load_audio(m4a, max_samples=100)
        stream = open_audio(m4a)
        next(stream.blocks)
        stream.blocks.close()
        with pytest.raises(AudioError):
            load_audio(m4a[: len(m4a) // 2])
    del stream
    assert count() <= before


def test_without_pyav_the_extra_is_named(m4a: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for content, name in (
        (m4a, "M4A or MP4"),
        (encoded("webm", "libopus", rate=48_000), "WebM or Matroska"),
        (b"#!AMR\n" + bytes(100), "AMR"),
        (b"RIFF\0\0\0\0AVI " + bytes(100), "AVI"),
    ):
        with pytest.raises(AudioError, match=rf"{name} needs FFmpeg: pip install 'astfast\[ffmpeg\]'"):
            load_audio(content)
    with pytest.raises(AudioError, match=r"not audio that can be read here. It reads WAV.*astfast\[ffmpeg\]"):
        load_audio(b"no audio" * 100)

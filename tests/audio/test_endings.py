"""Files that another one was joined to, and files that end before their own sizes say."""

import io
import struct

import numpy as np
import pytest
import soundfile

from astfast.audio.frames import mp3_frame
from astfast.audio.inputs import load_audio
from astfast.errors import AudioError
from tests.audio.test_ffmpeg import encoded
from tests.cases.odd_audio import RATE, pcm, tone, wav

X = tone(1.5)
DATA = pcm(X)
WAV = wav(DATA)
SAMPLES = np.frombuffer(DATA, "<i2") / np.float32(32768)
ID3V1 = b"TAG" + bytes(125)
APE = b"APETAGEX" + struct.pack("<IIII8x", 2000, 40, 1, 1 << 31) + b"\x01" * 40
LEFTOVERS = (b"", bytes(9), bytes(5000), ID3V1, APE, b"LIST\4\0\0\0INFO", b"\xff" * 700, b"garbage" * 400)


def written(form: str, subtype: str = "PCM_16", samples: np.ndarray = X, rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form, subtype=subtype)
    return stream.getvalue()


def seconds_heard(content: bytes) -> tuple[float, list[str]]:
    clip = load_audio(content)
    return len(clip.wave) / 16_000, [note.message.split(": ", 1)[1] for note in clip.notes]


def heard(content: bytes) -> tuple[int, list[str]]:
    clip = load_audio(content, target_rate=RATE)
    return len(clip.wave), [note.message.split(": ", 1)[1] for note in clip.notes]


@pytest.mark.parametrize("behind", [WAV, WAV[36:], b"LIST\4\0\0\0INFO" + WAV], ids=["file", "samples", "chunk"])
def test_wav_that_is_joined_is_read_part_by_part(behind: bytes) -> None:
    clip = load_audio(WAV + behind, target_rate=RATE)
    np.testing.assert_array_equal(clip.wave, np.concatenate([SAMPLES, SAMPLES]))
    (note,) = clip.notes
    assert "several WAV files, or parts of one, are joined in it: all of them are read" in note.message
    cut, notes = heard((WAV + behind)[: -len(DATA) // 2])
    assert cut == len(X) * 3 // 2
    assert any("cut off: its header counts 1.5 s, 0.8 s are there" in note for note in notes)


def test_wav_of_another_rate_behind_is_said_not_to_be_read() -> None:
    other = WAV[:24] + struct.pack("<II", 2 * RATE, 4 * RATE) + WAV[32:]
    assert heard(WAV + other) == (len(X), ["from 1.5 s on it has 1 channels at 16000 Hz: that is not read"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (first, second)
        for first in ("AIFF", "CAF", "AU", "W64", "MP3", "WAV", "FLAC")
        for second in ("MP3", "WAV", "FLAC")
        if first != second  # those are read part by part
    ],
)
def test_another_file_behind_the_end_is_told_of(first: str, second: str) -> None:
    begin, behind = ("MPEG_LAYER_III" if form == "MP3" else "PCM_16" for form in (first, second))
    content, other = written(first, begin), written(second, behind)
    if (first, second) == ("FLAC", "MP3"):
        other = b"ID3\4\0\0\0\0\0\1\0" + 12 * other  # more than the decoder reads ahead
    alone, notes = heard(content)
    assert not notes
    count, (note,) = heard(content + other)
    assert count == alone
    assert note == f"{len(other):,} bytes behind its end are not read: another {second} file is joined to it"
    with pytest.raises(AudioError, match="another"):
        load_audio(content + other, on_damage="error")


@pytest.mark.parametrize("form", ["AIFF", "CAF", "AU", "WAV", "FLAC"])
def test_tags_and_padding_behind_the_end_are_no_file(form: str) -> None:
    for behind in LEFTOVERS:
        assert heard(written(form) + behind) == (len(X), []), behind[:8]


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("tta", "tta"), ("wv", "wavpack")])
def test_joined_files_that_ffmpeg_reads_are_heard_one_after_the_other(container: str, codec: str) -> None:
    content = encoded(container, codec)
    alone, notes = heard(content)
    assert not notes
    for behind in LEFTOVERS[:5]:
        assert heard(content + behind) == (alone, []), behind[:8]
    for tag in (b"", APE, ID3V1):
        several = "several files are joined in it: more than the first is read"
        assert heard(content + tag + content) == (2 * alone, [several])
        cut, notes = heard(content + tag + content[: len(content) // 2])
        assert alone <= cut < 2 * alone
        assert any("cut off" in note or "not read" in note for note in notes)


def test_caf_that_is_cut_is_told_of() -> None:
    content = written("CAF", "PCM_24")
    _, (note,) = heard(content[: len(content) // 2])
    assert note == "cut off: 50% of the bytes that its header counts are missing"


def test_a_fragment_that_is_cut_is_told_of() -> None:
    av = pytest.importorskip("av")
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as output:
        track = output.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 32_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for piece in [frame, None]:
            output.mux(track.encode(piece))
    content = stream.getvalue()
    assert not heard(content)[1]
    box = content.rfind(b"mdat") - 4
    (size,) = struct.unpack_from(">I", content, box)
    _, (note,) = heard(content[: box + size - 10])
    assert note == "cut off: 10 bytes of its last part are missing"


HZ = 16_000


def mp3_without_info(samples: np.ndarray) -> bytes:
    content = written("MP3", "MPEG_LAYER_III", samples, HZ)
    first = mp3_frame(content)
    assert first is not None
    return content[first.size :]


COMMON = {
    "WAV": lambda samples: written("WAV", "PCM_16", samples, HZ),
    "AIFF": lambda samples: written("AIFF", "PCM_16", samples, HZ),
    "FLAC": lambda samples: written("FLAC", "PCM_16", samples, HZ),
    "MP3": lambda samples: written("MP3", "MPEG_LAYER_III", samples, HZ),
    "MP3 without Info": mp3_without_info,
    "Vorbis": lambda samples: written("OGG", "VORBIS", samples, HZ),
    "Opus": lambda samples: written("OGG", "OPUS", samples, HZ),
    "M4A": lambda samples: encoded("mp4", "aac", samples, HZ),
    "fragmented MP4": lambda samples: encoded("mp4", "aac", samples, HZ, movflags="frag_keyframe+empty_moov"),
    "ADTS": lambda samples: encoded("adts", "aac", samples, HZ),
    "MPEG-TS": lambda samples: encoded("mpegts", "aac", samples, HZ),
    "WebM": lambda samples: encoded("webm", "libopus", np.repeat(samples, 3), 3 * HZ),
    "Matroska": lambda samples: encoded("matroska", "aac", samples, HZ),
}
FIRST, SECOND = (
    np.random.default_rng(0).uniform(-0.5, 0.5, count).astype(np.float32) for count in (3 * HZ // 2, HZ // 2)
)
LONGER = 0.15  # seconds by which codecs make files longer, at most: two frames each


@pytest.fixture(scope="module")
def common() -> dict[str, bytes]:
    pytest.importorskip("av")
    return {name: make(FIRST) for name, make in COMMON.items()}


@pytest.fixture(scope="module")
def short() -> dict[str, bytes]:
    pytest.importorskip("av")
    return {name: make(SECOND) for name, make in COMMON.items()}


@pytest.mark.parametrize("first", COMMON)
def test_every_pair_of_joined_files_is_heard_whole_or_told_of(
    first: str, common: dict[str, bytes], short: dict[str, bytes]
) -> None:
    alone, notes = seconds_heard(common[first])
    assert not notes
    assert alone == pytest.approx(1.5, abs=LONGER)
    for second, behind in short.items():
        seconds, notes = seconds_heard(common[first] + behind)
        assert seconds >= alone - 0.01, second  # all of the first, whatever is behind it
        is_whole = abs(seconds - alone - 0.5) < LONGER
        assert is_whole or any("not read" in note for note in notes), (second, seconds, notes)


@pytest.mark.parametrize("form", COMMON)
def test_a_file_that_is_cut_anywhere_is_told_of(form: str, common: dict[str, bytes]) -> None:
    content = common[form]
    for share in (0.3, 0.607, 0.99):  # not between two frames, where it can't be told
        cut = content[: int(len(content) * share)]
        try:
            _, notes = seconds_heard(cut)
        except AudioError:  # an M4A without its index
            continue
        assert notes, share


def test_integers_of_64_bits_are_read() -> None:
    pytest.importorskip("av")
    data = np.round(X.astype(np.float64) * 2**62).astype("<i8").tobytes()
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 8 * RATE, 8, 64)
    body = b"WAVE" + fmt + b"data" + struct.pack("<I", len(data)) + data
    clip = load_audio(b"RIFF" + struct.pack("<I", len(body)) + body, target_rate=RATE)
    np.testing.assert_allclose(clip.wave, X / 2, atol=1e-7)


def test_a_joined_file_of_any_size_is_read_as_far_as_it_goes() -> None:
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, (1 << 64) - 1, (1 << 64) - 1, 1, 0)
    long = wav(DATA, head=b"RF64", riff=0xFFFFFFFF, size=0xFFFFFFFF, before=sizes)
    assert heard(WAV + long)[0] == 2 * len(X)


def test_a_packet_whose_damage_is_concealed_is_told_of() -> None:
    content = encoded("ac3", "ac3", rate=48_000)
    assert not heard(content)[1]
    _, (note,) = heard(content[: len(content) * 6 // 10])
    assert note == "1 packets in it are damaged or cut off: 0.6 s decode"

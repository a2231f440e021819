"""One channel of several, and each by itself: a result a channel."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import astfast
from astfast.commands.main import main
from astfast.errors import AudioError

RATE = 16_000


@pytest.fixture(scope="module")
def stereo() -> np.ndarray:
    """[2, samples]: a tone, and noise."""
    t = np.arange(3 * RATE) / RATE
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, len(t))
    return np.stack([0.3 * np.sin(2 * np.pi * 440 * t), noise]).astype(np.float32)


@pytest.fixture
def tagger(tiny_model: Path) -> astfast.Tagger:
    return astfast.load(tiny_model, device="cpu", precision="float32")


def of(tagger: astfast.Tagger, method: str, stereo: np.ndarray, channel: Any) -> Any:
    return getattr(tagger, method)({"array": stereo, "sampling_rate": RATE}, channel=channel, window=0.5)


@pytest.mark.parametrize("method", ["classify", "segments"])
def test_each_channel_has_the_result_that_it_has_alone(
    tagger: astfast.Tagger, stereo: np.ndarray, method: str, tmp_path: Path
) -> None:
    alone = [of(tagger, method, stereo, channel) for channel in (0, 1)]
    assert alone[0] != alone[1]
    assert of(tagger, method, stereo, "each") == alone
    path = tmp_path / "stereo.wav"
    soundfile.write(path, stereo.T, RATE, subtype="FLOAT")
    for x in (str(path), path.read_bytes(), path.open("rb"), io.BytesIO(path.read_bytes())):
        assert getattr(tagger, method)(x, channel="each", window=0.5) == alone


@pytest.mark.filterwarnings("ignore:.*only its first")
def test_inputs_of_different_numbers_of_channels(tagger: astfast.Tagger, stereo: np.ndarray) -> None:
    both, mono = {"array": stereo, "sampling_rate": RATE}, {"array": stereo[1], "sampling_rate": RATE}
    inputs = [mono, both, b"no audio", {"array": np.stack([*stereo, stereo[0]]), "sampling_rate": RATE}]
    found = list(tagger.stream(inputs, channel="each", on_error="return", prefetch=1))
    assert [len(result) if isinstance(result, list) else result["kind"] for result in found] == [1, 2, "undecodable", 3]
    assert found[1][1] == found[0][0] == tagger.classify(mono)
    assert found[3] == [found[1][0], found[1][1], found[1][0]]
    assert found[2]["error"].startswith("input 2, <8 bytes>: not audio")
    with pytest.raises(AudioError, match="input 2, <8 bytes>"):
        tagger.classify(inputs, channel="each")


def test_segments_as_they_come_name_their_channel(tagger: astfast.Tagger, stereo: np.ndarray) -> None:
    both = {"array": stereo, "sampling_rate": RATE}
    found = list(tagger.stream_segments([both, b"no audio", both], channel="each", window=1.0, on_error="return"))
    places = [(index, segment.get("channel"), segment.get("start")) for index, segment in found]
    times = [(channel, start) for channel in (0, 1) for start in (0.0, 1.0, 2.0)]
    assert places == [*((0, *time) for time in times), (1, None, None), *((2, *time) for time in times)]


def test_a_batch_of_clips_has_one_channel_each(tagger: astfast.Tagger, stereo: np.ndarray) -> None:
    clips = np.stack([*stereo, stereo[0]])
    assert tagger.classify(clips, sampling_rate=RATE, channel="each", window=1.0) == [
        [tags] for tags in tagger.classify(clips, sampling_rate=RATE, window=1.0)
    ]
    with pytest.raises(AudioError, match="has 1 channel: channel 1 is not there"):
        tagger.classify(clips, sampling_rate=RATE, channel=1)


def test_columns_of_the_command(tiny_model: Path, stereo: np.ndarray, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "stereo.wav"
    soundfile.write(path, stereo.T, RATE)
    common = ["tag", "--model", str(tiny_model), "--device", "cpu", "--precision", "float32", "--top-k", "1"]
    assert main([*common, "--channel", "each", "--format", "csv", "--window", "2", str(path)]) == 0
    header, *rows = (line.split(",") for line in capsys.readouterr().out.splitlines())
    assert header == ["file", "channel", "start", "end", "score", "label"]
    assert [row[1:4] for row in rows] == [[c, *times] for c in "01" for times in (["0.00", "2.00"], ["1.00", "3.00"])]
    assert main([*common, "--channel", "each", "--format", "jsonl", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ['"channel": 0' in lines[0], '"channel": 1' in lines[1], len(lines)] == [True, True, 2]
    assert main([*common, "--channel", "each", "--format", "csv", "--window", "2", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split(",") == header
    assert main([*common, "--channel", "each", "--out", str(tmp_path / "out"), str(path)]) == 0
    rows_of_run = (tmp_path / "out" / "tags" / "part-00000.jsonl").read_text().splitlines()
    assert ['"channel": 0' in rows_of_run[0], '"channel": 1' in rows_of_run[1]] == [True, True]

"""The kinds of input that people have in their hands: datasets, readers of audio files, columns of paths, tensors."""

import array
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from astfast import notes
from astfast.audio.inputs import load_audio
from astfast.audio.kinds import check_two_rows, expand_batch, is_one, recognised
from astfast.errors import AudioError
from tests.cases.recordings import RATE, at_16k, file_bytes


@pytest.fixture
def wave() -> np.ndarray:
    """Half a second of noise, exact in 16-bit PCM."""
    return np.random.default_rng(0).integers(-3000, 3000, RATE // 2).astype(np.float32) / 32768


def samples_of(x: Any, sampling_rate: float | None = None) -> np.ndarray:
    inputs, single = expand_batch(x)
    assert single
    (one,) = inputs
    return load_audio(one, sampling_rate).wave


# datasets


def test_dicts_and_rows_of_datasets(wave: np.ndarray, tmp_path: Path) -> None:
    content = file_bytes(wave, format="WAV", subtype="FLOAT")
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    undecoded = [
        {"bytes": content, "path": None},
        {"bytes": content, "path": "gone.wav"},  # bytes first: the path is that of the machine where it was made
        {"bytes": None, "path": str(path)},
        {"path": path},
    ]
    for x in [*undecoded, at_16k(wave)]:
        np.testing.assert_array_equal(samples_of(x), wave)
        np.testing.assert_array_equal(samples_of({"audio": x, "label": 3}), wave)
    decoder = SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(wave[None]), sample_rate=RATE)
    )
    np.testing.assert_array_equal(samples_of({"audio": decoder}), wave)
    np.testing.assert_array_equal(samples_of({"audio": wave, "sampling_rate": RATE}), wave)
    assert recognised({"bytes": content, "path": "gone.wav"}, None, RATE).name == "gone.wav"
    assert recognised({"bytes": content}, None, RATE).name == f"<{len(content)} bytes>"


def test_dicts_that_hold_no_audio_are_refused() -> None:
    looped: dict[str, Any] = {}
    looped["audio"] = looped
    for bad in ({"audio": None}, {"audio": {"audio": {}}}, looped, {"bytes": b""}):
        with pytest.raises(AudioError, match="a dict needs"):
            load_audio(bad)
    with pytest.raises(AudioError, match=r"<list>"):
        load_audio({"audio": [{"bytes": b"RIFF"}]})


# Pairs and segments


@pytest.mark.parametrize("rate", [RATE, np.int64(RATE), float(RATE)])
def test_pairs_of_an_array_and_its_rate_in_both_orders(wave: np.ndarray, rate: Any) -> None:
    pcm = (wave * 32768).astype(np.int16)
    for samples in (wave, pcm, torch.from_numpy(wave), wave.tolist(), array.array("f", wave)):
        for pair in ((samples, rate), (rate, samples)):
            assert is_one(pair)
            np.testing.assert_array_equal(samples_of(pair), wave)


def test_pairs_hold_channels_as_their_readers_give_them(wave: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    stereo = np.stack([wave, 0 * wave], axis=1)
    soundfile.write(path, stereo, RATE, subtype="FLOAT")
    for pair in (
        soundfile.read(path, dtype="float32"),  # (samples, channels), and so are scipy's and gradio's
        (RATE, stereo),
        (torch.from_numpy(stereo.T.copy()), RATE),  # torchaudio's and librosa's
    ):
        np.testing.assert_array_equal(samples_of(pair), wave / 2)
    for shape in ((50, 50), (40, 45)):
        with pytest.raises(AudioError, match="may be"):
            load_audio((np.zeros(shape, np.float32), RATE))


def test_two_inputs_are_no_pair(wave: np.ndarray) -> None:
    for two in ((wave, wave), [wave, RATE], ("a.wav", "b.wav"), (RATE, RATE), (wave, True), (wave, None)):
        inputs, single = expand_batch(two)
        assert (len(list(inputs)), single) == (2, False)


@pytest.mark.parametrize("kind", ["h", "i", "b"])
def test_segments_of_pydub(wave: np.ndarray, kind: str) -> None:
    scale = {"h": 32768, "i": 2147483648, "b": 128}[kind]
    left, right = wave.round(2), -wave.round(2) / 2
    both = np.stack([left, right], axis=1)
    samples = array.array(kind, [int(x) for x in (both.astype(np.float64) * (scale - 1)).round().ravel()])
    segment = SimpleNamespace(
        get_array_of_samples=lambda: samples, frame_rate=RATE, channels=2, sample_width=samples.itemsize
    )
    np.testing.assert_allclose(samples_of(segment), (left + right) / 2, atol=1.5 / scale + 1e-7)


# Columns and batches


def test_arrays_and_columns_of_paths_are_batches() -> None:
    paths = ["a.wav", "b.wav", "c.wav"]
    for column in (
        np.array(paths),
        np.array(paths, dtype=object),
        np.array([Path(p) for p in paths]),
        Series(paths),
        iter(paths),
        dict.fromkeys(paths).keys(),
    ):
        inputs, single = expand_batch(column)
        assert not single
        found = list(inputs)
        assert [str(path) for path in found] == paths
        assert all(type(path) is str or isinstance(path, Path) for path in found)


class Series:
    """A column of a data frame, as pandas and polars have them."""

    def __init__(self, values: list[Any]) -> None:
        self._values = np.array(values, dtype=object)
        self.shape = self._values.shape

    shape: tuple[int, ...] = ()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._values

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)


def test_a_batch_that_is_ragged(wave: np.ndarray) -> None:
    clips = [wave, wave[:4000], wave[:100]]
    ragged = np.empty(3, dtype=object)
    ragged[:] = clips
    nested = torch.nested.nested_tensor([torch.from_numpy(clip) for clip in clips])
    for batch in (ragged, nested):
        inputs, single = expand_batch(batch)
        assert not single
        for found, expected in zip(inputs, clips, strict=True):
            np.testing.assert_array_equal(load_audio(found, RATE).wave, expected)


def test_other_arrays_of_samples(wave: np.ndarray) -> None:
    for one in (
        array.array("f", wave),
        array.array("d", wave),
        wave.astype(object),
        wave.astype(">f4"),
        wave[::-1][::-1],
    ):
        np.testing.assert_array_equal(samples_of(one, RATE), wave)
    content = file_bytes(wave, format="WAV", subtype="FLOAT")
    strided = memoryview(bytes(byte for pair in zip(content, content, strict=True) for byte in pair))[::2]
    np.testing.assert_array_equal(samples_of(strided), wave)
    tensor = torch.from_numpy(wave.copy())
    for same in (tensor.clone().requires_grad_(), tensor.double(), torch.stack([tensor] * 2, dim=1)[:, 0]):
        np.testing.assert_array_equal(samples_of(same, RATE), wave)
    for low in (torch.bfloat16, torch.float8_e4m3fn, torch.float16):
        np.testing.assert_array_equal(samples_of(tensor.to(low), RATE), tensor.to(low).float().numpy())


@pytest.mark.parametrize(
    "bad",
    [
        lambda: np.zeros(100, np.complex64),
        lambda: torch.zeros(100, dtype=torch.complex64),
        lambda: torch.zeros(100, device="meta"),
        lambda: torch.zeros(100).to_sparse(),
        lambda: torch.zeros(100, dtype=torch.bool),
        lambda: array.array("u", "abc"),
        lambda: np.array([b"a.wav"]),
        lambda: np.zeros((2, 1, 100), np.float32),
        lambda: SimpleNamespace(get_array_of_samples=lambda: 1 / 0),
    ],
)
def test_what_is_no_audio_is_refused(bad: Callable[[], Any]) -> None:
    with pytest.raises(AudioError):
        load_audio(bad(), RATE)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ma.array(np.zeros(100, np.float32), mask=[True] + 99 * [False]), r"<array>: a masked array: pass x.filled"),
        ({"bytes": "a.wav", "path": None}, "<dict>: its 'bytes' are a string"),
        ({"bytes": None, "path": None}, "<dict>: its 'bytes' and 'path' are both empty"),
    ],
)
def test_what_only_looks_like_audio_is_told_from_it(bad: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        load_audio(bad, RATE)


def test_a_masked_array_without_masked_samples_is_an_array() -> None:
    wave = np.ma.array(np.ones(100, np.float32), mask=False)
    np.testing.assert_array_equal(load_audio(wave, RATE).wave, np.ones(100, np.float32))


def test_a_batch_of_several_channels_names_the_dict() -> None:
    with pytest.raises(AudioError, match=r"3-D.*list of dicts"):
        load_audio(np.zeros((2, 1, 100), np.float32), RATE)


# Channels


@pytest.mark.parametrize(("channels", "samples", "read"), [(36, 3600, True), (36, 3599, False), (64, RATE, True)])
def test_many_channels_need_many_samples(channels: int, samples: int, read: bool) -> None:
    """Ambisonics of the 5th and 7th order have 36 and 64 channels; 36 samples of 3,599 channels are no audio."""
    x = at_16k(np.ones((channels, samples), np.float32))
    if read:
        np.testing.assert_allclose(load_audio(x).wave, 1.0, rtol=1e-6)
    else:
        with pytest.raises(AudioError, match=f"{channels} channels.*transpose"):
            load_audio(x)


@pytest.mark.parametrize("second", [lambda x: x, lambda x: -x, lambda x: 0.2 * x + 0.01])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, lambda x: (32767 * x).astype(np.int16)])
def test_a_stereo_clip_is_never_two_clips(
    wave: np.ndarray, second: Callable[[np.ndarray], np.ndarray], kind: Callable[[np.ndarray], Any]
) -> None:
    noise = np.random.default_rng(1).standard_normal(len(wave)).astype(np.float32) / 100
    stereo = kind(np.stack([wave, second(wave) + noise]))
    with pytest.raises(AudioError, match=r"two channels of one clip.*'array': x.*list\(x\)"):
        expand_batch(stereo)
    assert len(list(expand_batch(list(stereo))[0])) == 2


def test_two_rows_that_do_not_correlate_are_two_clips_with_a_warning(wave: np.ndarray) -> None:
    notes._shown.clear()
    with pytest.warns(UserWarning, match="batch of two clips"):
        assert len(list(expand_batch(np.stack([wave, wave[::-1]]))[0])) == 2
    notes._shown.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for plain in (np.stack([wave] * 3), wave[None], np.stack([wave[:999], wave[:999]])):
            check_two_rows(plain)

"""Channels become one, and samples are checked."""

from typing import Any

import numpy as np
import pytest

from astfast.audio import mono
from astfast.audio.inputs import load_audio, open_audio
from astfast.audio.mono import too_long
from astfast.errors import AudioError
from tests.cases.recordings import RATE, at_16k, file_bytes

X = (np.random.default_rng(0).standard_normal(3 * RATE) / 8).astype(np.float32)


def stereo(left: np.ndarray, right: np.ndarray) -> bytes:
    return file_bytes(np.stack([left, right], axis=1), format="WAV", subtype="FLOAT")


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 40])
@pytest.mark.filterwarnings("error")
def test_channels_are_added_as_the_mean_of_float32_would_be(channels: int) -> None:
    block = np.random.default_rng(channels).standard_normal((5000, channels)).astype(np.float32)
    mean = mono.mean_of_channels(block)
    if channels < 8:  # numpy's mean adds more than 8 in another order
        np.testing.assert_array_equal(mean, block.mean(axis=1, dtype=np.float32))
    np.testing.assert_allclose(mean, block.mean(axis=1, dtype=np.float64), atol=channels * 2**-23)
    block[:] = [3e38] * channels
    with np.errstate(all="raise"):
        assert np.isinf(mono.mean_of_channels(block)).all() == (channels > 1)


@pytest.mark.parametrize("kind", ["file", "dict"])
def test_one_channel_of_several(kind: str) -> None:
    channels = [X / 4, X, -X]
    whole = np.stack(channels)
    x: Any = at_16k(whole) if kind == "dict" else file_bytes(whole.T, format="WAV", subtype="FLOAT")
    for number, channel in enumerate(channels):
        np.testing.assert_array_equal(load_audio(x, channel=number).wave, channel)
    np.testing.assert_array_equal(load_audio(x, channel="max").wave, X)
    with pytest.raises(AudioError, match="has 3 channels: channel 3 is not there"):
        load_audio(x, channel=3)
    with pytest.raises(AudioError, match="has 1 channel: channel 1 is not there"):
        load_audio(X, sampling_rate=RATE, channel=1)
    with pytest.raises(AudioError, match="channel 1 is not there"):
        load_audio((X * 32767).astype(np.int16), sampling_rate=RATE, channel=1, int16=True)


@pytest.mark.parametrize("channel", [-1, "each", "left", None, True, 0.5, "0"])
def test_a_channel_that_is_none_is_an_error_of_the_call(channel: Any) -> None:
    with pytest.raises(ValueError, match="channel is"):
        open_audio(X, RATE, channel=channel)
    with pytest.raises(ValueError, match="on_damage is"):
        open_audio(X, RATE, on_damage=channel)


def test_the_loudest_channel_is_found_behind_silence_and_kept() -> None:
    late = np.concatenate([np.zeros(1 << 20, np.float32), X])
    quiet, loud = late * np.float32(0.5), late.copy()
    loud[-RATE:] = 0
    quiet[-RATE:] *= 100  # too late to be chosen
    assert len(loud) * 2 > 2 * mono.VALUES_COMPARED
    np.testing.assert_array_equal(load_audio(stereo(quiet, loud), channel="max").wave, quiet)
    fill = np.tile(X, 12)
    head = np.concatenate([fill, X])
    a, b = head.copy(), head * np.float32(0.5)
    b[-len(X) :] *= 100
    np.testing.assert_array_equal(load_audio(stereo(a, b), channel="max").wave, a)
    np.testing.assert_array_equal(load_audio(stereo(a * 0, b * 0), channel="max").wave, a * 0)


@pytest.mark.parametrize(
    ("left", "right", "warns"),
    [
        (X, -X, True),
        (X, -0.95 * X, True),
        (X, X, False),
        (X, 0 * X, False),  # one microphone is dead: nothing is lost
        (X, np.roll(X, 1000), False),
        (X * 1e-5, -X * 1e-5, False),  # nothing to hear
        (X, -0.5 * X, False),
    ],
)
def test_channels_that_cancel_each_other_have_a_note(left: np.ndarray, right: np.ndarray, warns: bool) -> None:
    clip = load_audio(stereo(left, right.astype(np.float32)))
    assert ["opposite phase" in note.message for note in clip.notes] == [True] * warns
    assert load_audio(stereo(left, right.astype(np.float32)), channel=0).notes == ()


@pytest.mark.parametrize("channels", [3, 32, 128])
def test_unlike_channels_do_not_cancel(channels: int) -> None:
    noise = np.random.default_rng(0).standard_normal((8000, channels)).astype(np.float32) / 8
    assert load_audio(file_bytes(noise, format="WAV", subtype="FLOAT")).notes == ()


def test_what_is_before_bad_samples_of_a_file_is_kept() -> None:
    bad = np.tile(X, 30)
    bad[-100] = np.nan
    content = file_bytes(bad, format="WAV", subtype="FLOAT")
    clip = load_audio(content)
    np.testing.assert_array_equal(clip.wave, bad[:-100])
    (note,) = clip.notes
    assert f"not finite from {(len(bad) - 100) / RATE:.3f} s on" in note.message
    with pytest.raises(AudioError, match=r"not finite from .* on_damage"):
        load_audio(content, on_damage="error")
    with pytest.raises(AudioError, match="not finite, or beyond any audio, at"):
        load_audio(bad, sampling_rate=RATE)  # the caller's own numbers
    bad[0] = np.inf
    with pytest.raises(AudioError, match=r"beyond any audio, at 0\.000 s"):
        load_audio(file_bytes(bad, format="WAV", subtype="FLOAT"))


@pytest.mark.parametrize("position", [5000, 20_000, 300_000])
def test_bad_samples_behind_those_that_are_read_cost_nothing(position: int) -> None:
    samples = np.tile(X, 10)
    samples[position] = np.nan
    read = load_audio(samples, sampling_rate=RATE, max_samples=4000)
    np.testing.assert_array_equal(read.wave, samples[:4000])
    assert read.truncated


@pytest.mark.parametrize(
    ("duration", "limit", "known", "text"),
    [
        (5.001, 5.0, True, "5.001 s of audio, above the limit of 5 s: "),
        (5.2, 4.99, False, "5.2 s of audio or more, above the limit of 4.99 s: "),
        (90_000.0, 86_400.0, True, "90,000 s of audio, above the limit of 86,400 s: "),
    ],
)
def test_a_length_and_its_limit_are_told_apart(duration: float, limit: float, known: bool, text: str) -> None:
    assert text in str(too_long("x", duration, limit, known))

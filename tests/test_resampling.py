"""Resampling in one call, in a stream of blocks, and at the edges."""

from collections.abc import Iterator

import numpy as np
import pytest
import soxr

from astfast.resampling import QUALITY, at_rate, resampled

RATES = (1, 4_000, 8_000, 11_025, 15_999, 22_050, 24_000, 44_056, 44_100, 48_000, 96_000, 192_000)
LENGTHS = (1, 2, 17, 441, 4_097, 44_100, 480_123)


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).standard_normal(samples).astype(np.float32)


def blocks(wave: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (wave[at : at + size] for at in range(0, len(wave), size))


@pytest.mark.parametrize("rate", RATES)
def test_one_call_gives_the_samples_of_a_stream_bit_for_bit(rate: int) -> None:
    for target in (16_000, 32_000):
        for wave in map(noise, LENGTHS[: 5 if rate == 1 else None]):
            streamed = np.concatenate(list(resampled(blocks(wave, 10_000), rate, target, "x")))
            np.testing.assert_array_equal(at_rate(wave, rate, target), streamed)
            np.testing.assert_array_equal(
                np.concatenate(list(resampled(blocks(wave, 10_000), rate, target, "x", may_be_one=True))), streamed
            )


def test_a_single_block_is_resampled_in_one_call_and_others_are_not_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = noise(44_100)
    with monkeypatch.context() as patch:
        patch.setattr(soxr, "ResampleStream", None)
        (whole,) = resampled(blocks(wave, 44_100), 44_100, 16_000, "x", may_be_one=True)
    np.testing.assert_array_equal(whole, soxr.resample(wave, 44_100, 16_000, quality=QUALITY))
    taken = []
    stream = resampled((taken.append(1) or block for block in blocks(wave, 10_000)), 44_100, 16_000, "x")
    next(stream)
    assert len(taken) == 1
    stream.close()


def test_a_sample_at_a_high_rate_is_kept() -> None:
    np.testing.assert_array_equal(at_rate(np.float32([0.5]), 192_000, 4_000), np.float32([0.5]))

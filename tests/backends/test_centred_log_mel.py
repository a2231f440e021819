"""The front ends of CED, PaSST and MAEST on every backend, against transcriptions in float64 of their own formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from astfast.backends.cpu.log_mel import log_mel_of
from astfast.backends.cpu.tiers import native
from astfast.backends.reference import ReferenceOps
from astfast.centred_log_mel import CentredLogMel
from astfast.models.ced.front_end import front_end as ced
from astfast.models.maest.front_end import front_end as maest
from astfast.models.passt.front_end import front_end as passt
from tests.backends.test_log_mel import SIGNALS
from tests.cases import centred_float64
from tests.cases.log_mel_error import allowed_error

TIERS = [tier for tier, missing in native().tiers() if not missing]
FRONT_ENDS: dict[str, CentredLogMel] = {
    "CED": ced(),
    "PaSST": passt(),
    "MAEST": maest(1875, hub=False),
    "MAEST, hub": maest(1876, hub=True),
}
ORACLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "CED": lambda wave: centred_float64.ced(wave, frames=1012),
    "PaSST": centred_float64.passt,
    "MAEST": centred_float64.maest,
    "MAEST, hub": lambda wave: centred_float64.maest(wave, "constant"),
}
# Units of the result in one unit of natural logarithm.
LOG_UNIT = {name: front_end.log_factor * front_end.scale[0] for name, front_end in FRONT_ENDS.items()}
LENGTHS = [1, 257, 3841, 16_001]
LONG = {"noise": 170_000, "chirp": 960_000}  # beyond what the models read: 10 s at 16 kHz, 30 s at 32 kHz
LONG |= dict.fromkeys(("tone of 5678.9 Hz", "silence", "clicks"), 480_000)  # 30 s at 16 kHz


def clip(signal: str, length: int) -> np.ndarray:
    return SIGNALS[signal](length).astype(np.float32)


def native_log_mel(wave: np.ndarray, front_end: CentredLogMel, tier: str = TIERS[-1], threads: int = 1) -> np.ndarray:
    out = np.full((1, front_end.frames_read(len(wave)), front_end.num_mel_bins), np.nan, np.float32)
    log_mel_of(front_end, tier)([wave], out, threads)
    return out[0]


def torch_log_mel(wave: np.ndarray, front_end: CentredLogMel, dtype: torch.dtype = torch.float32) -> np.ndarray:
    return ReferenceOps(1, dtype).log_mel([wave], front_end)[0].numpy()


def exact_log_mel(name: str, wave: np.ndarray) -> np.ndarray:
    front_end = FRONT_ENDS[name]
    spectrogram = ORACLES[name](wave)[: front_end.max_length]
    rows = front_end.frames_read(len(wave)) - len(spectrogram)
    return np.pad(spectrogram, ((0, rows), (0, 0)), constant_values=front_end.offset[0])


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("name", FRONT_ENDS)
def test_error_against_float64(name: str, signal: str) -> None:
    """The project's bar, see allowed_error."""
    front_end = FRONT_ENDS[name]
    for length in [*LENGTHS, *([LONG[signal]] if signal in LONG else [])]:
        wave = clip(signal, length)
        exact = exact_log_mel(name, wave)
        in_float64 = torch_log_mel(wave, front_end, torch.float64)
        assert np.abs(in_float64 - exact).max() <= 1e-7 * LOG_UNIT[name] + 1e-9 * np.abs(exact).max()
        errors = np.abs(native_log_mel(wave, front_end) - exact)
        allowed = allowed_error(exact, torch_log_mel(wave, front_end), LOG_UNIT[name])
        assert (errors <= allowed).all(), (length, (errors / allowed).max())


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_same_bits_on_every_tier_and_with_any_threads(name: str) -> None:
    front_end = FRONT_ENDS[name]
    for length in (1, 60_001, 100_000):
        wave = clip("speech-like", length)
        first = native_log_mel(wave, front_end)
        assert np.isfinite(first).all()
        for tier in TIERS:
            for threads in (1, 2, 5):
                np.testing.assert_array_equal(native_log_mel(wave, front_end, tier, threads), first)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_what_follows_the_samples_that_a_model_reads_changes_nothing(name: str) -> None:
    """``input_samples`` reaches behind the last frame's centre, so that the clip is not mirrored where it goes on."""
    front_end = replace(FRONT_ENDS[name], max_length=40)
    whole = clip("noise", 60_000)
    read = whole[: front_end.input_samples]
    expected = native_log_mel(whole, front_end)
    assert expected.shape == (40, front_end.num_mel_bins)
    np.testing.assert_array_equal(native_log_mel(read, front_end), expected)
    assert not np.array_equal(native_log_mel(read[:-2], front_end), expected)


@pytest.mark.parametrize(("name", "samples"), [("CED", 2400), ("PaSST", 4801), ("MAEST", 3840)])
def test_the_shortest_clip_has_a_patch(name: str, samples: int) -> None:
    front_end = FRONT_ENDS[name]
    assert front_end.fewest_samples == samples
    assert [front_end.frames_read(n) for n in (1, samples - 1, samples)] == [16, 16, 16]
    assert front_end.frames_read(samples + front_end.hop_length) == 17
    short = clip("noise", samples - 1)
    np.testing.assert_array_equal(
        native_log_mel(short, front_end), native_log_mel(np.append(short, np.float32(0)), front_end)
    )


def neighbours(front_end: CentredLogMel) -> Iterator[tuple[str, Any]]:
    """(Field, plausible other value) of every field that the formula reads."""
    unit = front_end.log_factor
    mirrors = front_end.edges == "reflect"
    others: dict[str, Sequence[Any]] = {
        "sampling_rate": [22_050, 44_100],
        "num_mel_bins": [front_end.num_mel_bins - 1, 80],
        "max_length": [front_end.max_length - 1, front_end.max_length + 1],
        "fft_length": [front_end.fft_length * 2],
        "window_length": [front_end.window_length - 1, 400],
        "periodic": [not front_end.periodic],
        "hop_length": [front_end.hop_length - 1, front_end.hop_length + 1],
        "edges": ["constant" if mirrors else "reflect"],
        "mel": sorted({"htk", "slaney", "kaldi"} - {front_end.mel}),
        "highest_frequency": [front_end.highest_frequency - 500, front_end.highest_frequency - 100],
        "log_factor": sorted({1.0, 1 / math.log(10.0), 10 / math.log(10.0), 20 / math.log(10.0)} - {unit}),
        "scale": [(factor * front_end.scale[0],) for factor in (1.01, 0.99)],
        "offset": [(front_end.offset[0] + step * unit * front_end.scale[0],) for step in (0.01, -0.01)],
        "emphasis": [0.95, 0.98] if front_end.emphasis else [0.97],
        "gain": [10 * front_end.gain, front_end.gain / 10],
        "floor": [10 * front_end.floor, front_end.floor / 10] if front_end.floor else [front_end.addend],
        "addend": [10 * front_end.addend, front_end.addend / 10] if front_end.addend else [front_end.floor],
        "top_db": [None, 80.0, 100.0] if front_end.top_db else [4 * unit * math.log(10.0)],
        "fixed_length": [not front_end.fixed_length],
        "shortest": [front_end.shortest + 1, front_end.shortest + 2] if mirrors else [],  # zeros anyhow
    }
    assert others.keys() == {field.name for field in fields(front_end)}
    for field, values in others.items():
        yield from ((field, value) for value in values)


@cache
def burst_and_silence(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(Clip, exact spectrogram): a loud burst before silence, the same quietly, and of one sample."""
    loud = clip("noise", 8000)
    loud[4000:] = 0
    loud[:100] *= 50
    return [(wave, exact_log_mel(name, wave)) for wave in (loud, 1e-3 * loud, clip("noise", 1))]


def deviation(compute: Any, name: str, front_end: CentredLogMel) -> float:
    """The largest error of a front end for these clips, infinite for another shape or none."""
    worst = 0.0
    for wave, exact in burst_and_silence(name):
        try:
            found = compute(wave, front_end)
        except ValueError:  # too short to be mirrored
            return math.inf
        worst = max(worst, float(np.abs(found - exact).max()) if found.shape == exact.shape else math.inf)
    return worst


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_the_bound_holds_where_constants_matter(name: str) -> None:
    for compute in (native_log_mel, torch_log_mel):
        assert deviation(compute, name, FRONT_ENDS[name]) < 1e-3 * LOG_UNIT[name]


@pytest.mark.parametrize(
    ("name", "field", "value"), [(name, *other) for name in FRONT_ENDS for other in neighbours(FRONT_ENDS[name])]
)
def test_every_constant_matters(name: str, field: str, value: Any) -> None:
    """Another plausible value of any field is far outside of the bound."""
    wrong = replace(FRONT_ENDS[name], **{field: value})
    if field == "max_length":  # beyond these clips
        assert wrong.input_samples != FRONT_ENDS[name].input_samples
    else:
        assert deviation(native_log_mel, name, wrong) > 4e-3 * LOG_UNIT[name]


def test_kernels_refuse_what_they_cannot_mirror() -> None:
    with pytest.raises(ValueError, match="too short to be mirrored"):
        log_mel_of(replace(FRONT_ENDS["CED"], shortest=1), TIERS[0])(
            [np.zeros(256, np.float32)], np.empty((1, 2, 64), np.float32), 1
        )
    with pytest.raises(ValueError, match="edges"):
        log_mel_of(replace(FRONT_ENDS["CED"], edges="circular"), TIERS[0])

"""The kernels of centred front ends, interpreted, and the same in PyTorch's ops, against transcriptions in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from astfast.backends.cuda.centred_log_mel import calls, tables
from astfast.backends.cuda.op_call import OpCall
from astfast.centred_log_mel import CentredLogMel
from astfast.kernels import tuning
from astfast.kernels.tuning import Tile
from astfast.models.ced.front_end import front_end as ced
from tests.backends.test_centred_log_mel import FRONT_ENDS, LOG_UNIT, clip, exact_log_mel, torch_log_mel
from tests.cases.log_mel_error import allowed_error
from tests.emulation.emulator import Emulator, ptxemu
from tests.launchers import compile_for, interpret

TILE = Tile(16, 256, 128, 4, 2)
FRAMES = 20


def spectrograms(
    front_end: CentredLogMel,
    waves: list[np.ndarray],
    how: str | Emulator,
    integers: bool = False,
    tile: Tile = TILE,
    products: str = "ieee",
) -> list[np.ndarray]:
    """Of clips in one batch, behind each of which is garbage: by the kernels, interpreted or emulated, or by PyTorch in
    a type."""
    kind = np.int16 if integers else np.float32
    batch = np.full((len(waves), max(map(len, waves)) + 3), 9999, kind)
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = wave * 32768 if integers else wave
    counts = torch.tensor([len(wave) for wave in waves], dtype=torch.int32)
    out = torch.full((len(waves), front_end.max_length, front_end.num_mel_bins), torch.nan)
    of = tables(front_end, torch.device("cpu"))
    for call in calls(torch.from_numpy(batch), counts, front_end, of, out, tile):
        if isinstance(how, Emulator):
            how(with_products(call, products).launch())
        elif how == "kernels":
            interpret(call.launch())
        elif how == "float64" and not call.updated:
            out.copy_(call.in_float64().run_torch())
        else:
            call.run_torch()
    rows = (front_end.frames_read(len(wave)) for wave in waves)
    return [spectrogram[:n].numpy() for spectrogram, n in zip(out, rows, strict=True)]


def with_products(call: OpCall, products: str) -> OpCall:
    """The call with its products in another precision, if it has any."""
    return replace(call, tuning=call.tuning | {"precision": products}) if "precision" in call.tuning else call


def short(name: str) -> CentredLogMel:
    return replace(FRONT_ENDS[name], max_length=FRAMES)


def lengths(front_end: CentredLogMel, longer: bool = False) -> list[int]:
    """One sample, the fewest of the shortest spectrogram and one more, no whole hops; with ``longer`` beyond FRAMES."""
    fewest, hop = front_end.fewest_samples, front_end.hop_length
    return [1, fewest, fewest + 1, 19 * hop + 7, *([25 * hop] if longer else [])]


def exact(name: str, wave: np.ndarray) -> np.ndarray:
    """Of the first FRAMES frames; of a longer clip, CED's floor is below all that it has."""
    front_end = short(name)
    found = exact_log_mel(name, wave)
    return found[: front_end.frames_read(len(wave))]


@pytest.mark.parametrize("how", ["kernels", "float32"])
@pytest.mark.parametrize(
    "signal",
    ["noise", "clicks", *(pytest.param(name, marks=pytest.mark.slow) for name in ("silence", "tone of 5678.9 Hz"))],
)
@pytest.mark.parametrize("name", FRONT_ENDS)
def test_error_against_float64(name: str, signal: str, how: str) -> None:
    """As on the CPU."""
    front_end = short(name)
    waves = [clip(signal, n) for n in lengths(front_end, longer=signal == "noise")]
    for wave, ours in zip(waves, spectrograms(front_end, waves, how), strict=True):
        expected = exact(name, wave)
        assert ours.shape == expected.shape
        by_torch = torch_log_mel(wave, front_end)[: len(expected)]
        assert (np.abs(ours - expected) <= allowed_error(expected, by_torch, LOG_UNIT[name])).all(), len(wave)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_integers_are_their_numbers(name: str) -> None:
    front_end = short(name)
    noise = [clip("noise", n) for n in lengths(front_end)]
    waves = [np.round(x * 32768).clip(-32768, 32767).astype(np.float32) / 32768 for x in noise]
    for ours, theirs in zip(
        spectrograms(front_end, waves, "kernels", integers=True), spectrograms(front_end, waves, "kernels"), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-4 * LOG_UNIT[name])


def test_the_floor_is_below_each_clips_own_maximum() -> None:
    """A loud clip does not raise a quiet one's floor, and frames behind a clip keep their logarithm of 0."""
    front_end = replace(ced((-0.5,) * 64, (0.25,) * 64), max_length=FRAMES, top_db=20.0)
    waves = [clip("noise", 2400), 1e-3 * clip("noise", 2400)]
    loud, quiet = spectrograms(front_end, waves, "kernels")
    assert (loud.max() - loud.min()) == pytest.approx(0.5 * 20.0, rel=1e-5)
    np.testing.assert_allclose(quiet - loud, 0.5 * 60.0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("products", ["ieee", "tf32x3"])
@pytest.mark.parametrize(("name", "arch"), [("CED", 80), ("MAEST, hub", 90)])
def test_compiled_code_in_the_emulator(name: str, arch: int, products: str) -> None:
    """At the tiles that ship, with the race detectors, a clip that is shorter than a tile of frames beside it."""
    ptxemu()
    front_end = short(name)
    waves = [clip("noise", n) for n in (1, 19 * front_end.hop_length + 7)]
    tiles = tuning.tiles_for(arch, 2)
    tile = tiles.log_mel if products == "ieee" else tiles.tf32_log_mel
    found = spectrograms(front_end, waves, Emulator(arch), tile=tile, products=products)
    for wave, ours in zip(waves, found, strict=True):
        expected = exact(name, wave)
        by_torch = torch_log_mel(wave, front_end)[: len(expected)]
        assert (np.abs(ours - expected) <= allowed_error(expected, by_torch, LOG_UNIT[name])).all(), len(wave)


@pytest.mark.parametrize(("products", "tile"), [("ieee", Tile(32, 32, 16, 4, 2)), ("tf32x3", Tile(32, 64, 16, 8, 2))])
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", ["CED", "PaSST", "MAEST, hub"])
def test_it_compiles(name: str, arch: int, products: str, tile: Tile) -> None:
    front_end = FRONT_ENDS[name]
    waves, counts = torch.zeros(2, 40_000, device="meta"), torch.zeros(2, dtype=torch.int32, device="meta")
    out = torch.empty(2, front_end.max_length, front_end.num_mel_bins, device="meta")
    for call in calls(waves, counts, front_end, tables(front_end, torch.device("meta")), out, tile):
        code = compile_for(with_products(call, products).launch(), arch=arch).asm["ptx"]
        assert ".local" not in code  # no register is spilled

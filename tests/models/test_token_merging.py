"""How many tokens are merged, and the forward pass that merges them."""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import astfast
from astfast.backends.cpu.ops import CpuOps
from astfast.backends.reference import ReferenceOps
from astfast.models import token_merging, vit
from tests.cases import checkpoints, timm_vit
from tests.models.test_vit import HEADS, MLP, TOKENS, D, pruned, random_layer


@pytest.mark.parametrize("patches", [12, 256, 1212])
@pytest.mark.parametrize("layers", [5, 11])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.65, 0.75])
def test_layers_are_spared_what_was_asked_for(fraction: float, layers: int, patches: int) -> None:
    counts = token_merging.counts(fraction, patches, layers)
    kept = list(accumulate(counts, lambda left, count: left - count, initial=patches))
    assert all(0 <= count <= before // 2 for count, before in zip(counts, kept, strict=False))
    work = sum(before / 3 + after * 2 / 3 for before, after in pairwise(kept)) / (patches * layers)
    assert 1 - fraction <= work <= 1 - fraction + (0.01 if patches > 12 else 0.1)


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("patches", [0, 1, 2, 3])
def test_few_patches(patches: int, layers: int) -> None:
    counts = token_merging.counts(0.75, patches, layers)
    assert len(counts) == layers
    assert patches - sum(counts) >= min(1, patches)


@pytest.mark.parametrize("wrong", [-0.1, 0.76, float("nan"), "half", None, True, 10**400])
def test_impossible_fractions_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"token_merging is .*: it must be a number from 0 to 0\.75") as raised:
        token_merging.checked(wrong)
    assert len(str(raised.value)) < 200


def test_numbers_of_numpy_are_fractions() -> None:
    assert token_merging.checked(np.float32(0.5)) == token_merging.checked(np.float64(0.5)) == 0.5


@pytest.mark.parametrize("rows", [0, 2])
def test_identical_patches_are_merged_without_loss(rows: int) -> None:
    """A layer sees no difference between a token of size n and n equal ones: by sizes in attention and pooling."""
    generator = torch.Generator().manual_seed(rows)
    layers = [random_layer(generator) for _ in range(3)]
    ops = ReferenceOps(HEADS, torch.float64)
    ws = dict.fromkeys(vit.encoder_workspace(TOKENS, D, MLP, rows))
    packed = [vit.pack_layer(ops, layer) for layer in layers]
    last = vit.pack_last_layer(ops, pruned(layers[2], rows)) if rows else None
    whole_layers = packed[:2] if rows else packed
    patch = torch.randn(1, 1, D, generator=generator, dtype=torch.float64)
    x = torch.cat([torch.randn(1, rows, D, generator=generator, dtype=torch.float64), patch.expand(1, 8, D)], dim=1)
    exact = vit.encode(ops, whole_layers, last, x, ws)
    merged, sizes = vit.encode_merging(ops, whole_layers, last, x, ws, 0.5)
    if rows:
        assert sizes is None
        assert torch.allclose(merged, exact, rtol=0, atol=1e-12)
    else:
        assert merged.shape[1] < 8
        assert sizes.sum() == 8
        assert torch.allclose(merged, exact[:, : merged.shape[1]], rtol=0, atol=1e-12)
        wrong = vit.encode(ops, whole_layers, last, x + torch.arange(8)[:, None] * 0.1, ws)
        assert not torch.allclose(wrong[:, : merged.shape[1]], merged, rtol=0, atol=1e-3)


def test_the_cpu_engine_merges_as_the_reference() -> None:
    generator = torch.Generator().manual_seed(3)
    layers = [random_layer(generator) for _ in range(3)]
    x = torch.randn(2, 41, D, generator=generator)
    results, whole_layers = [], []
    for ops in (ReferenceOps(HEADS, torch.float64), CpuOps(HEADS, "float32", threads=2)):
        buffers = vit.encoder_workspace(41, D, MLP, 2)
        ws = {name: ops.empty((2, *shape), kind) for name, (shape, kind) in buffers.items()}
        packed = [vit.pack_layer(ops, layer) for layer in layers[:2]]
        last = vit.pack_last_layer(ops, pruned(layers[2], 2))
        whole_layers.append((ops, packed, last))
        tokens = x.double() if ops.name == "reference" else x.numpy().copy()
        states, _ = vit.encode_merging(ops, packed, last, tokens, ws, 0.5)
        results.append(np.asarray(states, np.float64))
    whole = vit.encode(*whole_layers[0], x.double(), dict.fromkeys(buffers))
    assert np.abs(results[0] - results[1]).max() < 1e-4 < np.abs(results[0] - whole.numpy()).max()


def write(folder: Path, family: str) -> tuple[Path, int]:
    """A checkpoint of a family with the grid of its published models, two or three layers; and its sampling rate."""
    if family == "AST":  # 1,214 tokens
        model = checkpoints.random_model(num_hidden_layers=3, max_length=1024, num_mel_bins=128)
        return checkpoints.write_v4(model, folder / "ast"), 16_000
    shapes = {
        "CED": timm_vit.ced_shapes(64, 2, 527),
        "PaSST": timm_vit.passt_shapes(64, 3, 527, (12, 99)),
        "MAEST": timm_vit.passt_shapes(64, 3, 400, (9, 62)),
    }
    torch.save(timm_vit.random_state(shapes[family]), folder / "model.pt")
    return folder / "model.pt", 32_000 if family == "PaSST" else 16_000


@pytest.mark.parametrize("family", ["AST", "CED", "PaSST", "MAEST"])
def test_every_family_merges_as_its_reference(family: str, tmp_path: Path) -> None:
    """From waveforms of several lengths, at their own numbers of tokens; alone as in any company."""
    path, rate = write(tmp_path, family)
    waves = [np.random.default_rng(n).normal(0, 0.1, n).astype(np.float32) for n in (rate // 2, 10 * rate)]

    def logits(backend: str, **options: Any) -> np.ndarray:
        tagger = astfast.load(path, device="cpu", backend=backend, precision="float32", **options)
        assert tagger.config.num_tokens > 300 or family == "CED"
        scored = tagger.logits(waves, sampling_rate=rate)
        if backend == "cpu":
            np.testing.assert_array_equal(tagger.logits(waves[:1], sampling_rate=rate)[0], scored[0])
        return scored

    reference, native = logits("reference", token_merging=0.5), logits("cpu", token_merging=0.5)
    spread = np.abs(reference).max()
    assert np.abs(native - reference).max() <= 1e-5 * spread
    assert np.abs(logits("cpu") - native).max() > 1e-4 * spread


def test_buffers_of_fewer_tokens_are_no_copies() -> None:
    """A CPU buffer's rows have gaps between them; its clips follow one another without any."""
    whole = CpuOps(2, "bfloat16", 1).empty((3, 40, 64), "activation")
    assert not whole.flags.c_contiguous
    part = vit._first(whole, 13)
    assert np.shares_memory(part, whole)
    assert (part.shape, part.strides) == ((3, 13, 64), (13 * whole.strides[1], *whole.strides[1:]))
    tensor = torch.zeros(3, 40, 64)
    assert vit._first(tensor, 13).data_ptr() == tensor.data_ptr()
    assert vit._first(tensor, 13).is_contiguous()

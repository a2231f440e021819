"""Arguments of torch.ops.astfast: types are read as numbers or refused, shapes and lengths checked on every device."""

from pathlib import Path

import numpy as np
import pytest
import torch

import astfast
from astfast.errors import CheckpointError
from astfast.front_end import KaldiFbank
from astfast.integrations import torch_op_impls, torch_ops
from astfast.integrations.torch_module import AstModule
from tests.cases import checkpoints, dass, timm_vit

FRONT_END = (16000, 20, 4, -4.0, 3.0, True)
LENGTHS = torch.tensor([900, 500])


def waves(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (0.1 * torch.randn(2, 900, generator=torch.Generator().manual_seed(0))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_waves_of_other_floating_point_types_are_numbers(dtype):
    x = waves(dtype)
    expected = torch_ops.log_mel(x.float(), LENGTHS, *FRONT_END)
    assert torch.equal(torch_ops.log_mel(x, LENGTHS, *FRONT_END), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool])
def test_waves_of_other_integers_are_refused(dtype):
    with pytest.raises(ValueError, match=r"waves are torch\..*pass samples in \[-1, 1\], or int16"):
        torch_ops.log_mel(waves().to(dtype), LENGTHS, *FRONT_END)


@pytest.mark.parametrize("lengths", [[901, 1], [0, 5], [900], [[900, 900]]])
def test_lengths_are_checked(lengths):
    with pytest.raises(ValueError, match="lengths"):
        torch_ops.log_mel(waves(), torch.tensor(lengths), *FRONT_END)
    torch_ops.log_mel(waves(), torch.tensor([900, 1]), *FRONT_END)  # the bounds themselves


def test_lengths_on_a_gpu_are_clamped():
    class Ops:
        def log_mel_on_device(self, waves, lengths, front_end, out):
            return lengths

    impl = torch_op_impls.CudaOpImpl(lambda heads, precision: Ops())
    clamped = impl.log_mel(waves(), torch.tensor([901, -5]), KaldiFbank(*FRONT_END))
    assert clamped.tolist() == [900, 1]


def test_a_bfloat16_module_reads_bfloat16_spectrograms():
    model = checkpoints.random_model(seed=5)
    x = torch.from_numpy(checkpoints.spectrogram(model.config)).bfloat16()
    expected = checkpoints.transformers_logits(model, x.float().numpy())
    assert np.abs(AstModule(model)(x).numpy() - expected).max() <= 2e-4
    rounded = AstModule(model, torch.bfloat16)
    assert torch.equal(rounded(x), rounded(x.float()))
    with pytest.raises(ValueError, match=r"spectrogram is torch\.int32"):
        rounded(x.int())


def f(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


# Good arguments, then one at a time replaced by one of another shape.
GOOD = {
    "patch_embed": (torch_ops.patch_embed, [f(2, 10, 8), f(6, 16), f(6), f(2, 6), f(14, 6), 4, 2, 2]),
    "norm_linear": (torch_ops.norm_linear, [f(2, 5, 6), f(6), f(6), 1e-5, f(9, 6), f(9), True]),
    "attention": (torch_ops.attention, [f(2, 3, 6), f(2, 5, 12), 2]),
    "linear_residual": (torch_ops.linear_residual, [f(2, 5, 9), f(6, 9), f(6), f(2, 5, 6)]),
    "pool": (torch_ops.pool, [f(2, 3, 6), f(6), f(6), 1e-5]),
    "head": (torch_ops.head, [f(2, 6), f(6), f(6), 1e-5, f(4, 6), f(4)]),
}
WRONG = [(name, i) for name, (_, good) in GOOD.items() for i, x in enumerate(good) if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize(("name", "index"), WRONG)
def test_shapes_are_checked_before_any_device_sees_them(name, index, monkeypatch):
    op, good = GOOD[name]
    op(*good)
    monkeypatch.setattr(torch_ops, "implementation", lambda device: pytest.fail("an implementation was asked"))
    x = good[index]
    others = [f(*x.shape, 1)]  # one dimension more
    if (name, index) not in {("patch_embed", 0), ("attention", 1), ("pool", 0)}:
        others.append(f(*x.shape[:-1], x.shape[-1] + 1))  # one column more
    for wrong in others:
        with pytest.raises(ValueError, match=r"has the shape|no 2 heads|don't fit"):
            op(*good[:index], wrong, *good[index + 1 :])


@pytest.mark.parametrize("heads", [0, -1, 4])
def test_heads_divide_the_columns(heads):
    with pytest.raises(ValueError, match="are no"):
        torch_ops.attention(f(2, 3, 6), f(2, 5, 12), heads)


@pytest.mark.parametrize("geometry", [(11, 2, 2), (4, 0, 2), (4, 2, -1), (0, 2, 2)])
def test_patches_fit(geometry):
    with pytest.raises(ValueError, match="don't fit"):
        torch_ops.patch_embed(f(2, 10, 8), f(6, 16), f(6), f(2, 6), f(14, 6), *geometry)


@pytest.mark.parametrize("family", ["ced", "maest"])
def test_a_module_takes_spectrograms_of_fewer_patches_than_it_has_positions(family: str, tmp_path: Path) -> None:
    """CED's are of any length up to its own; MAEST's has more positions than its own length makes patches."""
    shapes = timm_vit.ced_shapes(64, 2, 7) if family == "ced" else timm_vit.passt_shapes(64, 2, 7, (9, 31))
    path = tmp_path / {"ced": "ced.pt", "maest": "maest.ckpt"}[family]
    torch.save(timm_vit.random_state(shapes), path)
    labels = [f"sound {i}" for i in range(7)]
    tagger = astfast.load(path, backend="reference", device="cpu", labels=labels)
    front_end = tagger.config.front_end
    frames = 300 if family == "ced" else front_end.max_length
    x = torch.randn(2, frames, front_end.num_mel_bins, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(AstModule(path)(x), torch.as_tensor(tagger.forward(x)), atol=1e-4, rtol=1e-4)


def test_a_module_of_a_dass_is_refused_by_name(tmp_path: Path) -> None:
    folder = dass.write_hub(dass.random_state(dass.TINY), dass.TINY, tmp_path / "dass", 64, 48)
    with pytest.raises(CheckpointError, match="is a DASS; an AstModule runs Vision Transformers"):
        AstModule(folder)

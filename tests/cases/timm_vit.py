"""CED, PaSST and MAEST in plain PyTorch, transcribed from their formulas, and random checkpoints of them.

Nothing here comes from astfast. Weights are never those of a plain initialisation: every gamma, beta, bias, position
and running statistic is random, some channels are outliers, and what feeds the first LayerNorm and the head's is small,
so that their epsilons tell.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0, small: float = 0.02) -> State:
    """Random tensors of these shapes; ``small`` is the size of the final norm's gamma and beta, and of
    what the stream begins with."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        x = torch.from_numpy(rng.standard_normal(shape, np.float32))
        if name.endswith("running_var"):
            x = (x * 3).exp() + 1e-6
        elif name.endswith("running_mean"):
            x = 20 * x - 30
        elif "norm" in name or "bn" in name or name.endswith(("outputlayer.0.weight", "head.0.weight")):
            x = 1 + 0.3 * x if name.endswith("weight") else 0.2 * x
            if name.endswith("weight"):
                x[rng.permutation(len(x))[:2]] *= 6
            if name in ("norm.weight", "norm.bias"):
                x = small * x
        elif x.ndim >= 2 and name.endswith("weight"):
            x = x / (x[0].numel() ** 0.5)
            x = 0.3 * x if "proj" in name and "attn" in name else x
        else:
            x = 0.3 * x
        if name.endswith("bn.1.weight"):  # so that decibels of tens come out as numbers of about 1
            x = x * (state["init_bn.1.running_var"] + 1e-5).sqrt() / 30
        if name.startswith("patch_embed") or name.endswith(("pos_embed", "_token")):
            x = small * x
        state[name] = x
    return state


def in_type(state: State, dtype: torch.dtype) -> State:
    return {name: x.to(dtype) for name, x in state.items()}


def block_shapes(d: int, layers: int, mlp: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(layers):
        modules = {
            "norm1": (d,), "attn.qkv": (3 * d, d), "attn.proj": (d, d),
            "norm2": (d,), "mlp.fc1": (mlp, d), "mlp.fc2": (d, mlp),
        }  # fmt: skip
        for module, shape in modules.items():
            shapes[f"blocks.{n}.{module}.weight"] = shape
            shapes[f"blocks.{n}.{module}.bias"] = shape[:1]
    return shapes


def norm(w: State, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def linear(w: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def blocks(w: State, x: torch.Tensor, heads: int, fused: bool = False) -> torch.Tensor:
    """[B, T, D] through all pre-LN blocks and the final norm; ``fused``: by PyTorch's fast ops, to be timed against."""
    layers = len({name.split(".")[1] for name in w if name.startswith("blocks.")})
    for n in range(layers):
        block = f"blocks.{n}"
        b, t, d = x.shape
        qkv = linear(w, f"{block}.attn.qkv", norm(w, f"{block}.norm1", x, 1e-6))
        q, k, v = qkv.view(b, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)  # [B, H, T, head_dim] each
        if fused:
            context = F.scaled_dot_product_attention(q, k, v)
        else:
            context = (q @ k.transpose(-1, -2) / (d // heads) ** 0.5).softmax(-1) @ v
        x = x + linear(w, f"{block}.attn.proj", context.transpose(1, 2).reshape(b, t, d))
        hidden = linear(w, f"{block}.mlp.fc1", norm(w, f"{block}.norm2", x, 1e-6))
        hidden = F.gelu(hidden) if fused else hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + linear(w, f"{block}.mlp.fc2", hidden)
    return norm(w, "norm", x, 1e-6)


def patches(w: State, image: torch.Tensor, stride: int, time: str, frequency: str) -> torch.Tensor:
    """[B, mels, frames] -> [B, F * t, D], frequency first, with positions cut from the start along time."""
    x = F.conv2d(image[:, None], w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=stride)
    x = x + w[time][..., : x.shape[-1]] + w[frequency]
    return x.flatten(2).transpose(1, 2)


def ced_logits(w: State, decibel: torch.Tensor, heads: int) -> torch.Tensor:
    """Decibels [B, frames, 64] -> logits [B, L]; the model of the authors applies a sigmoid to them."""
    bn = "init_bn.1"
    x = (decibel - w[f"{bn}.running_mean"]) / (w[f"{bn}.running_var"] + 1e-5).sqrt()
    return ced_logits_of_normalised(w, x * w[f"{bn}.weight"] + w[f"{bn}.bias"], heads)


def ced_logits_of_normalised(w: State, x: torch.Tensor, heads: int, fused: bool = False) -> torch.Tensor:
    """Decibels after the BatchNorm [B, frames, 64] -> logits [B, L]."""
    x = blocks(w, patches(w, x.transpose(1, 2), 16, "time_pos_embed", "freq_pos_embed"), heads, fused).mean(1)
    return linear(w, "outputlayer.1", norm(w, "outputlayer.0", x, 1e-5))


def ced_shapes(d: int, layers: int, labels: int, positions: int = 63) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "time_pos_embed": (1, d, 1, positions), "freq_pos_embed": (1, d, 4, 1),
        "patch_embed.proj.weight": (d, 1, 16, 16), "patch_embed.proj.bias": (d,),
    }  # fmt: skip
    shapes |= {f"init_bn.1.{part}": (64,) for part in ("running_var", "weight", "bias", "running_mean")}
    shapes |= block_shapes(d, layers, 4 * d)
    for module, shape in {"norm": (d,), "outputlayer.0": (d,), "outputlayer.1": (labels, d)}.items():
        shapes |= {f"{module}.weight": shape, f"{module}.bias": shape[:1]}
    return shapes


def passt_logits(
    w: State, spectrogram: torch.Tensor, heads: int, stride: int, head_eps: float = 1e-5, fused: bool = False
) -> torch.Tensor:
    """Normalised spectrogram [B, frames, mels] -> logits [B, L], of PaSST and, with stride 10, of MAEST."""
    x = patches(w, spectrogram.transpose(1, 2), stride, "time_new_pos_embed", "freq_new_pos_embed")
    tokens = [w[f"{name}_token"] + w["new_pos_embed"][:, i : i + 1] for i, name in enumerate(("cls", "dist"))]
    x = torch.cat([*(token.expand(len(x), -1, -1) for token in tokens), x], 1)
    x = blocks(w, x, heads, fused)
    return linear(w, "head.1", norm(w, "head.0", (x[:, 0] + x[:, 1]) / 2, head_eps))


def passt_shapes(d: int, layers: int, labels: int, grid: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, d), "dist_token": (1, 1, d), "new_pos_embed": (1, 2, d),
        "freq_new_pos_embed": (1, d, grid[0], 1), "time_new_pos_embed": (1, d, 1, grid[1]),
        "patch_embed.proj.weight": (d, 1, 16, 16), "patch_embed.proj.bias": (d,),
    }  # fmt: skip
    shapes |= block_shapes(d, layers, 4 * d)
    for module, shape in {"norm": (d,), "head.0": (d,), "head.1": (labels, d), "head_dist": (labels, d)}.items():
        shapes |= {f"{module}.weight": shape, f"{module}.bias": shape[:1]}
    return shapes

"""DASS in plain PyTorch on the authors' tensors, and writers of small random checkpoints in both layouts.

Written from the papers' formulas, channels first and [mel, time] as the authors have it: nothing is shared with
astfast. The scan is vectorised, which float64 makes an oracle and float32 and bfloat16 a peer to be timed against.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

State = Mapping[str, torch.Tensor]
EPS = 1e-5
MEAN, STD = -5.25, 3.75


@dataclass(frozen=True)
class Sizes:
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    labels: int = 527

    def rank(self, stage: int) -> int:
        return -(-self.dims[stage] // 16)


SMALL = Sizes((2, 2, 8, 2), (96, 192, 384, 768))
MEDIUM = Sizes((2, 2, 20, 2), (96, 192, 384, 768))
TINY = Sizes((1, 2, 1, 1), (20, 40, 33, 70), labels=7)  # nothing divides a vector, a tile or a cache line


def logits(state: State, x: torch.Tensor) -> torch.Tensor:
    """Normalised log-mel spectrograms [B, frames, mels] -> logits [B, L], in the tensors' own type."""
    return F.linear(
        embedding(state, x), state["module.v.classifier.head.weight"], state["module.v.classifier.head.bias"]
    )


def embedding(state: State, x: torch.Tensor) -> torch.Tensor:
    """[B, frames, mels] -> [B, D]."""
    s = {name.removeprefix("module.v."): tensor for name, tensor in state.items()}
    x = x.transpose(1, 2).unsqueeze(1)  # [B, 1, mels, frames]
    x = F.gelu(norm(s, "patch_embed.2", conv(s, "patch_embed.0", x)))
    x = norm(s, "patch_embed.7", conv(s, "patch_embed.5", x))
    stages = 1 + max(int(name.split(".")[1]) for name in s if name.startswith("layers."))
    for i in range(stages):
        j = 0
        while f"layers.{i}.blocks.{j}.norm.weight" in s:
            name = f"layers.{i}.blocks.{j}."
            x = x + ss2d(s, name + "op.", norm(s, name + "norm", x))
            x = x + pointwise(s, name + "mlp.fc2", F.gelu(pointwise(s, name + "mlp.fc1", norm(s, name + "norm2", x))))
            j += 1
        if i + 1 < stages:
            x = norm(s, f"layers.{i}.downsample.3", conv(s, f"layers.{i}.downsample.1", x))
    return norm(s, "classifier.norm", x).mean((2, 3))


def norm(s: State, name: str, x: torch.Tensor) -> torch.Tensor:
    """LayerNorm over the channels of [B, C, H, W]."""
    weight, bias = s[f"{name}.weight"], s[f"{name}.bias"]
    return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, EPS).permute(0, 3, 1, 2)


def conv(s: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, s[f"{name}.weight"], s[f"{name}.bias"], stride=2, padding=1)


def pointwise(s: State, name: str, x: torch.Tensor) -> torch.Tensor:
    weight = s[f"{name}.weight"]
    return F.conv2d(x, weight.view(*weight.shape[:2], 1, 1), s.get(f"{name}.bias"))


def ss2d(s: State, name: str, x: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] -> the same shape."""
    x = pointwise(s, name + "in_proj", x)
    b, c, h, w = x.shape
    x = F.silu(F.conv2d(x, s[name + "conv2d.weight"], padding=1, groups=c))
    rows = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], 1)  # [B, 2, C, H * W]
    xs = torch.cat([rows, rows.flip(-1)], 1)  # [B, 4, C, L]
    rank = s[name + "dt_projs_weight"].shape[2]
    dt, bs, cs = torch.einsum("bkcl,kpc->bkpl", xs, s[name + "x_proj_weight"]).split([rank, 1, 1], 2)
    delta = torch.einsum("bkrl,kcr->bkcl", dt, s[name + "dt_projs_weight"])
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32  # of the scan, whatever the products' type
    delta = F.softplus(delta.to(wide) + s[name + "dt_projs_bias"].to(wide)[None, :, :, None])
    a = -torch.exp(s[name + "A_logs"].to(wide)).view(4, c, 1)
    us = xs.to(wide)
    y = cs * scan(torch.exp(a * delta), delta * bs * us) + s[name + "Ds"].to(wide).view(4, c, 1) * us
    y = y[:, :2] + y[:, 2:].flip(-1)
    merged = y[:, 0] + y[:, 1].view(b, c, w, h).transpose(2, 3).flatten(2)
    return pointwise(s, name + "out_proj", norm_in(s, name + "out_norm", merged.view(b, c, h, w), x.dtype))


def norm_in(s: State, name: str, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """LayerNorm over the channels in x's type, rounded to another."""
    wide = {key: s[key].to(x.dtype) for key in (f"{name}.weight", f"{name}.bias")}
    return norm(wide, name, x).to(dtype)


def scan(decay: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """h_l = decay_l h_(l-1) + added_l along the last dimension: all chunks step by step, then from chunk to chunk."""
    length = decay.shape[-1]
    chunk = max(1, int(length**0.5))
    padded = -length % chunk
    decay, added = F.pad(decay, (0, padded), value=1.0), F.pad(added, (0, padded))
    decay, added = (x.unflatten(-1, (-1, chunk)).movedim(-1, 0).contiguous() for x in (decay, added))  # [chunk, .., n]
    for i in range(1, chunk):
        added[i] += decay[i] * added[i - 1]
        decay[i] *= decay[i - 1]
    carry, state = [], torch.zeros_like(added[0, ..., 0])
    for n in range(added.shape[-1]):
        carry.append(state)
        state = decay[-1, ..., n] * state + added[-1, ..., n]
    return (added + decay * torch.stack(carry, -1)).movedim(0, -1).flatten(-2)[..., :length]


def random_state(sizes: Sizes, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights under the authors' names: all are random, and some channels outliers."""
    rng = np.random.default_rng(seed)
    state: dict[str, torch.Tensor] = {}

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

    def add(name: str, *shape: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = normal(*shape) / float(np.prod(shape[1:])) ** 0.5
        if bias:
            state[f"{name}.bias"] = 0.2 * normal(shape[0])

    def add_norm(name: str, width: int) -> None:
        state[f"{name}.weight"] = 1 + 0.3 * normal(width)
        state[f"{name}.weight"][int(rng.integers(width))] *= 5
        state[f"{name}.bias"] = 0.2 * normal(width)

    d = sizes.dims
    add("patch_embed.0", d[0] // 2, 1, 3, 3)
    add_norm("patch_embed.2", d[0] // 2)
    add("patch_embed.5", d[0], d[0] // 2, 3, 3)
    add_norm("patch_embed.7", d[0])
    for i, (depth, c) in enumerate(zip(sizes.depths, d, strict=True)):
        rank = sizes.rank(i)
        for j in range(depth):
            name = f"layers.{i}.blocks.{j}."
            for module in ("norm", "norm2", "op.out_norm"):
                add_norm(name + module, c)
            add(name + "op.in_proj", c, c, bias=False)
            add(name + "op.conv2d", c, 1, 3, 3, bias=False)
            state[name + "op.x_proj_weight"] = 1.5 * normal(4, rank + 2, c) / c**0.5  # states weigh as much as the skip
            state[name + "op.dt_projs_weight"] = normal(4, c, rank) / rank**0.5
            steps = torch.from_numpy(np.exp(rng.uniform(np.log(1e-2), np.log(1.0), (4, c))).astype(np.float32))
            state[name + "op.dt_projs_bias"] = steps + torch.log(-torch.expm1(-steps))  # softplus of it is the step
            state[name + "op.A_logs"] = 0.5 * normal(4 * c, 1)
            state[name + "op.Ds"] = 1 + 0.3 * normal(4 * c)
            add(name + "op.out_proj", c, c, bias=False)
            add(name + "mlp.fc1", 4 * c, c)
            add(name + "mlp.fc2", c, 4 * c)
        if i + 1 < len(d):
            add(f"layers.{i}.downsample.1", d[i + 1], c, 3, 3)
            add_norm(f"layers.{i}.downsample.3", d[i + 1])
    add_norm("classifier.norm", d[-1])
    add("classifier.head", sizes.labels, d[-1])
    return {f"module.v.{name}": tensor for name, tensor in state.items()}


def hub_state(state: State) -> dict[str, torch.Tensor]:
    """The same tensors under the hub's names and in its shapes."""
    out = {}
    renamed = {
        **{
            f"patch_embed.{a}.": f"patch_embeddings.projection.{b}."
            for a, b in zip((0, 2, 5, 7), (0, 1, 3, 4), strict=True)
        },
        "downsample.1.": "downsample.down.",
        "downsample.3.": "downsample.norm.",
        "x_proj_weight": "x_proj.weight",
        "dt_projs_weight": "dt_projs.weight",
        "classifier.norm": "norm",
    }
    for full_name, tensor in state.items():
        name = full_name.removeprefix("module.v.")
        for old, new in renamed.items():
            name = name.replace(old, new)
        by_direction = name.endswith(("x_proj.weight", "dt_projs.weight"))
        name = name.removeprefix("classifier.") if "classifier" in name else f"dass.{name}"
        out[name] = (tensor.flatten(0, 1) if by_direction else tensor).contiguous()
    return out


def write_authors(state: State, path: Path) -> Path:
    torch.save(dict(state), path)
    return path


def write_hub(state: State, sizes: Sizes, folder: Path, frames: int = 1024, mels: int = 128) -> Path:
    """A folder in Hugging Face layout, as the hub has it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(hub_state(state), folder / "model.safetensors")
    config = {
        "architectures": ["DASSForAudioClassification"],
        "model_type": "dass",
        "auto_map": {"AutoConfig": "configuration_dass.DASSConfig"},
        "patch_size": 4,
        "embed_dim": sizes.dims[0],
        "depths": list(sizes.depths),
        "dims": list(sizes.dims),
        "num_classes": sizes.labels,
        "drop_path_rate": 0.2,
        "use_checkpoint": False,
        "max_length": frames,
        "num_mel_bins": mels,
        "id2label": {str(i): f"sound {i}" for i in range(sizes.labels)},
    }
    extractor = {"feature_extractor_type": "DASSFeatureExtractor", "sampling_rate": 16_000, "mean": MEAN, "std": STD}
    extractor |= {"max_length": frames, "num_mel_bins": mels, "do_normalize": True}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    return folder


def spectrograms(frames: int, mels: int, clips: int = 2, seed: int = 1) -> np.ndarray:
    """[clips, frames, mels], as normalised log-mel energies are: mean 0, std 1/2, no two clips of one mean."""
    rng = np.random.default_rng(seed)
    x = 0.5 * rng.standard_normal((clips, frames, mels)) + np.linspace(-0.5, 0.5, clips)[:, None, None]
    return x.astype(np.float32)

"""Writers of small random checkpoints in every published layout, from one transformers model.

The weights are never those of a plain initialisation, which would hide swapped, missing or wrongly scaled tensors:
every gamma, beta, bias and position is random, and some channels are outliers, as in trained models.
"""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification, ASTModel

from astfast.backends.reference import ReferenceOps
from astfast.models import vit
from astfast.models.base import Checkpoint

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 104,
    "frequency_stride": 14,
    "time_stride": 12,
    "max_length": 76,
    "num_mel_bins": 48,
    "num_labels": 7,
}
MEAN, STD = -5.25, 3.75


def random_model(seed: int = 0, bare: bool = False, spread: float = 1.0, **config) -> torch.nn.Module:
    """A transformers AST of SMALL's geometry but for ``config``; ``spread`` scales what feeds the LayerNorms."""
    settings = {**SMALL, **config}
    labels = settings.pop("num_labels")
    names = {i: f"sound {i}, {'abc'[i % 3]}" for i in range(labels)}
    model = (ASTModel if bare else ASTForAudioClassification)(
        ASTConfig(**settings, id2label=names, label2id={name: i for i, name in names.items()})
    ).eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_random(name, parameter, spread, rng))
    return model


def _random(name: str, parameter: torch.Tensor, spread: float, rng: np.random.Generator) -> torch.Tensor:
    """By numpy: torch's normal numbers differ in the last bit by instruction set, and so would all that is rounded."""
    noise = torch.from_numpy(rng.standard_normal(tuple(parameter.shape), np.float32))
    if "layernorm" in name and name.endswith("weight"):
        values = 1 + 0.3 * noise
        values[rng.permutation(len(values))[:2]] *= 6  # outlier channels
        # The head's own LayerNorm sees what the final one's gamma and beta let through.
        return values * spread if name.endswith("transformer.layernorm.weight") else values
    if name.endswith("transformer.layernorm.bias"):
        return 0.2 * noise * spread
    if name.endswith(("_token", "position_embeddings")):
        return 0.5 * noise * spread
    if "projection" in name:
        return 0.1 * noise * spread
    if name.endswith(("o_proj.weight", "o_proj.bias", "fc2.weight", "fc2.bias")):
        return 0.3 * noise * spread / parameter.shape[-1] ** 0.5
    if name.endswith("bias"):
        return 0.2 * noise
    return 1.2 * noise / parameter.shape[-1] ** 0.5


def spectrogram(config: ASTConfig, clips: int = 2, seed: int = 1) -> np.ndarray:
    """[clips, frames, mels], as normalised log-mel energies are: mean 0, std 1/2."""
    rng = np.random.default_rng(seed)
    return (0.5 * rng.standard_normal((clips, config.max_length, config.num_mel_bins))).astype(np.float32)


def write_preprocessor(config: ASTConfig, folder: Path) -> None:
    extractor = ASTFeatureExtractor(
        num_mel_bins=config.num_mel_bins, max_length=config.max_length, mean=MEAN, std=STD, do_normalize=True
    )
    extractor.save_pretrained(folder)


def write_v4(model: torch.nn.Module, folder: Path, dtype: torch.dtype = torch.float32, shard: str = "5GB") -> Path:
    """The layout of the hub's files, which transformers v5 still writes by default."""
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    model.to(torch.float32)
    write_preprocessor(model.config, folder)
    return folder


def write_v5(model: torch.nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder, save_original_format=False)
    write_preprocessor(model.config, folder)
    return folder


def write_bin(model: torch.nn.Module, folder: Path) -> Path:
    """A folder with pytorch_model.bin, as transformers wrote before safetensors."""
    write_v4(model, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def authors_state_dict(model: ASTForAudioClassification) -> "OrderedDict[str, torch.Tensor]":
    """The names of the authors' ASTModel inside DataParallel, ImageNet heads of its DeiT included."""
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    ast = "audio_spectrogram_transformer."
    embeddings = ast + "embeddings."
    out = OrderedDict(
        {
            "v.cls_token": state[embeddings + "cls_token"],
            "v.dist_token": state[embeddings + "distillation_token"],
            "v.pos_embed": state[embeddings + "position_embeddings"],
        }
    )
    modules = {
        "v.patch_embed.proj": embeddings + "patch_embeddings.projection",
        "v.norm": ast + "layernorm",
        "mlp_head.0": "classifier.layernorm",
        "mlp_head.1": "classifier.dense",
    }
    for n in range(model.config.num_hidden_layers):
        block, layer = f"v.blocks.{n}.", f"{ast}layers.{n}."
        modules |= {
            block + "norm1": layer + "layernorm_before",
            block + "attn.proj": layer + "attention.o_proj",
            block + "norm2": layer + "layernorm_after",
            block + "mlp.fc1": layer + "mlp.fc1",
            block + "mlp.fc2": layer + "mlp.fc2",
        }
        for kind in ("weight", "bias"):
            parts = [state[f"{layer}attention.{part}_proj.{kind}"] for part in "qkv"]
            out[f"{block}attn.qkv.{kind}"] = torch.cat(parts)
    for name, source in modules.items():
        out[f"{name}.weight"], out[f"{name}.bias"] = state[f"{source}.weight"], state[f"{source}.bias"]
    for name in ("v.head", "v.head_dist"):
        out[f"{name}.weight"] = torch.randn(1000, model.config.hidden_size)
        out[f"{name}.bias"] = torch.randn(1000)
    return OrderedDict((f"module.{name}", value) for name, value in out.items())


def write_authors(model: ASTForAudioClassification, path: Path) -> Path:
    torch.save(authors_state_dict(model), path)
    return path


def edit_json(path: Path, **changes) -> None:
    """Change fields of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


# What the authors' .pth of SMALL's odd geometry doesn't say.
GEOMETRY = {
    "num_attention_heads": 4,
    "frequency_stride": 14,
    "time_stride": 12,
    "max_length": 76,
    "num_mel_bins": 48,
    "mean": MEAN,
    "std": STD,
}


def logits(checkpoint: Checkpoint, x: np.ndarray, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """[B, frames, mels] -> [B, L] by the reference backend."""
    ops = ReferenceOps(checkpoint.config.num_attention_heads, dtype)
    ws = dict.fromkeys(vit.workspace(checkpoint.config))
    with torch.no_grad():
        return vit.forward(ops, vit.pack(ops, checkpoint.weights), torch.from_numpy(x), ws).numpy()


def transformers_logits(model: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x).to(model.dtype)).logits.float().numpy()


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    """The project's bar for fp32 logits."""
    assert np.abs(ours - theirs).max() <= 2e-4 * max(1.0, np.abs(theirs).max())

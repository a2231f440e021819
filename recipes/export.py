"""Write the trained student as a Hugging Face folder: what `astfast.load()` ships, and what transformers reads too.

Weights are rounded to float16; the accuracy in the model card is that of the rounded weights on the unseen fold.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from pathlib import Path

import torch
from esc50_data import TRAIN_FOLDS, Clip, Split, read_clips
from safetensors.torch import save_file
from student import Student, student_config
from torch import Tensor, nn
from training import accuracy, load_checkpoint

from astfast.models.ast.config import AstConfig


def hub_tensors(student: Student) -> dict[str, Tensor]:
    """The student's weights under the names of transformers' v4 layout (design page models.md, layout 1)."""
    width = student.config.hidden_size
    prefix = "audio_spectrogram_transformer."
    size = student.config.patch_size
    tensors = {
        f"{prefix}embeddings.cls_token": student.cls[None],
        f"{prefix}embeddings.distillation_token": student.dist[None],
        f"{prefix}embeddings.position_embeddings": student.position[None],
        f"{prefix}embeddings.patch_embeddings.projection.weight": student.projection.weight.view(width, 1, size, size),
        f"{prefix}embeddings.patch_embeddings.projection.bias": student.projection.bias,
        f"{prefix}layernorm.weight": student.norm.weight,
        f"{prefix}layernorm.bias": student.norm.bias,
        "classifier.layernorm.weight": student.head_norm.weight,
        "classifier.layernorm.bias": student.head_norm.bias,
        "classifier.dense.weight": student.head.weight,
        "classifier.dense.bias": student.head.bias,
    }
    names = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "proj": "attention.output.dense",
        "fc1": "intermediate.dense", "fc2": "output.dense",
    }  # fmt: skip
    for number, layer in enumerate(student.layers):
        for kind in ("weight", "bias"):
            root = f"{prefix}encoder.layer.{number}."
            for mine, theirs in names.items():
                tensors[f"{root}{theirs}.{kind}"] = getattr(layer.get_submodule(mine), kind)
            parts = getattr(layer.get_submodule("qkv"), kind).split(width)
            for part, tensor in zip(("query", "key", "value"), parts, strict=True):
                tensors[f"{root}attention.attention.{part}.{kind}"] = tensor
    return {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}


def hub_config(config: AstConfig) -> dict[str, object]:
    """config.json, as transformers' ASTConfig writes it."""
    return {
        "architectures": ["ASTForAudioClassification"],
        "attention_probs_dropout_prob": 0.0,
        "dtype": "float16",
        "frequency_stride": config.frequency_stride,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": config.hidden_size,
        "id2label": {str(i): label for i, label in enumerate(config.labels)},
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "label2id": {label: i for i, label in enumerate(config.labels)},
        "layer_norm_eps": config.layer_norm_eps,
        "max_length": config.max_length,
        "model_type": "audio-spectrogram-transformer",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_mel_bins": config.num_mel_bins,
        "patch_size": config.patch_size,
        "problem_type": config.problem_type,
        "qkv_bias": True,
        "time_stride": config.time_stride,
    }


def hub_preprocessor(config: AstConfig) -> dict[str, object]:
    """preprocessor_config.json, as transformers' ASTFeatureExtractor writes it."""
    return {
        "do_normalize": True,
        "feature_extractor_type": "ASTFeatureExtractor",
        "feature_size": 1,
        "max_length": config.max_length,
        "mean": config.front_end.mean,
        "num_mel_bins": config.num_mel_bins,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": config.front_end.sampling_rate,
        "std": config.front_end.std,
    }


def attribution(clips: list[Clip]) -> str:
    """Credits for the CC-BY recordings that the weights were trained on, author by author."""
    credited: dict[str, set[str]] = {}
    for clip in clips:
        if clip.license != "CC0":
            credited.setdefault(clip.author, set()).add(clip.source)
    lines = [
        "# Recordings that the built-in model was trained on",
        "",
        "The weights beside this file were trained on five-second extracts of recordings from the Freesound project,",
        "collected as ESC-50 (K. J. Piczak, ESC: Dataset for Environmental Sound Classification, ACM Multimedia 2015),",
        "resampled to 16 kHz mono. The recordings named here are licensed by their authors under Creative Commons",
        "Attribution (https://creativecommons.org/licenses/by/3.0/, or the later version that a source page names);",
        "the other training recordings are in the public domain (CC0). Only recordings under these two were used.",
        "",
    ]
    for author in sorted(credited, key=str.lower):
        sources = " ".join(f"<{source}>" for source in sorted(credited[author]))
        lines.append(f"- **{author}**: {sources}")
    return "\n".join(lines) + "\n"


def model_card(config: AstConfig, parameters: int, scores: tuple[float, float], clips: int, epochs: int) -> str:
    """README.md of the folder."""
    return f"""---
license: apache-2.0
pipeline_tag: audio-classification
library_name: transformers
---

# astfast's built-in model

A small Audio Spectrogram Transformer for 50 everyday sounds, trained from scratch; no pretrained weights went into it.

- **Accuracy: {scores[0]:.1%} top-1, {scores[1]:.1%} top-5** on the {clips} clips of fold 4, which neither it nor its
  teacher was trained on, and by which nothing was chosen. It is a demonstration: its mistakes are frequent, its scores
  are no calibrated probabilities, and sounds outside the 50 classes get one of them all the same.
- Geometry: {config.num_hidden_layers} layers, {config.hidden_size} wide, {config.num_attention_heads} heads, \
patches of 16 x 16 without overlap ({config.num_tokens} tokens), {parameters / 1e6:.1f} M parameters, float16.
- Input: 5 s, 16 kHz mono, {config.num_mel_bins} mel bins x {config.max_length} frames, mean \
{config.front_end.mean:.4f}, std {config.front_end.std:.4f}.
- Data: the CC0 and CC-BY clips of ESC-50, folds 1 to 3 (1,026 clips); authors in `ATTRIBUTION.md`.
- Recipe: `recipes/` in astfast's repository: {epochs} epochs of distillation from a convolutional network trained on
  the same clips.
- Exported {datetime.date.today().isoformat()} with PyTorch {torch.__version__}, Python {platform.python_version()}.

Five-second clips of one class each are what it has seen. ESC-50's usual figure is an average over five folds with 1,600
training clips each, which this is not comparable to.
"""


def transformers_logits(folder: Path, split: Split) -> Tensor:
    """What transformers makes of the folder and the test fold: (clips, 50) logits."""
    from transformers import ASTForAudioClassification

    model = ASTForAudioClassification.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return torch.cat([model(spectrograms).logits for spectrograms, _ in split.test_batches()])


@torch.inference_mode()
def main() -> None:
    """Write the Hugging Face folder, check it with transformers and print its accuracy on the unseen fold."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with clips.csv and audio/")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the log-mels")
    parser.add_argument("--checkpoint", type=Path, required=True, help="student.pt")
    parser.add_argument("--out", type=Path, required=True, help="Hugging Face folder to write")
    options = parser.parse_args()
    split = Split(options.data, options.cache)
    config = student_config(split.labels, split.mean, split.std)
    state = load_checkpoint(options.checkpoint)
    if state is None:
        raise FileNotFoundError(f"{options.checkpoint}: run student.py first")
    student = Student(config).eval()
    student.load_state_dict(state["average"])
    for parameter in student.parameters():
        parameter.data = parameter.data.half().float()  # the card's accuracy is that of the shipped weights
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(hub_tensors(student), options.out / "model.safetensors", metadata={"format": "pt"})
    (options.out / "model.safetensors").chmod(0o644)  # it is written for its owner alone, and a wheel keeps that
    logits = torch.cat([student(spectrograms) for spectrograms, _ in split.test_batches()])  # [373, 50]
    scores = accuracy(nn.Identity(), [(logits, split.test_targets)])
    parameters = sum(p.numel() for p in student.parameters())
    clips = [clip for clip in read_clips(options.data) if clip.fold in TRAIN_FOLDS]
    texts = {
        "config.json": json.dumps(hub_config(config), indent=2) + "\n",
        "preprocessor_config.json": json.dumps(hub_preprocessor(config), indent=2) + "\n",
        "ATTRIBUTION.md": attribution(clips),
        "README.md": model_card(config, parameters, scores, len(split.test_targets), int(state["epoch"])),
    }
    for name, text in texts.items():
        (options.out / name).write_text(text, encoding="utf-8")
    print(f"after {state['epoch']} epochs: {scores[0]:.1%} top-1, {scores[1]:.1%} top-5 on fold 4")
    difference = (transformers_logits(options.out, split) - logits).abs().max()
    print(f"largest difference from transformers: {float(difference):.2e}")


if __name__ == "__main__":
    main()

"""Write the trained student as a Hugging Face folder: what `astfast.load()` ships, and what transformers reads too.

Weights are rounded to float16; the accuracy in the model card is that of the rounded weights on the unseen fold.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from pathlib import Path

import torch
from esc50_data import TRAIN_FOLDS, Clip, Split, read_clips
from student import Student, student_config
from torch import Tensor, nn
from training import accuracy, load_checkpoint

from astfast.models.ast.config import AstConfig
from astfast.models.ast.family import AST
from astfast.models.base import Model
from astfast.models.export import write_folder


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
    model = Model(AST, config, student.requires_grad_(False).weights())
    write_folder(model, options.out, dtype="float16", force=True)
    logits = torch.cat([student(spectrograms) for spectrograms, _ in split.test_batches()])  # [373, 50]
    scores = accuracy(nn.Identity(), [(logits, split.test_targets)])
    parameters = sum(p.numel() for p in student.parameters())
    clips = [clip for clip in read_clips(options.data) if clip.fold in TRAIN_FOLDS]
    texts = {
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

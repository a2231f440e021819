"""Choose the five recordings of samples/ from the unseen fold: per class, the CC0 clip that the model is surest of."""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

import torch
from esc50_data import TEST_FOLD, Clip, Split, read_clips
from student import Student, student_config
from training import load_checkpoint

README = """# Five recordings to try

Real five-second recordings from the Freesound project by way of ESC-50 (K. J. Piczak, ACM Multimedia 2015), 16 kHz mono
Ogg Vorbis, all put in the public domain (CC0) by their authors. They come from fold 4, so neither they nor any other
part of their source recordings were in the built-in model's training. They were **chosen among the recordings that it
gets right**, the surest of each class: they show what tags look like, and measure nothing. What it gets wrong is in
[its card](../astfast/data/builtin/README.md). `labels.csv` has the right answers; `make demo` compares.

| file | class | author | source | name in ESC-50 | licence |
|---|---|---|---|---|---|
"""


def surest(student: Student, split: Split, clips: list[Clip], wanted: list[str]) -> list[tuple[float, Clip]]:
    """Of each wanted class, the CC0 clip whose class has the highest probability, with that probability."""
    with torch.no_grad():
        scores = torch.cat([student(spectrograms).softmax(1) for spectrograms, _ in split.test_batches()])
    found = []
    for label in wanted:
        candidates = [
            (float(row[clip.target]), i)
            for i, (clip, row) in enumerate(zip(clips, scores, strict=True))
            if clip.category == label and clip.license == "CC0" and int(row.argmax()) == clip.target
        ]
        if candidates:
            score, i = max(candidates)
            found.append((score, clips[i]))
    return found


def main() -> None:
    """Copy the chosen recordings and write labels.csv and README.md beside them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with clips.csv and audio/")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the log-mels")
    parser.add_argument("--checkpoint", type=Path, required=True, help="student.pt")
    parser.add_argument("--out", type=Path, required=True, help="samples/")
    parser.add_argument("--classes", nargs="+", default=["dog", "rooster", "rain", "church_bells", "crying_baby"])
    options = parser.parse_args()
    split = Split(options.data, options.cache)
    state = load_checkpoint(options.checkpoint)
    if state is None:
        raise FileNotFoundError(f"{options.checkpoint}: run student.py first")
    student = Student(student_config(split.labels, split.mean, split.std)).eval()
    student.load_state_dict(state["average"])
    clips = [clip for clip in read_clips(options.data) if clip.fold == TEST_FOLD]
    chosen = surest(student, split, clips, options.classes)
    options.out.mkdir(parents=True, exist_ok=True)
    readme, rows = README, [["filename", "label"]]
    for score, clip in chosen:
        name = f"{clip.category}.ogg"
        shutil.copyfile(options.data / "audio" / clip.filename, options.out / name)
        readme += f"| {name} | {clip.category} | {clip.author} | <{clip.source}> | {clip.filename} | {clip.license} |\n"
        rows.append([name, clip.category])
        print(f"{name}: {score:.2f}")
    (options.out / "README.md").write_text(readme, encoding="utf-8")
    with (options.out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()

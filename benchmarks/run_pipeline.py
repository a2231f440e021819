"""Speed of the pipeline from audio files to tags, stage by stage and as a whole.

python -m benchmarks.run_pipeline [--geometry ast-base] [--precision bfloat16] [--files 8]

Stages of one file: decode (and down-mix), resample, front end, model. Then `classify` of one file, and `stream` over
many, which decodes while the model runs: its rate against the model's alone is the cost of the rest. The transformers
pipeline gets decoded samples at the model's rate, the most favourable input that it accepts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import astfast
from astfast.audio.inputs import load_audio
from astfast.benchmarking.peers import missing_packages, quiet_transformers
from astfast.benchmarking.timing import spread, time_interleaved
from benchmarks import arguments, models
from benchmarks.rows import Rows

# name -> (file extension, soundfile subtype, sampling rate, channels)
FORMATS = {
    "16 kHz WAV": ("wav", "PCM_16", 16_000, 1),
    "44.1 kHz stereo FLAC": ("flac", "PCM_16", 44_100, 2),
    "44.1 kHz stereo Vorbis": ("ogg", "VORBIS", 44_100, 2),
    "48 kHz stereo MP3": ("mp3", "MPEG_LAYER_III", 48_000, 2),
}


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    folder = models.checkpoint(options.geometry, options.cache)
    tagger = astfast.load(folder, device="cpu", precision=options.precision, threads=options.threads)
    tagger.warmup()
    with Rows("pipeline", options.out, threads=options.threads) as rows:
        for name in FORMATS:
            one_format(name, tagger, folder, options, rows)


def one_format(name: str, tagger: astfast.Tagger, folder: Path, options: argparse.Namespace, rows: Rows) -> None:
    """Writes a row for each stage."""
    files = write_files(name, tagger, options)
    rate = tagger.config.front_end.sampling_rate
    _, _, file_rate, _ = FORMATS[name]
    decoded = load_audio(files[0], target_rate=file_rate)
    wave = load_audio(files[0], target_rate=rate).wave
    features = tagger.features(wave, sampling_rate=rate)
    stages: dict[str, Callable[[], Any]] = {
        "decode": lambda: load_audio(files[0], target_rate=file_rate),
        "resample": lambda: load_audio(decoded.wave, sampling_rate=file_rate, target_rate=rate),
        "front end": lambda: tagger.features(wave, sampling_rate=rate),
        "model": lambda: tagger.forward(features),
        "classify, one file": lambda: tagger.classify(files[0]),
        "stream, a file": lambda: list(tagger.stream(files)),
    }
    labels = [tag["label"] for tag in tagger.classify(files[0])]
    if not missing_packages("transformers"):
        stages["transformers pipeline"] = pipeline = _transformers_pipeline(folder, wave, rate, options.threads)
        agrees = pipeline()[0]["label"] == labels[0]
    times = time_interleaved(list(stages.values()), options.turns, options.seconds)
    for stage, seconds in zip(stages, times, strict=True):
        per_file = [t / len(files) for t in seconds] if stage.startswith("stream") else seconds
        row = rows.write(
            geometry=options.geometry,
            format=name,
            stage=stage,
            engine="transformers" if stage.startswith("transformers") else "astfast",
            dtype="float32" if stage.startswith("transformers") else tagger.backend.split()[-1],
            isa=tagger.hardware,
            shape=[len(decoded.wave)],
            seconds=spread(per_file),
            **({"first_tag_agrees": agrees} if stage.startswith("transformers") else {}),
        )
        print(f"{name:<24} {stage:<24} {1e3 * row['seconds'][1]:9.2f} ms", flush=True)


def write_files(name: str, tagger: astfast.Tagger, options: argparse.Namespace) -> list[Path]:
    """Clips that fill the model's input, as files of one format."""
    extension, subtype, rate, channels = FORMATS[name]
    folder = options.cache / "clips" / options.geometry
    folder.mkdir(parents=True, exist_ok=True)
    seconds = tagger.config.front_end.input_samples / tagger.config.front_end.sampling_rate
    rng = np.random.default_rng(0)
    files = []
    for index in range(options.files):
        t = np.arange(int(seconds * rate)) / rate
        tone = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 4000) * t)
        samples = tone[:, None] + 0.05 * rng.standard_normal((len(t), channels))  # [samples, channels]
        path = folder / f"{rate}_{index}.{extension}"
        soundfile.write(path, samples, rate, subtype=subtype)
        files.append(path)
    return files


def _transformers_pipeline(folder: Path, wave: Any, rate: int, threads: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(threads)
    tagger = quiet_transformers().pipeline("audio-classification", model=str(folder), device="cpu")
    return lambda: tagger({"raw": wave.copy(), "sampling_rate": rate})


def _parser() -> argparse.ArgumentParser:
    parser = arguments.parser(__doc__, turns=5, seconds=0.2)
    parser.add_argument("--geometry", default="ast-base", choices=models.GEOMETRIES)
    parser.add_argument("--precision", default="bfloat16", help="of astfast (default: bfloat16)")
    parser.add_argument("--files", type=int, default=8, metavar="N", help="for stream (default: 8)")
    return parser


if __name__ == "__main__":
    main()

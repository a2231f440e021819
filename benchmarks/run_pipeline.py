"""Speed of the pipeline from audio files to tags, stage by stage and as a whole.

python -m benchmarks.run_pipeline [--geometry built-in] [--precision bfloat16] [--files 64] [--formats NAME …]

Stages, each by itself: list, decode (and down-mix), resample, front end, model, write. Then all of them: `classify` of
one file, and runs (`tag_files` into a folder) that decode on threads and in processes, in turns with the model alone on
the same batches: `of_model` is the share of its rate. The transformers pipeline gets decoded samples at the rate of the
model, the most favourable input that it accepts, clip by clip. Last the feed path: decode, down-mix, resample.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import astfast
from astfast.audio.inputs import load_audio
from astfast.benchmarking.peers import missing_packages, quiet_transformers
from astfast.benchmarking.timing import speedup, spread, time_interleaved
from astfast.engines.base import Engine
from astfast.tagging.pipeline import read_options
from astfast.tagging.tagger import opened
from astfast.volume.items import Roots
from astfast.volume.journal import Journal
from astfast.volume.reading import Reader
from astfast.volume.records import About, Record, Row
from astfast.volume.sources import Sources
from benchmarks import arguments, models
from benchmarks.rows import Rows

# name -> (file extension, soundfile subtype, sampling rate, channels)
FORMATS = {
    "16 kHz WAV": ("wav", "PCM_16", 16_000, 1),
    "44.1 kHz stereo WAV": ("wav", "PCM_16", 44_100, 2),
    "44.1 kHz stereo FLAC": ("flac", "PCM_16", 44_100, 2),
    "44.1 kHz mono Vorbis": ("ogg", "VORBIS", 44_100, 1),
    "44.1 kHz stereo Vorbis": ("ogg", "VORBIS", 44_100, 2),
    "48 kHz stereo MP3": ("mp3", "MPEG_LAYER_III", 48_000, 2),
}
BUILT_IN = "built-in"
DECODING = ("threads", "processes")
WORKERS = (1, 2)  # of the feed path
FEED_CLIPS = 600  # of one turn of the feed path
MODEL, RUN = "model alone, a file", "run with {}, a file"
TRANSFORMERS, CLIPS = "transformers pipeline, a clip", 4  # of a turn
Runs = dict[str, Callable[[], Any]]


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    folder = (
        built_in(options.cache) if options.geometry == BUILT_IN else models.checkpoint(options.geometry, options.cache)
    )
    tagger = astfast.load(folder, device="cpu", precision=options.precision, threads=options.threads)
    tagger.warmup()
    with Rows("pipeline", options.out, threads=options.threads) as rows:
        for name in options.formats:
            one_format(name, tagger, folder, options, rows)


def built_in(cache: Path) -> Path:
    """The built-in model as a folder that transformers loads too."""
    folder = cache / BUILT_IN
    if not folder.exists():
        astfast.convert(None, folder)
    return folder


def one_format(name: str, tagger: astfast.Tagger, folder: Path, options: argparse.Namespace, rows: Rows) -> None:
    """Writes a row for each stage, for whole runs, and for the feed path."""
    engine, _ = opened(tagger)
    files = write_files(name, tagger, options)
    common = {
        "geometry": options.geometry,
        "format": name,
        "engine": "astfast",
        "dtype": tagger.backend.split()[-1],
        "isa": tagger.hardware,
        "shape": [round(soundfile.info(files[0]).duration * FORMATS[name][2])],
    }

    def write(stage: str, seconds: Sequence[float], **fields: Any) -> None:
        row = rows.write(**{**common, "stage": stage, "seconds": spread(seconds), **fields})
        print(f"{name:<24} {stage:<28} {1e3 * row['seconds'][1]:9.3f} ms", flush=True)

    with tempfile.TemporaryDirectory() as out:
        single, whole = stages(name, tagger, files, Path(out)), runs(tagger, engine, files, Path(out))
        peer = transformers_pipeline(tagger, folder, files[0], options.threads)
        alone = time_interleaved([*single.values()], options.turns, options.seconds)
        together = time_interleaved([*whole.values(), *peer.values()], options.turns, 0.0)
    for stage, seconds in zip(single, alone, strict=True):
        write(stage, [t / len(files) for t in seconds] if stage in ("list", "write") else seconds)
    times = {stage: [t / len(files) for t in seconds] for stage, seconds in zip(whole, together, strict=False)}
    for stage, seconds in times.items():
        write(stage, seconds, of_model=speedup(times[MODEL], seconds))
    for stage, loop in peer.items():
        seconds = [t / CLIPS for t in together[-1]]
        agrees = loop()[0][0]["label"] == tagger.classify(files[0])[0]["label"]
        faster = {decoding: speedup(seconds, times[RUN.format(decoding)]) for decoding in DECODING}
        write(stage, seconds, engine="transformers", dtype="float32", first_tag_agrees=agrees, runs_are_faster=faster)
    for decoding in DECODING:
        for workers in WORKERS:
            turns = [feed(engine, files, workers, decoding == "processes") for _ in range(options.turns)]
            of_this = [own for _, own in turns]
            about = {"decoding": decoding, "workers": workers, "own_cpu_seconds": spread(of_this)}
            write(f"feed, {workers} {decoding}", [seconds for seconds, _ in turns], **about)


def stages(name: str, tagger: astfast.Tagger, files: list[Path], out: Path) -> Runs:
    """Each stage by itself, of the first file; ``list`` and ``write`` of all."""
    file_rate, rate = FORMATS[name][2], tagger.config.front_end.sampling_rate
    decoded = load_audio(files[0], target_rate=file_rate)
    wave = load_audio(files[0], target_rate=rate, max_samples=tagger.config.front_end.input_samples).wave
    features = tagger.features(wave, sampling_rate=rate)
    tags = [(i, 0.5) for i in range(5)]
    records = [Record(str(file), str(file), "", {}, [Row(0.0, 10.0, tags)], seconds=10.0) for file in files]
    labels = tuple(map(str, range(5)))

    def write() -> None:
        journal = Journal(out / "written", About(labels, rate, {}), ["jsonl"], overwrite=True)
        for record in records:
            journal.add(record)
        journal.close(True, {"finished": True})
        journal.release()

    return {
        "list": lambda: list(Sources(map(str, files), Roots())),
        "decode": lambda: load_audio(files[0], target_rate=file_rate),
        "resample": lambda: load_audio(decoded.wave, sampling_rate=file_rate, target_rate=rate),
        "front end": lambda: tagger.features(wave, sampling_rate=rate),
        "model": lambda: tagger.forward(features),
        "write": write,
        "classify, one file": lambda: tagger.classify(files[0]),
    }


def runs(tagger: astfast.Tagger, engine: Engine, files: list[Path], out: Path) -> Runs:
    """The model alone over all clips, then runs of all files."""
    size, rate = engine.preferred_batch_size, engine.sampling_rate
    waves = [load_audio(file, target_rate=rate, max_samples=engine.input_samples).wave for file in files]

    def model() -> None:
        for start in range(0, len(waves), size):
            engine.top_k(waves[start : start + size], 5)

    def run(decoding: str) -> Any:
        return astfast.tag_files(files, out / decoding, tagger=tagger, decoding=decoding, overwrite=True)

    return {
        MODEL: model,
        RUN.format("threads"): lambda: run("threads"),
        RUN.format("processes"): lambda: run("processes"),
    }


def transformers_pipeline(tagger: astfast.Tagger, folder: Path, file: Path, threads: int) -> Runs:
    """The transformers pipeline on a decoded clip, CLIPS times; nothing where transformers is not installed."""
    if missing_packages("transformers"):
        return {}
    import torch

    torch.set_num_threads(threads)
    front_end = tagger.config.front_end
    wave = load_audio(file, target_rate=front_end.sampling_rate, max_samples=front_end.input_samples).wave
    pipeline = quiet_transformers().pipeline("audio-classification", model=str(folder), device="cpu")
    clip = {"raw": wave, "sampling_rate": front_end.sampling_rate}
    return {TRANSFORMERS: lambda: [pipeline(dict(clip)) for _ in range(CLIPS)]}


def feed(engine: Engine, files: list[Path], workers: int, processes: bool) -> tuple[float, float]:
    """Seconds a clip of the feed path from its second batch on, and how many of this process's CPU time.

    With ``processes``, the latter bounds what a clip holds of the interpreter's lock.
    """
    names = [str(file) for file in files]
    items = (item for _ in range(-(-FEED_CLIPS // len(names))) for item in Sources(names, Roots()))
    reader = Reader(items, read_options(engine, None), workers, 2 * workers, processes=processes)
    batches = reader.batches()
    try:
        for part in next(batches):
            reader.finished(part.input)
        start, own, clips = time.perf_counter(), time.process_time(), 0
        for batch in batches:
            for part in batch:
                reader.finished(part.input)
                clips += 1
        return (time.perf_counter() - start) / clips, (time.process_time() - own) / clips
    finally:
        reader.close()


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
        path = folder / f"{rate}_{channels}_{index}.{extension}"
        soundfile.write(path, samples, rate, subtype=subtype)
        files.append(path)
    return files


def _parser() -> argparse.ArgumentParser:
    parser = arguments.parser(__doc__, turns=3, seconds=0.1)
    parser.add_argument("--geometry", default=BUILT_IN, choices=(BUILT_IN, *models.GEOMETRIES))
    parser.add_argument("--precision", default="bfloat16", help="of astfast (default: bfloat16)")
    parser.add_argument("--files", type=int, default=64, metavar="N", help="of a run (default: 64)")
    parser.add_argument("--formats", nargs="+", default=[*FORMATS], choices=FORMATS, metavar="NAME")
    return parser


if __name__ == "__main__":
    main()

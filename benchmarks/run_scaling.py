"""Scaling of astfast over threads and batch sizes, and its log-mel front end against torchaudio on one thread.

python -m benchmarks.run_scaling [--geometry ast-base] [--precision bfloat16] [--batch 1 --batch 64]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

import astfast
from astfast import backends
from astfast.benchmarking.compare import precisions_of
from astfast.benchmarking.peers import missing_packages
from astfast.benchmarking.timing import speedup, spread, time_interleaved
from astfast.models.ast.config import AstConfig
from benchmarks import arguments, models
from benchmarks.rows import Rows


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    config = models.GEOMETRIES[options.geometry].model_config()
    with Rows("scaling", options.out, geometry=options.geometry) as rows:
        for precision in options.precision or ("float32", "bfloat16"):
            threads(precision, config, options, rows)
            batches(precision, config, options, rows)
        if not missing_packages("torchaudio"):
            log_mel(config, options, rows)


def threads(precision: str, config: AstConfig, options: argparse.Namespace, rows: Rows) -> None:
    """Writes a row for each number of threads: one clip, interleaved."""
    counts = range(1, options.threads + 1)
    taggers = [_load(options, precision, count) for count in counts]
    features = models.features(1, config)
    if len({tagger.forward(features).tobytes() for tagger in taggers}) != 1:
        raise AssertionError(f"{precision} logits depend on the number of threads")
    times = time_interleaved([partial(tagger.forward, features) for tagger in taggers], options.turns, options.seconds)
    for count, tagger, own in zip(counts, taggers, times, strict=True):
        row = rows.write(
            measure="threads",
            engine="astfast",
            dtype=precision,
            isa=tagger.hardware,
            threads=count,
            shape=[*features.shape],
            clips_per_second=spread([1 / t for t in own]),
            over_one_thread=speedup(times[0], own),
        )
        print(f"{precision:<9} {count} threads: {row['over_one_thread'][1]:.2f}x one", flush=True)


def batches(precision: str, config: AstConfig, options: argparse.Namespace, rows: Rows) -> None:
    """Writes a row for each batch size: clips per second, against those of one clip per call, interleaved."""
    tagger = _load(options, precision, options.threads)
    sizes = sorted({1, *(options.batch or (1, 8, 64))})
    distinct = models.features(min(8, max(sizes)), config)
    inputs = [np.resize(distinct, (size, *distinct.shape[1:])) for size in sizes]
    alone = tagger.forward(inputs[0])
    if any(tagger.forward(batch)[0].tobytes() != alone[0].tobytes() for batch in inputs):
        raise AssertionError(f"{precision} logits depend on the batch")
    times = time_interleaved([partial(tagger.forward, batch) for batch in inputs], options.turns, options.seconds)
    for size, own in zip(sizes, times, strict=True):
        row = rows.write(
            measure="batch",
            engine="astfast",
            dtype=precision,
            isa=tagger.hardware,
            threads=options.threads,
            batch=size,
            shape=[size, *distinct.shape[1:]],
            clips_per_second=spread([size / t for t in own]),
            over_batch_1=speedup([size * t for t in times[0]], own),
        )
        print(f"{precision:<9} batch {size}: {row['over_batch_1'][1]:.3f} of the rate at 1", flush=True)


def log_mel(config: AstConfig, options: argparse.Namespace, rows: Rows) -> None:
    """Writes a row: one clip on one thread, against torchaudio.compliance.kaldi.fbank."""
    import torch
    import torchaudio

    front_end = config.front_end
    ops = backends.choose("auto", "cpu", 1).open(config.num_attention_heads, "float32")
    wave = models.waves(1, config)[0]
    out = np.empty((1, front_end.max_length, front_end.num_mel_bins), np.float32)
    torch.set_num_threads(1)

    def ours() -> Any:
        return ops.to_host(ops.log_mel([wave], front_end, out))

    def fbank() -> Any:
        return torchaudio.compliance.kaldi.fbank(
            torch.from_numpy(wave)[None],
            htk_compat=True,
            sample_frequency=front_end.sampling_rate,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=front_end.num_mel_bins,
            dither=0.0,
            frame_shift=10,
        )

    expected = (fbank().numpy()[: front_end.max_length] - front_end.shift) * front_end.scale
    error = float(np.abs(ours()[0, : len(expected)] - expected).max())
    if error > 1e-3:
        raise AssertionError(f"log-mel is {error} from torchaudio's")
    mine, theirs = time_interleaved([ours, fbank], options.turns, options.seconds)
    row = rows.write(
        measure="log-mel",
        engine="astfast",
        dtype="float32",
        isa=ops.hardware,
        threads=1,
        shape=[len(wave)],
        max_error=error,
        seconds=spread(mine),
        torchaudio_seconds=spread(theirs),
        speedup=speedup(theirs, mine),
    )
    print(f"log-mel {1e3 * row['seconds'][1]:.3f} ms, {row['speedup'][1]:.1f}x torchaudio", flush=True)


def _load(options: argparse.Namespace, precision: str, count: int) -> astfast.Tagger:
    folder = models.checkpoint(options.geometry, options.cache)
    return astfast.load(folder, device="cpu", precision=precision, threads=count)


def _parser() -> argparse.ArgumentParser:
    parser = arguments.parser(__doc__, turns=5, seconds=0.5)
    parser.add_argument("--geometry", default="ast-base", choices=models.GEOMETRIES)
    parser.add_argument(
        "--precision", action="append", choices=precisions_of("cpu"), help="default: float32 and bfloat16"
    )
    parser.add_argument("--batch", action="append", type=int, metavar="N", help="beside 1 (default: 8 and 64)")
    return parser


if __name__ == "__main__":
    main()

"""A whole process that tags one clip: imports, loads a checkpoint, prints the tags, its CPU time and peak memory
and, of astfast, how long loading the model took without imports, as JSON.

python -m benchmarks.one_clip ENGINE PRECISION MODEL CLIP

ENGINE is astfast, transformers or openvino; MODEL the folder of a checkpoint, or an exported model for openvino.
run_process.py times it from outside.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

THREADS = 2


def astfast_tags(precision: str, folder: str, clip: str) -> dict[str, Any]:
    import astfast
    import astfast.engines.load
    import astfast.tagging.tagger

    start = time.perf_counter()  # imports of these and of numpy apart
    tagger = astfast.load(folder, device="cpu", precision=precision, threads=THREADS)
    backend = tagger.backend  # loads the model
    ready = time.perf_counter() - start
    return {"tags": [tag["label"] for tag in tagger.classify(clip)], "ready_seconds": ready, "backend": backend}


def transformers_tags(precision: str, folder: str, clip: str) -> dict[str, Any]:
    import soundfile
    import torch
    from transformers import pipeline

    torch.set_num_threads(THREADS)
    samples, rate = soundfile.read(clip, dtype="float32")
    tagger = pipeline("audio-classification", model=folder, device="cpu", dtype=getattr(torch, precision))
    return {"tags": [tag["label"] for tag in tagger({"raw": samples, "sampling_rate": rate})]}


def openvino_tags(precision: str, model: str, clip: str) -> dict[str, Any]:
    """With the front end of transformers: OpenVINO has none."""
    import openvino
    import soundfile
    from transformers import ASTFeatureExtractor

    from astfast.benchmarking.peers import openvino_settings

    samples, rate = soundfile.read(clip, dtype="float32")
    compiled = openvino.Core().compile_model(model, "CPU", openvino_settings(precision, THREADS, batch=1))
    frames = compiled.input(0).partial_shape[1].get_length()
    features = ASTFeatureExtractor(max_length=frames)(samples, sampling_rate=rate, return_tensors="np")
    logits = compiled(features["input_values"])[0][0]
    return {"tags": [f"LABEL_{index}" for index in logits.argsort()[::-1][:5]]}


ENGINES = {"astfast": astfast_tags, "transformers": transformers_tags, "openvino": openvino_tags}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    for name in ("precision", "model", "clip"):
        parser.add_argument(name)
    options = parser.parse_args(argv)
    answer = ENGINES[options.engine](options.precision, options.model, options.clip)
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    used = {"cpu_seconds": time.process_time(), "peak_bytes": 1024 * int(peak[1])}
    print(json.dumps({**answer, **used}), flush=True)


if __name__ == "__main__":
    main()

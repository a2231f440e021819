"""A whole process for one clip: imports, loads a checkpoint, tags the clip, prints its tags and its peak memory.

python benchmarks/one_clip.py ENGINE PRECISION MODEL CLIP, where ENGINE is astfast, transformers or openvino and MODEL a
checkpoint's folder, for openvino an exported model. run_process.py times it from outside.
"""

import json
import re
import sys
from pathlib import Path


def astfast_tags(precision: str, folder: str, clip: str) -> list[str]:
    import astfast

    tagger = astfast.load(folder, device="cpu", precision=precision, threads=2)
    return [tag["label"] for tag in tagger.classify(clip)]


def transformers_tags(precision: str, folder: str, clip: str) -> list[str]:
    import soundfile
    import torch
    from transformers import pipeline

    torch.set_num_threads(2)
    samples, rate = soundfile.read(clip, dtype="float32")
    tagger = pipeline("audio-classification", model=folder, device="cpu", dtype=getattr(torch, precision))
    return [tag["label"] for tag in tagger({"raw": samples, "sampling_rate": rate})]


def openvino_tags(precision: str, model: str, clip: str) -> list[str]:
    """With the front end of transformers, which is what its users take."""
    import openvino
    import soundfile
    from transformers import ASTFeatureExtractor

    samples, rate = soundfile.read(clip, dtype="float32")
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 2}
    if precision != "int8":
        hints["INFERENCE_PRECISION_HINT"] = {"float32": "f32", "bfloat16": "bf16"}[precision]
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    frames = compiled.input(0).partial_shape[1].get_length()
    features = ASTFeatureExtractor(max_length=frames)(samples, sampling_rate=rate, return_tensors="np")
    logits = compiled(features["input_values"])[0][0]
    return [f"LABEL_{index}" for index in logits.argsort()[::-1][:5]]


ENGINES = {"astfast": astfast_tags, "transformers": transformers_tags, "openvino": openvino_tags}


def main() -> None:
    engine, precision, folder, clip = sys.argv[1:]
    tags = ENGINES[engine](precision, folder, clip)
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    print(json.dumps({"tags": tags, "peak_bytes": 1024 * int(peak[1])}), flush=True)


if __name__ == "__main__":
    main()

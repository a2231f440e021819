"""How far int8 logits are from float32's on weights that make int8 hard, next to OpenVINO's int8.

python -m benchmarks.run_accuracy [--weights massive] [--clips 6] [--peer "openvino int8"]

Weights are random, with small biases and positions and a large patch projection, so that logits tell clips apart;
errors are given against that spread as well. Those of "trained" are the built-in model's (benchmarks/widened.py).
Nothing is timed: the machine may be busy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astfast.benchmarking.compare import astfast_engines
from astfast.engines.base import FloatArray
from astfast.models import recognise
from benchmarks import arguments, models, peers, widened
from benchmarks.rows import Rows

BEST = 5  # scores that are compared


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments.parser(__doc__, turns=1, seconds=0.0)
    parser.add_argument("--geometry", default="ast-base", choices=models.GEOMETRIES)
    parser.add_argument("--weights", action="append", choices=(*WEIGHTS, TRAINED), help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default: 0)")
    parser.add_argument("--clips", type=arguments.clips, default=6, metavar="N", help="clips to compare (default: 6)")
    parser.add_argument("--peer", action="append", choices=peers.PEERS, default=[], help="an engine to compare with")
    options = parser.parse_args(argv)
    trained = [TRAINED] if options.geometry in widened.FITTING else []
    with Rows("accuracy", options.out, threads=options.threads) as rows:
        for weights in options.weights or (*WEIGHTS, *trained):
            folder = checkpoint(options.geometry, weights, options.cache, options.seed)
            config: Any = recognise.load(folder).config
            features = models.features(options.clips, config)
            setup = peers.Setup(folder, config, 1, options.threads, options.cache)
            exact, *ours = (
                np.concatenate([engine.run(clip[None]) for clip in features])
                for engine in astfast_engines(folder, ("float32", "int8"), options.threads, print)
            )
            found = {"astfast int8": ours[0]}
            for engine in peers.make(options.peer, setup):
                found[engine.name] = np.concatenate([engine.run(clip[None]) for clip in features])
            for name, logits in found.items():
                named = {"geometry": options.geometry, "weights": weights, "seed": options.seed, "engine": name}
                row = rows.write(**named, **errors(logits, exact))
                print(
                    f"{weights:<8} {name:<20} rms error {row['rms_error']:.4f}, over the spread between clips "
                    f"{row['rms_over_spread']:.3f}, overlap of the {BEST} best {row['overlap']:.2f}",
                    flush=True,
                )


def errors(logits: FloatArray, exact: FloatArray) -> dict[str, float]:
    """rms error of logits [clips, labels]; the same over the standard deviation of a label's logit between clips; the
    share of the best labels of a clip that are among the best of the exact ones."""
    rms = float(np.sqrt(np.square(logits - exact, dtype=np.float64).mean()))
    spread = float(np.sqrt(exact.var(axis=0, dtype=np.float64).mean()))
    best, exact_best = (np.argsort(-x, axis=1)[:, :BEST] for x in (logits, exact))
    overlap = float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(best, exact_best, strict=True)]))
    return {"rms_error": rms, "rms_over_spread": rms / spread, "spread": spread, "overlap": overlap}


def _plain(name: str, parameter: Any) -> None:
    pass


def _massive(name: str, parameter: Any) -> None:
    """Two tokens of the stream hundreds of times the rest, in two channels each."""
    if name.endswith("position_embeddings"):
        parameter[0, 1, [7, -9]] = parameter.new_tensor([1000.0, -1000.0])
        parameter[0, -3, [7, -30]] = parameter.new_tensor([-1000.0, 1000.0])


def _neurons(name: str, parameter: Any) -> None:
    """Ten neurons of each MLP thirty times the others."""
    if ".fc1." in name:
        parameter[::307][:10] *= 30.0


def _outliers(name: str, parameter: Any) -> None:
    """Channels of the LayerNorms before attention, and of the stream, many times the others."""
    if name.endswith("layernorm_before.weight"):
        parameter[::97] *= 20.0
    if name.endswith("position_embeddings"):
        parameter[..., ::131] += 30.0


WEIGHTS: dict[str, Callable[[str, Any], None]] = {
    "plain": _plain,
    "massive": _massive,
    "neurons": _neurons,
    "outliers": _outliers,
}
TRAINED = "trained"


def checkpoint(geometry: str, weights: str, cache: Path, seed: int) -> Path:
    """Folder of a Hugging Face checkpoint with these weights, written once and kept in ``cache``."""
    if weights == TRAINED:
        return widened.checkpoint(geometry, cache)
    folder = cache / "checkpoints" / f"{geometry}-accuracy-{weights}-{seed}"
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    torch.manual_seed(seed)
    sizes = models.GEOMETRIES[geometry]
    model: Any = ASTForAudioClassification(ASTConfig(**vars(sizes)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            normal = torch.randn_like(parameter)
            if "layernorm" in name or ".norm" in name:
                parameter.copy_(torch.rand_like(parameter) + 0.5 if name.endswith("weight") else 0.1 * normal)
            elif name.endswith("weight"):
                gain = 3.0 if "patch_embeddings" in name else 1.5 if ".q_proj." in name or ".k_proj." in name else 1.0
                parameter.copy_(gain * normal / parameter[0].numel() ** 0.5)
            else:  # biases, tokens, positions
                parameter.copy_(0.05 * normal)
            WEIGHTS[weights](name, parameter)
    model.save_pretrained(folder)
    ASTFeatureExtractor(max_length=sizes.max_length).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()

"""precision="auto": the fastest precision whose scores were seen to stay within 0.01 of float32's. int8, which must be
asked for, is checked alike, with a warning where scores are further than 0.05 from float32's.

The check runs the model in both precisions on fixed synthetic clips. Errors of their logits count as they would where
the best score is a half, too: a model that is sure of these clips is less sure of others. The largest difference is
kept in the user's cache folder, under the checkpoint's fingerprint, the backend and the version of astfast. On a CPU it
costs neither a second model in memory nor whole clips: in float32 a weight is packed when its op runs and forgotten
afterwards, and of a clip's tokens 32 are computed, of each clip others: fewer keys average less of their errors away,
so that over models the verdict is not the milder for it (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astfast import cache
from astfast.models.base import Model, ModelConfig
from astfast.ops import Array, Ops
from astfast.scores import activate
from astfast.version import __version__

TOLERANCE = 0.01  # of a score
INT8_TOLERANCE = 0.05
CHECKED_TOKENS = 32  # of a clip, those of all prefixes among them
LONGEST_PREFIX = 8  # tokens
CHECKED_FRAMES = 1_024  # of a model without tokens: the length of the published ones
FILE, FIELD = "precision.json", "largest difference"
SCALE_BITS = 24  # of the scale of logits
MAX_SAMPLES = 1 << 20  # of a clip of the check


def check_clips(config: ModelConfig) -> list[NDArray[np.float32]]:
    """Three fixed clips, as long as the input or MAX_SAMPLES: noise bursts, a chirp with harmonics, faint hum."""
    rate, samples = config.front_end.sampling_rate, min(config.front_end.input_samples, MAX_SAMPLES)
    t = np.arange(samples) / rate  # seconds
    noise = np.random.default_rng(0).standard_normal(samples)
    bursts = 0.3 * noise * np.exp(-6.0 * (t % 0.7))
    phase = 2.0 * np.pi * (120.0 * t + 140.0 * t * t / max(t[-1], 1.0))
    chirp = 0.2 * np.sin(phase) + 0.1 * np.sin(3.0 * phase) + 0.01 * noise
    hum = 0.002 * np.sin(2.0 * np.pi * 50.0 * t)
    return [clip.astype(np.float32) for clip in (bursts, chirp, hum)]


class PackedWhenUsed:
    """The ops of a backend on weights that are packed anew each time an op asks for them."""

    def __init__(self, ops: Ops) -> None:
        self._ops = ops

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ops, name)
        if name.startswith("pack_"):
            return lambda *weights, **options: _Unpacked(lambda: method(*weights, **options))
        if not callable(method):
            return method
        return lambda *args, **options: method(*(x.pack() if isinstance(x, _Unpacked) else x for x in args), **options)


class _Unpacked:
    def __init__(self, pack: Callable[[], Any]) -> None:
        self.pack = pack


class _FewTokens:
    """The ops of a backend, but that each clip is embedded as a row of ``kept``, a few of its tokens."""

    def __init__(self, ops: Ops, num_tokens: int, kept: NDArray[np.intp]) -> None:
        self._ops, self._num_tokens, self._kept = ops, num_tokens, kept  # kept: [B, CHECKED_TOKENS]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def patch_embed(self, spectrogram: Array, w: Any, out: Array) -> Array:
        whole = self._ops.empty((1, self._num_tokens, out.shape[-1]), "stream")
        for i, tokens in enumerate(self._kept):
            out[i] = self._ops.patch_embed(spectrogram[i : i + 1], w, whole)[0, tokens]
        return out


def checked_tokens(clips: int, num_tokens: int) -> NDArray[np.intp]:
    """The tokens [B, CHECKED_TOKENS] that are computed of clips of more: the prefixes, and patches by turns."""
    patches = np.linspace(LONGEST_PREFIX, num_tokens - 1, clips * (CHECKED_TOKENS - LONGEST_PREFIX)).astype(np.intp)
    return np.stack([np.concatenate([np.arange(LONGEST_PREFIX), patches[clip::clips]]) for clip in range(clips)])


def check_logits(model: Model, ops: Any, weights: Any) -> NDArray[np.float32]:
    """Logits [B, L] of ``check_clips`` on the CPU, from few of their tokens where the model embeds patches.

    Args:
        model: whose family and config are used.
        ops: the CPU backend's, or ``PackedWhenUsed`` of them.
        weights: as ``ops`` packed them.
    """
    config = model.config
    if "tokens" not in model.family.workspace(config):  # a model of images, which runs at any length
        config = config.at_length(min(config.max_length, CHECKED_FRAMES))
    clips = check_clips(config)
    buffers, tokens = model.family.workspace(config), config.num_tokens
    if "tokens" in buffers and tokens > CHECKED_TOKENS:
        ops = _FewTokens(ops, tokens, checked_tokens(len(clips), tokens))
        buffers = {
            name: ((CHECKED_TOKENS, *shape[1:]) if shape[0] == tokens and kind != "output" else shape, kind)
            for name, (shape, kind) in buffers.items()
        }
    ws = {name: ops.empty((len(clips), *shape), kind) for name, (shape, kind) in buffers.items()}
    spectrogram = ops.log_mel(clips, config.front_end, ws["spectrogram"])
    logits: NDArray[np.float32] = ops.to_host(model.family.forward(ops, weights, spectrogram, ws))
    return logits


def difference(fast: NDArray[np.float32], exact: NDArray[np.float32], activation: str) -> float:
    """The largest difference of the scores of two sets of logits [B, L]; infinity where one is not finite.

    A score near 1 hides an error that another clip of the same model shows. So clips are also compared with the same
    errors of their logits and a best score of a half at most.
    """
    if not (np.isfinite(fast).all() and np.isfinite(exact).all()):
        return float("inf")
    unsure = _unsure(exact, activation)
    pairs = (fast, exact), ((unsure + (fast - exact)).astype(np.float32), unsure)
    return max(float(np.abs(activate(a, activation) - activate(b, activation)).max()) for a, b in pairs)


def _unsure(logits: NDArray[np.float32], activation: str) -> NDArray[np.float32]:
    """Logits [B, L] of which no score is above a half: those of softmax are scaled down, of sigmoid shifted."""
    best: NDArray[np.float32] = logits.max(axis=1, keepdims=True)
    if activation == "sigmoid":
        shifted: NDArray[np.float32] = logits - np.maximum(best, np.float32(0.0))
        return shifted
    if activation == "none":
        return logits
    low, high = np.zeros_like(best), np.ones_like(best)  # scales: a best score of at most a half, and above
    for _ in range(SCALE_BITS):
        scale = np.asarray((low + high) / 2, np.float32)
        fits = activate(scale * logits, activation).max(axis=1, keepdims=True) <= 0.5
        low, high = np.where(fits, scale, low), np.where(fits, high, scale)
    scaled: NDArray[np.float32] = low * logits
    return scaled


def within_tolerance(largest: float) -> bool:
    """Whether "auto" takes a precision whose scores are so far from float32's."""
    return largest <= TOLERANCE


def remembered(key: str) -> float | None:
    """The difference that was found under a key; None where there is none yet."""
    seen = cache.read(FILE).get(key)
    return float(seen[FIELD]) if isinstance(seen, dict) and isinstance(seen.get(FIELD), float) else None


def remember(key: str, model: str, found: float) -> None:
    """Keeps a difference in the cache, with the model's name."""
    cache.update(FILE, lambda all_known: all_known.update({key: {FIELD: found, "model": model}}))


def known() -> list[str]:
    """What was seen on this machine of the models of this version, one line each."""
    lines = []
    for key, seen in cache.read(FILE).items():
        version, *words = key.split(" ")
        told_of = isinstance(seen, dict) and isinstance(seen.get(FIELD), float)
        if version == __version__ and told_of and len(words) > 2:
            backend, precision, *hardware = words[:-1]
            where = " ".join([backend, *hardware])
            lines.append(f"{seen.get('model')}: {where} {told(precision, seen[FIELD])}")
    return lines


def told(precision: str, largest: float) -> str:
    """A precision and how its scores compare with float32's, for people."""
    tolerance = INT8_TOLERANCE if precision == "int8" else TOLERANCE
    side = "within" if largest <= tolerance else "not within"
    return f"{precision}'s scores are {side} {tolerance:g} of float32's on check inputs: {largest:.2g}"

"""Agreement of every backend and precision with float32 and with published logits: the work of ``astfast verify``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import astfast
from astfast import backends
from astfast.benchmarking.compare import AGREEMENT, logit_error
from astfast.catalogue import ANCHOR_CLIP, PublishedModel
from astfast.checkpoints import hub
from astfast.engines.auto_precision import check_clips
from astfast.engines.base import FloatArray
from astfast.errors import AstfastError, BackendError
from astfast.scores import activate, activation_of, top_k
from astfast.tagging.tagger import Tagger

PUBLISHED_TOLERANCE = 1e-4  # of a published logit in float32, which is rounded to four decimals
BEST = 5  # labels


class Agreement(NamedTuple):
    """How far the results of one backend and precision are from those of the reference; None where there are none."""

    backend: str
    precision: str
    hardware: str
    agrees: bool
    relative_error: float | None = None  # of the logits, ‖difference‖ / ‖exact‖
    logit_difference: float | None = None  # largest
    score_difference: float | None = None  # largest
    top_1: float | None = None  # share of the clips whose best label is the same
    top_5: float | None = None  # share of the labels among the best five of a clip that are there in both
    crossings: int | None = None  # tags that one of the two has at the threshold and the other has not
    published_difference: float | None = None  # largest, from the published logits
    problem: str | None = None  # why there is no result, such as numbers that overflow


def reference(model: str | Path | None, threads: int | None = None) -> Tagger:
    """The model in float32 on the reference backend, or on the CPU's where PyTorch is missing."""
    backend = "cpu" if backends.unavailable("reference") else "reference"
    return astfast.load(model, device="cpu", backend=backend, precision="float32", threads=threads)


def clips_of(tagger: Tagger, audio: Sequence[Any]) -> list[NDArray[np.float32]]:
    """The beginning of each input, as much as the model reads; three synthetic clips without any. AudioError names a
    bad input."""
    if not audio:
        return check_clips(tagger.config)
    front_end = tagger.config.front_end
    rate, samples = front_end.sampling_rate, front_end.input_samples
    return [astfast.load_audio(x, target_rate=rate)[:samples] for x in audio]


def anchor_clip(path: str | Path | None, rate: int) -> NDArray[np.float32]:
    """The clip on which first logits are published, from a local copy or the hub.

    Raises AudioError, or CheckpointError where it can't be downloaded.
    """
    return astfast.load_audio(path or hub.dataset_file(*ANCHOR_CLIP), target_rate=rate)


def verify(
    model: str | Path | None,
    exact: Tagger,
    clips: Sequence[NDArray[np.float32]],
    *,
    wanted_backends: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    threshold: float = 0.5,
    threads: int | None = None,
    anchor: tuple[PublishedModel, NDArray[np.float32]] | None = None,
    report: Callable[[str], None],
) -> Iterator[Agreement]:
    """Compares the logits of every backend and precision that run here with exact ones.

    - ``model``: as for ``astfast.load``; ``exact``: its reference, see ``reference``.
    - ``clips``: waveforms at the model's rate.
    - ``wanted_backends``, ``precisions``: only these; None for all. One that can't run here is reported; one that was
      asked for raises BackendError.
    - ``threshold``: of a score, from which a label is a tag.
    - ``anchor``: the published model and the clip on which its first logits are known.
    - ``report``: called with a message for each backend or precision that is left out.
    """
    expected = exact.logits(clips, sampling_rate=exact.config.front_end.sampling_rate)
    for backend in wanted_backends or backends.BACKENDS:
        reason = backends.unavailable(backend)
        if reason is not None:
            if wanted_backends is not None:
                raise BackendError(f"the {backend} backend can't run here: {reason}")
            report(f"{backend} left out: {reason}")
            continue
        for precision in backends.module_of(backend).precisions():
            if precisions is not None and precision not in precisions:
                continue
            try:
                with warnings.catch_warnings():  # which the reference has shown
                    warnings.simplefilter("ignore", UserWarning)
                    device = "cuda" if backend == "cuda" else "cpu"
                    tagger = astfast.load(model, backend=backend, device=device, precision=precision, threads=threads)
            except BackendError as error:
                if wanted_backends is not None and precisions is not None:
                    raise
                report(f"{backend} {precision} left out: {error}")
                continue
            with tagger:
                yield _agreement(tagger, backend, precision, clips, expected, threshold, anchor)


def _agreement(
    tagger: Tagger,
    backend: str,
    precision: str,
    clips: Sequence[NDArray[np.float32]],
    expected: FloatArray,
    threshold: float,
    anchor: tuple[PublishedModel, NDArray[np.float32]] | None,
) -> Agreement:
    config, hardware = tagger.config, tagger.hardware
    rate = config.front_end.sampling_rate
    try:
        logits = tagger.logits(clips, sampling_rate=rate)
        first = None if anchor is None else tagger.logits(anchor[1], sampling_rate=rate)[0]
    except AstfastError as problem:
        return Agreement(backend, precision, hardware, False, problem=str(problem))
    error = logit_error(logits, expected)
    activation = activation_of(config.problem_type, config.num_labels)
    ours, theirs = activate(logits, activation), activate(expected, activation)
    agrees = error.relative <= AGREEMENT[precision]
    off = None
    if anchor is not None and first is not None:
        published = np.array(anchor[0].first_logits)
        off = float(np.abs(first[: len(published)] - published).max())
        bound = PUBLISHED_TOLERANCE if precision == "float32" else AGREEMENT[precision] * np.abs(published).max()
        agrees &= bool(off <= bound)
    best_ours, best_theirs = top_k(ours, BEST)[1], top_k(theirs, BEST)[1]
    common = [len(set(a) & set(b)) / len(a) for a, b in zip(best_ours.tolist(), best_theirs.tolist(), strict=True)]
    return Agreement(
        backend,
        precision,
        hardware,
        agrees,
        error.relative,
        error.largest,
        float(np.abs(ours - theirs).max()),
        float((best_ours[:, 0] == best_theirs[:, 0]).mean()),
        float(np.mean(common)),
        int(((ours >= threshold) != (theirs >= threshold)).sum()),
        off,
    )

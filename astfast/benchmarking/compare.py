"""Comparison of inference engines on one model: logits first, then interleaved timing; the work of ``astfast bench``.

The scripts in benchmarks/ compare with the same functions.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import astfast
from astfast import environment
from astfast.backends import module_of
from astfast.benchmarking.peers import (
    EngineUnderTest,
    missing_packages,
    openvino_engines,
    openvino_model,
    transformers_engines,
    transformers_model,
)
from astfast.benchmarking.timing import Spread, speedup, spread, time_interleaved
from astfast.engines.auto_precision import check_clips
from astfast.engines.base import FloatArray
from astfast.errors import BackendError, CheckpointError
from astfast.models.ast.hugging_face import MODEL_TYPE as AST_TYPE
from astfast.models.export import convert
from astfast.tagging.tagger import Tagger

# Largest relative error of the logits by precision for an engine to be timed at all: beyond it, they are not the result
# of the same model in that precision.
AGREEMENT = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02, "int8": 0.5, "float8": 0.5}
TURNS = 5


def precisions_of(backend: str) -> tuple[str, ...]:
    """Names of all precisions of a backend of astfast."""
    return module_of(backend).precisions()


class LogitError(NamedTuple):
    """Difference of logits from exact ones, over a whole batch."""

    relative: float  # ‖difference‖ / ‖exact‖
    largest: float  # of one logit
    largest_logit: float  # magnitude of the exact ones


def logit_error(logits: FloatArray, exact: FloatArray) -> LogitError:
    """Error of logits [B, L] against exact ones."""
    expected = exact.astype(np.float64)
    relative = float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))
    return LogitError(relative, float(np.abs(logits - exact).max()), float(np.abs(exact).max()))


@dataclass(frozen=True)
class Checked:
    """An engine under test and the error of its logits."""

    engine: EngineUnderTest
    error: LogitError

    @property
    def agrees(self) -> bool:
        """Whether the error is within AGREEMENT; that of logits with NaN is not."""
        return self.error.relative <= AGREEMENT[self.engine.precision]


def check(engines: Sequence[EngineUnderTest], features: FloatArray, exact: FloatArray) -> list[Checked]:
    """Runs each engine once and compares its logits with exact ones, [B, L]."""
    return [Checked(engine, logit_error(engine.run(features), exact)) for engine in engines]


def time_engines(
    checked: Sequence[Checked],
    features: FloatArray,
    turns: int,
    seconds: float,
    alongside: Sequence[Callable[[], object]] = (),
) -> dict[str, list[float]]:
    """Times engines in interleaved turns: engine name -> seconds of a call, one figure a turn.

    - ``checked``: engines to time; those that do not agree are skipped.
    - ``features``: the batch, [B, frames, mels].
    - ``turns``, ``seconds``: see ``time_interleaved``; seconds are those of one turn.
    - ``alongside``: other functions that take turns with the engines.
    """
    engines = [entry.engine for entry in checked if entry.agrees]
    runs = [partial(engine.run, features) for engine in engines]
    times = time_interleaved([*runs, *alongside], turns, seconds)
    return dict(zip((engine.name for engine in engines), times, strict=False))


def astfast_engine(tagger: Tagger) -> EngineUnderTest:
    """A loaded tagger, not an ensemble, as an engine under test."""
    precision = tagger.backend.split()[-1]
    return EngineUnderTest("astfast", precision, tagger.hardware, astfast.__version__, tagger.forward)


def astfast_engines(
    model: str | Path | None, precisions: Sequence[str], threads: int, report: Callable[[str], None] | None = None
) -> Iterator[EngineUnderTest]:
    """astfast on the CPU in each precision; one that can't run here is reported and left out.

    Raises CheckpointError; BackendError for such a precision if there is no ``report``.
    """
    for precision in precisions:
        try:
            tagger = astfast.load(model, device="cpu", precision=precision, threads=threads)
            yield astfast_engine(tagger)
        except BackendError as error:
            if report is None:
                raise
            report(f"astfast {precision} left out: {error}")


@dataclass(frozen=True)
class Row:
    """An engine's speed. A clip is one full input of the model; features in, logits out."""

    engine: str
    precision: str
    isa: str
    version: str
    batch: int
    clips_per_second: Spread
    error: float  # of the logits, relative to astfast in float32
    astfast_speedup: Spread | None  # of astfast in the same precision over this engine; None for astfast itself


def measure(
    model: str | Path | None,
    precisions: Sequence[str] | None,
    batches: Sequence[int],
    threads: int | None,
    seconds: float,
    report: Callable[[str], None],
) -> Iterator[Row]:
    """Measures the speed of a model on the CPU with astfast, transformers and OpenVINO.

    - ``model``: as for ``astfast.load``.
    - ``precisions``: of every engine that has them; None for all that astfast has on this machine.
    - ``batches``: clips per call.
    - ``threads``: of every engine; None for ASTFAST_NUM_THREADS, then all cores.
    - ``seconds``: measuring time of each engine for each batch size.
    - ``report``: called with a message for each engine that is left out.

    Raises CheckpointError, or BackendError for a precision that was asked for and can't run.
    """
    threads = threads or environment.num_threads() or len(os.sched_getaffinity(0))
    exact = astfast.load(model, device="cpu", precision="float32", threads=threads)
    wanted = precisions_of(exact.backend.split()[0]) if precisions is None else tuple(precisions)
    engines = list(astfast_engines(model, wanted, threads, report if precisions is None else None))
    front_end = exact.config.front_end
    missing = missing_packages("torch", "transformers", "openvino")
    if missing:
        report(
            f"no comparison with engines that need {', '.join(missing)}: not installed (pip install 'astfast[bench]')"
        )
    exported = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not {"torch", "transformers"} & set(missing) and _written_for_transformers(model, folder, report):
            engines += transformers_engines(folder, wanted, threads)
            if "openvino" not in missing:
                exported = openvino_model(transformers_model(folder), front_end.max_length, front_end.num_mel_bins)
        clips = check_clips(exact.config)
        for batch in batches:
            waves = [clips[i % len(clips)] for i in range(batch)]
            features = exact.features(waves, sampling_rate=front_end.sampling_rate)
            others = openvino_engines(exported, wanted, threads, batch) if exported is not None else ()
            checked = check([*engines, *others], features, exact.forward(features))
            yield from _rows(checked, features, seconds, report)


def _written_for_transformers(model: str | Path | None, folder: Path, report: Callable[[str], None]) -> bool:
    """Whether the folder now has the model in a layout that transformers has a class for; if not, that is reported."""
    try:
        convert(model, folder, force=True)
    except CheckpointError as error:  # of a family without such a layout
        report(f"no comparison with other engines: {error}")
        return False
    model_type = json.loads((folder / "config.json").read_text()).get("model_type")
    if model_type != AST_TYPE:
        report(f"no comparison with other engines: transformers has no class of its own for {model_type} models")
        return False
    return True


def _rows(
    checked: Sequence[Checked], features: FloatArray, seconds: float, report: Callable[[str], None]
) -> Iterator[Row]:
    for entry in checked:
        if not entry.agrees:
            report(f"{entry.engine.name} left out: its logits are off by {entry.error.relative:.0%}")
    times = time_engines(checked, features, TURNS, seconds / TURNS)
    for entry in checked:
        engine = entry.engine
        if not entry.agrees:
            continue
        own, ours = times[engine.name], times.get(f"astfast {engine.precision}")
        yield Row(
            engine.engine,
            engine.precision,
            engine.isa,
            engine.version,
            len(features),
            spread([len(features) / t for t in own]),
            entry.error.relative,
            None if engine.engine == "astfast" or ours is None else speedup(own, ours),
        )


def as_record(row: Row) -> dict[str, Any]:
    """A row as what JSON can hold; a Spread as {"p20", "p50", "p80"}."""
    record = asdict(row)
    for name in ("clips_per_second", "astfast_speedup"):
        value = getattr(row, name)
        record[name] = None if value is None else value._asdict()
    return record

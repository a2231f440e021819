"""Tagger: audio in, tags out. ``astfast.load`` makes one."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from astfast.audio.inputs import expand_batch
from astfast.audio.prefetch import Reading, read
from astfast.audio.windows import Window
from astfast.engines.base import DeviceBatch
from astfast.engines.load import LoadArguments, Runner, load_members
from astfast.errors import AstfastError, AudioError
from astfast.front_end import FrontEnd
from astfast.models.base import ModelConfig
from astfast.scores import activate, activation_of
from astfast.tagging.tags import Tag, Tagging

FloatArray = NDArray[np.float32]
Aggregate = Literal["mean", "max"]
OnError = Literal["raise", "return"]
T = TypeVar("T")


class ErrorRecord(TypedDict):
    """What stands in the place of a bad input with ``on_error="return"``."""

    error: str


class Segment(TypedDict):
    """The tags of one window of a clip; times in seconds from the clip's start."""

    start: float
    end: float
    tags: list[Tag]


class Tagger:
    """A loaded model, or an ensemble of them. Made by ``astfast.load``.

    Every method takes one input or a batch of them: a path, the bytes of a file, a file object, a 1-D array or tensor
    of samples (a 2-D one is a batch of clips), a dict ``{"array", "sampling_rate"}``, or an AudioDecoder of datasets or
    torchcodec. ``sampling_rate`` (Hz) is that of bare arrays. A bad input raises AudioError, which names it.

    Safe to call from many threads, survives fork, can be pickled (a copy loads its model when it is first used), and is
    a context manager that frees the model at its end.
    """

    def __init__(self, arguments: LoadArguments) -> None:
        self._arguments = arguments
        self._lock = threading.Lock()
        self._members: tuple[Runner, ...] | None = load_members(arguments)
        self._closed = False

    def classify(
        self,
        batch: Any,
        *,
        sampling_rate: float | None = None,
        top_k: int | None = 5,
        threshold: float | None = None,
        activation: str = "auto",
        window: float | None = None,
        hop: float | None = None,
        aggregate: Aggregate = "mean",
        on_error: OnError = "raise",
    ) -> Any:
        """The tags of one input, ``[{"score", "label"}, ...]`` best first, or a list of those for a batch.

        ``top_k`` (None for all labels) and ``threshold`` choose tags; ``activation`` is "auto" (what the checkpoint was
        trained with), "sigmoid", "softmax" or "none". Without ``window`` only as much of each clip is heard as the
        model reads at a time, and a longer clip warns; with it, windows of so many seconds every ``hop`` seconds
        (default: the window) are scored and their scores aggregated, by "mean" or "max". With ``on_error="return"`` a
        bad input gives ``{"error": message}`` and the others are tagged as if alone.
        """
        if window is None and hop is None and on_error in ("raise", "return"):
            tagging = Tagging(self.labels, top_k, threshold, aggregate)
            if (there := self._on_device(batch, sampling_rate, (tagging.most, activation))) is not None:
                return list(map(tagging.best, *there))
        inputs, single = expand_batch(batch)
        results = self.stream(
            inputs,
            sampling_rate=sampling_rate,
            top_k=top_k,
            threshold=threshold,
            activation=activation,
            window=window,
            hop=hop,
            aggregate=aggregate,
            on_error=on_error,
        )
        return next(results) if single else list(results)

    def stream(
        self,
        inputs: Iterable[Any],
        *,
        sampling_rate: float | None = None,
        top_k: int | None = 5,
        threshold: float | None = None,
        activation: str = "auto",
        window: float | None = None,
        hop: float | None = None,
        aggregate: Aggregate = "mean",
        on_error: OnError = "raise",
    ) -> Iterator[list[Tag] | ErrorRecord]:
        """``classify`` of each of any number of inputs, in order and in bounded memory.

        Files are decoded ahead, on other threads, while the model runs.
        """
        tagging = Tagging(self.labels, top_k, threshold, aggregate)
        reading = self._reading(sampling_rate, window, hop)
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error {on_error!r} is unknown: use 'raise' or 'return'")
        return self._tagged(inputs, reading, tagging, activation, on_error)

    def segments(
        self,
        batch: Any,
        *,
        sampling_rate: float | None = None,
        top_k: int | None = 5,
        threshold: float | None = None,
        activation: str = "auto",
        window: float | None = None,
        hop: float | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """The tags of every window of one input, ``[{"start", "end", "tags"}, ...]``, or a list of those for a batch.

        ``window`` and ``hop`` in seconds; by default windows of the model's own length, side by side. The other
        arguments are those of ``classify``.
        """
        inputs, single = expand_batch(batch)
        tagging = Tagging(self.labels, top_k, threshold)
        reading = self._reading(sampling_rate, window or self._input_seconds, hop)
        results = [
            result
            if isinstance(result, dict)
            else [Segment(start=w.start, end=w.end, tags=tagging.tags(scores)) for w, scores in result]
            for result in self._results(inputs, reading, partial(self._scores_of, activation=activation), on_error)
        ]
        return results[0] if single else results

    def scores(self, batch: Any, *, sampling_rate: float | None = None, activation: str = "auto") -> FloatArray:
        """Scores of every label, [B, L] float32 (B = 1 for one input); an ensemble's are its members' mean."""
        self._labelled()
        if (there := self._on_device(batch, sampling_rate)) is not None:
            return activate(
                there[0], activation_of(self._only("tensors").config.problem_type, len(self.labels), activation)
            )
        return self._arrays(batch, sampling_rate, lambda waves: self._scores_of(waves, activation), len(self.labels))

    def logits(self, batch: Any, *, sampling_rate: float | None = None) -> FloatArray:
        """What the classifier gives before any activation, [B, L] float32."""
        engine = self._only("logits")
        self._labelled()
        if (there := self._on_device(batch, sampling_rate)) is not None:
            return there[0]
        return self._arrays(batch, sampling_rate, engine.logits, len(self.labels))

    def embed(self, batch: Any, *, sampling_rate: float | None = None) -> FloatArray:
        """Mean of the cls and dist tokens after the final LayerNorm, [B, hidden_size] float32."""
        engine = self._only("embed")
        return self._arrays(batch, sampling_rate, engine.embed, engine.config.embedding_size)

    def features(self, batch: Any, *, sampling_rate: float | None = None) -> FloatArray:
        """Normalised log-mel spectrograms, [B, max_length, num_mel_bins] float32."""
        engine = self._only("features")
        return self._arrays(batch, sampling_rate, engine.features, engine.config.max_length, engine.config.num_mel_bins)

    def forward(self, features: Any) -> FloatArray:
        """Logits [B, L] of ready spectrograms, [B, max_length, num_mel_bins] or one of them, as ``features`` gives.

        Raises AudioError for another shape, a dtype that is not a number, or values that are not finite.
        """
        engine = self._only("forward")
        self._labelled()
        expected = (engine.config.max_length, engine.config.num_mel_bins)
        spectrograms = np.ascontiguousarray(features, dtype=np.float32)
        spectrograms = spectrograms[None] if spectrograms.ndim == 2 else spectrograms
        if spectrograms.ndim != 3 or spectrograms.shape[1:] != expected:
            raise AudioError(
                f"the features have shape {np.shape(features)}: this model reads (batch, {expected[0]} frames, "
                f"{expected[1]} mel bins), as features() returns"
            )
        if not np.isfinite(spectrograms).all():
            raise AudioError("the features hold NaN or infinity: find out where they were made")
        return engine.logits(spectrograms)

    def warmup(self) -> Tagger:
        """Runs the model once on silence, so that the first real call is as fast as the next; returns the tagger."""
        for engine in self._loaded():
            engine.warmup()
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """Display names of the labels by index; empty for a checkpoint without a classifier."""
        return self._loaded()[0].config.labels

    @property
    def config(self) -> ModelConfig:
        """Geometry and front end of the model."""
        return self._only("config").config

    @property
    def backend(self) -> str:
        """The backend that runs the model and its precision, for instance "cpu bfloat16"."""
        return ", ".join(dict.fromkeys(f"{engine.ops.name} {engine.ops.precision}" for engine in self._loaded()))

    @property
    def hardware(self) -> str:
        """What computes, for instance the instruction set and number of threads, or the GPU."""
        return self._loaded()[0].hardware

    def close(self) -> None:
        """Frees the model; any later use raises AstfastError."""
        self._members, self._closed = None, True

    def __enter__(self) -> Tagger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        names = ", ".join(str(source or "built-in") for source in self._arguments.sources)
        return f"<astfast.Tagger {names}{' (closed)' if self._closed else ''}>"

    def __getstate__(self) -> dict[str, Any]:
        return {"arguments": self._arguments, "closed": self._closed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._arguments, self._closed = state["arguments"], state["closed"]
        self._lock = threading.Lock()
        self._members = None

    def _loaded(self) -> tuple[Runner, ...]:
        if self._closed:
            raise AstfastError("this tagger is closed: load it again with astfast.load()")
        with self._lock:
            if self._members is None:
                self._members = load_members(self._arguments)
            return self._members

    def _only(self, what: str) -> Runner:
        """The one engine of a tagger that is no ensemble."""
        engines = self._loaded()
        if len(engines) > 1:
            raise AstfastError(
                f"an ensemble of {len(engines)} models has no {what} of its own: only probabilities can be averaged. "
                "Use scores(), classify() or segments(), or load its members one by one."
            )
        return engines[0]

    def _labelled(self) -> None:
        if not self.labels:
            raise AstfastError(f"{self!r} has no classifier (a bare ASTModel): only embed() and features() work")

    @property
    def _input_seconds(self) -> float:
        """The longest input that a member reads at a time."""
        return max(e.config.front_end.input_samples / e.config.front_end.sampling_rate for e in self._loaded())

    def _reading(self, sampling_rate: float | None, window: float | None = None, hop: float | None = None) -> Reading:
        rate = self._loaded()[0].config.front_end.sampling_rate
        needed = max(engine.config.front_end.input_samples for engine in self._loaded())
        int16 = all(engine.accepts_int16 for engine in self._loaded())
        return Reading(rate, needed, sampling_rate, window, hop, int16)

    def _tagged(
        self, inputs: Iterable[Any], reading: Reading, tagging: Tagging, activation: str, on_error: OnError
    ) -> Iterator[list[Tag] | ErrorRecord]:
        """The tags of every input, or its error record.

        What one model says about one window of each input is final, so that the best labels are found where the model
        runs; scores that go into a mean or a maximum, over members or windows, come back whole.
        """
        if len(self._loaded()) == 1 and reading.window is None:
            engine = self._loaded()[0]
            how = activation_of(engine.config.problem_type, len(self.labels), activation)

            def best_of(waves: list[FloatArray]) -> Iterator[tuple[Any, Any]]:
                return zip(*engine.top_k(waves, tagging.most, how), strict=True)

            for best in self._results(inputs, reading, best_of, on_error):
                yield best if isinstance(best, dict) else tagging.best(*best[0][1])
            return
        for scored in self._results(inputs, reading, partial(self._scores_of, activation=activation), on_error):
            if isinstance(scored, dict):
                yield scored
            else:
                yield tagging.tags(tagging.aggregated([scores for _, scores in scored]))

    def _results(
        self, inputs: Iterable[Any], reading: Reading, run: Callable[[list[FloatArray]], Iterable[T]], on_error: OnError
    ) -> Iterator[list[tuple[Window, T]] | ErrorRecord]:
        """For every input its windows, without their samples, and what ``run`` gives for each; or its error record."""
        for _, windows in itertools.groupby(self._window_results(inputs, reading, run), lambda each: each[0]):
            result: list[tuple[Window, T]] = []
            error: AudioError | None = None
            for _, window in windows:
                if isinstance(window, AudioError):
                    error = window
                else:
                    result.append(window)
            if error is not None and on_error == "raise":
                raise error
            yield result if error is None else ErrorRecord(error=str(error))

    def _window_results(
        self, inputs: Iterable[Any], reading: Reading, run: Callable[[list[FloatArray]], Iterable[T]]
    ) -> Iterator[tuple[int, tuple[Window, T] | AudioError]]:
        """(index of the input, (window, what ``run`` gives for it)), run in batches that reach across inputs."""
        for batch in _batched(read(inputs, reading), self._batch_size):
            waves = [window.wave for _, window in batch if isinstance(window, Window)]
            results = iter(run(waves) if waves else ())
            for item, window in batch:
                if isinstance(window, AudioError):
                    yield item, window
                else:
                    yield item, (window.without_wave(), next(results))

    def _scores_of(self, waves: list[FloatArray], activation: str) -> FloatArray:
        """Waveforms -> scores [B, L]; features are computed once for members with the same front end."""
        engines = self._loaded()
        if len(engines) == 1:
            return activate(
                engines[0].logits(waves), activation_of(engines[0].config.problem_type, len(self.labels), activation)
            )
        features: dict[FrontEnd, FloatArray] = {}
        total = np.zeros((len(waves), len(self.labels)), np.float64)
        for engine in engines:
            front_end = engine.config.front_end
            if front_end not in features:
                features[front_end] = engine.features(waves)
            total += activate(
                engine.logits(features[front_end]),
                activation_of(engine.config.problem_type, len(self.labels), activation),
            )
        return (total / len(engines)).astype(np.float32)

    def _arrays(
        self, batch: Any, sampling_rate: float | None, run: Callable[[list[FloatArray]], FloatArray], *empty: int
    ) -> FloatArray:
        """``run`` over the waveforms of a batch, a part at a time; [0, *empty] for an empty batch."""
        inputs, _ = expand_batch(batch)
        parts = []
        for part in _batched(read(inputs, self._reading(sampling_rate)), self._batch_size):
            waves = []
            for _, window in part:
                if isinstance(window, AudioError):
                    raise window
                waves.append(window.wave)
            parts.append(run(waves))
        return np.concatenate(parts) if parts else np.empty((0, *empty), np.float32)

    def _on_device(
        self, batch: Any, sampling_rate: float | None, best: tuple[int, str] | None = None
    ) -> list[NDArray[Any]] | None:
        """Of a 2-D tensor of clips on the model's own GPU, which it never leaves, or a 2-D array that is resampled
        there, the logits [B, L], or for ``best`` = (k, activation asked for) the k best scores and their labels; None
        for any other batch."""
        engine = self._loaded()[0]
        rate = int(sampling_rate or engine.config.front_end.sampling_rate)
        if len(self._loaded()) > 1 or not engine.accepts_on_device(DeviceBatch(batch, rate)):
            return None
        from astfast.tagging.gpu_batches import run_on_device

        most = None if best is None else (best[0], activation_of(engine.config.problem_type, len(self.labels), best[1]))
        return run_on_device(engine, batch, sampling_rate, most)

    @property
    def _batch_size(self) -> int:
        return max(engine.preferred_batch_size for engine in self._loaded())


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch

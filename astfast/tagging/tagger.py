"""Tagger: audio in, tags out. ``astfast.load`` makes one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, overload

from astfast.audio.inputs import MAX_DURATION
from astfast.audio.kinds import Many, One
from astfast.audio.mono import Channels
from astfast.audio.spectrograms import check_spectrograms
from astfast.engines.base import Engine, FloatArray
from astfast.engines.lazy import LazyEngine
from astfast.engines.load import LoadArguments
from astfast.models.base import ModelConfig
from astfast.tagging import pipeline
from astfast.tagging.pipeline import read_options
from astfast.tagging.tags import Aggregate, ErrorRecord, OnError, Raise, Return, Segment, Tag, TagOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from astfast.tagging.tags import TagArgs


class Tagger:
    """A loaded model, or an ensemble of them. Made by ``astfast.load``.

    Every method takes one input or a batch of them. An input is a path, the bytes of a file, a file object, a 1-D array
    or tensor of samples, a dict ``{"array", "sampling_rate"}`` or ``{"bytes", "path"}``, a row of datasets, a pair
    (array, rate) or (rate, array), a segment of pydub, or an AudioDecoder of datasets or torchcodec; a batch is an
    iterable of inputs, a column of paths, or a 2-D array of clips. Inputs are taken as they arrive: what happens to a
    buffer or a file object later changes nothing. ``sampling_rate`` (Hz) is that of bare arrays. A bad input raises
    AudioError, which names it.

    Safe to call from many threads, survives fork, can be pickled (a copy loads its model when it is first used), and is
    a context manager that frees the model at its end.
    """

    def __init__(self, arguments: LoadArguments) -> None:
        self._lazy = LazyEngine(arguments).load()

    # Overloads: a pair of array and rate is a tuple and a file an iterator, and yet each is one input.
    @overload
    def classify(self, batch: One, *, on_error: Raise = ..., **kw: Unpack[TagArgs]) -> list[Tag]: ...  # type: ignore[overload-overlap]
    @overload
    def classify(self, batch: One, *, on_error: Return, **kw: Unpack[TagArgs]) -> list[Tag] | ErrorRecord: ...  # type: ignore[overload-overlap]
    @overload
    def classify(self, batch: Many, *, on_error: Raise = ..., **kw: Unpack[TagArgs]) -> list[list[Tag]]: ...
    @overload
    def classify(self, batch: Many, *, on_error: Return, **kw: Unpack[TagArgs]) -> list[list[Tag] | ErrorRecord]: ...
    @overload
    def classify(self, batch: Any, *, on_error: OnError = ..., **kw: Unpack[TagArgs]) -> Any: ...
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
        channel: Channels = "mean",
        on_damage: str = "warn",
        max_duration: float = MAX_DURATION,
        on_error: OnError = "raise",
    ) -> Any:
        """The tags of one input, ``[{"score", "label"}, ...]`` best first, or a list of those for a batch.

        - ``sampling_rate``: of bare arrays, Hz; the model's own is assumed, with a warning, where it is missing.
        - ``top_k``: tags a clip (default 5), None for all labels; ``threshold``: only scores of at least this.
        - ``activation``: "auto" (what the checkpoint was trained with), "sigmoid", "softmax" or "none".
        - ``window``, ``hop``: seconds, 0.025 or more. Without a window only as much of each clip is used as the model
          reads at a time, and a longer clip warns; with it, windows every ``hop`` seconds (default: the window) are
          scored, and a window that is longer than the model's input in parts of that length.
        - ``aggregate``: "mean" or "max" of the windows' scores, and of the scores of a window's parts.
        - ``channel``: "mean" of the channels, the number of one (from 0), "max", the one with the greatest energy, or
          "each": then the result of an input is a list of what it is otherwise, one for each channel.
        - ``on_damage``: "warn" keeps what decodes of a damaged or cut file and warns, "error" refuses the file.
        - ``max_duration``: seconds; an input is refused once more of it would be decoded (default: a day).
        - ``on_error``: "raise", or "return" ``{"error": message, "kind": word}`` for a bad input (``word``: as
          AudioError's ``kind``) and the tags of all others.

        Raises AudioError for a bad input, ValueError for an impossible option.
        """
        options = TagOptions(top_k, threshold, activation, aggregate, on_error)
        engine = self._lazy.with_labels()
        read = read_options(engine, sampling_rate, window, hop, None, channel, on_damage, max_duration)
        inputs, single = pipeline.inputs_of(engine, batch, read)
        tags = pipeline.for_each_input(pipeline.tags, engine, inputs, read, options)
        return next(tags) if single else list(tags)

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
        channel: Channels = "mean",
        on_damage: str = "warn",
        max_duration: float = MAX_DURATION,
        prefetch: int | None = None,
        on_error: OnError = "raise",
    ) -> Iterator[list[Tag] | ErrorRecord]:
        """``classify`` of any number of inputs, in order, in bounded memory, decoded ahead while the model runs.

        ``prefetch``: inputs that are taken before their first result, at most; 1 for a live source, whose inputs are
        tagged as they come. None (default) is the model's preferred batch and 32 more. If ``inputs`` raises an
        exception, the results of what it gave before come first.
        """
        options = TagOptions(top_k, threshold, activation, aggregate, on_error)
        engine = self._lazy.with_labels()
        read = read_options(engine, sampling_rate, window, hop, prefetch, channel, on_damage, max_duration)
        return pipeline.for_each_input(pipeline.tags, engine, pipeline.stream_of(inputs), read, options)

    @overload
    def segments(self, batch: One, *, on_error: Raise = ..., **kw: Unpack[TagArgs]) -> list[Segment]: ...  # type: ignore[overload-overlap]
    @overload
    def segments(self, batch: One, *, on_error: Return, **kw: Unpack[TagArgs]) -> list[Segment] | ErrorRecord: ...  # type: ignore[overload-overlap]
    @overload
    def segments(self, batch: Many, *, on_error: Raise = ..., **kw: Unpack[TagArgs]) -> list[list[Segment]]: ...
    @overload
    def segments(
        self, batch: Many, *, on_error: Return, **kw: Unpack[TagArgs]
    ) -> list[list[Segment] | ErrorRecord]: ...
    @overload
    def segments(self, batch: Any, *, on_error: OnError = ..., **kw: Unpack[TagArgs]) -> Any: ...
    def segments(
        self,
        batch: Any,
        *,
        window: float | None = None,
        hop: float | None = None,
        sampling_rate: float | None = None,
        top_k: int | None = 5,
        threshold: float | None = None,
        activation: str = "auto",
        aggregate: Aggregate = "mean",
        channel: Channels = "mean",
        on_damage: str = "warn",
        max_duration: float = MAX_DURATION,
        on_error: OnError = "raise",
    ) -> Any:
        """The tags of every window of one input, ``[{"start", "end", "tags"}, ...]``, or a list of those for a batch.

        ``window``, ``hop``: seconds; by default the model's own length, side by side. ``aggregate``: of the parts of a
        window that is longer than that. The rest is as in ``classify``.
        """
        options = TagOptions(top_k, threshold, activation, aggregate, on_error)
        engine = self._lazy.with_labels()
        window = engine.input_samples / engine.sampling_rate if window is None else window
        read = read_options(engine, sampling_rate, window, hop, None, channel, on_damage, max_duration)
        inputs, single = pipeline.inputs_of(engine, batch, read)
        segments = pipeline.for_each_input(pipeline.segments, engine, inputs, read, options)
        return next(segments) if single else list(segments)

    def stream_segments(
        self,
        inputs: Iterable[Any],
        *,
        sampling_rate: float | None = None,
        top_k: int | None = 5,
        threshold: float | None = None,
        activation: str = "auto",
        aggregate: Aggregate = "mean",
        channel: Channels = "mean",
        on_damage: str = "warn",
        max_duration: float = MAX_DURATION,
        window: float | None = None,
        hop: float | None = None,
        prefetch: int | None = None,
        on_error: OnError = "raise",
    ) -> Iterator[tuple[int, Segment | ErrorRecord]]:
        """``segments`` of any number of inputs, each as soon as it is scored: (number of the input from 0, segment).

        With ``channel="each"`` the channels of an input follow one another, and segments have their number as
        "channel". With ``on_error="return"`` the last result of an input that goes bad is its error record;
        ``prefetch`` is as in ``stream``.
        """
        options = TagOptions(top_k, threshold, activation, aggregate, on_error)
        engine = self._lazy.with_labels()
        window = engine.input_samples / engine.sampling_rate if window is None else window
        read = read_options(engine, sampling_rate, window, hop, prefetch, channel, on_damage, max_duration)
        return pipeline.segments_as_scored(engine, pipeline.stream_of(inputs), read, options)

    def live(
        self,
        chunks: Iterable[Any],
        *,
        sampling_rate: float,
        top_k: int | None = 5,
        threshold: float | None = None,
        activation: str = "auto",
        window: float | None = None,
        hop: float | None = None,
    ) -> Iterator[Segment]:
        """The tags of audio without an end, ``{"start", "end", "tags"}`` each ``hop`` seconds, in bounded memory.

        - ``chunks``: iterable of [samples] or [samples, channels], floats or integer PCM, of any size, as they come.
        - ``sampling_rate``: of the chunks, Hz.
        - ``window``, ``hop``: seconds; by default the model's own length, side by side. A window is tagged as soon as
          its last sample is there. The rest is as in ``classify``.

        Raises ValueError for an impossible option, AudioError where the chunks are no audio.
        """
        options = TagOptions(top_k, threshold, activation)
        engine = self._lazy.with_labels()
        window = engine.input_samples / engine.sampling_rate if window is None else window
        read_options(engine, sampling_rate, window, hop)
        return pipeline.live(engine, chunks, sampling_rate, window, hop, options)

    def scores(self, batch: Any, *, sampling_rate: float | None = None, activation: str = "auto") -> FloatArray:
        """Scores of every label, [B, L] float32 (B = 1 for one input); an ensemble's are its members' mean.

        Of each input as much is scored as the model reads at a time; in an ensemble, as its longest member does.
        """
        engine, how = self._lazy.with_labels(), TagOptions(activation=activation).activation
        return pipeline.rows(engine, batch, sampling_rate, lambda clips: engine.scores(clips, how))

    def logits(self, batch: Any, *, sampling_rate: float | None = None) -> FloatArray:
        """Outputs of the classifier before any activation, [B, L] float32."""
        engine = self._lazy.with_labels()
        return pipeline.rows(engine, batch, sampling_rate, engine.logits)

    def embed(self, batch: Any, *, sampling_rate: float | None = None) -> FloatArray:
        """Embeddings, [B, D] float32: for AST the mean of the cls and dist tokens after the final LayerNorm."""
        engine = self._lazy.get()
        return pipeline.rows(engine, batch, sampling_rate, engine.embed)

    def features(self, batch: Any, *, sampling_rate: float | None = None) -> FloatArray:
        """Normalised log-mel spectrograms, [B, max_length, num_mel_bins] float32."""
        engine = self._lazy.get()
        return pipeline.rows(engine, batch, sampling_rate, engine.features)

    def forward(self, features: Any) -> FloatArray:
        """Logits [B, L] of ready spectrograms, [B, max_length, num_mel_bins] or one of them, as ``features`` gives.

        Raises AudioError for another shape, a dtype that is not a real number, or values that are not finite.
        """
        engine = self._lazy.with_labels()
        frames = engine.config.front_end.frames_read(0), engine.config.max_length
        return engine.logits(check_spectrograms(features, frames, engine.config.num_mel_bins))

    def warmup(self) -> Tagger:
        """Runs the model once on silence, so that the first real call is as fast as the next; returns the tagger."""
        self._lazy.get().warmup()
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """Display names of the labels by index; empty for a checkpoint without a classifier."""
        return self._lazy.get().labels

    @property
    def config(self) -> ModelConfig:
        """Geometry and front end of the model; AstfastError for an ensemble."""
        return self._lazy.get().config

    @property
    def backend(self) -> str:
        """Name of the backend that runs the model and its precision, for instance "cpu bfloat16"."""
        return self._lazy.get().backend

    @property
    def hardware(self) -> str:
        """Name of the compute device: instruction set and threads, or the GPU."""
        return self._lazy.get().hardware

    def close(self) -> None:
        """Frees the model; any later use raises AstfastError."""
        self._lazy.close()

    def __enter__(self) -> Tagger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        about = self._lazy.about
        return f"<astfast.Tagger {self._lazy}{': ' if about else ''}{about}>"


def opened(tagger: Tagger) -> tuple[Engine, LoadArguments]:
    """The engine of a tagger, for a run of many inputs, and what it was loaded with. Raises AstfastError as a call."""
    return tagger._lazy.with_labels(), tagger._lazy.arguments

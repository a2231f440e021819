"""astfast: audio tagging with Audio Spectrogram Transformers, as fast as the hardware allows.

import astfast

tagger = astfast.load()
tagger.classify("dog.wav")  # [{"score": 0.97, "label": "dog"}, ...]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from astfast.errors import AstfastError, AudioError, BackendError, CheckpointError, OutputError
from astfast.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from astfast.audio.mono import Channel, Channels
    from astfast.tagging.tagger import Tagger
    from astfast.volume.inputs import Input

__all__ = [
    "AstfastError",
    "AudioError",
    "BackendError",
    "CheckpointError",
    "OutputError",
    "Tagger",
    "__version__",
    "accelerate",
    "convert",
    "load",
    "load_audio",
    "restore",
    "tag_files",
]


def load(
    model: str | Path | Sequence[str | Path] | None = None,
    *,
    device: str | list[str] = "auto",
    precision: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    batch_size: int | str = "auto",
    deterministic: bool = False,
    token_merging: float = 0.0,
    replicas: int | str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    labels: Sequence[str] | str | Path | None = None,
    **config: Any,
) -> Tagger:
    """Loads a checkpoint and returns the tagger that runs it.

    - ``model``: hub id, local folder in Hugging Face layout, .safetensors or .pth file, or a list of these (an
      ensemble: the mean of the members' probabilities; of any families, lengths and sampling rates). None, the default,
      is the built-in model (50 everyday sounds).
    - ``device``: "auto" (default), "cpu", "cuda", "cuda:N", or a list of GPUs that share every batch.
    - ``precision``: "float32", "bfloat16", "float16" (GPU), "int8" (CPU), "float8" (GPU of compute capability 8.9 or
      newer), or "auto" (default): the fastest 16-bit type of the hardware if scores stay within 0.01 of float32's on
      check inputs, else float32. 8-bit types are coarser and must be asked for.
    - ``backend``: "auto" (default), "cpu", "cuda" or "reference".
    - ``threads``: of a call on the CPU backend; default: ASTFAST_NUM_THREADS, else all physical cores. Calls of several
      taggers take turns on them, but those of taggers with one thread run side by side.
    - ``batch_size``: clips that go through the model together; "auto" (default) is the backend's choice.
    - ``deterministic``: on a GPU, no kernel is chosen by its time, and the batch size changes no bit of a score.
    - ``token_merging``: share of the tokens that a Vision Transformer's layers are spared, on average, by merging
      similar ones: 0 (default) to 0.75. Scores are approximate, most at the larger shares.
    - ``replicas``: engines on the CPU that share the weights, each pinned to cores of its own; a batch is split over
      them. "auto": one for each third-level cache or NUMA node; None (default): one engine on all cores, not pinned.
    - ``revision``, ``cache_dir``, ``local_files_only``: as in huggingface_hub.
    - ``labels``: names of the outputs in order, or a file of them; default: those of the checkpoint.
    - ``config``: overrides under the names of the Hugging Face config and preprocessor config, such as
      ``time_stride``, ``max_length`` (frames), ``mean``, ``std``.

    Raises CheckpointError, BackendError, ValueError for an impossible value, TypeError for an unknown keyword.
    """
    from astfast.engines.load import LoadArguments
    from astfast.models import token_merging as token_merging_counts
    from astfast.tagging.tagger import Tagger

    if batch_size != "auto" and (type(batch_size) is not int or batch_size < 1):
        raise ValueError(f"batch_size is {batch_size!r}: it must be a whole number of at least 1, or 'auto'")
    if replicas not in (None, "auto") and (type(replicas) is not int or replicas < 1):
        raise ValueError(f"replicas is {replicas!r}: it must be a whole number of at least 1, 'auto' or None")
    sources = tuple(model) if isinstance(model, (list, tuple)) else (model,)
    if not sources:
        raise ValueError("an ensemble needs at least one model: pass None for the built-in one")
    hub = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only, "labels": labels}
    return Tagger(
        LoadArguments(
            sources=sources,
            device=device,
            precision=precision,
            backend=backend,
            threads=threads,
            batch_size=None if batch_size == "auto" else int(batch_size),
            deterministic=deterministic,
            token_merging=token_merging_counts.checked(token_merging),
            replicas=replicas,
            checkpoint_options={**hub, **config},
        )
    )


def accelerate(
    model: Any, *, precision: str = "auto", threads: int | None = None, batch_size: int | None = None
) -> Any:
    """Gives a transformers ``ASTForAudioClassification`` astfast's forward, in place, and returns the model.

    - ``model``: on one CPU or GPU. Inputs and outputs stay those of transformers: ``input_values`` [B, max_length,
      num_mel_bins] on its device, ``labels`` and the loss, ``return_dict``; logits [B, L] in its dtype.
    - ``precision``: as in ``load``; "auto" (default) is the model's own dtype, or float32 if the backend lacks it.
    - ``threads``, ``batch_size``: as in ``load``; None (default) is the backend's choice.

    Weights, geometry and epsilons are those of the live model; weights that change later are packed anew at the next
    call, and after any call in training mode (not seen are writes that torch does not count, through
    ``parameter.data`` or by a fused optimizer, if no call in training mode comes before). In training mode the model
    runs its own forward, with one warning. Hooks on its inner modules are not called. In evaluation the loss of
    ``labels`` has no gradient. ``restore`` undoes it, and gives back a forward that the instance had before.

    Raises TypeError for another kind of model and for a subclass with a forward of its own, CheckpointError for one
    with other weights than an AST's (an adapter's, quantised ones, ones that are not finite), BackendError for a
    device or precision that can't run; a call raises AstfastError for what only the model's own forward can do:
    output_hidden_states, output_attentions, an attention_mask, gradients of inputs, tracing and export.
    """
    from astfast.integrations import transformers

    return transformers.accelerate(model, precision, threads, batch_size)


def restore(model: Any) -> Any:
    """Gives a model its own forward back and returns it; AstfastError for one that is not accelerated."""
    from astfast.integrations import transformers

    return transformers.restore(model)


def convert(
    source: str | Path | Sequence[str | Path] | None,
    folder: str | Path,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    force: bool = False,
    **options: Any,
) -> tuple[str, ...]:
    """Writes a checkpoint to a folder in Hugging Face layout, which transformers loads too.

    - ``source``, ``options``: as ``model`` and the checkpoint's options of ``load``, but that of a list of checkpoints
      the mean of their weights is written: epochs of one training, which must agree in everything else.
    - ``folder``: gets config.json, preprocessor_config.json and model.safetensors; it appears whole or not at all.
    - ``dtype``: of the tensors in the file.
    - ``force``: replace these three files in a folder that is not empty; others in it stay.

    Returns notes on what differs from the original. Raises CheckpointError for a source that can't be loaded or has no
    such layout, and for a folder that is not empty unless ``force``.
    """
    from astfast.models import export

    return export.convert(source, folder, dtype=dtype, force=force, **options)


def load_audio(
    x: Any,
    *,
    sampling_rate: float | None = None,
    target_rate: int = 16_000,
    channel: Channel = "mean",
    on_damage: str = "warn",
    max_duration: float = 24 * 3600.0,
) -> NDArray[np.float32]:
    """One input of ``Tagger.classify`` -> all of its samples, mono, float32 in [-1, 1] at ``target_rate``, [samples].

    - ``sampling_rate``: of a bare array, Hz; without it ``target_rate`` is assumed, with a warning.
    - ``channel``, ``on_damage``, ``max_duration`` (seconds): as in ``Tagger.classify``.

    Raises AudioError for what is no audio, ValueError for an impossible option.
    """
    from astfast import notes
    from astfast.audio import inputs

    inputs.checked_duration(max_duration)
    clip = inputs.load_audio(x, sampling_rate, target_rate, None, max_duration, channel=channel, on_damage=on_damage)
    for note in clip.notes:
        notes.show(note)
    wave: NDArray[np.float32] = clip.wave
    return wave


def tag_files(
    source: Any,
    out: str | PathLike[str] | None = None,
    *,
    tagger: Tagger | None = None,
    formats: str | Sequence[str] | None = None,
    top_k: int | None = 5,
    threshold: float | None = None,
    thresholds: Mapping[str, float] | None = None,
    labels: Iterable[str] | None = None,
    activation: str = "auto",
    window: float | None = None,
    hop: float | None = None,
    channel: Channels = "mean",
    on_damage: str = "warn",
    max_duration: float = 24 * 3600.0,
    merge: float | tuple[float, float] | None = None,
    scores: bool = False,
    embeddings: str | None = None,
    order: bool = False,
    shard: str | None = None,
    root: str | PathLike[str] = "",
    urls: float | None = None,
    max_failures: int | None = None,
    overwrite: bool = False,
    retry: bool = False,
    decoders: int | None = None,
    decoding: str = "auto",
    on_file: Callable[[str, str | None], object] | None = None,
) -> Any:
    """Tags any number of inputs, in bounded memory, with listing, decoding, model and writing side by side.

    - ``source``: a file, folder, glob, manifest (.jsonl, .csv, .tsv), tar, Parquet or Arrow file; an input of
      ``Tagger.classify``; a dict with "path", "audio" or "file" and optional "id", "start", "end" (seconds) and further
      columns, which are carried; or an iterable of these.
    - ``out``: output folder. None: an iterator of rows ``{"id", "file", "start", "end", "tags"}`` is returned, one a
      window, and ``{"id", "file", "error", "kind"}`` for an input that fails. With a folder, the run is finished when
      the call returns, with its counts. The same call on the same folder goes on where the last one stopped.
    - ``tagger``: the model; None is the built-in one.
    - ``formats``: of the folder: "jsonl", "csv", "parquet", "parquet-long", "raven", "audacity", "kaleidoscope"
      (default: "jsonl").
    - ``top_k``, ``threshold``, ``activation``, ``window``, ``hop``, ``channel``, ``on_damage``, ``max_duration``: as in
      ``Tagger.classify``; windows are rows, and with ``channel="each"`` those of each channel, with its number as
      "channel".
    - ``thresholds``: label -> its own threshold; ``labels``: the only labels that may be tags.
    - ``merge``: (gap, shortest) in seconds, or the gap alone: tags of windows in a row become one detection if no more
      than ``gap`` lies between them, and it stays if it is at least ``shortest`` (0) long; its score is the mean of its
      best three.
    - ``scores``: also write all scores, float16; ``embeddings``: also write them, as "parquet" or "npy".
    - ``order``: keep the order of the list; otherwise an input is through when it is done.
    - ``shard``: "I/N", one of N shares of the inputs (I from 0), in a folder of its own below ``out``.
    - ``root``: folder that relative paths of manifests are relative to; default: the working directory.
    - ``urls``: fetch URLs with fsspec, each up to this many MB; None refuses them.
    - ``max_failures``: stop with AstfastError once more inputs have failed; None never does.
    - ``overwrite``: begin anew in a folder; ``retry``: try again what failed in earlier runs.
    - ``decoders``: threads or processes that decode; default: 2 on a CPU, all cores (up to 32) beside a GPU.
    - ``decoding``: "threads"; "processes", which share no interpreter's lock with the model and may crash without
      ending the run; "auto": processes beside a GPU.
    - ``on_file``: called with the id of each input that is done and its error, or None.

    Raises ValueError for an impossible option, OutputError for a folder of another run or one that can't be written.
    """
    from astfast.tagging.tagger import opened
    from astfast.volume.detections import Merge
    from astfast.volume.formats import beside
    from astfast.volume.options import Options
    from astfast.volume.tag_files import Run
    from astfast.volume.workers import ThisProcess

    only_out = {
        "formats": formats,
        "scores": scores,
        "embeddings": embeddings,
        "overwrite": overwrite,
        "retry": retry,
    }
    for name, value in only_out.items():
        if out is None and value:
            raise ValueError(f"{name} is {value!r} without out: name an output folder")
    chosen = [formats] if isinstance(formats, str) else formats or ["jsonl"]
    beside.check_folders(chosen, source)
    options = Options(
        top_k=top_k,
        threshold=threshold,
        thresholds=thresholds,
        labels=labels if labels is None or isinstance(labels, str) else list(labels),
        activation=activation,
        window=window,
        hop=hop,
        channel=channel,
        on_damage=on_damage,
        max_duration=max_duration,
        merge=None if merge is None else Merge.of(merge),
        scores=scores,
        embeddings=embeddings,
        order=order,
        shard=shard,
        root=root,
        urls=urls,
        max_failures=max_failures,
        decoders=decoders,
        decoding=decoding,
    ).checked()
    engine, arguments = opened(load() if tagger is None else tagger)
    run = Run(source, ThisProcess(engine, options), arguments, options)

    def done(finished: Input) -> None:
        if on_file is not None:
            on_file(finished.item.id, None if finished.error is None else str(finished.error))

    if out is None:
        return run.rows(done)
    return run.into(out, chosen, overwrite, retry, done)


def __getattr__(name: str) -> Any:
    """Tagger on first use, so that importing astfast stays light."""
    if name == "Tagger":
        from astfast.tagging.tagger import Tagger

        return Tagger
    raise AttributeError(f"module 'astfast' has no attribute {name!r}")

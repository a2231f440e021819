"""Tagging in a pipeline of Ray Data. For a run with a journal on a cluster, see ``astfast tag --ray``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astfast.engines.load import LoadArguments
from astfast.errors import AudioError, BackendError
from astfast.integrations import ray_models
from astfast.integrations.ray_worker import Share, Worker, shares
from astfast.volume.inputs import Input
from astfast.volume.items import Item, of_row
from astfast.volume.options import Options
from astfast.volume.records import Row
from astfast.volume.sources import Sources

if TYPE_CHECKING:
    import pyarrow
    import ray.data

BATCH = 64  # rows
AT_A_TIME = 2  # batches of a worker, of which one is decoded while the model is the other's
OPTIONS = (
    *("top_k", "threshold", "thresholds", "labels", "activation", "window", "hop", "channel", "on_damage"),
    *("max_duration", "root", "urls", "decoders", "decoding"),
)


def tag(
    source: Any,
    *,
    model: str | Path | Sequence[str | Path] | None = None,
    precision: str = "auto",
    workers: int | None = None,
    num_cpus: int | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    batch_size: int = BATCH,
    **options: Any,
) -> ray.data.Dataset:
    """Tags the audio of a Ray Dataset: one row out for each row in, whose audio is decoded where the model is.

    - ``source``: a Dataset with a column "path", "audio" or "file" (paths, URLs, or structs of datasets), or "bytes"
      (as ``ray.data.read_binary_files`` gives), and optional "start" and "end" (seconds); or a file, folder, glob or
      manifest, or a list of these, which is listed at once. Don't read it with ``read_audio``: that neither resamples
      nor mixes down.
    - ``model``, ``precision``: as in ``astfast.load``. The model's files are sent to each node once.
    - ``workers``: actors; default: one for each GPU of the cluster, or without any one for each node.
    - ``num_cpus``, ``num_gpus``: of each; default: its part of the node's processors but for one, which reads (with a
      checkpoint, two), and a GPU if there are any. The processors are the threads of a CPU engine;
      fractions of a GPU are possible.
    - ``memory``: bytes that each asks Ray for; default: 1 GB and twice the size of the model.
    - ``batch_size``: rows that a worker takes at a time.
    - ``options``: as in ``astfast.tag_files``: top_k, threshold, thresholds, labels, activation, window, hop, channel,
      on_damage, max_duration, root, urls, decoders, decoding.

    The columns stay, but for those with the bytes of audio, and "file", "labels" (list of strings, best first),
    "scores" (list of float32), "error", "kind" and "warnings" are added. With ``window``, or channel="each", a list
    "segments" of structs (start, end, channel, labels, scores) takes the place of labels and scores. A row whose audio
    is bad has an error and no labels. With ``ray.data.checkpoint.CheckpointConfig``, a job that is started again leaves
    out the rows that were written, if the Dataset is read from files, such as a Parquet file of paths.

    Raises CheckpointError, BackendError, TypeError for an unknown option, ValueError for a value that is impossible.
    """
    for name in options:
        if name not in OPTIONS:
            raise TypeError(f"unknown option {name}=: those of tag are {', '.join(OPTIONS)}")
    asked = Options(**options).checked()
    try:
        import ray.data
    except ImportError as error:
        raise BackendError(f"ray: the package is missing ({error}): pip install 'astfast[ray]'") from error

    checkpoint = ray.data.DataContext.get_current().checkpoint_config
    dataset = source
    if not isinstance(source, ray.data.Dataset):
        if checkpoint is not None:
            raise ValueError(
                "a checkpoint leaves out only what Ray reads from files: pass ray.data.read_parquet of the list"
            )
        dataset = ray.data.from_items(_listed(source, asked))
    spare = 1 if checkpoint is None else 2  # processors of tasks that read, and of the checkpoint's actor
    count, share = shares(workers, num_cpus, num_gpus, spare)
    sources = tuple(model) if isinstance(model, (list, tuple)) else (model,)
    sent = ray_models.send(LoadArguments(sources, precision=precision))
    return dataset.map_batches(
        Tagging,
        batch_format="pyarrow",
        batch_size=batch_size,
        fn_constructor_kwargs={"sent": sent, "options": asked, "share": share},
        compute=ray.data.ActorPoolStrategy(
            size=count, max_concurrent_calls_per_actor=AT_A_TIME, enable_true_multi_threading=True
        ),
        num_cpus=share.num_cpus,
        num_gpus=share.num_gpus,
        memory=memory or share.memory + 2 * sent.bytes,
        udf_modifying_row_count=False,
    )


def _listed(source: Any, options: Options) -> list[dict[str, Any]]:
    rows = []
    for item in Sources(source, options.roots):
        if isinstance(item.audio, AudioError):
            raise item.audio
        if isinstance(item.audio, bytes) or not isinstance(item.audio, str | tuple):
            raise ValueError(f"{item.file}: only names of files can be listed: pass a Dataset of what holds the audio")
        part = {} if item.start is None and item.end is None else {"start": item.start, "end": item.end}
        rows.append({"id": item.id, "path": item.audio if isinstance(item.audio, str) else item.file, **part})
        rows[-1] |= item.columns
    if not rows:
        raise ValueError(f"{source!r}: no audio files there: check the path")
    return rows


class Tagging:
    """What ``map_batches`` makes an actor of. It can be called from several threads."""

    def __init__(self, sent: ray_models.Sent, options: Options, share: Share) -> None:
        self._worker = Worker(sent, options, share)
        self._options = options

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        import pyarrow

        roots = self._options.roots
        items = [_item(row, f"row {i}", roots)._replace(id=str(i)) for i, row in enumerate(table.to_pylist())]
        inputs = sorted(self._worker.tag(items).inputs, key=lambda input_: int(input_.item.id))
        for name in table.column_names:
            if _holds_bytes(table.schema.field(name).type):
                table = table.drop_columns([name])
        for name, type_, value in self._columns(pyarrow):
            values = pyarrow.array([value(input_) for input_ in inputs], type_)
            place = table.schema.get_field_index(name)
            table = table.append_column(name, values) if place < 0 else table.set_column(place, name, values)
        return table

    def _columns(self, pa: Any) -> list[tuple[str, Any, Any]]:
        """Name, type, and value for an input, of what is added."""
        tags = [("labels", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))]
        if self._options.window is not None or self._options.channel == "each":
            segment = pa.struct([("start", pa.float64()), ("end", pa.float64()), ("channel", pa.int32()), *tags])
            results: list[tuple[str, Any, Any]] = [("segments", pa.list_(segment), self._segments)]
        else:
            results = [(name, type_, lambda input_, name=name: self._tags(input_).get(name)) for name, type_ in tags]
        return [
            ("file", pa.string(), lambda input_: input_.item.file),
            *results,
            ("error", pa.string(), lambda input_: None if input_.error is None else str(input_.error)),
            ("kind", pa.string(), lambda input_: None if input_.error is None else input_.error.kind),
            ("warnings", pa.list_(pa.string()), lambda input_: input_.warnings),
        ]

    def _tags(self, input_: Input) -> dict[str, Any]:
        return {} if input_.error is not None else self._of_row(input_.rows[0])

    def _segments(self, input_: Input) -> list[dict[str, Any]] | None:
        if input_.error is not None:
            return None
        return [
            {"start": row.start, "end": row.end, "channel": row.channel, **self._of_row(row)} for row in input_.rows
        ]

    def _of_row(self, row: Row) -> dict[str, Any]:
        labels = self._worker.about.labels
        return {"labels": [labels[label] for label, _ in row.tags], "scores": [score for _, score in row.tags]}


def _item(row: Mapping[str, Any], place: str, roots: Any) -> Item:
    """A row as an input; bytes in a column of their own come before the path that they were read from."""
    if isinstance(row.get("bytes"), bytes):
        path = row.get("path")
        row = {**row, "path": {"bytes": row["bytes"], "path": path if isinstance(path, str) else None}}
    return of_row(row, place, roots)


def _holds_bytes(type_: pyarrow.DataType) -> bool:
    import pyarrow.types

    if pyarrow.types.is_struct(type_):
        return any(_holds_bytes(field.type) for field in type_)
    return bool(pyarrow.types.is_binary(type_) or pyarrow.types.is_large_binary(type_))

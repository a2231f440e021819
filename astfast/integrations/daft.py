"""Tagging in a Daft query: ``df.with_column("tags", tag(df["path"]))``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astfast.engines.load import LoadArguments, load_engine
from astfast.errors import BackendError
from astfast.volume import run
from astfast.volume.items import Item
from astfast.volume.options import Options
from astfast.volume.progress import Progress
from astfast.volume.workers import ThisProcess

if TYPE_CHECKING:
    import daft

BATCH = 256  # rows
OPTIONS = ("top_k", "threshold", "thresholds", "labels", "activation", "channel", "on_damage", "max_duration")


def tag(
    column: daft.Expression,
    *,
    model: str | Path | Sequence[str | Path] | None = None,
    precision: str = "auto",
    threads: int | None = None,
    gpus: float = 0,
    max_concurrency: int = 1,
    **options: Any,
) -> daft.Expression:
    """Tags of a column of paths or of the bytes of files: a struct of labels (best first), scores and error.

    - ``model``, ``precision``, ``threads``: as in ``astfast.load``; a node without the model must be able to
      download it.
    - ``gpus``: of each worker, also a fraction; 0 tags on the CPU. ``max_concurrency``: workers.
    - ``options``: top_k, threshold, thresholds, labels, activation, channel (not "each"), on_damage, max_duration as
      in ``astfast.tag_files``.

    A row whose audio is bad has an error and no labels. Raises BackendError where Daft is not installed, TypeError for
    an unknown option, ValueError for an impossible value.
    """
    for name in options:
        if name not in OPTIONS:
            raise TypeError(f"unknown option {name}=: those of tag are {', '.join(OPTIONS)}")
    if options.get("channel") == "each":
        raise ValueError("channel='each' has several results for a row: take 'mean', 'max' or a number")
    try:
        import daft
        from daft import DataType
    except ImportError as error:
        raise BackendError(f"daft: the package is missing ({error}): pip install 'astfast[daft]'") from error
    sources = tuple(model) if isinstance(model, (list, tuple)) else (model,)
    arguments = LoadArguments(sources, device="cuda" if gpus else "cpu", precision=precision, threads=threads)
    labels, scores = DataType.list(DataType.string()), DataType.list(DataType.float32())
    result = DataType.struct({"labels": labels, "scores": scores, "error": DataType.string()})

    class Tagging(Tags):
        """With a method that Daft calls."""

        @daft.method.batch(return_dtype=result, batch_size=BATCH)  # type: ignore[untyped-decorator]
        def tag(self, values: daft.Series) -> Any:
            return self.of(values.to_pylist())

    workers = daft.cls(Tagging, gpus=gpus, max_concurrency=max_concurrency)
    return workers(arguments, Options(**options).checked()).tag(column)


class Tags:
    """A model, and the tags of values of a column."""

    def __init__(self, arguments: LoadArguments, options: Options) -> None:
        self._work = ThisProcess(load_engine(arguments), options)

    def of(self, values: Sequence[str | bytes | None]) -> list[dict[str, Any] | None]:
        """A struct for each value, None for None."""
        items = [_item(i, value) for i, value in enumerate(values) if value is not None]
        found: list[dict[str, Any] | None] = [None] * len(values)
        for done, row in run.events(items, self._work.plan, Progress()):
            if row is None:
                tags = [] if done.error is not None else done.rows[0].tags
                found[int(done.item.id)] = {
                    "labels": [self._work.labels[label] for label, _ in tags],
                    "scores": [score for _, score in tags],
                    "error": None if done.error is None else str(done.error),
                }
        return found


def _item(number: int, value: str | bytes) -> Item:
    """A value as an input; Daft writes file:// before paths of this machine, relative ones too."""
    if isinstance(value, str):
        path = value.removeprefix("file://")
        return Item(str(number), path, path)
    return Item(str(number), f"row {number}", value)

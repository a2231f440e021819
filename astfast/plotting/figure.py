"""The figure: spectrogram above, tags below, one time axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from astfast.errors import AstfastError, OutputError
from astfast.front_end import mel_scale
from astfast.plotting.spectrogram import BANDS, RANGE, Spectrogram, band_centres
from astfast.plotting.timeline import Timeline

WIDTH, SPECTROGRAM_HEIGHT, ROW_HEIGHT = 10.0, 2.6, 0.3  # inches
DPI = 150
LABEL = 28  # characters of a label that are shown
FREQUENCIES = (100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000)  # Hz, that are marked


def draw(path: Path, title: str, spectrogram: Spectrogram, tags: Timeline) -> None:
    """Writes the picture in the format of the path's ending. Raises OutputError where it can't be written,
    AstfastError without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AstfastError(f"matplotlib is missing ({error}): pip install 'astfast[plot]'") from error

    duration = spectrogram.samples / spectrogram.rate
    heights = [SPECTROGRAM_HEIGHT, ROW_HEIGHT * max(1, len(tags.labels))]
    figure = Figure(figsize=(WIDTH, sum(heights) + 1.0), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    _draw_spectrogram(figure, above, spectrogram)
    _draw_tags(figure, below, tags, duration)
    above.set_title(title, loc="left", fontsize=10, parse_math=False)
    below.set_xlim(0.0, duration)
    unit, name = (3600.0, "hours") if duration > 7200 else (60.0, "minutes") if duration > 180 else (1.0, "seconds")
    below.xaxis.set_major_locator(_locator(unit))
    below.xaxis.set_major_formatter(lambda seconds, _: f"{seconds / unit:g}")
    below.set_xlabel(name)
    try:
        with rc_context({"svg.fonttype": "none"}):  # text stays text
            figure.savefig(path)
    except OSError as error:
        raise OutputError(f"{path}: can't be written ({error.strerror or error}): check the folder") from error


def _draw_spectrogram(figure: Any, axes: Any, spectrogram: Spectrogram) -> None:
    level = spectrogram.decibels()
    end = len(level) * spectrogram.seconds_a_column
    image = axes.imshow(
        level.T, origin="lower", aspect="auto", extent=(0.0, end, -0.5, BANDS - 0.5), cmap="magma", vmin=-RANGE, vmax=0
    )
    marks = [hertz for hertz in FREQUENCIES if hertz <= spectrogram.rate / 2]
    centres = band_centres(spectrogram.rate)
    axes.set_yticks(np.interp(mel_scale(marks), centres, np.arange(BANDS)))
    axes.set_yticklabels([f"{hertz / 1000:g}" for hertz in marks])
    axes.set_ylabel("kHz")
    figure.colorbar(image, ax=axes, label="dB", pad=0.01)


def _draw_tags(figure: Any, axes: Any, tags: Timeline, duration: float) -> None:
    rows = max(1, len(tags.labels))
    scores = tags.scores if tags.labels else np.full((1, 1), np.nan)
    image = axes.imshow(
        scores, aspect="auto", extent=(0.0, duration, rows - 0.5, -0.5), cmap="Blues", vmin=0, vmax=1,
        interpolation="nearest",
    )  # fmt: skip
    names = [f"{_short(label)}  {best:.2f}" for label, best in zip(tags.labels, tags.best, strict=True)]
    axes.set_yticks(range(rows), names or ["no tags"], parse_math=False)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", axis="y", color="lightgrey", linewidth=0.8)
    axes.tick_params(axis="y", which="both", length=0)
    figure.colorbar(image, ax=axes, label="score", pad=0.01)


def _short(label: str) -> str:
    return label if len(label) <= LABEL else label[: LABEL - 1] + "…"


def _locator(unit: float) -> Any:
    from matplotlib.ticker import MaxNLocator

    class InUnits(MaxNLocator):
        """Round numbers of the unit."""

        def tick_values(self, vmin: float, vmax: float) -> Any:
            return np.asarray(super().tick_values(vmin / unit, vmax / unit)) * unit

    return InUnits(nbins=10, steps=[1, 2, 2.5, 5, 10])

"""Plots of benchmark results as SVG files: bars of medians, whiskers from the 20th to the 80th percentile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import Results

TITLES = {"ast-base": "AST-base, 10 s, 1,214 tokens", "speech-commands": "Speech Commands, 1 s, 146 tokens"}


def plot_models(results: Results, folder: Path, machine: str) -> Iterable[Path]:
    """Clips per second: a file for each geometry, a panel for each batch size, a bar for each engine and precision."""
    for geometry, title in TITLES.items():
        found = [r for r in results.get("model", []) if r["geometry"] == geometry and "clips_per_second" in r]
        batches = sorted({row["batch"] for row in found})
        if not found:
            continue
        figure, panels = _figure(len(batches), 0.3 * len(found) / len(batches) + 1)
        for panel, batch in zip(panels, batches, strict=True):
            bars = sorted((r for r in found if r["batch"] == batch), key=lambda r: r["clips_per_second"][1])
            _bars(
                panel,
                [f"{row['engine']} {row['dtype']}" for row in bars],
                [row["clips_per_second"] for row in bars],
                [row["engine"] == "astfast" for row in bars],
            )
            panel.set_title(f"{title}, batch {batch}", fontsize=9)
            panel.set_xlabel("clips a second", fontsize=8)
        yield _saved(figure, folder / f"clips_per_second_{geometry.replace('-', '_')}_{machine}.svg")


def plot_ops(results: Results, folder: Path, machine: str) -> Iterable[Path]:
    """Share of the instruction peak of every op at the sizes of AST-base."""
    found = [r for r in results.get("ops", []) if r["geometry"] == "ast-base" and "share_of_peak" in r]
    if not found:
        return
    precisions = list(dict.fromkeys(row["dtype"] for row in found))
    figure, panels = _figure(len(precisions), 0.3 * len(found) / len(precisions) + 1)
    for panel, precision in zip(panels, precisions, strict=True):
        bars = [row for row in reversed(found) if row["dtype"] == precision]
        peaks = [row["peak_operations_per_second"][1] for row in bars]
        shares = [[100 * x / peak for x in r["operations_per_second"]] for r, peak in zip(bars, peaks, strict=True)]
        _bars(panel, [row["op"] for row in bars], shares, [True] * len(bars))
        panel.set_xlim(0, 100)
        panel.set_title(f"% of the peak of {bars[0]['peak']}", fontsize=9)
    yield _saved(figure, folder / f"ops_share_of_peak_{machine}.svg")


def _figure(panels: int, height: float) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "astfast", "svg.fonttype": "none"}  # the same figures make the same, small file
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, panels, figsize=(4.6 * panels, height), squeeze=False, layout="constrained")
    return figure, axes[0]


def _bars(panel: Any, names: Sequence[str], spreads: Sequence[Sequence[float]], ours: Sequence[bool]) -> None:
    """Horizontal bars of medians with whiskers from the 20th to the 80th percentile."""
    medians = [p50 for _, p50, _ in spreads]
    whiskers = [[p50 - p20 for p20, p50, _ in spreads], [p80 - p50 for _, p50, p80 in spreads]]
    colours = ["#d1495b" if own else "#9aa5b1" for own in ours]
    panel.barh(names, medians, xerr=whiskers, color=colours, error_kw={"elinewidth": 0.8})
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, metadata={"Date": None})
    return path

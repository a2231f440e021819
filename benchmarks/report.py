"""Writes the README's table, docs/benchmarks.md and the plots from the results; no figure in them is typed.

python -m benchmarks.report [--machine SLUG] [--draft]

Results measured beside other work are refused: with --draft they are shown all the same, and said to be just that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import rows
from benchmarks.pages import markdown, write_section

README = rows.ROOT / "README.md"
DOCS = rows.ROOT / "docs"
BENCHMARKS = ("model", "ops", "pipeline", "process", "scaling")
BUSY = 0.05  # share of the machine that others may have used
GEOMETRIES = {"ast-base": "AST-base, 10 s, 1,214 tokens", "speech-commands": "Speech Commands, 1 s, 146 tokens"}

Row = dict[str, Any]
Results = dict[str, list[Row]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    machines = load(options.results, options.machine)
    if not machines:
        sys.exit(f"no results in {options.results}: run `make bench` first")
    options.docs.mkdir(exist_ok=True)
    page, readme = ["# Benchmarks"], []
    for machine, results in machines.items():
        note = [about_others(results, options.draft)]
        plots = [plot for make in (plot_models, plot_ops) for plot in make(results, options.docs, machine)]
        images = [f"![{path.stem.replace('_', ' ')}]({path.name})" for path in plots]
        page += [f"## {title(results)}", *note, summary(results), *tables(results), *images]
        readme += [f"**{title(results)}**", *note, *readme_parts(results)]
    readme.append(
        "Random weights; engines took turns in one run, after their logits had been compared. Medians, in brackets the "
        "20th and 80th percentile. All figures: [docs/benchmarks.md](docs/benchmarks.md)."
    )
    (options.docs / "benchmarks.md").write_text("\n\n".join(filter(None, page)) + "\n")
    write_section(options.readme, "benchmarks", "\n\n".join(filter(None, readme)))


def load(folder: Path, machine: str | None) -> dict[str, Results]:
    """machine -> benchmark -> rows, those of the newest model benchmark first; of the named machine only, if one is."""
    files = {tuple(path.stem.split("_", 1)): path for path in sorted(folder.glob("*_*.jsonl"))}
    files = {key: path for key, path in files.items() if key[0] in BENCHMARKS and path.stat().st_size}
    dates = {key: (key[0] == "model", rows.read(path)[0]["date"]) for key, path in files.items()}
    newest_first = dict.fromkeys(key[1] for key in sorted(files, key=dates.__getitem__, reverse=True))
    return {
        name: {benchmark: rows.read(files[benchmark, name]) for benchmark in BENCHMARKS if (benchmark, name) in files}
        for name in newest_first
        if machine in (None, name)
    }


def about_others(results: Results, draft: bool) -> str:
    """A note on results that were measured while other programs ran, which is an error unless this is a draft."""
    busy = {name: max(row["background"] for row in found) for name, found in results.items()}
    disturbed = {name: share for name, share in busy.items() if share > BUSY}
    if disturbed and not draft:
        listed = ", ".join(f"{name} ({share:.0%})" for name, share in disturbed.items())
        sys.exit(f"measured while others used the machine: {listed}. Run them again alone, or pass --draft.")
    return "**Draft: measured while other programs used the machine.**" if disturbed else ""


def title(results: Results) -> str:
    """The processor, its instruction sets and how much of it there is."""
    first = next(iter(results.values()))[0]
    return f"{first['cpu']}, {first['machine']}"


def summary(results: Results) -> str:
    """When and with what."""
    runs = [f"{name} {found[0]['date'][:10]} at {found[0]['commit']}" for name, found in results.items()]
    versions = next(iter(results.values()))[0]["versions"]
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    stolen = max(row["stolen"] for found in results.values() for row in found)
    taken = f" Its host gave up to {stolen:.0%} of its time to others meanwhile." if stolen > BUSY else ""
    return f"Measured: {', '.join(runs)}.{taken} With {shown}."


def readme_parts(results: Results) -> list[str]:
    """Clips a second of every engine, then what a user notices besides."""
    models = [model_table(results.get("model", []), geometry) for geometry in GEOMETRIES]
    return [*models, process_table(results.get("process", [])), notable(results), summary(results)]


def model_table(found: Iterable[Row], geometry: str) -> str:
    """One line an engine and precision; empty without rows of this geometry."""
    rows_of = [r for r in found if r["geometry"] == geometry and r["weights"] == "plain" and "clips_per_second" in r]
    batches = sorted({row["batch"] for row in rows_of})
    if not rows_of:
        return ""
    speedups = {row["batch"]: {} for row in rows_of}  # batch -> peer -> spread of astfast's in the same precision
    for row in rows_of:
        for peer, ratio in row.get("speedup", {}).items():
            if peer.split()[-1] == row["dtype"]:
                speedups[row["batch"]][peer] = ratio
    head = ["engine", "precision"]
    head += [f"clips/s, batch {batch}" for batch in batches] + [f"astfast is, batch {batch}" for batch in batches]
    lines = [[GEOMETRIES[geometry], *head[1:], "error", "computes with"]]
    for engine, precision in dict.fromkeys((row["engine"], row["dtype"]) for row in rows_of):
        own = {row["batch"]: row for row in rows_of if (row["engine"], row["dtype"]) == (engine, precision)}
        rates = [_spread(own[batch]["clips_per_second"]) if batch in own else "" for batch in batches]
        ratios = [_times(speedups[batch].get(f"{engine} {precision}")) for batch in batches]
        some = next(iter(own.values()))
        name = f"**{engine}**" if engine == "astfast" else engine
        lines.append([name, precision, *rates, *ratios, f"{some['relative_error']:.0e}", some["isa"]])
    return markdown(lines)


def process_table(found: Iterable[Row]) -> str:
    """From nothing to tags: one line an engine and precision."""
    lines = [
        [row["engine"], row["dtype"], f"{row['seconds'][1]:.2f} s", f"{row['peak_bytes'][1] / 1e6:.0f} MB"]
        for row in found
        if row["measure"] == "cold start"
    ]
    head = ["a process for one clip", "precision", "start to first tags", "peak memory"]
    return markdown([head, *lines]) if lines else ""


def notable(results: Results) -> str:
    """A list of what the tables do not show."""
    return "\n".join(f"- {fact}" for fact in _facts(results))


def _facts(results: Results) -> Iterable[str]:
    for row in results.get("model", []):
        if row["geometry"] == "ast-base" and row["engine"] == "astfast" and "share_of_peak" in row:
            today = row["speedup"].get("transformers float32")
            over = f", {_times(today)} transformers in float32" if today else ""
            yield (
                f"{row['dtype']}, batch {row['batch']}: {row['share_of_peak']:.0%} of the instruction peak "
                f"({row['peak']}) measured in the same run{over}"
            )
    scaling = results.get("scaling", [])
    largest = max((row["batch"] for row in scaling if row["measure"] == "batch"), default=1)
    for row in scaling:
        if row["measure"] == "threads" and row["threads"] > 1:
            yield f"{row['dtype']}: {row['threads']} threads are {_times(row['over_one_thread'])} one"
        elif row["measure"] == "batch" and row["batch"] == largest > 1:
            yield f"{row['dtype']}: clips/s at batch {largest} are {_times(row['over_batch_1'])} those at batch 1"
        elif row["measure"] == "log-mel":
            yield f"log-mel on one thread: {1e3 * row['seconds'][1]:.2f} ms a clip, {_times(row['speedup'])} torchaudio"
    for row in results.get("process", []):
        if row["measure"] == "memory growth":
            yield f"memory grew by {row['growth_bytes'] / 1e6:.1f} MB over {row['calls']:,} calls"


def tables(results: Results) -> Iterable[str]:
    """Everything, as Markdown."""
    for geometry in GEOMETRIES:
        yield model_table(results.get("model", []), geometry)
    yield process_table(results.get("process", []))
    yield notable(results)
    yield ops_table(results.get("ops", []))
    yield pipeline_table(results.get("pipeline", []))


def ops_table(found: Sequence[Row]) -> str:
    """One line an op, model and precision."""
    head = ["model", "op", "precision", "ms", "GFLOP/s", "share of", "peak", "is over torch", "error", "torch's error"]
    lines = []
    for row in found:
        timed = [f"{1e3 * row['seconds'][1]:.3g}", "", "", ""]
        if "share_of_peak" in row:
            timed[1:] = f"{row['operations_per_second'][1] / 1e9:,.0f}", f"{row['share_of_peak']:.0%}", row["peak"]
        errors = [f"{row['max_error']:.0e}", f"{row['torch_max_error']:.0e}"]
        lines.append([row["geometry"], row["op"], row["dtype"], *timed, _times(row["over_torch"]), *errors])
    return markdown([head, *lines]) if lines else ""


def pipeline_table(found: Sequence[Row]) -> str:
    """One line a file format, one column a stage."""
    stages = list(dict.fromkeys(row["stage"] for row in found))
    lines = []
    for name in dict.fromkeys(row["format"] for row in found):
        times = {row["stage"]: row["seconds"][1] for row in found if row["format"] == name}
        lines.append([name, *(f"{1e3 * times[stage]:.4g}" for stage in stages)])
    return markdown([["ms a file", *stages], *lines]) if lines else ""


def plot_models(results: Results, folder: Path, machine: str) -> Iterable[Path]:
    """A bar an engine and precision, a panel a batch size, a file a geometry."""
    for geometry, title in GEOMETRIES.items():
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
    """Shares of the instruction's peak of every op at AST-base."""
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


def _spread(value: Sequence[float]) -> str:
    p20, p50, p80 = (f"{x:.3g}" if x < 1000 else f"{x:,.0f}" for x in value)
    return f"{p50} ({p20} to {p80})"


def _times(value: Sequence[float] | None) -> str:
    return "" if value is None else f"{value[1]:.2f}x ({value[0]:.2f} to {value[2]:.2f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", metavar="SLUG", help="as in the names of the results (default: all)")
    parser.add_argument("--draft", action="store_true", help="show results that were measured beside other work")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, metavar="DIR")
    parser.add_argument("--readme", type=Path, default=README, metavar="FILE")
    parser.add_argument("--docs", type=Path, default=DOCS, metavar="DIR")
    return parser


if __name__ == "__main__":
    main()

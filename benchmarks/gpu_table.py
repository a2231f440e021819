"""The table at the end of a run of benchmarks/run_gpu.py: ours beside each peer, and shares of what the GPU can do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.models import GEOMETRIES, operations

PEERS = ("sdpa", "compiled", "accelerated")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of a run as text; what was not measured is a dash."""
    return "\n".join(_lines(rows))


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    done = [row for row in rows if "failed" not in row and "skipped" not in row]
    ceilings: dict[str, Any] = next((row for row in done if "product_tflops" in row), {})
    yield f"{rows[0]['gpu'] if rows else 'no GPU'}: features on the device to logits there, clips/s"
    peers = "".join(f"{name:>12}{'ours over':>10}" for name in PEERS)
    yield f"{'precision':<10}{'batch':>6}{'astfast':>10}{'of product':>11}{peers}"
    speeds = {_key(row): row for row in done if "engine" in row}
    for precision, batch, geometry in dict.fromkeys(key[1:] for key in speeds):
        ours = speeds.get(("astfast", precision, batch, geometry))
        cells = ""
        for name in PEERS:
            peer = speeds.get((name, precision, batch, geometry))
            ratio = f"{ours['clips_per_second'] / peer['clips_per_second']:.2f}x" if ours and peer else "-"
            cells += f"{_rate(peer):>12}{ratio:>10}"
        yield f"{precision:<10}{batch:>6}{_rate(ours):>10}{_share(ours, ceilings):>11}{cells} {geometry}"
    for row in done:
        if ratios := {key: value for key, value in row.items() if key.startswith("over_")}:
            told = ", ".join(f"{value[1]:.2f}x {key.replace('_', ' ')}" for key, value in ratios.items())
            how = f", with {row['with']}" if "with" in row else ""
            yield f"in turns, {row['precision']}, batch {row['batch']}{how}: {told}"
    for row in done:
        if row["name"].startswith("top-"):
            yield f"{row['name']}: {_rate(row)} clips/s, {row['milliseconds']:.2f} ms a call"
    for row in done:
        if "kernel_tflops" in row or "torch_tflops" in row:
            yield _product(row, ceilings)
    if ceilings:
        yield f"ceilings: product {ceilings['product_tflops']:.0f} TFLOP/s, copy {ceilings['copy_tbs']:.2f} TB/s"


def _key(row: dict[str, Any]) -> tuple[str, str, int, str]:
    return row["engine"], row["precision"], row["batch"], row["geometry"]


def _rate(row: dict[str, Any] | None) -> str:
    return "-" if row is None else f"{row['clips_per_second']:,.4g}"


def _share(row: dict[str, Any] | None, ceilings: dict[str, Any]) -> str:
    """Share of the measured product: of the operations of the model, without what the last layer can skip."""
    if row is None or not ceilings or row["model"] not in GEOMETRIES:
        return "-"
    geometry = GEOMETRIES[row["model"]].model_config()
    return f"{operations(geometry) * row['clips_per_second'] / ceilings['product_tflops'] / 1e12:.0%}"


def _product(row: dict[str, Any], ceilings: dict[str, Any]) -> str:
    told = []
    for server in ("kernel", "torch"):
        if rate := row.get(f"{server}_tflops"):
            share = f" ({rate / ceilings['product_tflops']:.0%})" if ceilings else ""
            told.append(f"{server} {row[f'{server}_us']:.1f} us, {rate:.0f} TFLOP/s{share}")
    chosen = f"{row['served_by']} serves: " if "served_by" in row else ""
    return f"{row['name'][:90]}: {chosen}{'; '.join(told)}"

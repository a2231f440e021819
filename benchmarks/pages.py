"""Pages with tables that are generated: Markdown, and the markers that a section stands between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def markers(section: str) -> tuple[str, str]:
    """The lines that a section of a page stands between."""
    return f"<!-- {section}:begin -->", f"<!-- {section}:end -->"


def write_section(path: Path, section: str, text: str) -> None:
    """Replaces what stands between a section's markers. Raises ValueError where the page lacks them."""
    begin, end = markers(section)
    before, found_begin, rest = path.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{path} has no {begin} followed by {end}: add them where the section belongs")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def markdown(rows: Sequence[Sequence[object]]) -> str:
    """A table; the first row is its head."""
    head, *body = (f"| {' | '.join(map(str, row))} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])

"""Blocks of code that stand twice: more than 12 lines in a row that are the same but for blanks and comments."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

from tests.architecture.source import Tree

LONGEST_COPY = 12  # lines
FOLDERS = ("astfast", "kernels", "csrc", "benchmarks")
LITERAL = r"[-+]?0x[\da-fA-F.p+-]+f?|[-+]?\d[\w.+-]*|\"[^\"]*\"|'[^']*'|True|False|None|nullptr"


@cache
def code_lines(text: str, python: bool) -> list[tuple[int, str]]:
    """(number, text) of the lines that count: no imports, blanks, comments, lone punctuation, or rows of tables."""
    comment = r"(^|\s)#.*" if python else r"//.*"
    imports = r"(from .* )?import .*" if python else r"#.*|using .*"
    found = []
    for i, line in enumerate(text.splitlines(), 1):
        code = " ".join(re.sub(comment, "", line).split())
        if re.search(r"\w", code) and not re.fullmatch(imports, code) and not is_row_of_table(code):
            found.append((i, code))
    return found


def is_row_of_table(text: str) -> bool:
    """Whether most of a line is literals."""
    return 2 * sum(len(literal) for literal in re.findall(LITERAL, text)) > len(re.sub(r"[\s,]", "", text))


def copies(tree: Tree) -> Iterator[str]:
    """Each pair of places whose code is the same over more than LONGEST_COPY lines."""
    lines = {}
    for folder in FOLDERS:
        for path in tree.files(folder, ".py", ".cpp", ".h", ".c", ".cu"):
            lines[str(path.relative_to(tree.root))] = code_lines(path.read_text(), path.suffix == ".py")
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    size = LONGEST_COPY + 1
    for path, code in lines.items():
        for start in range(len(code) - size + 1):
            places[tuple(text for _, text in code[start : start + size])].append((path, start))
    reported: set[tuple[str, int, str, int]] = set()
    for found in places.values():
        for (a, i), (b, j) in pairwise(found):
            if (a, i - 1, b, j - 1) not in reported:
                yield f"{a}:{lines[a][i][0]}: {size} lines or more that stand again in {b}:{lines[b][j][0]}"
            reported.add((a, i, b, j))

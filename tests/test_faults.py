"""Each fault that was found once has a test: those that cases/faults.py names are there, and no fault is missing."""

import ast
import re
from functools import cache

import pytest

from tests import ROOT
from tests.cases import faults

PAGE = ROOT.parent / "shared" / "design" / "faults.md"
PARTS = {"A": 24, "B": 49, "C": 17, "D": 9, "E": 28}  # faults with a number of their own; A's others are F and T


@cache
def functions(path: str) -> set[str]:
    return {
        node.name for node in ast.parse((ROOT / "tests" / path).read_text()).body if isinstance(node, ast.FunctionDef)
    }


def test_every_fault_has_a_test_that_exists() -> None:
    for code, tests in faults.table().items():
        assert tests, code
        for test in tests:
            path, name = test.split("::")
            assert name.startswith("test_"), test
            assert name in functions(path), f"{code}: there is no {test}"


def test_no_fault_is_missing() -> None:
    codes = [*faults.table(), *faults.NO_FAULTS]
    counts = dict.fromkeys(PARTS, 0)
    for code in codes:
        part, number = code.split(".")
        counts[part] += number[0] not in "FT"
    assert counts == PARTS


def test_the_codes_are_those_of_the_page() -> None:
    if not PAGE.is_file():
        pytest.skip(f"the page of faults is not on this machine ({PAGE})")
    parts = dict(zip("ABCDE", re.split(r"^# Part [A-E]", PAGE.read_text(), flags=re.M)[1:], strict=True))
    written = {
        "A": re.findall(r"\*\*([A-E]\d)\.", parts["A"]),
        "B": re.findall(r"^### (\d+)\. |^\| (\d+) \|", parts["B"], re.M),
        "C": re.findall(r"^#+ (\d+)\. |^(\d+)\. [A-Z ]*LOW", parts["C"], re.M),
        "E": re.findall(r"^##### (H\d)\. |\*\*(M\d+)\b|\b(L\d+) ", parts["E"], re.M),
    }
    for part, found in written.items():
        numbers = {number if isinstance(number, str) else "".join(number) for number in found}
        named = {code.split(".")[1] for code in (*faults.table(), *faults.NO_FAULTS) if code[0] == part}
        assert numbers == {number for number in named if number[0] not in "FT"}, part

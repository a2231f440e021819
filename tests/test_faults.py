"""Each fault that was found once has a test: those that cases/faults.py names are there, and no fault is missing."""

import ast
from functools import cache

from tests import ROOT
from tests.cases import faults

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

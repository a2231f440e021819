"""The rules of the house on this checkout; docs/architecture.md says why. ``test_breaches`` shows that they see."""

from collections.abc import Callable, Iterator

import pytest

from tests import ROOT
from tests.architecture import native_rules, rules
from tests.architecture.duplicates import copies
from tests.architecture.source import Tree

CHECKOUT = Tree(ROOT)


@pytest.mark.parametrize("rule", [*rules.RULES, *native_rules.RULES, copies], ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: Callable[[Tree], Iterator[str]]) -> None:
    breaches = list(rule(CHECKOUT))
    assert not breaches, "\n".join(breaches)

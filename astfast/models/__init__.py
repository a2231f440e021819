"""Model families: how each reads its checkpoints, and its forward pass, written only against the Ops protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from astfast.models.base import Family


def _ast() -> Family:
    from astfast.models.ast.family import AST

    return AST


def _dass() -> Family:
    from astfast.models.dass.family import DASS

    return DASS


def _ced() -> Family:
    from astfast.models.ced.family import CED

    return CED


def _maest() -> Family:
    from astfast.models.maest.family import MAEST

    return MAEST


def _passt() -> Family:
    from astfast.models.passt.family import PASST

    return PASST


FAMILIES: tuple[Callable[[], Family], ...] = (_ast, _dass, _ced, _maest, _passt)  # in the order in which they are asked


def families() -> Iterator[Family]:
    """All families, each imported when it is reached: most processes load a model of the first."""
    return (family() for family in FAMILIES)

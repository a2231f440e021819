"""Model families: how each reads its checkpoints, and its forward pass, written only against the Ops protocol."""

from __future__ import annotations

from astfast.models.ast.family import AST
from astfast.models.base import Family
from astfast.models.dass.family import DASS

FAMILIES: tuple[Family, ...] = (AST, DASS)

"""The public API against its snapshot, tests/public_api.txt: what is named there stays until a major release.

After a change that is meant, write it anew and put the change into CHANGELOG.md:

    python -m tests.test_public_api
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import astfast
from tests import ROOT

SNAPSHOT = ROOT / "tests" / "public_api.txt"
PROTOCOLS = ("__enter__", "__exit__", "__getstate__", "__setstate__")


def signature(function: Any) -> str:
    """Names, kinds and defaults of parameters; annotations are left to the type checker."""
    found = inspect.signature(function)
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def members(cls: type) -> Iterator[str]:
    """Public methods and properties that a class defines itself."""
    for name, member in sorted(vars(cls).items()):
        if name.startswith("_") and name not in PROTOCOLS:
            continue
        if isinstance(member, property):
            yield f"{cls.__name__}.{name}"
        elif inspect.isfunction(member):
            yield f"{cls.__name__}.{name}{signature(member)}"


def python() -> Iterator[str]:
    for name in sorted(astfast.__all__):
        value = getattr(astfast, name)
        if isinstance(value, type):
            bases = ", ".join(base.__name__ for base in value.__mro__[1:-1])
            yield f"astfast.{name}({bases})"
            yield from members(value)
        else:
            yield f"astfast.{name}{signature(value) if callable(value) else ''}"


def torch_extensions() -> Iterator[str]:
    import torch

    from astfast.integrations import torch_module, torch_ops

    for name, op in sorted(vars(torch_ops).items()):
        if isinstance(op, torch.library.CustomOpDef):
            assert op._opoverload.name() == f"astfast::{name}"
            yield f"torch.ops.{op._opoverload._schema}".replace("::", ".")
    yield f"astfast.integrations.torch_module.AstModule{signature(torch_module.AstModule)}"
    yield from members(torch_module.AstModule)


def command_line() -> Iterator[str]:
    from astfast.commands import main

    statuses = {value for name, value in vars(main).items() if name.isupper() and isinstance(value, int)}
    yield f"astfast, exit status {', '.join(map(str, sorted(statuses)))}"
    yield from options(main.parser(), "astfast")


def options(parser: argparse.ArgumentParser, command: str) -> Iterator[str]:
    """Arguments of a command and of those below it, but for --help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from options(below, f"{command} {name}")
        elif not isinstance(action, argparse._HelpAction):
            value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
            text = f"{command} {', '.join(action.option_strings)}{value}"
            facts = {"nargs": action.nargs or None, "default": action.default, "choices": action.choices}
            for name, fact in facts.items():
                if fact is not None and fact is not False and fact is not argparse.SUPPRESS:
                    text += f", {name} {' '.join(map(str, fact)) if name == 'choices' else fact}"
            yield " ".join(text.split())


def environment_variables() -> Iterator[str]:
    """As environment.py documents them: each function's docstring begins with its name."""
    text = (ROOT / "astfast" / "environment.py").read_text()
    read = set(re.findall(r"ASTFAST_\w+", text))
    assert read == set(re.findall(r'"""(ASTFAST_\w+):', text)), "each is read by a function whose docstring names it"
    yield from (f"environment {name}" for name in sorted(read))


def public_api() -> str:
    lines = (*python(), *torch_extensions(), *command_line(), *environment_variables())
    return "\n".join(lines) + "\n"


def test_the_public_api_is_as_its_snapshot_has_it() -> None:
    difference = difflib.unified_diff(SNAPSHOT.read_text().splitlines(), public_api().splitlines(), lineterm="", n=0)
    text = "\n".join(list(difference)[2:])
    assert not text, f"the public API has changed; if it is meant: python -m tests.test_public_api\n{text}"


@pytest.mark.parametrize("name", astfast.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(astfast, name) is not None


def test_nothing_else_is_public() -> None:
    """Beside the names of __all__, astfast has its modules and what they are made with."""
    own = {name for name, value in vars(astfast).items() if getattr(value, "__module__", "").startswith("astfast")}
    assert {name for name in own if not name.startswith("_")} <= set(astfast.__all__)


def test_a_changed_default_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(model: str | None = None, *, device: str = "cpu") -> None:
        del model, device

    monkeypatch.setattr(astfast, "load", load)
    assert "astfast.load(model=None, *, device='cpu')\n" in public_api()
    assert public_api() != SNAPSHOT.read_text()


if __name__ == "__main__":
    SNAPSHOT.write_text(public_api())

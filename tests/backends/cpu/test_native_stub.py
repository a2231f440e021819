"""astfast/_native.pyi, the typed stub of the native module, has the names and arguments of the module that is built."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

import pytest

from astfast.backends.cpu.tiers import native
from tests import ROOT

STUB = ast.parse((ROOT / "astfast" / "_native.pyi").read_text())
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}
VARIABLES = {
    node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
}
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}


def public(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def methods(class_name: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in CLASSES[class_name].body if isinstance(node, ast.FunctionDef)}


def arguments(signature: str) -> list[str]:
    """Names of the arguments in the first line of a pybind11 docstring; arg0, arg1, ... are positional-only."""
    inside = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    return [name for name in re.findall(r"(?:^|, )(\w+): ", inside) if name != "self"]


def check(stub: ast.FunctionDef, function: object) -> None:
    names = arguments(str(function.__doc__).splitlines()[0])
    positional = [a.arg for a in stub.args.posonlyargs if a.arg != "self"]
    by_name = [a.arg for a in stub.args.args if a.arg != "self"]
    unnamed = [name for name in names if re.fullmatch(r"arg\d+", name)]
    assert len(positional) == len(unnamed), (stub.name, names)
    assert by_name == names[len(unnamed) :], (stub.name, names)


def test_the_stub_has_the_names_of_the_module() -> None:
    assert VARIABLES | FUNCTIONS.keys() | CLASSES.keys() == public(dir(native()))


@pytest.mark.parametrize("name", CLASSES)
def test_the_stub_has_the_names_of_each_class(name: str) -> None:
    assert public(methods(name)) == public(dir(getattr(native(), name)))


def test_functions_have_the_arguments_of_the_module() -> None:
    for name, stub in FUNCTIONS.items():
        check(stub, getattr(native(), name))


@pytest.mark.parametrize("name", CLASSES)
def test_methods_have_the_arguments_of_the_class(name: str) -> None:
    for method, stub in methods(name).items():
        if not any(isinstance(d, ast.Name) and d.id == "property" for d in stub.decorator_list):
            check(stub, getattr(getattr(native(), name), method))

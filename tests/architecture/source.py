"""A source tree as data: modules of Python and what they import, files of C++ without comments, strings and macros."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One import. ``name``: full dotted name of a module, or of the module that a name is taken from."""

    name: str
    taken: str  # the name in it that is imported, "" for the module itself
    bound: str  # the name that the importing file calls it by
    line: int
    eager: bool  # importing the file runs it: neither in a function nor under TYPE_CHECKING
    relative: bool = False


@dataclass(frozen=True)
class Module:
    """A Python file: dotted name, path below the root, text."""

    name: str
    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return _parsed(self.text)

    @property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Those that rules ask for: names, attributes, imports, calls, and what may be decorated."""
        return _nodes(self.text)

    @property
    def is_package(self) -> bool:
        return self.path.endswith("__init__.py")

    def imports(self) -> tuple[Import, ...]:
        package = self.name if self.is_package else self.name.rpartition(".")[0]
        return _imports(self.text, package)


@dataclass(frozen=True)
class Tree:
    """A checkout, or a copy of its folders astfast/, kernels/ and csrc/. ``kernels/x.py`` is ``astfast.kernels.x``."""

    root: Path

    def files(self, folder: str, *suffixes: str) -> list[Path]:
        """Files below a folder, but for ``astfast/kernels``, a link to kernels/ in some checkouts."""
        found = [path for path in sorted((self.root / folder).rglob("*")) if path.suffix in suffixes]
        return [path for path in found if not path.is_relative_to(self.root / "astfast" / "kernels")]

    @cached_property
    def modules(self) -> dict[str, Module]:
        """Every Python module of astfast and kernels by its name."""
        found = {}
        for folder, prefix in (("astfast", ""), ("kernels", "astfast.")):
            for path in self.files(folder, ".py"):
                relative = path.relative_to(self.root)
                name = prefix + ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
                found[name] = Module(name, str(relative), path.read_text())
        return found

    def imports(self, module: str) -> Iterator[Import]:
        """Imports of a module, by the module that each reaches: ``from a import b`` is ``a.b`` where that is one."""
        for found in self.modules[module].imports():
            full = f"{found.name}.{found.taken}"
            if found.taken and (full in self.modules or full == "astfast._native"):
                yield Import(full, "", found.bound, found.line, found.eager, found.relative)
            else:
                yield found

    @cached_property
    def native(self) -> dict[str, str]:
        """Texts of csrc by path below it."""
        paths = self.files("csrc", ".cpp", ".h", ".cu", ".c")
        return {str(path.relative_to(self.root / "csrc")): path.read_text() for path in paths}


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def _nodes(text: str) -> tuple[ast.AST, ...]:
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    kinds = ast.Name | ast.Attribute | ast.Import | ast.ImportFrom | ast.Call | definitions
    return tuple(node for node in ast.walk(_parsed(text)) if isinstance(node, kinds))


@cache
def _imports(text: str, package: str) -> tuple[Import, ...]:
    """Import statements anywhere in a file, and ``import_module`` and ``__import__`` of a constant."""
    found = []
    pending: list[tuple[ast.AST, bool]] = [(_parsed(text), True)]
    while pending:
        node, eager = pending.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                found.append(Import(alias.name, "", bound, node.lineno, eager))
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*parents, *([source] if source else [])])
            for alias in node.names:
                bound = alias.asname or alias.name
                found.append(Import(source, alias.name, bound, node.lineno, eager, bool(node.level)))
        elif name := dynamically_imported(node):
            found.append(Import(name, "", "", getattr(node, "lineno", 0), eager))
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for field, value in ast.iter_fields(node):
            # Only the body of `if TYPE_CHECKING` is for types; what a function has beside its body runs with its def.
            for_types = isinstance(node, ast.If) and _is_type_checking(node.test) and field == "body"
            inner = eager and not for_types and not (deferred and field == "body")
            children = value if isinstance(value, list) else [value]
            pending.extend((child, inner) for child in children if isinstance(child, ast.AST))
    return tuple(sorted(found, key=lambda each: each.line))


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def dynamically_imported(node: ast.AST) -> str | None:
    """The name that a call of ``import_module`` or ``__import__`` imports, "?" for one that is computed."""
    if not isinstance(node, ast.Call):
        return None
    if ast.unparse(node.func).split(".")[-1] not in ("import_module", "__import__"):
        return None
    given = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "name")]
    name = given[0] if given else None
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else "?"


def cycles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected sets of more than one node, sorted (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(arrows.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return found


@cache
def bare_cpp(text: str) -> str:
    """C++ with comments, literals and preprocessor lines blanked, so that braces count; lines stay where they are."""
    literal = r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\''
    blank = lambda match: re.sub(r"[^\n]", " ", match[0])  # noqa: E731
    text = re.sub(rf"//[^\n]*|/\*.*?\*/|{literal}", blank, text, flags=re.DOTALL)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, text, flags=re.MULTILINE)


def cpp_scopes(text: str) -> Iterator[tuple[int, tuple[str, ...], str]]:
    """Statements and openings of blocks: (line, headers of the blocks around, text up to its ; or {)."""
    bare = bare_cpp(text)
    around: list[str] = []
    start = 0
    parentheses = 0
    for match in re.finditer(r"[{};()]", bare):
        character = match[0]
        parentheses += {"(": 1, ")": -1}.get(character, 0)
        if character in "()" or (parentheses and character == ";"):
            continue
        statement = bare[start : match.start()]
        line = bare.count("\n", 0, start + len(statement) - len(statement.lstrip())) + 1
        statement = " ".join(statement.split())
        start = match.end()
        if statement and character != "}":
            yield line, tuple(around), statement + character
        if character == "{":
            around.append(statement)
        elif character == "}" and around:
            around.pop()


def includes(text: str) -> list[tuple[int, str]]:
    """(line, header) of each ``#include``, quoted or in angle brackets."""
    lines = enumerate(text.splitlines(), 1)
    return [(i, found[1]) for i, line in lines if (found := re.match(r'\s*#\s*include\s*[<"]([^>"]+)', line))]

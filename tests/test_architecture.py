"""The rules of the house that a machine can check. Each test says its rule; docs/architecture.md says why.

A package may import itself and what MAY_IMPORT lists for it, nothing else. An entry that no import uses is an error
too, so that the table stays a true picture.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

PACKAGE = [path for path in sorted((ROOT / "astfast").rglob("*.py")) if "kernels" not in path.parts]
KERNELS = sorted((ROOT / "kernels").rglob("*.py"))
NATIVE = [path for pattern in ("*.cpp", "*.h", "*.cu") for path in sorted((ROOT / "csrc").rglob(pattern))]
LONGEST = 400  # lines

# package or root module -> what it may import, in any form. The order is that of the floors, from the ground up.
MAY_IMPORT = {
    # ground: words that everybody uses
    "version": "",
    "errors": "",
    "environment": "errors",
    "pcm": "",
    "cache": "environment",
    "labels": "errors",
    "front_end": "errors",
    "ops": "front_end",
    "scores": "models",  # ModelConfig as a type only
    # what it is made of: four packages that do not know one another (models reads tensors of checkpoints)
    "audio": "errors",
    "checkpoints": "errors",
    "models": "errors labels front_end ops checkpoints",
    "backends": "errors ops backends.cpu backends.cuda backends.reference",
    "backends.reference": "front_end ops",
    "backends.cpu": "errors environment front_end ops _native",
    "backends.cuda": "errors pcm cache front_end ops kernels",
    # what it does
    "engines": "version errors pcm cache scores ops models backends backends.cuda",
    "tagging": "errors front_end scores audio models engines",
    # what people call
    "integrations": "errors pcm front_end ops checkpoints models backends backends.cpu backends.cuda engines",
    "astfast": "version errors engines tagging integrations",
    "benchmarking": "astfast errors environment models backends engines tagging",
    "commands": "astfast version errors models backends backends.cpu backends.cuda engines benchmarking",
    "__main__": "commands",
}
# What importing a module may not run: these at its top level, also in a try, an if or a class. Functions may.
HEAVY = {"torch", "torchaudio", "triton", "transformers", "scipy", "matplotlib", "pandas", "pyarrow", "ray"}
MAY_BE_HEAVY = {
    "astfast.backends.reference",
    "astfast.backends.cuda.ops",
    "astfast.backends.cuda.op_call",
    "astfast.backends.cuda.autotune",
    "astfast.backends.cuda.packing",
    "astfast.backends.cuda.fallback_ops",
    "astfast.backends.cuda.resample",
    "astfast.backends.cuda.runtime",
    "astfast.backends.cuda.target",
    "astfast.engines.cuda_graphs",
    "astfast.engines.captured_graph",
    "astfast.engines.postprocess",
    "astfast.tagging.gpu_batches",
    "astfast.integrations.transformers",
    "astfast.integrations.torch_ops",
    "astfast.integrations.torch_op_impls",
    "astfast.integrations.torch_module",
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in PACKAGE}


def package_of(module: str) -> str:
    """The entry of MAY_IMPORT that a module of astfast belongs to."""
    name = module.removeprefix("astfast").lstrip(".") or "astfast"
    found = [key for key in MAY_IMPORT if name == key or name.startswith(key + ".")]
    return max(found, key=len) if found else name.split(".")[0]


def imported(path: Path, eager_only: bool = False) -> Iterator[str]:
    """Full names of what a file imports. Eager: what its own import runs, so nothing in functions or TYPE_CHECKING."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}:{node.lineno}: import from the full name, not relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES or full.startswith("astfast._native") else str(node.module)
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not (eager_only and (lazy or types)):
            pending.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("module", MODULES)
def test_a_package_imports_only_what_it_may(module: str) -> None:
    own = package_of(module)
    assert own in MAY_IMPORT or own == "data", f"{module} has no place: give its package a line in MAY_IMPORT"
    for name in imported(MODULES[module]):
        if name.split(".")[0] == "astfast" and (other := package_of(name)) != own:
            assert other in MAY_IMPORT[own].split(), f"{module} imports {name}: {own} may import {MAY_IMPORT[own]}"


def test_the_table_allows_nothing_that_is_not_used() -> None:
    used = {(package_of(m), package_of(n)) for m in MODULES for n in imported(MODULES[m]) if n.startswith("astfast")}
    assert not {(own, other) for own, text in MAY_IMPORT.items() for other in text.split()} - used


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_imported_on_demand(module: str) -> None:
    if module in MAY_BE_HEAVY:
        return
    for name in imported(MODULES[module], eager_only=True):
        assert name.split(".")[0] not in HEAVY, f"{module} imports {name} when it is imported"
        assert name not in MAY_BE_HEAVY, f"{module} imports {name}, and torch with it, when it is imported"


@pytest.mark.parametrize("module", MODULES)
def test_no_file_takes_another_ones_private_names(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("astfast."):
            private = [alias.name for alias in node.names if re.match("_(?!_)", alias.name)]
            assert not private, f"{module} takes {private} from {node.module}"


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_kernels_import_triton_themselves_and_the_standard_library(path: Path) -> None:
    import sys

    for name in imported(path):
        allowed = name.startswith(("triton", "astfast.kernels")) or name.split(".")[0] in sys.stdlib_module_names
        assert allowed, f"{path.name} imports {name}"


def test_only_environment_reads_environment_variables() -> None:
    for path in [*PACKAGE, *KERNELS]:
        if path.name == "environment.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = {getattr(node, "attr", None), getattr(node, "id", None)}
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                names |= {alias.name for alias in node.names}
            assert not names & {"environ", "getenv"}, f"{path.name}:{getattr(node, 'lineno', 0)}"
    for path in NATIVE:
        assert "getenv" not in path.read_text(), path.name


def test_only_bindings_see_python() -> None:
    for path in NATIVE:
        if path.name != "bindings.cpp":
            assert not re.search(r"#include\s*[<\"](pybind11|Python\.h)", path.read_text()), path.name


def test_inline_headers_belong_to_one_tier() -> None:
    """What they define has internal linkage, and they include only one another: tiers share no compiled code."""
    for path in NATIVE:
        if path.name.endswith("-inl.h"):
            text = path.read_text()
            assert text.count("namespace astfast {\nnamespace {\n") == text.count("namespace astfast {"), path.name
            assert text.endswith("}  // namespace\n}  // namespace astfast\n"), path.name
            for header in re.findall(r'#include "([^"]+)"', text):
                assert header.endswith("-inl.h"), f"{path.name} includes {header}"


@pytest.mark.parametrize("path", [*PACKAGE, *KERNELS, *NATIVE], ids=lambda path: path.name)
def test_files_are_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_no_catch_all_files() -> None:
    names = {"utils", "util", "helpers", "common", "misc", "core"}
    assert not [path.name for path in [*PACKAGE, *KERNELS, *NATIVE] if path.stem in names]

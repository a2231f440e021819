"""Every rule of the house is broken once in a copy of the tree, to see it caught."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.architecture import native_rules, rules
from tests.architecture.duplicates import copies
from tests.architecture.source import Tree

RULES = (*rules.RULES, *native_rules.RULES, copies)
FUNCTION = "\n\ndef planted():\n    {}\n"  # imports on demand
TIER = "csrc/log_mel_avx2.cpp"
INLINE = "csrc/math-inl.h"
TAGGER, MODELS, OPS, WINDOWS = "tagging/tagger.py", "models/vit.py", "ops.py", "audio/windows.py"
SOURCES, LAYOUTS, EAGER, CPU = "checkpoints/sources.py", "models/ast/key_layouts.py", "engines/eager.py", "backends/cpu"

# (what is planted, file, code, message). Code is put at the end of a file; "^" puts it after `from __future__`.
IMPORTS = [
    ("tagger, a kernel", TAGGER, "from astfast.kernels import linear", "only backends.cuda may import astfast.kernels"),
    (
        "tagger, a kernel, on demand",
        TAGGER,
        FUNCTION.format("import astfast.kernels.linear"),
        "tagging may not import k",
    ),
    (
        "tagger, the native module",
        TAGGER,
        "from astfast import _native",
        "only backends.cpu may import astfast._native",
    ),
    ("tagger, the native module by name", TAGGER, 'import_module("astfast._native")', "only backends.cpu may import"),
    (
        "models, a backend",
        MODELS,
        "from astfast.backends.cuda.ops import CudaOps",
        "models may not import backends.cuda",
    ),
    ("models, a backend for types", MODELS, "if TYPE_CHECKING:\n    import astfast.backends", "an import runs up"),
    ("models, environment", MODELS, "from astfast import environment", "models may not import environment"),
    (
        "cpu, cuda",
        f"{CPU}/ops.py",
        "from astfast.backends.cuda import ops",
        "backends.cpu may not import backends.cuda",
    ),
    ("cpu, the choice", f"{CPU}/ops.py", "from astfast import backends", "an import runs up: backends.cpu is below"),
    (
        "the oracle, cuda",
        "backends/reference.py",
        "from astfast.backends.cuda import ops",
        "backends.reference may not",
    ),
    ("the protocol, a backend", OPS, "from astfast.backends.cuda.ops import open_gpu", "ops is below backends.cuda"),
    ("checkpoints, an engine", SOURCES, "import astfast.engines.eager", "an import runs up: checkpoints is below eng"),
    ("an engine, audio", EAGER, "from astfast.audio import windows", "engines may not import audio"),
    (
        "checkpoints, models",
        SOURCES,
        "from astfast.models import vit",
        "an import runs up: checkpoints is below models",
    ),
    ("audio, models", WINDOWS, "from astfast.models.base import ModelConfig", "audio may not import models"),
    (
        "layouts, cuda",
        LAYOUTS,
        FUNCTION.format("from astfast.backends.cuda import target"),
        "models may not import back",
    ),
    ("relatively, up", WINDOWS, "from ..tagging import tagger", "an import runs up: audio is below tagging"),
    ("relatively", WINDOWS, "from .inputs import expand_batch", "a relative import"),
    ("absolutely, up", WINDOWS, "from astfast.tagging import tagger", "an import runs up: audio is below tagging"),
    ("a star", WINDOWS, "from astfast.errors import *", "an import of *"),
    (
        "a computed name",
        TAGGER,
        FUNCTION.format('importlib.import_module(f"astfast.{x}")'),
        "an import of a computed na",
    ),
    (
        "by keyword",
        TAGGER,
        FUNCTION.format('importlib.import_module(name="astfast._native")'),
        "tagging may not import _native",
    ),
    ("data", "data/__init__.py", "from astfast.tagging import tagger", "data may not import tagging"),
    ("a print", TAGGER, FUNCTION.format("print(1)"), "only commands may print"),
    ("a warning", EAGER, FUNCTION.format("warnings.warn('planted')"), "only notes may warn"),
    ("a new package", "hearing.py", "x = 1", "no line in MAY_IMPORT for astfast.hearing"),
    ("commands from below", TAGGER, FUNCTION.format("from astfast.commands import main"), "an import runs up: tagging"),
    (
        "the package from below",
        TAGGER,
        FUNCTION.format("import astfast"),
        "an import runs up: tagging is below astfast",
    ),
]
AT_IMPORT = [
    (
        "torch in a try",
        SOURCES,
        "try:\n    import torch\nexcept ImportError:\n    torch = None",
        "torch is imported when",
    ),
    ("scipy in a class", WINDOWS, "class Planted:\n    import scipy.signal", "scipy is imported when"),
    ("pandas on top", WINDOWS, "^import pandas", "pandas is imported when astfast.audio.windows is"),
    ("torch in an else", WINDOWS, "if TYPE_CHECKING:\n    pass\nelse:\n    import torch", "torch is imported when"),
    ("torch by its name", WINDOWS, 'torch = importlib.import_module("torch")', "torch is imported when"),
    ("scipy in a torch module", "backends/reference.py", "import scipy", "scipy is imported when"),
    ("a torch module", TAGGER, "^from astfast.engines import cuda_graphs", "tagger.py: importing it imports torch: "),
    ("by a chain", "engines/load.py", "^import astfast.engines.cuda_graphs", "tagger.py: importing it imports torch: "),
    (
        "by a package",
        "engines/__init__.py",
        "import astfast.engines.cuda_graphs",
        "eager.py: importing it imports torch",
    ),
]
IN_KERNELS = [
    ("numpy", "head.py", "import numpy", "a kernel may not import numpy"),
    ("torch, on demand", "head.py", FUNCTION.format("import torch"), "a kernel may not import torch"),
    ("models", "head.py", "from astfast.models.base import ModelConfig", "an import runs up: kernels is below models"),
]
INSIDE = [
    ("environ, imported", TAGGER, "from os import environ", "only environment.py reads environment variables: environ"),
    ("getenv", TAGGER, 'HOME = os.getenv("HOME")', "only environment.py reads environment variables: getenv"),
    (
        "environ",
        TAGGER,
        FUNCTION.format('return os.environ["HOME"]'),
        "only environment.py reads environment variables",
    ),
    (
        "a private function",
        TAGGER,
        "from astfast.audio.inputs import _mono",
        "private name of another file: astfast.aud",
    ),
    (
        "a private attribute",
        TAGGER,
        "from astfast import labels\nx = labels._read",
        "private name of another file: lab",
    ),
    (
        "by its full name",
        TAGGER,
        "import astfast.labels\nx = astfast.labels._read",
        "private name of another file: astf",
    ),
    ("of a class", TAGGER, "x = TagOptions._planted", "private name of another file: TagOptions._planted"),
    ("a registry", MODELS, "from astfast.models import base\nbase.REGISTRY['planted'] = 1", "an effect of importing"),
    ("a registration", MODELS, "base.register(1)", "an effect of importing: base.register(1)"),
    (
        "a decorator",
        MODELS,
        "@base.family\nclass Planted:\n    pass",
        "an unknown decorator, perhaps a registry: base.fam",
    ),
    ("a loop", MODELS, "for name in ():\n    base.register(name)", "an effect of importing: for name in ()"),
    ("a setting", MODELS, "np.seterr(all='raise')", "an effect of importing: np.seterr"),
    ("an attribute", MODELS, "np.planted = 1", "an effect of importing: np.planted"),
    ("a cycle", "models/base.py", FUNCTION.format("import astfast.models.recognise"), "an import cycle of modules: "),
    ("a cycle of packages", "errors.py", "import astfast.labels", "an import cycle of packages: errors <-> labels"),
    ("an underscored file", "audio/_planted.py", "x = 1", "an underscored file name"),
    ("a catch-all file", "audio/utils.py", "x = 1", "a catch-all file name"),
    ("a catch-all folder", "common/planted.py", "x = 1", "a catch-all file name"),
    ("an import in a package", f"{CPU}/__init__.py", "import numpy", "must stay empty but for its docstring"),
    ("an import in the other", "backends/cuda/__init__.py", "import os", "must stay empty but for its docstring"),
    ("a long file", WINDOWS, "\n" * 400, "lines, more than 400"),
]
IN_CSRC = [
    ("pybind11", "csrc/ops.cpp", "#include <pybind11/numpy.h>\n", "see Python"),
    ("Python", "csrc/parallel.h", "#include <Python.h>\n", "see Python"),
    ("getenv", "csrc/parallel.cpp", 'static const char* planted = std::getenv("HOME");\n', "only environment.py reads"),
    ("a function after all", INLINE, "inline int planted() { return 1; }\n", "outside the anonymous namespace"),
    ("a template of std", INLINE, "template <> struct std::hash<int> {};\n", "outside the anonymous namespace"),
    ("in a named one", INLINE, "namespace astfast {\nint planted = 1;\n}\n", "outside the anonymous namespace"),
    ("in another one", INLINE, "namespace {\nint planted = 1;\n}\n", "outside the anonymous namespace"),
    ("a struct of a tier", TIER, "namespace astfast {\nstruct Planted {};\n}\n", "outside the anonymous namespace"),
    ("a function of a tier", TIER, "namespace astfast {\nint planted() { return 1; }\n}\n", "outside the anonymous"),
    ("the pool in a kernel header", "csrc/kernels.h", '#include "parallel.h"\n', "kernels know no thread pool"),
    ("memory in a kernel header", "csrc/log_mel.h", '#include "memory.h"\n', "kernels know no thread pool"),
    ("the pool inline", INLINE, '#include "parallel.h"\n', "kernels know no thread pool"),
    ("drivers inline", INLINE, '#include "ops.h"\n', "kernels know no thread pool"),
    ("tiers inline", INLINE, '#include "tiers.h"\n', "an inline header includes only inline headers"),
    ("the standard library inline", INLINE, "#include <vector>\n", "an inline header includes only inline headers"),
    ("the pool in a tier", TIER, '#include "parallel.h"\n', "kernels know no thread pool"),
    ("another header in a kernel header", "csrc/kernels.h", '#include "planted.h"\n', "includes only kernel headers"),
    ("another header in a tier", TIER, '#include "planted.h"\n', "a tier includes only kernel headers and inline hea"),
    ("the library after the pragma", TIER, "#include <vector>\n", "after the target pragma only inline headers"),
    ("inline in a driver", "csrc/parallel.h", '#include "math-inl.h"\n', "only a tier includes inline headers"),
]
BREACHES = [
    *((f"astfast/{path}", what, code, message) for what, path, code, message in IMPORTS + AT_IMPORT + INSIDE),
    *((f"kernels/{path}", what, code, message) for what, path, code, message in IN_KERNELS),
    *((path, what, code, message) for what, path, code, message in IN_CSRC),
]


def breaches(root: Path) -> Iterator[str]:
    tree = Tree(root)
    return (breach for rule in RULES for breach in rule(tree))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The folders that the rules are about, but for data and what was built."""
    for folder in ("astfast", "kernels", "csrc"):
        ignored = shutil.ignore_patterns("data", "__pycache__", "*.so", *(["kernels"] if folder == "astfast" else []))
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    return tmp_path


def test_the_copy_is_as_clean_as_the_checkout(copy: Path) -> None:
    assert list(breaches(copy)) == []


@pytest.mark.parametrize(
    ("path", "code", "message"), [(p, c, m) for p, _, c, m in BREACHES], ids=[b[1] for b in BREACHES]
)
def test_a_breach_is_caught(path: str, code: str, message: str, copy: Path) -> None:
    (copy / "csrc" / "planted.h").write_text("#pragma once\n")
    file = copy / path
    file.parent.mkdir(exist_ok=True)
    text = file.read_text() if file.exists() else ""
    start = "from __future__ import annotations\n"
    if code.startswith("^"):
        assert start in text
        file.write_text(text.replace(start, start + code[1:] + "\n"))
    else:
        file.write_text(f"{text}\n{code}\n")
    found = list(breaches(copy))
    assert any(message in breach for breach in found), found


@pytest.mark.parametrize("package", list(rules.MAY_IMPORT))
def test_an_entry_that_nobody_uses_is_an_error(package: str, monkeypatch: pytest.MonkeyPatch, copy: Path) -> None:
    unused = next(other for other in rules.MAY_IMPORT if other not in (package, *rules.MAY_IMPORT[package].split()))
    monkeypatch.setitem(rules.MAY_IMPORT, package, f"{rules.MAY_IMPORT[package]} {unused}")
    assert f"MAY_IMPORT: an entry that nobody uses: {package} imports {unused}" in list(breaches(copy))


def test_widening_the_table_does_not_open_kernels(monkeypatch: pytest.MonkeyPatch, copy: Path) -> None:
    monkeypatch.setitem(rules.MAY_IMPORT, "tagging", f"{rules.MAY_IMPORT['tagging']} kernels")
    file = copy / "astfast" / TAGGER
    file.write_text(file.read_text() + FUNCTION.format("from astfast.kernels import linear"))
    [breach] = breaches(copy)
    assert "only backends.cuda may import astfast.kernels" in breach


def test_what_is_allowed_is_not_reported(copy: Path) -> None:
    """Torch on demand or for types, a script's part, a child of the anonymous namespace, a string with a brace."""
    more = "if TYPE_CHECKING:\n    import torch\n\n\ndef planted(f=lambda: 1):\n    import torch, os\n    return 1\n"
    file = copy / "astfast" / WINDOWS
    file.write_text(file.read_text() + more + 'if __name__ == "__main__":\n    planted()\n')
    code = 'namespace astfast {\nnamespace {\nconst char* planted() { return "}}} // {"; }  // }}}\n}\n}\n'
    (copy / INLINE).write_text((copy / INLINE).read_text() + code)
    assert list(breaches(copy)) == []


@pytest.mark.parametrize(("lines", "caught"), [(12, False), (13, True)])
def test_a_block_that_stands_twice_is_caught(lines: int, caught: bool, copy: Path) -> None:
    """Under other indentation, with other comments and blank lines between."""
    block = [f"planted_{i} = function_{i}(argument, other)" for i in range(lines)]
    (copy / "astfast/audio/planted.py").write_text("\n".join(block) + "\n")
    again = "\n".join(f"    {line}  # comment {i}\n" for i, line in enumerate(block))
    (copy / "kernels/planted.py").write_text(f"def planted():\n{again}")
    assert any("stand again in" in breach for breach in breaches(copy)) == caught


def test_a_table_may_stand_twice(copy: Path) -> None:
    rows = "\n".join(f"    ({i}, 1.5, 0x1.{i}p-3, 'sixteen'),  # row" for i in range(40))
    for path in ("astfast/audio/planted.py", "kernels/planted.py"):
        (copy / path).write_text(f"TABLE = [\n{rows}\n]\n")
    assert not list(copies(Tree(copy)))

"""The house rules that a machine can check: who imports whom, how long a file may be, who reads the environment."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "astfast").rglob("*.py"))
KERNELS = sorted((ROOT / "kernels").rglob("*.py"))
NATIVE = [path for pattern in ("*.cpp", "*.h", "*.cu") for path in sorted((ROOT / "csrc").rglob(pattern))]
SOURCES = [*PACKAGE, *KERNELS, *NATIVE]
LONGEST = 400  # lines
HEAVY = {"torch", "torchaudio", "transformers", "triton", "scipy", "matplotlib"}
TORCH_ON_DEMAND = {
    "astfast.backends.reference",
    "astfast.backends.plain_tensors",
    "astfast.device_batches",
    "astfast.device_engine",
    "astfast.device_program",
    "astfast.drop_in",
    "astfast.torch_module",
    "astfast.torch_ops",
}

# A module may import those of its own layer and of the layers below, never of one above.
LAYERS = [
    {"astfast.errors", "astfast.environment", "astfast.cache_file"},
    {"astfast.front_end", "astfast.decoding"},
    {"astfast.config", "astfast.backends.base"},
    {"astfast.models"},
    {"astfast.backends"},
    {"astfast.tensors", "astfast.labels", "astfast.torch_ops"},
    {"astfast.safetensors_file", "astfast.torch_file", "astfast.position_embeddings"},
    {"astfast.key_layouts", "astfast.checkpoint_files"},
    {"astfast.checkpoint_config"},
    {"astfast.checkpoint", "astfast.engine", "astfast.audio", "astfast.scores"},
    {"astfast.precision", "astfast.windows", "astfast.device_program"},
    {"astfast.device_engine"},
    {"astfast.replicas"},
    {"astfast.loading", "astfast.reading", "astfast.device_batches", "astfast.convert", "astfast.drop_in"},
    {"astfast.tagger", "astfast.torch_module"},
    {"astfast.doctor", "astfast.printing", "astfast.bench"},
    {"astfast.cli"},
    {"astfast.__main__"},
]


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Modules that a file imports; at its top level only, or anywhere but under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def layer_of(module: str) -> int | None:
    """The layer of the longest listed prefix of a module's name."""
    parts = module.split(".")
    for end in range(len(parts), 1, -1):
        prefix = ".".join(parts[:end])
        for index, layer in enumerate(LAYERS):
            if prefix in layer:
                return index
    return None


@pytest.mark.parametrize("path", PACKAGE, ids=module_of)
def test_imports_point_one_way(path: Path) -> None:
    own = layer_of(module_of(path))
    for imported in imports(path):
        layer = layer_of(imported)
        if own is not None and layer is not None and imported.startswith("astfast."):
            assert layer <= own, f"{module_of(path)} imports {imported}, which stands above it"


def test_every_module_has_a_layer() -> None:
    listed = {module for layer in LAYERS for module in layer}
    stray = [m for m in map(module_of, PACKAGE) if layer_of(m) is None and m not in ("astfast", "astfast.data")]
    assert not stray, f"give {stray} a place in LAYERS"
    existing = {module_of(path) for path in PACKAGE}
    assert listed <= existing, f"LAYERS lists modules that are gone: {listed - existing}"


@pytest.mark.parametrize("path", PACKAGE, ids=module_of)
def test_only_torch_backends_import_torch_at_the_top(path: Path) -> None:
    module = module_of(path)
    allowed = module in TORCH_ON_DEMAND or module.startswith("astfast.backends.cuda")
    heavy = {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY
    assert allowed or not heavy, f"{module} imports {heavy} at its top"


@pytest.mark.parametrize("path", KERNELS, ids=module_of)
def test_kernels_import_only_triton_and_torch(path: Path) -> None:
    for imported in imports(path):
        assert not imported.startswith("astfast.") or imported.startswith("astfast.kernels"), imported


def test_only_bindings_see_python() -> None:
    for path in NATIVE:
        if path.name != "bindings.cpp":
            assert not re.search(r"#include\s*[<\"](pybind11|Python\.h)", path.read_text()), path.name


def test_only_environment_reads_environment_variables() -> None:
    for path in [*PACKAGE, *KERNELS]:
        if path.name != "environment.py":
            assert not re.search(r"\bos\.(environ|getenv)\b", path.read_text()), path.name
    for path in NATIVE:
        assert "getenv" not in path.read_text(), path.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_files_are_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_no_catch_all_files() -> None:
    assert not [path.name for path in SOURCES if path.stem in {"utils", "util", "helpers", "common", "misc"}]

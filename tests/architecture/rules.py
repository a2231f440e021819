"""The rules for Python: each a function from a source tree to its breaches, as "path:line: rule: what"."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator

from tests.architecture.source import Import, Module, Tree, cycles, dynamically_imported

# Package or module of astfast -> the others that it may import, in any form: in functions and for types too. The order
# is that of the floors, from the ground up: an import goes to a line above its own, never below.
MAY_IMPORT = {
    # words that all share
    "version": "",
    "errors": "",
    "pcm": "",
    "spans": "",
    "notes": "",
    "environment": "errors",
    "cache": "environment",
    "cache_files": "cache environment",
    "small_files": "",
    "file_identity": "",
    "labels": "errors small_files",
    "front_end": "errors",
    "centred_log_mel": "front_end",
    "ops": "front_end",
    "scores": "",
    "resampling": "errors",
    "catalogue": "",
    # what it is made of
    "kernels": "",
    "_native": "",
    "audio": "errors pcm spans notes resampling",
    "checkpoints": "errors notes small_files catalogue",
    "models": "errors file_identity labels front_end centred_log_mel ops checkpoints",
    "backends.cpu": "errors environment cache_files front_end centred_log_mel ops _native",
    "backends.cuda": "environment errors pcm notes cache front_end centred_log_mel ops kernels",
    "backends.reference": "front_end centred_log_mel ops",
    "backends": "environment errors notes ops",
    # what it does
    "engines": "version environment errors pcm spans notes cache front_end centred_log_mel ops scores resampling "
    "models backends backends.cpu backends.cuda",
    "tagging": "errors spans notes scores audio models engines",
    "volume": "version errors notes spans file_identity cache scores audio models engines tagging",
    "plotting": "errors front_end",
    # what people call
    "integrations": "version environment errors pcm notes labels front_end ops checkpoints models backends "
    "backends.cpu backends.cuda engines volume",
    "astfast": "version errors notes audio models engines tagging volume integrations",  # its __init__.py
    "benchmarking": "catalogue astfast errors environment cache scores checkpoints models backends engines tagging",
    "commands": "catalogue astfast version errors notes pcm environment cache_files audio models backends engines "
    "benchmarking tagging volume integrations plotting",
    "__main__": "commands",
    "data": "",
}
# These two are stated apart from the table, so that widening it does not open them.
ONLY_FROM = {"kernels": "backends.cuda", "_native": "backends.cpu"}

# What a module may import when it is imported, beside the standard library and modules under the same rule.
LIGHT = {"numpy"}
HEAVY = {"torch", "triton", "numpy"}
MAY_BE_HEAVY = {
    "backends.reference",
    "backends.cuda.autotune",
    "backends.cuda.capture",
    "backends.cuda.centred_log_mel",
    "backends.cuda.fallback_ops",
    "backends.cuda.fallback_images",
    "backends.cuda.float8_ops",
    "backends.cuda.image_ops",
    "backends.cuda.op_call",
    "backends.cuda.ops",
    "backends.cuda.packing",
    "backends.cuda.resample",
    "backends.cuda.runtime",
    "backends.cuda.target",
    "backends.cuda.token_merging",
    "engines.captured_graph",
    "engines.cuda_graphs",
    "engines.postprocess",
    "integrations.torch_module",
    "integrations.torch_op_impls",
    "integrations.torch_ops",
    "integrations.transformers",
}
MAY_COMPUTE_NAMES = {"backends", "commands.main"}  # of the modules that they import
MAY_ACT_WHEN_IMPORTED = {
    "__main__": "entry()",  # it is a script
    "engines.locks": ("os.register_at_fork", "atexit.register"),  # a child, and an exit handler, find locks free
}
# Decorators that return what they are given, or one that does the same; none files it anywhere but PyTorch's own.
DECORATORS = {
    *("property", "staticmethod", "classmethod", "abstractmethod", "overload", "dataclass", "total_ordering"),
    *("cache", "lru_cache", "cached_property", "functools.cache", "functools.lru_cache", "functools.cached_property"),
    *("contextmanager", "contextlib.contextmanager", "functools.wraps", "wraps", "runtime_checkable"),
    *("torch.no_grad", "torch.inference_mode", "torch.compiler.disable", "triton.jit", "gluon.jit"),
    "daft.method.batch",
}
REGISTERS_OPS = {"integrations.torch_ops": ("torch.library.custom_op", "register_fake")}

ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
EMPTY = ("astfast/backends/cpu/__init__.py", "astfast/backends/cuda/__init__.py")
CATCH_ALL = {"utils", "util", "helpers", "helper", "common", "misc", "core", "base_utils", "shared", "tools", "lib"}
LONGEST = 400  # lines


def short(module: str) -> str:
    """A module's name without its first part: "" for astfast itself."""
    return module.removeprefix("astfast").lstrip(".")


def package_of(module: str) -> str | None:
    """The line of MAY_IMPORT that a module of astfast belongs to."""
    name = short(module) or "astfast"
    return max((key for key in MAY_IMPORT if name == key or name.startswith(f"{key}.")), key=len, default=None)


def own_imports(tree: Tree, module: str) -> Iterator[Import]:
    """A module's imports of astfast's modules."""
    return (found for found in tree.imports(module) if found.name.split(".")[0] == "astfast")


def who_imports_whom(tree: Tree) -> Iterator[str]:
    used: set[tuple[str, str]] = set()
    floors = list(MAY_IMPORT)
    for module in tree.modules:
        package = package_of(module)
        if package is None:
            yield f"{tree.modules[module].path}: no line in MAY_IMPORT for {module}"
            continue
        for found in own_imports(tree, module):
            other = package_of(found.name)
            at = f"{tree.modules[module].path}:{found.line}"
            if other is None:
                yield f"{at}: {found.name} has no line in MAY_IMPORT"
                continue
            if other == package:
                continue
            used.add((package, other))
            if floors.index(other) > floors.index(package):
                yield f"{at}: an import runs up: {package} is below {other}"
            if other not in MAY_IMPORT[package].split():
                yield f"{at}: {package} may not import {other}"
    for package, others in MAY_IMPORT.items():
        for other in others.split():
            if (package, other) not in used:
                yield f"MAY_IMPORT: an entry that nobody uses: {package} imports {other}"


def kernels_and_native(tree: Tree) -> Iterator[str]:
    for module in tree.modules:
        for found in own_imports(tree, module):
            target = short(found.name).split(".")[0]
            allowed = ONLY_FROM.get(target)
            if allowed and package_of(module) not in (allowed, target):
                yield f"{tree.modules[module].path}:{found.line}: only {allowed} may import astfast.{target}"


def eager_arrows(tree: Tree, module: str) -> Iterator[str]:
    """Modules of astfast that run when this one is imported: named ones, and the packages that they and it are in."""
    for name in [module, *(found.name for found in own_imports(tree, module) if found.eager)]:
        parts = name.split(".")
        yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def light_at_import(tree: Tree) -> Iterator[str]:
    """Third-party packages at import time only where listed, directly and through chains of modules."""
    heavy: dict[str, str] = {}  # module -> why
    for module, source in tree.modules.items():
        name = short(module)
        allowed = HEAVY if name in MAY_BE_HEAVY or name.startswith("kernels.") else LIGHT
        for found in tree.imports(module):
            package = found.name.split(".")[0]
            third_party = package not in sys.stdlib_module_names and package not in ("astfast", "?")
            if found.eager and third_party and package not in allowed:
                yield f"{source.path}:{found.line}: {package} is imported when {module} is"
            if found.eager and third_party and package not in LIGHT:
                heavy[module] = package
    for name in MAY_BE_HEAVY:
        if f"astfast.{name}" not in tree.modules:
            yield f"MAY_BE_HEAVY: {name} does not exist"
        elif reached(tree, f"astfast.{name}", heavy) is None:
            yield f"MAY_BE_HEAVY: {name} needs no entry: it imports nothing heavy when it is imported"
    for module, source in tree.modules.items():
        if short(module) not in MAY_BE_HEAVY and not short(module).startswith("kernels."):
            chain = reached(tree, module, heavy)
            if chain and len(chain) > 1:
                yield f"{source.path}: importing it imports {heavy[chain[-1]]}: {' -> '.join(chain)}"


def reached(tree: Tree, module: str, heavy: dict[str, str]) -> list[str] | None:
    """The shortest chain of eager imports from a module to one of these."""
    chains, seen = [[module]], {module}
    for chain in chains:
        if chain[-1] in heavy:
            return chain
        for other in eager_arrows(tree, chain[-1]):
            if other in tree.modules and other not in seen:
                seen.add(other)
                chains.append([*chain, other])
    return None


def kernels_alone(tree: Tree) -> Iterator[str]:
    """Kernels import Triton, one another and the standard library."""
    for module, source in tree.modules.items():
        if package_of(module) == "kernels":
            for found in tree.imports(module):
                package = found.name.split(".")[0]
                own = package == "triton" or found.name.startswith("astfast.kernels")
                if not own and package not in sys.stdlib_module_names:
                    yield f"{source.path}:{found.line}: a kernel may not import {found.name}"


def environment_variables(tree: Tree) -> Iterator[str]:
    for source in tree.modules.values():
        if short(source.name) == "environment":
            continue
        for node in source.nodes:
            names = {getattr(node, "attr", None), getattr(node, "id", None)}
            if isinstance(node, ast.ImportFrom):
                names |= {alias.name for alias in node.names}
            for name in sorted(names & ENVIRONMENT, key=str):
                yield f"{at(source, node)}: only environment.py reads environment variables: {name}"
    for path, text in tree.native.items():
        for i, line in enumerate(text.splitlines(), 1):
            if "getenv" in line:
                yield f"csrc/{path}:{i}: only environment.py reads environment variables: getenv"


def imports_by_full_name(tree: Tree) -> Iterator[str]:
    for source in tree.modules.values():
        for found in source.imports():
            if found.relative:
                yield f"{source.path}:{found.line}: a relative import"
            if found.taken == "*":
                yield f"{source.path}:{found.line}: an import of *"
        for node in source.nodes:
            if dynamically_imported(node) == "?" and short(source.name) not in MAY_COMPUTE_NAMES:
                yield f"{at(source, node)}: an import of a computed name"


def private_names(tree: Tree) -> Iterator[str]:
    """Names with an underscore stay in their file, whether imported or read from a module or class of another."""
    for module, source in tree.modules.items():
        bound = set()
        for found in own_imports(tree, module):
            bound.add(found.bound)
            if is_private(found.taken):
                yield f"{source.path}:{found.line}: private name of another file: {found.name}.{found.taken}"
        for node in source.nodes:
            if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr != "_native":
                owner = ast.unparse(node.value)
                if owner.split(".")[0] in bound and re.fullmatch(r"[\w.]+", owner):
                    yield f"{at(source, node)}: private name of another file: {owner}.{node.attr}"


def is_private(name: str) -> bool:
    return bool(re.match("_(?!_)", name))


def no_effects_of_imports(tree: Tree) -> Iterator[str]:
    """At the level of a module: definitions and assignments to names of its own. No call for its effect, no item or
    attribute of what another module made, no loop, and no decorator that could file what it decorates."""
    for source in tree.modules.values():
        own = {name for node in source.tree.body for name in assigned(node)}
        for node in source.tree.body:
            if acts(node, own) and not is_script_part(node):
                text = ast.unparse(node).splitlines()[0]
                if not text.startswith(MAY_ACT_WHEN_IMPORTED.get(short(source.name), "\n")):
                    yield f"{at(source, node)}: an effect of importing: {text}"
        for node in source.nodes:
            for decorator in getattr(node, "decorator_list", []):
                name = ast.unparse(decorator).split("(")[0]
                registers = REGISTERS_OPS.get(short(source.name), ())
                if name not in DECORATORS and not name.endswith((".setter", *registers)):
                    yield f"{at(source, decorator)}: an unknown decorator, perhaps a registry: {name}"


def assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def acts(node: ast.stmt, own: set[str]) -> bool:
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.AnnAssign)
    if isinstance(node, definitions):
        return False
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [name for target in targets for name in (target.elts if isinstance(target, ast.Tuple) else [target])]
        own_items = [name.value for name in names if isinstance(name, ast.Subscript)]
        plain = [name for name in names if not isinstance(name, ast.Subscript)]
        fine = all(isinstance(name, ast.Name) for name in plain)
        return not (fine and all(isinstance(item, ast.Name) and item.id in own for item in own_items))
    if isinstance(node, ast.If | ast.Try):
        parts = [*node.body, *node.orelse, *getattr(node, "finalbody", [])]
        parts += [part for handler in getattr(node, "handlers", []) for part in handler.body]
        return any(acts(part, own) for part in parts)
    return not isinstance(node, ast.Pass | ast.Raise | ast.Assert)


def who_prints_and_warns(tree: Tree) -> Iterator[str]:
    """Commands alone print; warnings go by ``notes``, which names the caller's line."""
    for source in tree.modules.values():
        name = short(source.name)
        for node in source.nodes:
            text = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            prints = text in ("print", "sys.stdout.write", "sys.stderr.write")
            if prints and not name.startswith("commands"):
                yield f"{at(source, node)}: only commands may print: {text}"
            if text in ("warnings.warn", "warnings.warn_explicit") and name != "notes":
                yield f"{at(source, node)}: only notes may warn: {text}"


def sources_of_known_kinds(tree: Tree) -> Iterator[str]:
    """A file that no rule reads is no place for code."""
    for path in sorted((tree.root / "csrc").rglob("*")):
        if path.is_file() and path.suffix not in (".cpp", ".h", ".cu") and path.name != ".clang-format":
            yield f"{path.relative_to(tree.root)}: csrc holds .cpp, .h and .cu files only"


def is_script_part(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def file_names(tree: Tree) -> Iterator[str]:
    for folder in ("astfast", "kernels", "csrc"):
        for path in tree.files(folder, ".py", ".pyi", ".cpp", ".h", ".cu", ".c"):
            name = path.relative_to(tree.root)
            if is_private(path.stem) and path.name != "_native.pyi":
                yield f"{name}: an underscored file name"
            if re.sub("-inl$", "", path.stem) in CATCH_ALL or path.parent.name in CATCH_ALL:
                yield f"{name}: a catch-all file name"


def empty_packages(tree: Tree) -> Iterator[str]:
    """``doctor`` reads the autotune cache, and a GPU machine without compiler the CUDA backend: without the other."""
    by_path = {source.path: source for source in tree.modules.values()}
    for path in EMPTY:
        if path not in by_path:
            yield f"{path}: is missing"
        elif [node for node in by_path[path].tree.body if not is_docstring(node)]:
            yield f"{path}: must stay empty but for its docstring"


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def lengths(tree: Tree) -> Iterator[str]:
    for folder in ("astfast", "kernels", "csrc", "tests", "benchmarks", "recipes"):
        for path in tree.files(folder, ".py", ".pyi", ".cpp", ".h", ".cu", ".c"):
            lines = len(path.read_text().splitlines())
            if lines > LONGEST:
                yield f"{path.relative_to(tree.root)}: {lines} lines, more than {LONGEST}"


def no_cycles(tree: Tree) -> Iterator[str]:
    """Between modules and between packages, imports in functions included."""
    modules: dict[str, set[str]] = {}
    packages: dict[str, set[str]] = {}
    for module in tree.modules:
        modules[module] = {found.name for found in own_imports(tree, module) if found.name in tree.modules} - {module}
        package = package_of(module) or module
        others = {package_of(name) or name for name in modules[module]}
        packages.setdefault(package, set()).update(others - {package})
    for kind, arrows in (("modules", modules), ("packages", packages)):
        yield from (f"an import cycle of {kind}: {' <-> '.join(cycle)}" for cycle in cycles(arrows))


def at(source: Module, node: ast.AST) -> str:
    return f"{source.path}:{getattr(node, 'lineno', 0)}"


RULES = (
    who_imports_whom,
    kernels_and_native,
    light_at_import,
    kernels_alone,
    environment_variables,
    imports_by_full_name,
    private_names,
    no_effects_of_imports,
    file_names,
    empty_packages,
    who_prints_and_warns,
    sources_of_known_kinds,
    lengths,
    no_cycles,
)

"""The rules for csrc: what a tier compiles has internal linkage, Python and the thread pool stay out of kernels."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.architecture.source import Tree, cpp_scopes, includes

BINDINGS = r"bindings\.cpp|python_\w+\.h"
KERNEL_HEADERS = ("kernels.h", "log_mel.h", "tiers.h")  # what a tier's file may include beside -inl.h
DRIVERS = ("parallel.h", "memory.h", "ops.h", "cpu_features.h")  # of which kernels know nothing
NAMESPACES = ("namespace astfast", "namespace")
# In a tier's file, after the headers: aliases, and the tables of kernels that tiers.cpp chooses from.
EXPORTED = r"(template <.*> )?using \w+ = .*;|(extern )?const (Kernels|LogMelKernel) \w+ =.*[;{]|namespace( astfast)?{"


def file_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def is_tier(path: str, text: str) -> bool:
    """A file that compiles kernels for one instruction set."""
    return path.endswith(".cpp") and any(header.endswith("-inl.h") for _, header in includes(text))


def python_in_bindings_only(tree: Tree) -> Iterator[str]:
    for path, text in tree.native.items():
        for line, header in includes(text):
            if re.match(r"pybind11|Python\.h|nanobind", header) and not re.fullmatch(BINDINGS, path):
                yield f"csrc/{path}:{line}: only bindings.cpp and python_*.h see Python: {header}"


def internal_linkage(tree: Tree) -> Iterator[str]:
    """A function of external linkage that two tiers define is one: the linker keeps the machine code of either."""
    for path, text in tree.native.items():
        if path.endswith("-inl.h"):
            for line, around, statement in cpp_scopes(text):
                if around[:2] != NAMESPACES and statement[:-1] not in (NAMESPACES[len(around)],):
                    yield f"csrc/{path}:{line}: outside the anonymous namespace of astfast: {statement[:60]}"
        elif is_tier(path, text):
            for line, around, statement in cpp_scopes(text):
                if around[:2] == NAMESPACES or (around and not around[0].startswith("namespace")):
                    continue
                if around in ((), NAMESPACES[:1]) and not re.fullmatch(EXPORTED, statement):
                    yield f"csrc/{path}:{line}: outside the anonymous namespace of astfast: {statement[:60]}"


def headers_of_kernels(tree: Tree) -> Iterator[str]:
    """Inline headers include only one another, kernel headers nothing of csrc but kernel headers, a tier's file both;
    after the pragma that sets its instruction set only inline headers, whose code it is meant for."""
    for path, text in tree.native.items():
        name = file_name(path)
        inline, kernel, tier = path.endswith("-inl.h"), name in KERNEL_HEADERS, is_tier(path, text)
        target = re.search(r"#pragma GCC target", text)
        after = text.count("\n", 0, target.start()) + 1 if target else None
        for line, header in includes(text):
            at, base = f"csrc/{path}:{line}", file_name(header)
            ours = header in tree.native or base in {file_name(other) for other in tree.native}
            if (inline or kernel or tier) and base in DRIVERS:
                yield f"{at}: kernels know no thread pool, memory or drivers: {header}"
            elif inline and not header.endswith("-inl.h"):
                yield f"{at}: an inline header includes only inline headers: {header}"
            elif kernel and ours and base not in KERNEL_HEADERS:
                yield f"{at}: a kernel header includes only kernel headers: {header}"
            elif tier and ours and base not in KERNEL_HEADERS and not header.endswith("-inl.h"):
                yield f"{at}: a tier includes only kernel headers and inline headers: {header}"
            elif tier and after and line > after and not header.endswith("-inl.h"):
                yield f"{at}: after the target pragma only inline headers: {header}"
            elif not (inline or tier) and header.endswith("-inl.h"):
                yield f"{at}: only a tier includes inline headers: {header}"


RULES = (python_in_bindings_only, internal_linkage, headers_of_kernels)

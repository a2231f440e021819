"""Builds astfast._native, the C++ engine: any x86-64 (or Arm), no torch, no -march=native, no -ffast-math, no LTO.

Instruction sets are chosen when it runs: each csrc/tier_*.cpp sets its own target by pragma. Without a C++ compiler the
install fails, unless ASTFAST_REQUIRE_NATIVE=0 says that it is for a GPU or the slow reference: then ``astfast doctor``
says that the CPU engine is missing. ASTFAST_SANITIZE=1 builds with ASan and UBSan, as the tests do.
"""

import os
import zlib
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CompileError, LinkError

required = os.environ.get("ASTFAST_REQUIRE_NATIVE") != "0"
sanitize = os.environ.get("ASTFAST_SANITIZE") == "1"
# Bad pointers are what AddressSanitizer finds; the other three checks of them double the time of a build.
checks = [
    "-fsanitize=address,undefined",
    "-fno-sanitize=vptr,null,object-size,pointer-overflow",
    "-fno-sanitize-recover=all",
    "-g1",
]


def native_module() -> Extension:
    """The engine as a pybind11 extension, its files compiled side by side."""
    from pybind11.setup_helpers import ParallelCompile, Pybind11Extension

    ParallelCompile("ASTFAST_BUILD_JOBS", default=os.cpu_count() or 1).install()
    stub = Path("astfast/_native.pyi")
    module = Pybind11Extension(
        "astfast._native",
        sorted(str(path) for path in Path("csrc").glob("*.cpp")),
        depends=[*sorted(str(path) for path in Path("csrc").glob("*.h")), str(stub)],
        define_macros=[("ASTFAST_STUB_CRC32", f"{zlib.crc32(stub.read_bytes())}u")],  # tells a build that is stale
        cxx_std=17,
        extra_compile_args=[
            *([] if "-O" in os.environ.get("CXXFLAGS", "") else ["-O2"]),
            "-ffp-contract=off",
            "-Wall",
            "-Wextra",
            "-fvisibility=hidden",
            *(checks if sanitize else []),
        ],
        extra_link_args=["-pthread", *(checks if sanitize else [])],
    )
    module.optional = not required
    return module


class BuildEngine(build_ext):
    """The standard build, whose failure says what to install."""

    def run(self) -> None:
        try:
            super().run()
        except (BaseError, CompileError, LinkError, OSError) as error:
            raise SystemExit(
                f"astfast: the native CPU engine can't be built ({error}): install a C++17 compiler (such as the "
                "package g++), or set ASTFAST_REQUIRE_NATIVE=0 to install without the engine, for GPUs only"
            ) from error


try:
    modules = [native_module()]
except ImportError:
    if required:
        raise
    print("astfast: pybind11 is not installed, so the native CPU engine is left out of this build")
    modules = []

setup(
    license="Apache-2.0",
    cmdclass={"build_ext": BuildEngine},
    ext_modules=modules,
    packages=[*find_packages(include=["astfast", "astfast.*"], exclude=["astfast.kernels"]), "astfast.kernels"],
    package_dir={"astfast": "astfast", "astfast.kernels": "kernels"},
    package_data={"astfast": ["py.typed", "_native.pyi"], "astfast.data": ["*.csv", "*.md", "builtin/*"]},
)

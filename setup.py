"""Builds astfast._native, the C++ engine: any x86-64 (or Arm), no torch, no -march=native, no -ffast-math, no LTO.

Instruction sets are chosen when it runs: each csrc/isa_*.cpp sets its own target by pragma. Without a C++ compiler the
install still works and ``astfast doctor`` says that the CPU engine is missing; ASTFAST_REQUIRE_NATIVE=1 makes that an
error. ASTFAST_SANITIZE=1 builds with ASan and UBSan, as the tests do.
"""

import os
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

sanitize = os.environ.get("ASTFAST_SANITIZE") == "1"
checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]

native = Pybind11Extension(
    "astfast._native",
    sorted(str(path) for path in Path("csrc").glob("*.cpp")),
    depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
    cxx_std=17,
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-fvisibility=hidden", *(checks if sanitize else [])],
    extra_link_args=["-pthread", *(checks if sanitize else [])],
)
native.optional = os.environ.get("ASTFAST_REQUIRE_NATIVE") != "1"

ParallelCompile("ASTFAST_BUILD_JOBS", default=os.cpu_count() or 1).install()

setup(
    ext_modules=[native],
    packages=["astfast", "astfast.backends", "astfast.models", "astfast.data", "astfast.kernels"],
    package_dir={"astfast": "astfast", "astfast.kernels": "kernels"},
    package_data={"astfast": ["py.typed"], "astfast.data": ["*.csv", "builtin/*"]},
)

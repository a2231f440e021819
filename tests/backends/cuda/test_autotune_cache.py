"""The cache file of autotuning results, the report of it, and the key of an environment."""

import json
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

from astfast import cache as cache_file
from astfast.backends.cuda import autotune_cache, centred_log_mel, fallback_images, fallback_ops
from astfast.backends.cuda.autotune import environment_key
from astfast.backends.cuda.autotune_cache import KernelResult
from astfast.kernels import linear
from tests import ROOT


def test_the_file_survives_what_others_leave_in_it(tmp_path: Path) -> None:
    entry = {"failure": None, "kernel_seconds": 1e-6, "torch_seconds": 2e-6}
    path = tmp_path / "cache" / autotune_cache.FILE
    path.parent.mkdir()
    for text in ("", "[1, 2]", "{not json"):
        path.write_text(text)
        assert autotune_cache.load() == {}
    odd = {**entry, "kernel_seconds": "fast"}
    path.write_text(json.dumps({"m": {"a": entry, "b": 3, "c": {"failure": None}, "d": odd}, "n": 4}))
    assert autotune_cache.load() == {"m": {"a": KernelResult(None, 1e-6, 2e-6)}, "n": {}}
    autotune_cache.store("n", "e", KernelResult("broken"))
    assert autotune_cache.load()["m"] == {"a": KernelResult(None, 1e-6, 2e-6)}
    assert autotune_cache.load()["n"] == {"e": KernelResult("broken")}


def test_a_cache_that_cant_be_written_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASTFAST_CACHE", str(tmp_path / "file" / "cache"))
    autotune_cache.store("m", "a", KernelResult())
    assert autotune_cache.load() == {}


def test_no_update_of_the_cache_is_lost(tmp_path: Path) -> None:
    def add(name: str) -> None:
        for i in range(20):
            cache_file.update("file.json", partial(dict.update, **{f"{name}{i}": True}))

    threads = [threading.Thread(target=add, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache_file.read("file.json")) == 80
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"file.json", "file.lock"}


def test_a_table_is_readable() -> None:
    table = {
        "norm_linear bfloat16 32x9x64": KernelResult(None, 21.5e-6, 30e-6),
        "attention bfloat16": KernelResult(None, 3e-5, 2e-5),
        "head float32": KernelResult("out is off by 1"),
        "pool float32": KernelResult(),
    }
    said = [re.sub(r"\s+", " ", line) for line in autotune_cache.describe(table)]
    assert said == [
        "attention bfloat16 torch kernel 30.0 us torch 20.0 us",
        "head float32 torch (kernel: out is off by 1)",
        "norm_linear bfloat16 32x9x64 kernel kernel 21.5 us torch 30.0 us",
        "pool float32 kernel (not timed)",
    ]


def test_an_environment_is_what_compiles_and_runs() -> None:
    key = environment_key("NVIDIA H200", "580.1")
    assert key == environment_key("NVIDIA H200", "580.1")
    assert key.startswith(f"NVIDIA H200, driver 580.1, torch {torch.__version__}, cuDNN ")
    assert key != environment_key("NVIDIA H200", "580.2")


def test_switches_of_pytorch_are_part_of_the_environment() -> None:
    key = environment_key("NVIDIA H200", "580.1")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high" if before == "highest" else "highest")
        assert environment_key("NVIDIA H200", "580.1") != key
    finally:
        torch.set_float32_matmul_precision(before)
    assert environment_key("NVIDIA H200", "580.1") == key
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert environment_key("NVIDIA H200", "580.1") != key


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="before PyTorch 2.9")
def test_both_of_pytorchs_switches_of_float32_products_are_read() -> None:
    """In a process of its own, for PyTorch refuses one getter after the other's setter."""
    code = """
import torch
from astfast.backends.cuda.autotune import float32_products as products
assert products() == "ieee"
torch.set_float32_matmul_precision("high")
assert products() == "tf32"
torch.backends.cuda.matmul.fp32_precision = "ieee"
assert products() == "ieee"
torch.backends.cuda.matmul.fp32_precision = "tf32"
assert products() == "tf32"
"""
    everywhere = """
import torch
from astfast.backends.cuda.autotune import environment_key, float32_products as products
plain = environment_key("a GPU", "580")
torch.backends.fp32_precision = "tf32"
assert products() == "tf32" and environment_key("a GPU", "580") != plain
"""
    for each in (code, everywhere):
        subprocess.run([sys.executable, "-c", each], cwd=ROOT, check=True)


@pytest.mark.parametrize("module", [linear, fallback_ops, fallback_images, centred_log_mel])
def test_sources_of_both_sides_are_part_of_the_environment(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    key, read = environment_key("NVIDIA H200", "580.1"), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path == Path(str(module.__file__))))
    assert environment_key("NVIDIA H200", "580.1") != key

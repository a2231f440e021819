"""Packed weights from the cache: bit for bit those that are packed in memory, and never another model's."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import astfast
from astfast import cache_files
from astfast.backends.cpu import packed_model
from astfast.backends.cpu.ops import PRECISIONS
from astfast.backends.cpu.tiers import native
from astfast.engines import packed_weights
from astfast.errors import CheckpointError
from tests.cases import dass

CLIP = {"array": np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1, "sampling_rate": 16_000}
TIERS = [name for name, missing in native().tiers() if not missing]


@pytest.fixture(autouse=True)
def every_model_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_weights, "SMALLEST", 1)
    monkeypatch.setattr(packed_weights, "SETTLED", -1e9)
    monkeypatch.setattr(cache_files, "FREE", 0)


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name for each weight that is packed from now on."""
    packed: list[str] = []
    from astfast.backends.cpu.ops import CpuOps

    original = CpuOps.pack_norm
    monkeypatch.setattr(CpuOps, "pack_norm", lambda self, w: packed.append("norm") or original(self, w))
    return packed


def logits(model: Path, **options: Any) -> np.ndarray:
    return astfast.load(model, device="cpu", **{"precision": "float32", "threads": 1, **options}).logits([CLIP])


def plain(model: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setenv("ASTFAST_PACKED_CACHE_MB", "0")
        return logits(model, **options)


def files() -> list[Path]:
    return [entry.path for entry in cache_files.entries()]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_mapped_model_computes_what_a_packed_one_does(
    precision: str, tier: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, packs: list[str]
) -> None:
    monkeypatch.setenv("ASTFAST_CPU_TIER", tier)
    expected = plain(tiny_model, monkeypatch, precision=precision)
    first = logits(tiny_model, precision=precision)
    packs.clear()
    second = logits(tiny_model, precision=precision)
    assert packs == [], "nothing was packed"
    assert first.tobytes() == second.tobytes() == expected.tobytes()
    assert len(files()) == 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_model_with_convolutions_and_scans(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packs: list[str]
) -> None:
    folder = dass.write_hub(dass.random_state(dass.TINY), dass.TINY, tmp_path / "dass")
    expected = plain(folder, monkeypatch, precision=precision)
    logits(folder, precision=precision)
    packs.clear()
    assert logits(folder, precision=precision).tobytes() == expected.tobytes()
    assert packs == []


def test_every_tier_and_precision_has_a_file_of_its_own(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tier in TIERS:
        monkeypatch.setenv("ASTFAST_CPU_TIER", tier)
        for precision in PRECISIONS:
            logits(tiny_model, precision=precision)
    assert len(files()) == len(TIERS) * len(PRECISIONS)
    logits(tiny_model, precision="float32", threads=2)
    assert len(files()) == len(TIERS) * len(PRECISIONS)


def test_a_changed_checkpoint_of_the_same_size_and_date_is_another(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    logits(folder)
    file = folder / "model.safetensors"
    before = file.stat()
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.endswith("fc1.weight") or name.endswith("intermediate.dense.weight"):
            tensors[name] = tensor.flip(0).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert logits(folder).tobytes() == plain(folder, monkeypatch).tobytes()
    assert len(files()) == 2


def test_a_checkpoint_that_changes_while_it_is_packed_is_not_kept(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    file = folder / "model.safetensors"
    original = packed_model._Written.__getattr__

    def touched(self: Any, name: str) -> Any:
        file.touch()
        return original(self, name)

    monkeypatch.setattr(packed_model._Written, "__getattr__", touched)
    assert logits(folder).shape == (1, 7)
    assert files() == []


def test_a_file_that_was_written_just_now_is_not_relied_on(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_weights, "SETTLED", 1000.0)
    logits(shutil.copytree(tiny_model, tmp_path / "model"))
    assert files() == []


def test_a_file_is_admitted_by_its_own_size(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not by the checkpoint's: int8 packs to a part of it."""
    size = sum(path.stat().st_size for path in tiny_model.glob("*.safetensors"))
    monkeypatch.setattr(cache_files, "packed_cache_bytes", lambda: int(0.9 * size))
    logits(tiny_model)
    assert files() == []
    logits(tiny_model, precision="int8")
    assert len(files()) == 1


def test_a_checkpoint_from_the_future_is_kept(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an archive or another clock says of its last change is not when it was changed here."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    for path in folder.iterdir():
        os.utime(path, (2e9, 2e9))
    monkeypatch.setattr(packed_weights, "SETTLED", -1.0)
    logits(folder)
    assert len(files()) == 1


@pytest.mark.parametrize("damage", ["byte", "short", "other order", "other arrays"])
def test_a_damaged_file_is_packed_anew(
    damage: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, packs: list[str]
) -> None:
    expected = logits(tiny_model)
    (file,) = files()
    content = bytearray(file.read_bytes())
    if damage == "byte":
        content[len(content) // 3] ^= 1
        file.write_bytes(content)
    elif damage == "short":
        file.write_bytes(content[: len(content) // 2])
    else:  # with a checksum that is right, as a bug would leave it
        _, start, _ = cache_files.END.unpack(content[-cache_files.END.size :])
        header = content[start : -cache_files.END.size].decode()
        if damage == "other order":
            header = header.replace("pack_linear", "pack_liniar", 1)
        else:
            header = re.sub(r'"\|u1", \[(\d+)\]', lambda match: f'"|u1", [{int(match[1]) - 64}]', header, count=1)
        whole = content[:start] + header.encode() + content[-cache_files.END.size : -cache_files.CHECKSUM_BYTES]
        checksum = native().checksum(memoryview(bytes(whole)), 1)
        file.write_bytes(whole + checksum.to_bytes(cache_files.CHECKSUM_BYTES, "little"))
    packs.clear()
    assert logits(tiny_model).tobytes() == expected.tobytes()
    assert packs, "it was packed"
    packs.clear()
    assert logits(tiny_model).tobytes() == expected.tobytes()
    assert packs == [], "the file was replaced"


def test_without_a_place_for_the_cache_models_are_packed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(tiny_model)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASTFAST_CACHE", str(tmp_path / "file"))
    assert logits(tiny_model).tobytes() == expected.tobytes()


def test_errors_of_a_checkpoint_are_those_without_a_cache(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    next(tensor for name, tensor in tensors.items() if name.endswith("projection.weight"))[0, 0, 0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"projection\.weight has values that are NaN"):
        logits(folder)
    assert files() == []


def test_small_models_are_left_to_packing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_weights, "SMALLEST", 32 << 20)
    logits(tiny_model)
    assert files() == []


def test_two_processes_share_the_memory_of_weights(tiny_model: Path) -> None:
    script = f"""
import astfast
from astfast import cache_files
from astfast.engines import packed_weights
packed_weights.SMALLEST, packed_weights.SETTLED, cache_files.FREE = 1, -1e9, 0
tagger = astfast.load({str(tiny_model)!r}, device="cpu", precision="float32", threads=1).warmup()
lines = open("/proc/self/smaps").read().split("VmFlags")
(mapped,) = [line for line in lines if "arrays\\n" in line]
values = dict(line.split()[:2] for line in mapped.splitlines() if line.endswith("kB"))
print(values["Rss:"], values["Private_Dirty:"], flush=True)
"""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        resident, own = map(int, done.stdout.split())
        assert resident > 400
        assert own == 0, "no page of it is this process's alone"


def test_other_code_has_files_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for changed in (None, "backends/cpu/quantisation.py", "models/ast/key_layouts.py", "checkpoints/lazy_tensor.py"):
        package = tmp_path / str(changed).replace("/", "-")
        for part in packed_model.PACKING:
            shutil.copytree(Path(astfast.__file__).parent / part, package / part)
        if changed:
            (package / changed).write_text("# another version")
        monkeypatch.setattr(packed_model, "__file__", str(package / "backends" / "cpu" / "packed_model.py"))
        packed_model._code.cache_clear()
        names.add(packed_model._code())
    packed_model._code.cache_clear()
    assert len(names) == 4


def test_checksums_depend_on_every_byte_and_not_on_threads() -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 7, 8, 63, 64, 65, (1 << 20) - 1, (1 << 20) + 9):
        data = rng.integers(0, 256, size, np.uint8)
        expected = native().checksum(data, 1)
        assert native().checksum(memoryview(data), 3) == expected
        for place in {0, size // 2, size - 9, size - 1} & set(range(size)):
            data[place] ^= 128
            assert native().checksum(data, 1) != expected, (size, place)
            data[place] ^= 128
        assert native().checksum(np.append(data, np.uint8(0)), 1) != expected
    words = rng.integers(0, 256, (2, 64), np.uint8)
    assert native().checksum(words.ravel(), 1) != native().checksum(words[::-1].ravel(), 1)
    with pytest.raises(ValueError, match="bytes is no row of bytes"):
        native().checksum(np.zeros(4, np.float32), 1)
    with pytest.raises(ValueError, match="threads is 0"):
        native().checksum(np.zeros(4, np.uint8), 0)


def test_parts_that_do_not_fit_are_refused() -> None:
    context = native().ComputeContext("scalar", "float32", 1)
    weight = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    use, n, k, panels, bias, factors = context.linear_parts(context.pack_linear(weight, weight[:, 0].copy()))
    assert (use, n, k, factors) == ("model", 5, 7, None)
    wrong = {
        "use other is unknown": ("other", n, k, panels, bias, None),
        r"n or k is \[0, 7\]": (use, 0, k, panels, bias, None),
        "panels has shape": (use, n, k, panels[:-1], bias, None),
        "panels does not start at a cache line": (use, n, k, _shifted(panels), bias, None),
        r"bias has shape \[4\], not \[5\]": (use, n, k, panels, bias[:4], None),
        r"factors has shape \[5\], not \[7\]": (use, n, k, panels, bias, bias),
    }
    for message, parts in wrong.items():
        with pytest.raises(ValueError, match=message):
            context.linear_of_parts(*parts)


def _shifted(panels: np.ndarray) -> np.ndarray:
    memory = native().empty(panels.size + 64)[1 : panels.size + 1]
    memory[...] = panels
    return memory

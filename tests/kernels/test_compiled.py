"""Every kernel compiled ahead of time for GPUs that are not here, and what the compiler made of it.

No spills, shared memory within the GPU's limit, the matrix instructions that are meant, 16-byte accesses to global
memory. ``python -m tests.emulation.gpu_docs`` writes it all into docs/gpu_kernels.md.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import triton

from astfast.backends.cuda.ops import Target
from astfast.kernels import tuning
from astfast.kernels.launch import Launch
from astfast.models.ast.config import AstConfig
from astfast.models.dass.config import DassConfig
from tests.cases import recorded_launches
from tests.cases.persistent_ops import PersistentOps
from tests.launchers import compile_for

TOOLS = Path(triton.__path__[0]) / "backends" / "nvidia" / "bin"
AST_BASE = AstConfig(num_hidden_layers=2, labels=tuple(map(str, range(527))))
DASS_SMALL = DassConfig(labels=tuple(map(str, range(527))))
GPUS = {  # the GPU that stands for each architecture, and its number of multiprocessors
    80: Target(80, 108, "A100"),
    86: Target(86, 84, "RTX 3090"),
    89: Target(89, 128, "RTX 4090"),
    90: Target(90, 132, "H100"),
    100: Target(100, 148, "B200"),
    120: Target(120, 170, "RTX 5090"),
    "gfx942": Target("gfx942", 304, "MI300X"),
}
SHARED_LIMIT = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99, "gfx942": 64}  # KiB a program
MATRIX = {80: "HMMA", 86: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTC[A-Z]*MMA", 120: "HMMA", "gfx942": "v_mfma"}
MATRIX_INSTRUCTION = r"\b(?:HMMA|HGMMA|QGMMA|QMMA|UTC[A-Z]*MMA|v_mfma)"
GEMM_LIKE = ("norm_linear_kernel", "linear_residual_kernel", "attention_kernel", "persistent_linear_kernel")


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes, and its machine code."""

    registers: int
    spills: int  # instructions that touch local memory, or spilled registers on AMD
    shared: int  # bytes
    code: str


def tile_of(launch: Launch) -> tuple[int, ...]:
    sizes = tuple(launch.args[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K") if name in launch.args)
    return (*sizes, launch.num_warps, launch.num_stages)


def configurations(arch: tuning.Arch, precision: str) -> dict[str, Launch]:
    """Every kernel with every tile that AST-base runs with on this GPU, at batch 1 and 32 and, for the linear layers,
    with each tile of the table."""
    found: dict[str, Launch] = {}
    launches = recorded_launches.record(AST_BASE, 32, precision, GPUS[arch])
    launches += recorded_launches.record(AST_BASE, 1, precision, GPUS[arch])
    launches += recorded_launches.record(AST_BASE, 1, precision, GPUS[arch], PersistentOps)
    dtype = torch.float8_e4m3fn if precision == "float8" else getattr(torch, precision)
    for launch in launches:
        variants = [launch]
        tiles = tuning.tiles_for(arch, dtype.itemsize)
        tables = {"norm_linear_kernel": tiles.norm_linear, "linear_residual_kernel": tiles.residual}
        if launch.name in tables:
            variants = [with_tile(launch, tile) for tile in tables[launch.name]]
        if launch.name == "log_mel_kernel" and isinstance(arch, int):
            variants.append(with_tile(launch, tiles.tf32_log_mel, PRECISION="tf32x3"))
        for variant in variants:
            activation = "gelu " * bool(variant.args.get("GELU")) + "residual " * bool(variant.args.get("RESIDUAL"))
            products = "tf32x3 " * (variant.name == "log_mel_kernel" and variant.args["PRECISION"] == "tf32x3")
            found.setdefault(f"{variant.name} {activation}{products}{tile_of(variant)}", variant)
    return found


def image_configurations(arch: tuning.Arch, precision: str) -> dict[str, Launch]:
    """Every kernel of DASS small with every tile that it runs with at batch 1 and 32, in the widest stage of each."""
    found: dict[str, Launch] = {}
    for clips in (1, 32):
        for launch in recorded_launches.record_images(DASS_SMALL, clips, precision, GPUS[arch]):
            image = tuple(launch.args[name] for name in ("BLOCK_R", "BLOCK_C") if name in launch.args)
            gelu = "gelu " * bool(launch.args.get("GELU"))
            found[f"{launch.name} {gelu}{(*image, *tile_of(launch))}"] = launch
    return found


def with_tile(launch: Launch, tile: tuning.Tile, **others: str) -> Launch:
    sizes = {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k} | others
    if "K" in launch.args:
        sizes["k_tiles"] = -(-launch.args["K"] // tile.k)
    if "EARLY_RESIDUAL" in launch.args:
        sizes["EARLY_RESIDUAL"] = tile.early
    return replace(launch, args=launch.args | sizes, num_warps=tile.warps, num_stages=tile.stages)


def compiled(launch: Launch, arch: tuning.Arch) -> Resources:
    if isinstance(arch, str):
        kernel = compile_for(launch, "hip", arch)
        code = kernel.asm["amdgcn"]
        registers, spills = (
            int(re.search(rf"\.{field}:\s*(\d+)", code)[1]) for field in ("vgpr_count", "vgpr_spill_count")
        )
        return Resources(registers, spills, kernel.metadata.shared, code)
    kernel = compile_for(launch, "cuda", arch)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        code = _output("nvdisasm", "-c", file.name)
        registers = int(re.search(r"REG:(\d+)", _output("cuobjdump", "-res-usage", file.name))[1])
    spills = len(re.findall(r"\b(?:LDL|STL)\b", code))
    return Resources(registers, spills, kernel.metadata.shared, code)


def matrix_instructions(code: str) -> dict[str, int]:
    """How many of each kind there are in machine code."""
    return dict(Counter(re.findall(MATRIX_INSTRUCTION, code)))


def tiles_move_by_16_bytes(code: str, arch: tuning.Arch) -> bool:
    """Whether every copy of a tile into shared memory, and the stores of the result, are of 16 bytes, or TMA. On AMD,
    results leave from the matrix units' own layout, by 8 bytes: the loads count."""
    if isinstance(arch, str):
        return "global_load_dwordx4" in code
    copies = re.findall(r"\b(?:LDGSTS|UTMALDG)\S*", code)
    wide = [copy for copy in copies if ".128" in copy or copy.startswith("UTMA")]
    return 0 < len(wide) == len(copies) and re.search(r"\bSTG\S*\.128|UTMASTG", code) is not None


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout


def check(name: str, launch: Launch, arch: tuning.Arch) -> None:
    made = compiled(launch, arch)
    assert made.spills == 0, f"{name}: {made.spills} accesses to spilled registers"
    assert made.shared <= SHARED_LIMIT[arch] * 1024, f"{name}: {made.shared} bytes of shared memory"
    if "tf32x3" in name:  # 32 frames: below wgmma's and tcgen05's 64
        assert "HMMA" in made.code, f"{name}: no HMMA"
    operand = (
        launch.args["w_desc"].base if "w_desc" in launch.args else launch.args.get("w_ptr", launch.args.get("kv_ptr"))
    )
    if launch.name in GEMM_LIKE and operand.element_size() == 2:
        few_queries = launch.name == "attention_kernel" and launch.args["BLOCK_M"] < 64
        matrix = (
            "HMMA" if few_queries and arch in (90, 100) else MATRIX[arch]
        )  # 16 rows: below wgmma's and tcgen05's 64
        assert re.search(matrix, made.code), f"{name}: no {matrix}"
        assert tiles_move_by_16_bytes(made.code, arch), f"{name}: tiles are not copied by 16 bytes"


@pytest.mark.parametrize("arch", [80, 90])
def test_one_product_compiles_as_it_should(arch: int) -> None:
    launches = configurations(arch, "bfloat16")
    name = next(name for name in reversed(launches) if name.startswith("linear_residual"))
    check(name, launches[name], arch)


def test_a_persistent_product_compiles_as_it_should() -> None:
    launches = configurations(90, "float16")
    name = next(name for name in launches if name.startswith("persistent_linear_kernel residual"))
    check(name, launches[name], 90)


@pytest.mark.slow
@pytest.mark.parametrize("arch", GPUS)
def test_every_configuration_compiles_as_it_should(arch: tuning.Arch) -> None:
    failures = []
    for name, launch in configurations(arch, "bfloat16").items():
        try:
            check(name, launch, arch)
        except Exception as error:
            failures.append(f"{name}: {error}")
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "precision"), [(80, "float32"), (90, "bfloat16"), (100, "bfloat16"), (120, "bfloat16")]
)
def test_images_compile_without_spills(arch: int, precision: str) -> None:
    failures = []
    for name, launch in image_configurations(arch, precision).items():
        try:
            made = compiled(launch, arch)
            assert made.spills == 0, f"{made.spills} accesses to spilled registers"
            assert made.shared <= SHARED_LIMIT[arch] * 1024, f"{made.shared} bytes of shared memory"
        except Exception as error:
            failures.append(f"{name}: {error}")
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "precision"),
    [(80, "float16"), (90, "float16"), *((arch, "float32") for arch in GPUS)],
)
def test_other_precisions_compile_as_they_should(arch: int, precision: str) -> None:
    failures = []
    for name, launch in configurations(arch, precision).items():
        try:
            check(name, launch, arch)
        except Exception as error:
            failures.append(f"{name}: {error}")
    assert not failures, "\n".join(failures)

"""Generates the tables of docs/gpu.md (predicted speed) and docs/gpu_kernels.md (resources of compiled kernels).

Run it with ``python -m tests.emulation.gpu_docs``. The tables of an emulated clip are made by
``python -m tests.emulation.emulate_clip --docs``.
"""

from collections.abc import Callable, Sequence

from astfast.backends.cuda.ops import CudaOps, Target
from astfast.backends.cuda.target import has_float8
from astfast.kernels import tuning
from astfast.kernels.launch import Launch
from astfast.models.ast.config import AstConfig
from benchmarks import gpu_model
from benchmarks.pages import markdown, write_section
from tests import ROOT
from tests.cases.persistent_ops import PersistentOps
from tests.kernels import test_compiled as compiled

PREDICTIONS, KERNELS = (ROOT / "docs" / name for name in ("gpu.md", "gpu_kernels.md"))
BATCHES = (1, 8, 32)
PREDICTED = {"H100": ("H100 SXM", 90), "A100": ("A100", 80), "RTX 4090": ("RTX 4090", 89)}


OF_FLOAT8 = ("norm_linear_kernel", "linear_residual_kernel", "quantise_rows_kernel")  # the others run in bfloat16


def resources(
    configurations: Callable[[tuning.Arch, str], dict[str, Launch]],
    precisions: Sequence[str] = ("bfloat16", "float8", "float32"),
) -> str:
    """Every configuration of a model on every GPU, as the compiler made it."""
    parts = []
    for arch, target in compiled.GPUS.items():
        rows = [("kernel", "type", "tile, warps, stages", "registers", "shared KiB", "spills", "matrix instructions")]
        for precision in precisions:
            if precision == "float8" and not has_float8(arch):
                continue
            for name, launch in configurations(arch, precision).items():
                if precision == "float8" and launch.name not in OF_FLOAT8:
                    continue
                made = compiled.compiled(launch, arch)
                kernel, tile = name.rstrip(")").split(" (")
                kinds = ", ".join(f"{count} {kind}" for kind, count in compiled.matrix_instructions(made.code).items())
                rows.append((kernel, precision, tile, made.registers, made.shared // 1024, made.spills, kinds or "-"))
        label = arch if isinstance(arch, str) else f"sm_{arch}"
        parts.append(f"<details><summary>{label} ({target.name})</summary>\n\n{markdown(rows)}\n\n</details>")
    return "\n\n".join(parts)


def predictions() -> str:
    """Clips/s of AST-base by GPU and batch, at worst and at best, in bfloat16 where nothing else is said: int16
    waveforms that are there already, to logits there; to the best labels on the host, uploads hidden behind the batch
    before; and with no batch before."""
    model = AstConfig(labels=tuple(map(str, range(527))))
    rows: list[Sequence[object]] = [("GPU", "from, to", *(f"batch {clips}" for clips in BATCHES))]
    for name, (label, arch) in PREDICTED.items():
        ends = gpu_model.GPUS[name]
        target = Target(arch, ends[0].multiprocessors, name)
        kinds: list[tuple[str, str, type[CudaOps], Sequence[str]]] = [("", "bfloat16", CudaOps, gpu_model.WAYS)]
        if tuning.tiles_for(arch, 2).persistent_norm_linear:
            kinds.append(("; persistent products", "bfloat16", PersistentOps, gpu_model.WAYS[1:2]))
        if has_float8(arch):
            kinds.append(("; float8", "float8", CudaOps, gpu_model.WAYS[1:2]))
        for suffix, precision, backend, ways in kinds:
            seconds = [
                [gpu_model.batch_seconds(model, clips, precision, target, gpu, backend) for gpu in ends]
                for clips in BATCHES
            ]
            for way in ways:
                rates = [[clips / end[way] for end in each] for clips, each in zip(BATCHES, seconds, strict=True)]
                rows.append((label, way + suffix, *(f"{worst:,.0f} to {best:,.0f}" for worst, best in rates)))
    return markdown(rows)


if __name__ == "__main__":
    write_section(PREDICTIONS, "predictions", predictions())
    write_section(KERNELS, "resources", resources(compiled.configurations))
    write_section(KERNELS, "resources of images", resources(compiled.image_configurations, ("bfloat16", "float32")))

"""GPU backend for NVIDIA CUDA and AMD ROCm: availability, precisions, a report for ``astfast doctor``, and opening it.

Importing this module imports no torch; every function but ``precisions``, ``fastest_precision`` and ``results`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from astfast.backends.cuda import autotune_cache
from astfast.notes import Note

if TYPE_CHECKING:
    from astfast.backends.cuda.ops import CudaOps


def unavailable(device: str | list[str] = "auto") -> str | None:
    """Why the GPU backend can't run on this machine and what to do about it; None if it can.

    ``device``: "auto", "cuda", "cuda:N" or a list of such names.
    """
    from astfast.backends.cuda import target

    return target.unavailable(device)


def precisions() -> tuple[str, ...]:
    """All precisions of this backend; float8 only runs on GPUs that multiply such matrices (see ``open``)."""
    return ("float32", "float16", "bfloat16", "float8")


def fastest_precision() -> str:
    """Precision that "auto" tries first: all supported GPUs multiply bfloat16 on their matrix units."""
    return "bfloat16"


def describe() -> list[str]:
    """A line of a report: whether the current GPU runs CUDA graphs, found by capturing a small product."""
    import torch

    from astfast.backends.cuda.runtime import CudaRuntime

    device = torch.device("cuda", torch.cuda.current_device())
    x = torch.ones(16, 16, device=device)
    try:
        CudaRuntime(device).capture(lambda: x @ x)
    except RuntimeError as error:
        return [f"no CUDA graphs: {str(error).strip().splitlines()[0]}"]
    return ["CUDA graphs in use"]


def results() -> list[str]:
    """Lines of a report: which ops a Triton kernel computes and which PyTorch, by environment, from the cache.

    An environment is a GPU with its driver, PyTorch, Triton and kernel sources. No lines if nothing was autotuned yet.
    """
    lines = []
    for environment, results in sorted(autotune_cache.load().items()):
        lines.append(f"ops autotuned on {environment}")
        lines += [f"  {line}" for line in autotune_cache.describe(results)]
    return lines


def open(
    num_heads: int,
    precision: str,
    device: str,
    threads: int | None = None,
    deterministic: bool = False,
    *,
    stream_scale: float | None = None,
) -> CudaOps:
    """Ops of one GPU with streams, CUDA graphs and autotuning: each kernel is checked and timed at its first use.

    - ``num_heads``: attention heads of the model.
    - ``precision``: one of ``precisions()``. Raises BackendError for another, or for float8 on a GPU without it.
    - ``device``: "cuda" (the current device) or "cuda:N".
    - ``threads``: ignored; it is an option of the CPU backend.
    - ``deterministic``: no kernel is chosen by its time, and results of a clip don't depend on its batch.
    - ``stream_scale``: factor of the residual stream in memory; None for the one that suits the precision.
    """
    import torch

    from astfast.backends.cuda import ops, target
    from astfast.backends.cuda.autotune import Autotuner, environment_key
    from astfast.backends.cuda.runtime import runtime_for
    from astfast.kernels import launch

    gpu = torch.device(device)
    if gpu.index is None:
        gpu = torch.device(gpu.type, torch.cuda.current_device())
    runtime, properties = runtime_for(gpu), target.target_of(gpu)
    key, launcher = environment_key(properties.name, target.driver_version()), launch.run
    if target.dependent_launches(properties.arch):
        key, launcher = f"{key}, dependent launches", launch.run_dependent
    cold_start = (
        f"{properties.name}: compiling and timing kernels, which takes a minute or more: once for this GPU, driver, "
        "PyTorch and Triton, then it is remembered; astfast warmup does it beforehand"
    )
    return ops.CudaOps(
        num_heads,
        precision,
        str(gpu),
        target=properties,
        runtime=runtime,
        autotuner=Autotuner(runtime, launcher, key, deterministic, Note(cold_start, once=True)),
        deterministic=deterministic,
        stream_scale=stream_scale,
    )

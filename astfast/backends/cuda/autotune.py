"""Autotuning of GPU ops: each op runs on its Triton kernel only if that is correct and no slower than PyTorch's ops;
of several kernels, on the fastest.

A call is checked when it is met for the first time in an environment, on the first two clips of its own tensors. The
kernel's error against float64 may be twice that of PyTorch's ops in the same type, plus one rounding of the largest
result in the coarsest type of the results (ten in float32, where sums round as coarsely as their result, and PyTorch
may sum in a luckier order), or what such a rounding does to a logarithm. Then both are timed in turns on all clips.

What was found is kept in the user's cache folder if it says something of the kernel in this environment: a check on
finite numbers, a kernel that doesn't compile or asks for more than the GPU has, and times. Any other error (of a kernel
that ran before, say) is believed for this process only, and a batch that leads to NaN says nothing at all. While a
further kernel of an op is tried, the folder says so: one that never ends, as one whose programs wait for each other
may, is left out after two processes (``kernel_trials.py``).
"""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from triton.errors import TritonError

from astfast import notes
from astfast.backends.cuda import (
    autotune_cache,
    centred_log_mel,
    fallback_images,
    fallback_ops,
    kernel_trials,
    token_merging,
)
from astfast.backends.cuda.autotune_cache import KernelResult
from astfast.backends.cuda.op_call import OpCall
from astfast.backends.cuda.runtime import Runtime
from astfast.errors import BackendError
from astfast.kernels import launch
from astfast.notes import Note

CHECKED_CLIPS = 2
ROUNDINGS = 10  # of a float32 sum: the square root of 96 blocks, in which 3,072 products are summed 32 at a time
NO_COMPILER = "Failed to find C compiler"  # in the message of Triton's error
PASS_FAILED = "PassManager::run failed"  # in that of MLIR, which Triton hands on as a RuntimeError


class NotFinite(Exception):
    """Numbers on which a kernel can't be judged: they lead to infinity or NaN in float64 too."""


class Autotuner:
    """Runs each call of one backend on its Triton kernel or on PyTorch's ops.

    - ``runtime``: of the GPU that the calls run on.
    - ``launcher``: runs a kernel's launch.
    - ``environment``: key of the results, see ``environment_key``.
    - ``deterministic``: kernels are checked, but never chosen by their time.
    - ``cold_start``: shown before the first call that is checked, since compiling takes its time.
    """

    def __init__(
        self,
        runtime: Runtime,
        launcher: launch.Launcher,
        environment: str,
        deterministic: bool = False,
        cold_start: Note | None = None,
    ) -> None:
        self.runtime = runtime
        self.environment = environment
        self.deterministic = deterministic
        self.compiler_missing = False  # Triton can't compile here: PyTorch's ops run all calls
        self._launcher = launcher
        self.results = autotune_cache.load().get(environment, {})
        self._warned: set[str] = set()
        self._cold_start = cold_start

    def run(self, call: OpCall) -> torch.Tensor:
        """Runs a call and returns its result. Warns once for an op whose kernel can't be used.

        Raises BackendError for an unknown call while a graph is being captured.
        """
        chosen = None if self.compiler_missing else self._choose(call)
        if chosen is not None:
            try:
                self._launcher(chosen.launch())
                return call.clips[call.result]
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # a kernel that passed its check, in an environment that has changed since
                self.results[chosen.key] = self._failed(chosen, error)
        return call.run_torch()

    def _choose(self, call: OpCall) -> OpCall | None:
        """The call on the fastest kernel that is right and no slower than PyTorch's ops, if there is one."""
        kernels = (call,) if self.deterministic else (call, *call.others)
        usable = [kernel for kernel in kernels if self._prefers_kernel(kernel)]
        return min(usable, key=lambda kernel: self.results[kernel.key].share, default=None)

    def _prefers_kernel(self, call: OpCall) -> bool:
        if self.compiler_missing:  # as another kernel of the op has found
            return False
        result = self.results.get(call.key)
        if result is None or not (result.failure or result.timed or self.deterministic):
            try:
                result = self.results[call.key] = self._tune(call)
            except NotFinite:
                return False  # this time
        if result.failure is not None:
            self._warn_of_failure(call, result)
            return False
        return self.deterministic or result.kernel_is_faster

    def _tune(self, call: OpCall) -> KernelResult:
        if self.runtime.capturing:
            raise BackendError(f"{call.key} is new inside a graph capture: run the model once before it")
        if self._cold_start is not None:
            notes.show(self._cold_start)
            self._cold_start = None
        self.runtime.synchronize()  # an error of earlier work is raised here, and blamed on no kernel
        with kernel_trials.trial(self.environment, call.key) if call.variant else nullcontext():
            try:
                result = KernelResult(check(call, self._launcher))
            except (torch.OutOfMemoryError, NotFinite):
                raise
            except Exception as error:  # whatever a compiler or a launch may raise
                result = self._failed(call, error)
                if not of_the_kernel(error):
                    return result
            if result.failure is None and not self.deterministic:
                own = call.with_own_outputs()
                times = self.runtime.compare(lambda: self._launcher(own.launch()), own.run_torch)
                result = KernelResult(None, *times)
        autotune_cache.store(self.environment, call.key, result)
        return result

    def _failed(self, call: OpCall, error: Exception) -> KernelResult:
        """The result of a kernel that raised; warns of it once."""
        if NO_COMPILER in str(error):
            self.compiler_missing = True
            self._warned.add(call.op)
            self._warn(
                NO_COMPILER,
                "PyTorch's ops run in place of all kernels: Triton finds no C compiler here, install gcc or clang",
            )
            return KernelResult(NO_COMPILER)
        result = KernelResult(f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200])
        self._warn_of_failure(call, result)
        return result

    def _warn_of_failure(self, call: OpCall, result: KernelResult) -> None:
        if call.variant:
            self._warn(
                f"{call.variant} {call.op}", f"{call.op} runs without its {call.variant} kernel: {result.failure}"
            )
        else:
            self._warn(call.op, f"PyTorch's ops run in place of the kernel of {call.op}: {result.failure}")

    def _warn(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            notes.show(Note(message), RuntimeWarning)


def check(call: OpCall, launcher: launch.Launcher) -> str | None:
    """Compares the kernel's results on the first clips of a call with float64: None if they are correct, else why not.

    The bound is that of the module's docstring. Raises NotFinite for numbers on which it says nothing.
    """
    kernel_call, torch_call = call.of_first(CHECKED_CLIPS), call.of_first(CHECKED_CLIPS)
    launcher(kernel_call.launch())
    of_kernel = kernel_call.outputs(kernel_call.clips[kernel_call.result])
    of_torch = torch_call.outputs(torch_call.run_torch())
    exact_call = call.of_first(CHECKED_CLIPS).in_float64()
    exact = exact_call.outputs(exact_call.run_torch())
    types = [y.dtype for y in of_kernel.values() if y.is_floating_point()] or [torch.float32]  # integers: exact
    coarsest = max(types, key=lambda dtype: torch.finfo(dtype).eps)
    rounding = (ROUNDINGS if coarsest == torch.float32 else 1) * torch.finfo(coarsest).eps / 2
    for name, x in exact.items():
        if not bool(x.isfinite().all()):
            raise NotFinite(f"{call.op}: its input leads to {name} that is not finite, in float64 too")
        error = (of_kernel[name].double() - x).abs()
        allowed = 2 * (of_torch[name].double() - x).abs().max() + rounding * call.sensitivity(x).expand_as(x)
        if not bool((error <= allowed).all()):  # also if it is NaN
            worst = torch.where(error.isnan(), torch.inf, error - allowed).argmax()
            off, bound = float(error.flatten()[worst]), float(allowed.flatten()[worst])
            return f"{name} is off by {off:.2e}, where {bound:.2e} is allowed"
    return None


def of_the_kernel(error: Exception) -> bool:
    """Whether an error says that the kernel doesn't compile or fit here, and not that something else went wrong."""
    return isinstance(error, TritonError) or PASS_FAILED in str(error)


def environment_key(gpu: str, driver: str) -> str:
    """Key of autotuning results: GPU, driver, PyTorch and its switches, Triton, and a hash of both sides' sources."""
    import triton

    fallbacks = (fallback_ops.__file__, fallback_images.__file__, centred_log_mel.__file__, token_merging.__file__)
    ours = [*sorted(Path(launch.__file__).parent.glob("*.py")), *map(Path, fallbacks)]
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in ours)).hexdigest()[:12]
    cudnn: Any = torch.backends.cudnn
    versions = f"torch {torch.__version__}, cuDNN {cudnn.version()}, triton {triton.__version__}"
    return f"{gpu}, driver {driver}, {versions}, {torch_switches()}, sources {sources}"


def torch_switches() -> str:
    """Switches of PyTorch that decide which of its own kernels run: TF32 products, backends of attention."""
    cuda: Any = torch.backends.cuda
    enabled = {
        "cudnn": cuda.cudnn_sdp_enabled(),
        "flash": cuda.flash_sdp_enabled(),
        "efficient": cuda.mem_efficient_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    attention = "+".join(name for name, on in enabled.items() if on) or "none"
    return f"products {float32_products()}, attention {attention}"


def float32_products() -> str:
    """How PyTorch multiplies float32 on a GPU: "ieee" or "tf32"."""
    switch: Any = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    if switch is None:  # before PyTorch 2.9; later this getter refuses a process that has used the newer switch
        return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    if switch == "none":  # as the switch of all backends has it, whose "none" is PyTorch's default
        switch = torch.backends.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if switch == "tf32" else "ieee"

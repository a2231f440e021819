"""Never wrong, never slower: each op is served by its kernel only where that was seen to be right and no slower.

A call is judged when it is met for the first time on a machine: on the very tensors at hand, two clips of them. The
kernel's error against float64 may be twice that of torch's own ops in the same type, plus one rounding of the largest
result in the coarsest type of the results (ten in float32, where sums round as coarsely as their result, and torch may
sum in a luckier order). Then both are timed on all clips. The verdict is kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import torch

from astfast.backends.cuda import autotune_cache as verdicts
from astfast.backends.cuda.autotune_cache import Verdict
from astfast.backends.cuda.op_call import Call
from astfast.backends.cuda.runtime import Runtime
from astfast.errors import BackendError
from astfast.kernels import launch

CHECKED_CLIPS = 2
ROUNDINGS = 10  # of a float32 sum: the square root of 96 blocks, in which 3,072 products are summed 32 at a time
NO_COMPILER = "Failed to find C compiler"  # how Triton says so


class Chooser:
    """Who serves each call of one backend. ``deterministic`` chooses by right and wrong only, never by time."""

    def __init__(self, runtime: Runtime, launcher: launch.Launcher, machine: str, deterministic: bool = False) -> None:
        self.runtime = runtime
        self.machine = machine
        self.deterministic = deterministic
        self._launcher = launcher
        self._verdicts = verdicts.tables().get(machine, {})
        self._warned: set[str] = set()
        self._no_compiler = False

    def serve(self, call: Call) -> torch.Tensor:
        """Runs a call by whoever should and returns its result. Warns once for an op whose kernel can't be used."""
        if not self._no_compiler and self._takes_kernel(call):
            try:
                self._launcher(call.launch())
                return call.clips[call.result]
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # a kernel that was right before, on a machine that has changed since
                self._verdicts[call.key] = self._failed(call, error)
        return call.run_torch()

    def _takes_kernel(self, call: Call) -> bool:
        verdict = self._verdicts.get(call.key)
        if verdict is None or not (verdict.wrong or verdict.timed or self.deterministic):
            verdict = self._verdicts[call.key] = self._judge(call)
        if verdict.wrong is not None:
            self._warn(call.op, f"torch's own ops serve for the kernel of {call.op}: {verdict.wrong}")
            return False
        return self.deterministic or verdict.kernel_is_faster

    def _judge(self, call: Call) -> Verdict:
        if self.runtime.capturing:
            raise BackendError(f"{call.key} is new inside a graph capture: run the model once before it")
        try:
            verdict = Verdict(check(call, self._launcher))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler or a launch may raise
            verdict = self._failed(call, error)
            if self._no_compiler:
                return verdict  # and not remembered: a compiler may be there next time
        if verdict.wrong is None and not self.deterministic:
            own = call.with_own_outputs()
            kernel, torchs = (
                self.runtime.benchmark(lambda: self._launcher(own.launch())),
                self.runtime.benchmark(own.run_torch),
            )
            verdict = Verdict(None, kernel, torchs)
        verdicts.remember(self.machine, call.key, verdict)
        return verdict

    def _failed(self, call: Call, error: Exception) -> Verdict:
        """The verdict on a kernel that did not run; warns of it once."""
        if NO_COMPILER in str(error):
            self._no_compiler = True
            message = "torch's own ops serve for all kernels: Triton finds no C compiler here, install gcc or clang"
            self._warned.add(call.op)
            self._warn(NO_COMPILER, message)
            return Verdict(NO_COMPILER)
        verdict = Verdict(f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200])
        self._warn(call.op, f"torch's own ops serve for the kernel of {call.op}: {verdict.wrong}")
        return verdict

    def _warn(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(message, RuntimeWarning, stacklevel=2)


def check(call: Call, launcher: launch.Launcher) -> str | None:
    """What is wrong with the kernel's results on the call's first clips; None if nothing is."""
    mine, peer = call.of_first(CHECKED_CLIPS), call.of_first(CHECKED_CLIPS)
    launcher(mine.launch())
    got = mine.outputs(mine.clips[mine.result])
    torchs = peer.outputs(peer.run_torch())
    exact_call = call.of_first(CHECKED_CLIPS).in_float64()
    exact = exact_call.outputs(exact_call.run_torch())
    coarsest = max((y.dtype for y in got.values()), key=lambda dtype: torch.finfo(dtype).eps)
    rounding = (ROUNDINGS if coarsest == torch.float32 else 1) * torch.finfo(coarsest).eps / 2
    for name, x in exact.items():
        if not bool(x.isfinite().all()):
            return f"its input leads to {name} that is not finite, in float64 too"
        error = float((got[name].double() - x).abs().max())
        allowed = 2 * float((torchs[name].double() - x).abs().max()) + rounding * float(x.abs().max())
        if not error <= allowed:  # NaN is wrong too
            return f"{name} is off by {error:.2e}, where {allowed:.2e} is allowed"
    return None


def machine_of(gpu: str, driver: str) -> str:
    """What verdicts hold for: the GPU and everything that compiles or serves for it."""
    import triton

    sources = b"".join(path.read_bytes() for path in sorted(Path(launch.__file__).parent.glob("*.py")))
    kernels = hashlib.sha256(sources).hexdigest()[:12]
    return f"{gpu}, driver {driver}, torch {torch.__version__}, triton {triton.__version__}, kernels {kernels}"

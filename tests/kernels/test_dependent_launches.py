"""Programmatic dependent launches: every kernel, as machine code, waits before it touches memory that others write.

None was run on a GPU: that a kernel waits, and lets the next one start, is read off what the compiler made.
"""

import importlib
import pkgutil
import re
from typing import Any

import pytest
import torch
from triton.runtime.jit import JITFunction

import astfast.kernels
from astfast.backends.cuda import backend, target
from astfast.backends.cuda.ops import CudaOps, Target
from astfast.kernels import launch as launches
from astfast.kernels.launch import Launch, dependent
from tests.cases import recorded_launches
from tests.cases.gpu_family_cases import FRONT_ENDS
from tests.cases.persistent_ops import PersistentOps
from tests.kernels.test_compiled import AST_BASE, DASS_SMALL, GPUS, SHARED_LIMIT, compiled
from tests.launchers import Recorder

MEMORY = r"\b(?:LDG|STG|LDGSTS|LD|ST|ATOM|ATOMG|RED|REDG|UTMALDG|UTMASTG|UTMAREDG|UBLKCP|CCTL)\b"  # global, in SASS
BRANCH = r"\bBRA\b[^;`]*`\((\.\w+)\)|(?<!\.)\bEXIT\b"  # its label; past the wait if that is not before it
WAIT, START_NEXT = "ACQBULK", "PREEXIT"  # SASS of griddepcontrol.wait and .launch_dependents


def one_of_each_kernel(arch: int) -> dict[str, Launch]:
    """A launch of every kernel but the persistent one, by name."""
    gpu, recorder = GPUS[arch], Recorder()
    found = recorded_launches.record(AST_BASE, 1, "bfloat16", gpu, token_merging=0.5)
    found += recorded_launches.record(AST_BASE, 1, "float8", gpu)
    found += recorded_launches.record_images(DASS_SMALL, 1, "bfloat16", gpu)
    front_end = next(each for each in FRONT_ENDS.values() if each.top_db is not None)
    ops = CudaOps(1, "bfloat16", "meta", launcher=recorder, target=gpu)
    waves, lengths = (
        torch.empty(1, front_end.input_samples, device="meta"),
        torch.empty(1, dtype=torch.int32, device="meta"),
    )
    ops.log_mel_on_device(waves, lengths, front_end, ops.empty((1, 100, front_end.num_mel_bins), "output"))
    return {launch.name: launch for launch in [*found, *recorder.launches]}


def fault(code: str) -> str | None:
    """What is wrong with the machine code of a dependent launch."""
    before, wait, _ = code.partition(WAIT)
    if not wait or code.count(START_NEXT) != 1:
        return "waits for no kernel, or starts none"
    early = re.findall(MEMORY, before)
    around = [label or "EXIT" for label in re.findall(BRANCH, before) if not label or f"{label}:" not in before]
    return f"{early + around} before it waits" if early or around else None


def test_a_kernel_waits_before_it_touches_memory() -> None:
    pool = one_of_each_kernel(90)["pool_kernel"]
    code = compiled(dependent(pool), 90).code
    assert fault(code) is None
    assert "'STG'" in str(fault(code.replace(WAIT, "NOP") + WAIT))
    assert "waits for no kernel" in str(fault(compiled(pool, 90).code))
    for way_around in ("EXIT ;", "@P0 EXIT ;", "@P0 BRA `(.L_x_999) ;"):
        assert "before it waits" in str(fault(code.replace(WAIT, f"{way_around}\n{WAIT}")))


@pytest.mark.slow
@pytest.mark.parametrize("arch", [90, 100, 120])
def test_every_kernel_waits_before_it_touches_memory(arch: int) -> None:
    found = one_of_each_kernel(arch)
    modules = [
        importlib.import_module(f"astfast.kernels.{each.name}")
        for each in pkgutil.iter_modules(astfast.kernels.__path__)
    ]
    kernels = [x for module in modules for x in vars(module).values() if isinstance(x, JITFunction)]
    names = {kernel.fn.__name__ for kernel in kernels if launches.DEPENDENT in kernel.arg_names}
    assert names - {"await_grid"} == found.keys()
    assert {kernel.fn.__name__ for kernel in kernels if kernel.fn.__name__.endswith("_kernel")} - found.keys() == {
        "persistent_linear_kernel"
    }
    made = {name: compiled(dependent(launch), arch) for name, launch in found.items()}
    faults = {name: fault(each.code) for name, each in made.items()}
    assert not {name: each for name, each in faults.items() if each}
    assert not [name for name, each in made.items() if each.spills or each.shared > SHARED_LIMIT[arch] * 1024]


def test_a_persistent_kernel_waits_for_the_end_of_the_one_before() -> None:
    """CUDA orders such a launch by itself."""
    products = recorded_launches.record(AST_BASE, 2, "bfloat16", GPUS[90], PersistentOps)
    (persistent, *_) = (launch for launch in products if launch.name == "persistent_linear_kernel")
    assert dependent(persistent).options == persistent.options


def test_the_environment_asks_for_dependent_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr("astfast.backends.cuda.runtime.runtime_for", lambda _: object())

    def tuner(arch: Any) -> Any:
        monkeypatch.setattr(target, "target_of", lambda _: Target(arch, 100, "a GPU"))
        return backend.open(12, "bfloat16", "cuda")._autotuner

    plain = tuner(90)
    assert plain._launcher is launches.run
    monkeypatch.setenv("ASTFAST_DEPENDENT_LAUNCHES", "1")
    assert tuner(90)._launcher is tuner(120)._launcher is launches.run_dependent
    assert tuner(90).environment == f"{plain.environment}, dependent launches"
    assert tuner(89)._launcher is tuner("gfx942")._launcher is launches.run

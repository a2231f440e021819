"""An op with several kernels runs on the one that is fastest beside PyTorch's ops; PyTorch's ops stand in for all."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from astfast import cache
from astfast.backends.cuda import autotune_cache, fallback_ops, kernel_trials
from astfast.backends.cuda.autotune import Autotuner
from astfast.backends.cuda.op_call import OpCall
from astfast.kernels import linear
from tests import ROOT
from tests.backends.cuda.test_autotune import KERNEL_FIRST, Clock, Kernels, calls_for_launches

__all__ = ["calls_for_launches"]  # a fixture
pytestmark = pytest.mark.usefixtures("calls_for_launches")


def on_two_kernels(autotuner: Autotuner) -> set[str]:
    """Variants of the launches of a product with two kernels, when the choice is made."""
    x = torch.randn(2, 3, 8)
    call = OpCall(
        "norm_linear",
        linear.norm_linear,
        fallback_ops.norm_linear,
        clips={"x": x, "sumsq": x.square().sum(-1, keepdim=True), "out": torch.empty(2, 3, 4)},
        weights={"weight": torch.randn(4, 8), "bias": torch.randn(4)},
        settings={"eps": 1e-6, "activation": None},
        result="out",
        written=("out",),
    )
    call = replace(call, others=(call.on("further", call.kernel, {}),))
    autotuner.run(call)
    launched: list[OpCall] = autotuner._launcher.launched
    launched.clear()
    autotuner.run(call)
    return {each.variant for each in launched}


@pytest.mark.parametrize(
    ("first", "further", "deterministic", "chosen"),
    [
        ((1e-5, 2e-5), (0.9e-5, 2e-5), False, {"further"}),
        ((1e-5, 2e-5), (1.1e-5, 2e-5), False, {""}),
        ((3e-5, 2e-5), (1e-5, 2e-5), False, {"further"}),
        ((3e-5, 2e-5), (3e-5, 2e-5), False, set()),  # PyTorch's ops
        ((1e-5, 2e-5), (0.9e-5, 2e-5), True, {""}),  # never by time
    ],
)
def test_of_two_kernels_the_faster_runs(first, further, deterministic, chosen) -> None:
    class Times(Clock):
        def compare(self, *works: Any) -> list[float]:
            super().compare(*works)
            return list(further if kernels.launched[-1].variant else first)

    kernels = Kernels()
    autotuner = Autotuner(Times(), kernels, "an environment", deterministic)
    assert on_two_kernels(autotuner) == chosen


def test_a_further_kernel_that_is_wrong_is_left_out_with_one_warning() -> None:
    def spoil(call: OpCall) -> None:
        if call.variant:
            call.clips[call.result].add_(1.0)

    autotuner = Autotuner(Clock(*KERNEL_FIRST), Kernels("norm_linear", spoil), "an environment")
    with pytest.warns(RuntimeWarning, match="norm_linear runs without its further kernel: .* is off by") as shown:
        assert on_two_kernels(autotuner) == {""}
    assert [each.category for each in shown].count(RuntimeWarning) == 1


def condemned(environment: str) -> set[str]:
    """Kernels that are left out, as autotuning and ``astfast doctor`` get to know of them."""
    results = autotune_cache.load().get(environment, {})
    return {call for call, result in results.items() if result.failure == kernel_trials.FAILURE}


class Killed(BaseException):
    """In the place of a signal, which no code of the process survives."""


def test_a_further_kernel_that_never_ends_is_left_out_after_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(call: OpCall) -> None:
        if call.variant:
            dying.setattr(cache, "update", lambda *_: None)  # nothing more is written
            raise Killed

    def process() -> Autotuner:
        return Autotuner(Clock(*KERNEL_FIRST), Kernels("norm_linear", hang), "an environment")

    for _ in range(kernel_trials.DEATHS):
        with pytest.MonkeyPatch.context() as dying, pytest.raises(Killed):
            on_two_kernels(process())
    assert condemned("an environment") == set()  # "they" still run: a neighbour's trial says nothing
    monkeypatch.setattr(kernel_trials, "_started", lambda process: "")
    assert len(condemned("an environment")) == 1
    assert condemned("another environment") == set()
    with pytest.warns(RuntimeWarning, match="norm_linear runs without its further kernel: its first run did not end"):
        assert on_two_kernels(process()) == {""}


TRY = """
import os, signal
from astfast.backends.cuda import kernel_trials
with kernel_trials.trial("a GPU", "further norm_linear"):
    {then}
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def test_processes_that_are_killed_while_they_try_a_kernel_condemn_it_unless_one_ends() -> None:
    def tried(then: str) -> set[str]:
        done = subprocess.run([sys.executable, "-c", TRY.format(then=then)], cwd=ROOT, check=False)
        assert done.returncode == (-signal.SIGKILL if then == KILL else 0)
        return condemned("a GPU")

    assert tried(KILL) == set()  # it may have been killed for another reason
    assert tried("pass") == set()
    assert [tried(KILL), tried(KILL)] == [set(), {"further norm_linear"}]


def test_trials_on_another_machine_count_when_they_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(kernel_trials.DEATHS):
        subprocess.run([sys.executable, "-c", TRY.format(then=KILL)], cwd=ROOT, check=False)
    monkeypatch.setattr(kernel_trials, "_boot", lambda: "another")
    assert condemned("a GPU") == set()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * kernel_trials.LONG_AGO)
    assert condemned("a GPU") == {"further norm_linear"}


@pytest.mark.parametrize(
    "text", ["[]", '{"a GPU": 3}', '{"a GPU": {"a call": 3}}', '{"a GPU": {"a call": [["b", 1], [1]]}}']
)
def test_a_malformed_file_of_trials_says_nothing(text: str, tmp_path: Path) -> None:
    path = tmp_path / "cache" / kernel_trials.FILE
    path.parent.mkdir()
    path.write_text(text)
    assert condemned("a GPU") == set()
    with kernel_trials.trial("a GPU", "a call"):
        assert len(json.loads(path.read_text())["a GPU"]["a call"]) == 1
    assert json.loads(path.read_text())["a GPU"] == {}


def test_a_further_kernel_that_says_nothing_of_itself_leaves_no_mark() -> None:
    def interrupt(call: OpCall) -> None:
        if call.variant:
            raise KeyboardInterrupt

    autotuner = Autotuner(Clock(*KERNEL_FIRST), Kernels("norm_linear", interrupt), "an environment")
    with pytest.raises(KeyboardInterrupt):
        on_two_kernels(autotuner)
    assert all(result.failure is None for result in autotune_cache.load()["an environment"].values())
    assert len(autotune_cache.load()["an environment"]) == 1

"""mbarriers and asynchronous copies of warp-specialised kernels, for the PTX emulator of ../shared/tools.

An asynchronous copy is a write of its mbarrier's current phase, seen by who waits for that phase. Copies land one by
one when somebody waits, so that a phase whose expected bytes are too few completes before the last of them. Who waits
for the wrong parity goes on, and has seen nothing.
"""

import importlib
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.emulation.ptx_clocks import BARRIERS, Ints


class MBarrier:
    """An mbarrier: arrivals and bytes that its phase waits for, and what a completed phase lets its waiters see."""

    def __init__(self, number: int, count: int, agents: int, made_by: tuple[int, int]) -> None:
        self.number, self.count, self.pending = number, count, count
        self.expected = 0  # bytes
        self.completed = 0  # phases
        self.copies: list[tuple[Ints, NDArray[np.uint8]]] = []  # in flight
        self.gathered = np.zeros(agents, np.int64)  # of this phase's arrivals
        self.released = np.zeros(agents, np.int64)  # of all phases so far
        self.made_by = made_by  # (warp, step)

    def settle(self, agent: int) -> bool:
        """Completes the phase if nothing is missing."""
        if self.pending or self.expected:
            return False
        self.completed += 1
        self.pending = self.count
        self.released = np.maximum(self.released, self.gathered)
        self.released[agent] = self.completed
        self.gathered[:] = 0
        return True


def install(ptxemu: Any) -> None:
    """To be called once, after ``ptx_clocks.install``."""
    alu, machine, memory, memops, tma = (
        importlib.import_module(f"ptxemu.{name}") for name in ("alu", "machine", "memory", "memops", "tma")
    )
    known, known_barrier = machine.HANDLERS["mbarrier"], tma._barrier
    error = ptxemu.errors.PTXError

    def barrier_at(M: Any, lane: int, address: int, ins: Any) -> MBarrier:
        barrier: MBarrier | None = M.mbarriers.get((int(M.cta_of[lane]), int(address)))
        if barrier is None:
            raise error(f"no mbarrier was initialised at shared address {int(address):#x}", ins)
        warp, step = barrier.made_by
        program, own = int(M.cta_of[lane]), int(M.tid[lane]) // 32
        if M.smem.race and warp != own and step > M.smem.seen[program, own, warp]:
            raise ptxemu.errors.SharedRace(
                f"warp {own} uses an mbarrier, and nothing orders its initialisation before", ins
            )
        return barrier

    def land(M: Any, barrier: MBarrier) -> None:
        """The copies of the current phase arrive, one by one, until it is complete."""
        phase = barrier.completed
        while barrier.copies and barrier.completed == phase:
            at, values = barrier.copies.pop(0)
            M.smem.data[at] = values
            M.smem.state[at] = memory.VALID
            barrier.expected -= len(values)
            M.events += 1
            barrier.settle(M.warps + barrier.number)

    def decode(M: Any, ins: Any) -> Any:
        kinds = [m for m in ins.mods if m in ("init", "inval", "arrive", "expect_tx", "try_wait", "test_wait")]
        if not hasattr(M.smem, "seen"):
            return known(M, ins)
        if kinds[0] in ("try_wait", "test_wait"):
            return decode_wait(M, ins)
        if kinds[0] == "inval":
            alu.unsupported(ins)
        operands = list(ins.operands)
        if kinds[0] == "arrive" and operands.pop(0).name != "_":
            alu.unsupported(ins, "(state)")
        address = memops.address(M, operands[0], ins)
        value = M.src(operands[1], "u32", ins) if len(operands) > 1 else None

        def run(mask: Any) -> None:
            lanes = np.arange(M.L)[memops.active(mask)]
            for lane, where in zip(lanes, address(lanes), strict=True):
                program, warp = int(M.cta_of[lane]), int(M.tid[lane]) // 32
                if kinds[0] == "init":
                    M.smem.check(np.array([where - memory.SHARED_BASE]), 8, ins, M, np.array([lane]), "mbarrier")
                    number = sum(1 for owner, _ in M.mbarriers if owner == program)
                    step = int(M.smem.seen[program, warp, warp])
                    agents = M.smem.seen.shape[2]
                    assert number < BARRIERS
                    M.mbarriers[program, int(where)] = MBarrier(number, int(value[lane]), agents, (warp, step))
                    start = int(where - memory.SHARED_BASE + M.lane_base[lane])
                    M.smem.state[start : start + 8] = memory.VALID
                    continue
                barrier = barrier_at(M, lane, where, ins)
                if "expect_tx" in kinds:
                    barrier.expected += int(value[lane])
                if kinds[0] == "arrive":
                    barrier.pending -= 1 if "expect_tx" in kinds or value is None else int(value[lane])
                    if barrier.pending < 0:
                        raise error("more arrivals at an mbarrier than its count", ins)
                    barrier.gathered = np.maximum(barrier.gathered, M.smem.seen[program, warp])
                    M.smem.seen[program, warp, warp] += 1
                barrier.settle(M.warps + barrier.number)
                M.events += 1

        return run

    def decode_wait(M: Any, ins: Any) -> Any:
        done, address = M.dst(ins.operands[0], "pred", ins), memops.address(M, ins.operands[1], ins)
        if "parity" not in ins.mods:
            alu.unsupported(ins, "(state)")
        parity = M.src(ins.operands[2], "u32", ins)

        def run(mask: Any) -> None:
            lanes = np.arange(M.L)[memops.active(mask)]
            where = address(lanes)
            ready, waiting = np.zeros(M.L, bool), np.zeros(M.L, bool)
            first = np.unique(M.cta_of[lanes] * M.warps + M.tid[lanes] // 32, return_index=True)[1]
            warps = np.append(first, len(lanes))
            for start, end in itertools.pairwise(warps):  # a warp waits with all its lanes
                lane = lanes[start]
                barrier = barrier_at(M, lane, where[start], ins)
                wanted = int(parity[lane]) & 1
                if barrier.completed & 1 == wanted:
                    land(M, barrier)
                if barrier.completed & 1 == wanted:
                    waiting[lanes[start:end]] = True
                    continue
                ready[lanes[start:end]] = True
                program, warp = int(M.cta_of[lane]), int(M.tid[lane]) // 32
                M.smem.seen[program, warp] = np.maximum(M.smem.seen[program, warp], barrier.released)
            if waiting.any():
                raise machine.Park(ins, ready, waiting, retry=True)
            done[lanes] = True

        return run

    def bulk_barrier(M: Any, lane: int, address: int, ins: Any) -> Any:
        if hasattr(M.smem, "seen"):
            return Landing(M, barrier_at(M, lane, address, ins))
        return known_barrier(M, lane, address, ins)

    machine.HANDLERS["mbarrier"] = decode
    tma._barrier = bulk_barrier


class Landing:
    """What the emulator's bulk copies hand their bytes to: positions, values, their number."""

    def __init__(self, machine: Any, barrier: MBarrier) -> None:
        self.machine, self.barrier = machine, barrier

    @property
    def copies(self) -> "Landing":
        return self

    def append(self, copy: tuple[Ints, NDArray[np.uint8], int]) -> None:
        positions, values, _ = copy
        self.machine.smem.copied_by(positions, self.barrier)
        self.barrier.copies.append((positions, values))

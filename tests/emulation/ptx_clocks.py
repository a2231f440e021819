"""Races and mbarriers of warp-specialised kernels, for the PTX emulator of ../shared/tools.

Its own race detector knows barriers of all threads of a program. Here warps meet at mbarriers and named barriers, so
that order is kept as vector clocks: a warp's row says which step of each other warp, and which phase of each mbarrier,
it has seen. Every byte of shared memory has its last writer and the step of its last reader in each warp. An access
that does not follow from what the warp has seen is a race, in whatever order the emulator ran it.

Products of wgmma read until the wait that covers them. mbarriers and copies are in ``ptx_mbarriers``. What the proxies
of memory need (fence.proxy.async) is not checked.
"""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

BARRIERS = 64  # mbarriers of one program, at most
Ints = NDArray[np.int64]


def install(ptxemu: Any) -> None:
    """Kernels with mbarriers run on ``ClockedMachine``; to be called once."""
    launcher, machine, memory = (
        importlib.import_module(f"ptxemu.{name}") for name in ("launcher", "machine", "memory")
    )
    importlib.import_module("ptxemu.matrix")  # fills the table of handlers
    clocked = _machine(ptxemu, machine.Machine, _memory(ptxemu, memory))
    plain = machine.Machine

    def choose(module: Any, entry: Any, *rest: Any) -> Any:
        specialised = any(instruction.opcode == "mbarrier" for instruction in entry.code)
        return (clocked if specialised else plain)(module, entry, *rest)

    launcher.Machine = choose
    machine.HANDLERS["wgmma"] = _products(machine.HANDLERS["wgmma"])


def _memory(ptxemu: Any, memory: Any) -> Any:
    class ClockedMemory(memory.SharedMemory):  # type: ignore[misc]
        """Shared memory of a batch of programs, with the order of accesses."""

        def __init__(self, machine: Any, size: int, uninit: str, race: bool) -> None:
            super().__init__(size, machine.batch, uninit, race)
            self.machine = machine
            self.warps = machine.warps
            self.waiting: list[Any] | None = None  # at the barrier that is being released; None: everybody
            agents = self.warps + BARRIERS
            self.seen = np.zeros((machine.batch, self.warps, agents), np.int64)
            if race:
                self.write_agent = np.zeros(len(self.data), np.uint8)  # 1 + agent; 0 for none
                self.write_step = np.zeros(len(self.data), np.int32)
                self.read_step = np.zeros((self.warps, len(self.data)), np.int32)
            self.restart()

        def restart(self) -> None:
            """New programs: nobody has seen anything."""
            self.seen[:] = 0
            self.seen[:, range(self.warps), range(self.warps)] = 1
            if self.race:
                self.write_agent[:] = 0
                self.read_step[:] = 0

        def place(self, lanes: Any) -> tuple[Ints, Ints]:
            """(program, warp) of lanes."""
            lanes = np.arange(self.machine.L)[lanes]
            return self.machine.cta_of[lanes], self.machine.tid[lanes] // 32

        def before_read(self, pos: Ints, width: int, ins: Any, machine: Any, lanes: Any) -> None:
            product = ins.opcode == "wgmma"
            at = pos if product else bytes_of(pos, width)  # an element's bytes are written together
            if (self.state[at] != memory.VALID).any():
                self._bad_read(pos, width, ins, machine, lanes)
            if not self.race:
                return
            if product:
                self._multiplied(at, int(lanes[0]), ins)
                return
            program, warp = (np.repeat(x, width) for x in self.place(lanes))
            self._after_write(at, program, warp, ins, "reads")
            self.read_step[warp, at] = self.seen[program, warp, warp]

        def before_write(
            self,
            pos: Ints,
            width: int,
            ins: Any,
            machine: Any,
            lanes: Any,
            values: Any = None,
            landing: bool = False,
        ) -> None:
            at = bytes_of(pos, width)
            if (self.state[at] == memory.IN_FLIGHT).any():
                raise ptxemu.errors.AsyncHazard("store to shared bytes of an asynchronous copy in flight", ins)
            self._check_async_read(pos, width, ins)
            if self.race:
                program, warp = (np.repeat(x, width) for x in self.place(lanes))
                new = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
                changed = (self.state[at] != memory.VALID) | (self.data[at] != new)  # equal ones are harmless
                self._after_all(at[changed], program[changed], warp[changed], ins)
                self.write_agent[at] = warp + 1
                self.write_step[at] = self.seen[program, warp, warp]
                self.data[at] = new
                mixed = (self.write_agent[at] != warp + 1) & (self.data[at] != new)
                if mixed.any():
                    self._race_at(at[mixed][0], ins, "two warps write it at once")
            self.state[at] = memory.VALID

        def mark_in_flight(self, pos: Ints, width: int, ins: Any, machine: Any, lanes: Any) -> None:
            at = bytes_of(pos, width)
            if (self.state[at] == memory.IN_FLIGHT).any():
                raise ptxemu.errors.AsyncHazard("two asynchronous copies in flight to the same shared bytes", ins)
            self._check_async_read(pos, width, ins)
            if self.race:
                self._after_all(at, *(np.repeat(x, width) for x in self.place(lanes)), ins)
            self.state[at] = memory.IN_FLIGHT

        def copied_by(self, at: Ints, barrier: Any) -> None:
            """Bytes that an asynchronous copy writes, in the barrier's current phase."""
            if self.race:
                self.write_agent[at] = self.warps + barrier.number + 1
                self.write_step[at] = barrier.completed + 1

        def read_until_now(self, lane: int, at: Ints) -> None:
            """Bytes that products of a warpgroup have read until the wait that it is in; of an element, its first."""
            program, warp = int(self.machine.cta_of[lane]), int(self.machine.tid[lane]) // 32
            group = np.arange(warp, warp + 4)
            self.read_step[group[:, None], at[::2]] = self.seen[program, group, group][:, None]

        def _multiplied(self, at: Ints, lane: int, ins: Any) -> None:
            """A warpgroup's products read these bytes, from now until their wait; one copy wrote them, as a rule."""
            program, warp = int(self.machine.cta_of[lane]), int(self.machine.tid[lane]) // 32
            agent, step = self.write_agent[at], self.write_step[at]
            seen = self.seen[program, warp : warp + 4, int(agent[0]) - 1].min()
            if (agent == agent[0]).all() and (step == step[0]).all() and step[0] <= seen:
                return
            every = np.ones(len(at), np.int64)
            for reader in range(warp, warp + 4):
                self._after_write(at, program * every, reader * every, ins, "multiplies")

        def _after_write(self, at: Ints, program: Ints, warp: Ints, ins: Any, verb: str) -> None:
            agent = self.write_agent[at].astype(np.int64) - 1
            unseen = (agent >= 0) & (agent != warp) & (self.write_step[at] > self.seen[program, warp, agent])
            if unseen.any():
                k = int(np.argmax(unseen))
                who = f"warp {agent[k]}" if agent[k] < self.warps else f"a copy of mbarrier {agent[k] - self.warps}"
                self._race_at(at[k], ins, f"warp {warp[k]} {verb} what {who} wrote, and nothing orders the two")

        def _after_all(self, at: Ints, program: Ints, warp: Ints, ins: Any) -> None:
            if not len(at):
                return
            self._after_write(at, program, warp, ins, "overwrites")
            one = (warp == warp[0]).all() and (program == program[0]).all()
            seen = (
                self.seen[program[0], warp[0], : self.warps, None] if one else self.seen[program, warp, : self.warps].T
            )
            late = self.read_step[:, at] > seen
            late[warp, np.arange(len(at))] = False  # its own reads
            if late.any():
                other, k = np.argwhere(late)[0]
                self._race_at(
                    at[k], ins, f"warp {warp[k]} overwrites what warp {other} reads, and nothing orders the two"
                )

        def _race_at(self, position: int, ins: Any, what: str) -> None:
            raise ptxemu.errors.SharedRace(f"shared offset {int(position) % self.stride}: {what}", ins)

        def barrier(self, programs: Any = None) -> None:
            """Threads met: all of ``waiting``, in the programs of a mask."""
            per_program = (self.machine.batch, self.warps, 32)
            live = self.machine.live.reshape(per_program).any(2) if hasattr(self.machine, "live") else None
            if live is None:
                return
            groups = [(True, live)]
            if self.waiting is not None:
                groups = [(pc is not None, mask.reshape(per_program).any(2)) for pc, mask, *_ in self.waiting]
            for program in range(self.machine.batch) if programs is None else np.flatnonzero(programs):
                came = np.any([mask[program] for _, mask in groups], axis=0)
                go_on = np.any([mask[program] & waits for waits, mask in groups], axis=0)
                if came.any():
                    self.seen[program, go_on] = self.seen[program, came].max(0)
                    for warp in np.flatnonzero(came):
                        self.seen[program, warp, warp] += 1

    return ClockedMemory


def bytes_of(pos: Ints, width: int) -> Ints:
    """Positions of all bytes of accesses."""
    return np.asarray((np.asarray(pos)[:, None] + np.arange(width)).reshape(-1))


def _machine(ptxemu: Any, plain: Any, memory: Any) -> Any:
    class ClockedMachine(plain):  # type: ignore[misc]
        def __init__(
            self,
            module: Any,
            entry: Any,
            grid: Any,
            block: Any,
            batch: int,
            gmem: Any,
            params: Any,
            content: bytes,
            symbols: dict[str, int],
            *rest: Any,
        ) -> None:
            for name, (start, size) in params.items():
                if size == 128:  # a tensor map, whose address the kernel takes
                    raw = np.frombuffer(content[start : start + size], np.uint8)
                    symbols[name] = gmem.add(name, raw, writable=False).base
            super().__init__(module, entry, grid, block, batch, gmem, params, content, symbols, *rest)

        def _alloc_memory(self, dynamic_shared: int) -> None:
            super()._alloc_memory(dynamic_shared)
            self.smem = memory(self, self.shared_size, self.options.get("uninit", "error"), self.smem.race)

        def run(self, ctas: Any) -> None:
            self.smem.restart()
            super().run(ctas)

        def _release(self, bid: int, ready: Any) -> None:
            self.smem.waiting = list(self.barrier_wait[bid])
            super()._release(bid, ready)
            self.smem.waiting = None

    return ClockedMachine


def _products(known: Any) -> Any:
    """wgmma, whose operands are read until the wait that covers it."""

    def decode(M: Any, ins: Any) -> Any:
        run = known(M, ins)
        if "wait_group" not in ins.mods or not getattr(M.smem, "race", False) or not hasattr(M.smem, "seen"):
            return run

        def wait(mask: Any) -> None:
            before = M.wgmma_reads
            run(mask)
            pending = {id(read) for read in M.wgmma_reads}
            for read in before:
                if id(read) not in pending:
                    M.smem.read_until_now(read[0], read[2])

        return wait

    return decode

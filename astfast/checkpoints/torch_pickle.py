"""The pickles inside PyTorch checkpoints, interpreted as plain data: no class is looked up and nothing is called.

A pickle is a program for a stack machine, as CPython's pickletools documents. ``OPCODES`` lists those that torch.save
writes. What they would import or call is only named: a tensor becomes a ``Strided``, an OrderedDict a dict, and
everything else an ``Other`` that holds a name and nothing more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_BYTES = 1 << 24  # of a pickle; those of published models have less than 100 kB
LARGEST_KEY = 1 << 60  # integers as keys: hashes of larger ones can be made to collide
LONGEST_NAME = 1000  # of a global
REBUILD_TENSOR, REBUILD_PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
ORDERED_DICT = "collections.OrderedDict"


class PickleError(ValueError):
    """A pickle that ``torch.save`` doesn't write; the message says where and why."""


class Other:
    """An object that is named and not made: a global, or what a call of one would return."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Strided(NamedTuple):
    """A tensor: its storage, as ``read_storage`` returned it, and its place there; unchecked."""

    storage: Any
    first: Any
    shape: Any
    strides: Any


def interpret(data: bytes, read_storage: Callable[[Any], Any], start: int = 0) -> tuple[Any, int]:
    """The object that a pickle at ``start`` describes, and where the pickle ends.

    ``read_storage`` gets the persistent ids, which is where ``torch.save`` names storages. Takes time and memory in
    proportion to the length. Raises PickleError.
    """
    machine = Machine(data, read_storage, start)
    while (opcode := machine.take(1)) != b".":
        step = OPCODES.get(opcode)
        if step is None:
            raise PickleError(f"the pickle has opcode {opcode!r} at byte {machine.at - 1}, which torch never writes")
        step(machine)
    return machine.pop(), machine.at


class Machine:
    """State of the interpreter: position, stack, marks in it, and memo."""

    def __init__(self, data: bytes, read_storage: Callable[[Any], Any], start: int) -> None:
        self.data, self.at = data, start
        self.read_storage = read_storage
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}  # a dict, since a pickle may name any index

    def take(self, count: int) -> bytes:
        """The next bytes of the pickle."""
        taken = self.data[self.at : self.at + count]
        if len(taken) != count:
            raise PickleError("the pickle ends early")
        self.at += count
        return taken

    def skip(self, count: int) -> None:
        self.take(count)

    def number(self, size: int) -> int:
        """An unsigned little-endian integer of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        """Text up to the end of its line."""
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise PickleError("the pickle ends early")
        text = self.take(end - self.at).decode("utf-8", "replace")
        self.at += 1
        return text

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        """The top of the stack; nothing below the last mark is reached."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise PickleError("the pickle takes more from its stack than it has put there")
        return self.stack.pop()

    def pop_many(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(count)]))

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise PickleError("the pickle uses a mark that it hasn't set")
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def top(self) -> Any:
        self.push(value := self.pop())
        return value

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise PickleError(f"the pickle refers to object {index}, which it hasn't made")
        self.push(self.memo[index])

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def name_global(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str) and len(module) + len(name) <= LONGEST_NAME):
            raise PickleError("the pickle names a global by something else than two short strings")
        self.push(Other(f"{module}.{name}"))

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Other):
            raise PickleError(f"the pickle appends to a {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if len(items) % 2:
            raise PickleError("the pickle sets a key without a value")
        if isinstance(target, dict):
            fill(target, zip(items[::2], items[1::2], strict=True))
        elif not isinstance(target, Other):
            raise PickleError(f"the pickle sets items of a {type(target).__name__}")

    def frozen_set(self) -> None:
        self.pop_to_mark()
        self.push(Other("frozenset"))

    def reduce(self) -> None:
        """A call: two functions and OrderedDict are known, any other is named only."""
        called, arguments = self.pop_many(2)
        if not isinstance(called, Other) or not isinstance(arguments, tuple):
            raise PickleError(f"the pickle calls a {type(called).__name__}")
        if called.name == REBUILD_TENSOR and len(arguments) >= 4:
            self.push(Strided(*arguments[:4]))
        elif called.name == REBUILD_PARAMETER and arguments:
            self.push(arguments[0])
        elif called.name == ORDERED_DICT and not arguments:
            self.push({})
        else:
            self.push(Other(called.name))

    def new_object(self, operands: int) -> None:
        made, *_ = self.pop_many(operands)
        if not isinstance(made, Other):
            raise PickleError(f"the pickle makes an object of a {type(made).__name__}")
        self.push(Other(made.name))

    def build(self) -> None:
        """The state of an object is dropped: an OrderedDict's holds versions of modules, others aren't made at all."""
        target, _ = self.pop_many(2)
        if not isinstance(target, dict | Other):
            raise PickleError(f"the pickle sets the state of a {type(target).__name__}")
        self.push(target)


def fill(target: dict[Any, Any], pairs: Any) -> None:
    """Sets items. A key that isn't a string, a small integer or None is taken as an ``Other``, equal to itself only."""
    for key, value in pairs:
        plain = key is None or isinstance(key, str) or (isinstance(key, int) and abs(key) < LARGEST_KEY)
        name = key if plain or isinstance(key, Other) else Other(type(key).__name__)
        if name in target:
            raise PickleError("the pickle sets a key twice")
        target[name] = value


def _skips(count: int) -> Callable[[Machine], None]:
    return lambda machine: machine.skip(count)


def _pushes(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine.push(value)


def _text(size: int, encoding: str = "utf-8") -> Callable[[Machine], None]:
    """A string behind its length of ``size`` bytes. surrogatepass: as pickle writes and reads them."""
    return lambda machine: machine.push(machine.take(machine.number(size)).decode(encoding, "surrogatepass"))


def _bytes(size: int) -> Callable[[Machine], None]:
    return lambda machine: machine.push(machine.take(machine.number(size)))


def _tuple(count: int) -> Callable[[Machine], None]:
    return lambda machine: machine.push(machine.pop_many(count))


OPCODES: dict[bytes, Callable[[Machine], None]] = {
    b"\x80": _skips(1),  # protocol
    b"\x95": _skips(8),  # length of a frame
    # constants and numbers
    b"N": _pushes(None),
    b"\x88": _pushes(True),
    b"\x89": _pushes(False),
    b"K": lambda machine: machine.push(machine.number(1)),
    b"M": lambda machine: machine.push(machine.number(2)),
    b"J": lambda machine: machine.push(int.from_bytes(machine.take(4), "little", signed=True)),
    b"\x8a": lambda machine: machine.push(int.from_bytes(machine.take(machine.number(1)), "little", signed=True)),
    b"G": lambda machine: machine.push(struct.unpack(">d", machine.take(8))[0]),
    # strings
    b"X": _text(4),
    b"\x8c": _text(1),
    b"\x8d": _text(8),
    b"U": _text(1, "latin-1"),
    b"T": _text(4, "latin-1"),
    b"C": _bytes(1),
    b"B": _bytes(4),
    b"\x8e": _bytes(8),
    # tuples, lists, dicts, sets
    b"(": Machine.mark,
    b")": _pushes(()),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"t": lambda machine: machine.push(tuple(machine.pop_to_mark())),
    b"]": lambda machine: machine.push([]),
    b"a": lambda machine: machine.extend([machine.pop()]),
    b"e": lambda machine: machine.extend(machine.pop_to_mark()),
    b"}": lambda machine: machine.push({}),
    b"s": lambda machine: machine.set_items(list(machine.pop_many(2))),
    b"u": lambda machine: machine.set_items(machine.pop_to_mark()),
    b"\x8f": lambda machine: machine.push(Other("set")),
    b"\x90": lambda machine: machine.extend(machine.pop_to_mark()),
    b"\x91": Machine.frozen_set,
    # memo
    b"q": lambda machine: machine.remember(machine.number(1)),
    b"r": lambda machine: machine.remember(machine.number(4)),
    b"\x94": lambda machine: machine.remember(len(machine.memo)),
    b"h": lambda machine: machine.recall(machine.number(1)),
    b"j": lambda machine: machine.recall(machine.number(4)),
    # globals, calls, objects
    b"c": lambda machine: machine.name_global(machine.line(), machine.line()),
    b"\x93": lambda machine: machine.name_global(*machine.pop_many(2)),
    b"R": Machine.reduce,
    b"\x81": lambda machine: machine.new_object(2),
    b"\x92": lambda machine: machine.new_object(3),
    b"b": Machine.build,
    b"Q": lambda machine: machine.push(machine.read_storage(machine.pop())),
}

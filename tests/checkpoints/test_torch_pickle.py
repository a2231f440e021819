"""The interpreter of pickles: what torch.save writes is plain data, and no pickle costs more than its own length."""

import collections
import contextlib
import pickle
import struct
import tracemalloc

import pytest

from astfast.checkpoints.torch_pickle import LONGEST_NAME, Other, PickleError, Strided, interpret


def read(data: bytes):
    value, end = interpret(data, lambda pid: ("storage of", pid))
    assert end == len(data)
    return value


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        None,
        [True, False, 0, 255, 256, 65536, -1, 2**40, -(2**70), 0.5],
        {"a": (), "b": (1,), "c": (1, 2), "d": (1, 2, 3), "e": (1, 2, 3, 4), 5: [], None: {}},
        ["x" * 300, "ü", "\udcff", ""],
        [[1]] * 3,
        {str(i): [i] for i in range(2500)},
    ],
)
def test_plain_data_is_what_pickle_makes_of_it(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [2, 4])
def test_other_objects_are_named_only(protocol):
    made = read(
        pickle.dumps(
            {
                "ordered": collections.OrderedDict(a=1),
                "counter": collections.Counter("aab"),
                "default": collections.defaultdict(list, a=[1]),
                "set": {1, 2},
                "frozen": frozenset([1]),
                "function": struct.pack,
                "range": range(3),
            },
            protocol,
        )
    )
    assert made.pop("ordered") == {"a": 1}
    assert {name: value.name for name, value in made.items()}.items() >= {
        ("counter", "collections.Counter"),
        ("default", "collections.defaultdict"),
        ("function", "_struct.pack"),
    }
    assert all(isinstance(value, Other) for value in made.values())


def test_tensors_parameters_and_states():
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(X\x01\x00\x00\x000QK\x01K\x02\x85K\x01\x85\x89}tR"
    tensor = Strided(("storage of", "0"), 1, (2,), (1,))
    assert read(call + b".") == tensor
    assert read(b"ctorch._utils\n_rebuild_parameter\n" + call + b"\x89}\x87R.") == tensor
    assert read(b"ccollections\nOrderedDict\n)R}" + text("_metadata") + b"K\x01sb.") == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends early"),
        (b"X\xff\xff\xff\xffabc.", "ends early"),
        (b"cos\nsystem", "ends early"),
        (b".", "takes more from its stack"),
        (b"K\x01(.", "takes more from its stack"),
        (b"t.", "a mark that it hasn't set"),
        (b"h\x05.", "object 5, which it hasn't made"),
        (b"I1\n.", r"opcode b'I' at byte 0, which torch never writes"),
        (b"(ios\nsystem\n.", "opcode b'i'"),
        (b"K\x01)R.", "calls a int"),
        (b"cos\nsystem\nK\x01R.", "calls a Other"),
        (b"K\x01)\x81.", "makes an object of a int"),
        (b"K\x01}b.", "sets the state of a int"),
        (b"K\x01K\x02a.", "appends to a int"),
        (b"K\x01K\x02K\x03s.", "sets items of a int"),
        (b"}(K\x01u.", "a key without a value"),
        (b"}(K\x01K\x02K\x01K\x03u.", "a key twice"),
        (b"K\x01K\x01\x93.", "names a global by something else"),
        (b"c" + b"x" * (LONGEST_NAME + 1) + b"\n\n.", "names a global by something else"),
    ],
)
def test_what_torch_never_writes_is_refused(data, message):
    with pytest.raises(PickleError, match=message):
        read(data)


def test_the_state_of_a_tensor_cannot_be_set():
    """BUILD wrote into what had been checked."""
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tR}b."
    with pytest.raises(PickleError, match="sets the state of a Strided"):
        read(call)


SIZE = 100_000  # bytes


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b".",  # the memo is no array
        b"}" + b"r\xff\xff\xff\xff" * (SIZE // 5) + b".",
        b"}" * SIZE + b".",
        b"(" * (SIZE // 2) + b"t" * (SIZE // 2) + b".",
        b"]\x94" * (SIZE // 2) + b".",
        b")q\x00" + b"h\x00h\x00\x86q\x00" * (SIZE // 7) + b".",
        text("x" * 400) + b"q\x00" + b"h\x00h\x00\x93" * (SIZE // 5) + b".",
    ],
    ids=["memo", "remember", "dicts", "marks", "memoize", "doubling", "names"],
)
def test_memory_is_bounded_by_the_length(data):
    tracemalloc.start()
    with contextlib.suppress(PickleError):
        interpret(data, lambda pid: pid)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 250 * SIZE


def test_keys_whose_hash_is_costly_are_not_hashed():
    """60 tuples, each of the one before twice, take 2^60 steps to hash; multiples of 2^61 - 1 all have hash 0."""
    doubling = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60
    *_, made = read(b"(" + doubling + b"}h\x00Nst.")
    (key,) = made
    assert isinstance(key, Other)
    (key,) = read(b"}\x8a\x0a" + (2**61 - 1).to_bytes(10, "little") + b"Ns.")
    assert isinstance(key, Other)

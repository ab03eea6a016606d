"""Damaged and hostile files of weights thrown at the reader, in the manner of the data sets' fuzz tests.

Whatever is in a file: it is read or refused with one line; memory and time stay bounded; nothing of it runs.
Hypothesis throws some hundred, and makes one that fails small; `test_many_files` throws a thousand by their numbers,
with ``--long`` (or ``NABI_FUZZ``) 100,000.
"""

import random
import struct
import sys
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import made_weights as made
from fuzzing import examples
from made_weights import Code, Laid, code, name, ordered, parameter, program, stream_form, zip_form
from nabi import weights
from nabi.errors import FormatError
from test_fuzz_data import WATCH, changes, mutated, only_documented_errors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")

# A small file's arrays are 16 MiB at most; where they are of bfloat16, they become twice as large.
MEMORY = 64 << 20


def fuzz(count):
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def read_or_say(path):
    try:
        return weights.read(path), ""
    except FormatError as error:
        return {}, str(error)


def throw_at(path, content):
    """Read a file of this content, or find it refused with one line."""
    made.rewrite(path, content)
    found, said = read_or_say(path)
    if said:
        assert said.startswith(f"{path}: ")
        assert "\n" not in said
        assert len(said) < 500
        return False
    assert found
    for called, array in found.items():
        assert isinstance(called, str)
        assert array.dtype.kind in "fiub"
        assert array.dtype.isnative
    assert sum(array.nbytes for array in found.values()) <= 2 * max(4 * len(content), 16 << 20)
    return True


@pytest.fixture
def throw(tmp_path, monkeypatch):
    """:func:`throw_at`, watched."""
    monkeypatch.setattr(WATCH, "allowed", str(tmp_path / "x"))

    def watched(content):
        with only_documented_errors(MEMORY):
            return throw_at(tmp_path / "x", content)

    yield watched
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def nest(laid):
    """What a checkpoint may hold, with everything that the reader knows."""
    weight = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    half = np.arange(6, dtype=np.uint16)
    state = ordered({
        "conv.weight": parameter(laid.lay(weight)),
        "conv.part": laid.lay(weight, weight[:, ::2].transpose(2, 0, 1)),
        "norm.count": laid.lay(np.array(7)),
        "norm.flag": laid.lay(np.ones(3, bool)),
        "half": laid.lay(half, kind="BFloat16"),
    })  # fmt: skip
    size = Code(name("torch.Size").code + code(((2, 3),)) + b"R")
    return {
        "state_dict": state,
        "epoch": 3,
        "lr": [0.1, 2**70],
        "size": size,
        "none": None,
        "dtype": name("torch.int8"),
    }


LAID = {stream: Laid(stream) for stream in (False, True)}
PICKLES = {stream: program(nest(LAID[stream])) for stream in (False, True)}
STREAM_STORAGES = LAID[True].storages
ZIP_STORAGES = {key: base.tobytes() for key, base in LAID[False].storages.items()}


def test_what_is_mutated_is_right(throw, tmp_path):
    for content in (zip_form(PICKLES[False], ZIP_STORAGES), stream_form(PICKLES[True], STREAM_STORAGES)):
        throw(content)
        found = weights.read(tmp_path / "x")
        assert list(found) == ["conv.weight", "conv.part", "norm.count", "norm.flag", "half"]
        assert found["conv.part"].shape == (4, 2, 2)


@fuzz(40)
@given(changes)
def test_zips(throw, steps):
    throw(mutated(zip_form(PICKLES[False], ZIP_STORAGES), steps))


@fuzz(60)
@given(changes)
def test_pickles_in_a_zip(throw, steps):
    """Behind a checksum that is right."""
    throw(zip_form(mutated(PICKLES[False], steps), ZIP_STORAGES))


@fuzz(60)
@given(changes)
def test_streams(throw, steps):
    throw(mutated(stream_form(PICKLES[True], STREAM_STORAGES), steps))


OPERANDS = [
    b"\x01",
    b"\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\x7f",
    b"\xff" * 8,
    code("storage"),
    code("0"),
    code(3),
    code(-1),
]
NAMES = ["torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter"]
NAMES += ["torch.FloatStorage", "torch.storage.UntypedStorage", "torch.Size", "torch.bfloat16", "collections.Counter"]
NAMES += ["collections.OrderedDict", "os.system", "builtins.eval"]
WHOLE = [code(value) for value in [(), (2,), (1,), (2**31, 2**31), (0, 0), {"a": 1}, [1, 2], 2**62, True, None, "cpu"]]
WHOLE += [made.storage("0", 24).code, made.tensor(made.storage("0", 24), 0, (2, 3), (3, 1)).code]
PIECES = [bytes([byte]) for byte in range(256)] + OPERANDS + WHOLE + [name(each).code for each in NAMES]
FREQUENT = [b"(", b"t", b"}", b"]", b"s", b"u", b"a", b"e", b"R", b"Q", b"b", b"q\0", b"h\0", b"\x85", *WHOLE]


@fuzz(60)
@given(st.lists(st.sampled_from(PIECES) | st.sampled_from(FREQUENT), max_size=40), st.booleans())
@example([b"}r\xff\xff\xff\x7f"], True)
@example([b"X\xff\xff\xff\xff"], False)
@example([b"]q\0h\0a"], True)
def test_programs_of_anything(throw, pieces, stream):
    throw(made_up(pieces, stream))


def made_up(pieces, stream):
    pickled = b"\x80\x02" + b"".join(pieces) + b"."
    return stream_form(pickled, STREAM_STORAGES) if stream else zip_form(pickled, ZIP_STORAGES)


LENGTHS = [0, 1, 2, 3, 6, 23, 24, 25, 2**20, 2**31, 2**62, 2**63, -1]
any_number = st.sampled_from(LENGTHS) | st.integers(-2, 30)
any_shape = st.lists(any_number, max_size=5).map(tuple)


@fuzz(40)
@given(
    st.sampled_from(["Float", "BFloat16", "Bool", "Double", "Byte"]), any_number, any_number, any_shape, any_shape,
    st.booleans(),
)  # fmt: skip
def test_tensors_that_claim_anything(throw, kind, count, offset, shape, strides, stream):
    throw(claiming(kind, count, offset, shape, strides, stream))


def claiming(kind, count, offset, shape, strides, stream):
    strides = strides[: len(shape)] + (0,) * (len(shape) - len(strides))
    value = program({"x": made.tensor(made.storage("0", count, kind), offset, shape, strides)})
    base = np.zeros(24, np.float32)
    return stream_form(value, {"0": base}) if stream else zip_form(value, {"0": base.tobytes()})


TABLE = {
    "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "half": {"dtype": "BF16", "shape": [3], "data_offsets": [24, 30]},
    "flag": {"dtype": "BOOL", "shape": [], "data_offsets": [30, 31]},
    "__metadata__": {"format": "pt"},
}
SAFETENSORS = made.safetensors_form(TABLE, bytes(24) + struct.pack("<3H", 1, 2, 3) + b"\1")


@fuzz(30)
@given(changes, st.booleans())
def test_safetensors(throw, steps, inside):
    throw(changed_safetensors(steps, inside))


def changed_safetensors(steps, inside):
    if not inside:
        return mutated(SAFETENSORS, steps)
    header = mutated(SAFETENSORS[8:-31], steps)
    return struct.pack("<Q", len(header)) + header + SAFETENSORS[-31:]


# --- many


def numbered(number):
    """The file of this number: much the same as Hypothesis makes, at a hundredth of the time."""
    draw = random.Random(number)
    stream = draw.random() < 0.5
    steps = [
        (
            draw.choice(["flip", "put", "insert", "cut", "end", "repeat"]),
            draw.random(),
            draw.random(),
            draw.randbytes(draw.randint(1, 8)) if draw.random() < 0.5 else draw.choice(OPERANDS),
        )
        for _ in range(draw.choice([1, 1, 2, 4]))
    ]
    match draw.choices(["file", "pickle", "program", "claims", "safetensors"], [25, 30, 20, 15, 10])[0]:
        case "file":
            form = stream_form(PICKLES[True], STREAM_STORAGES) if stream else zip_form(PICKLES[False], ZIP_STORAGES)
            return mutated(form, steps)
        case "pickle":
            pickled = mutated(PICKLES[stream], steps)
            return stream_form(pickled, STREAM_STORAGES) if stream else zip_form(pickled, ZIP_STORAGES)
        case "program":
            pieces = [draw.choice(PIECES if draw.random() < 0.3 else FREQUENT) for _ in range(draw.randint(1, 40))]
            return made_up(pieces, stream)
        case "claims":
            kind = draw.choice(["Float", "BFloat16", "Bool", "Double", "Byte"])
            length = lambda: draw.choice(LENGTHS) if draw.random() < 0.15 else draw.randint(0, 3)
            shape, strides = (tuple(length() for _ in range(draw.randint(0, 3))) for _ in range(2))
            width = {"Float": 4, "BFloat16": 2, "Bool": 1, "Double": 8, "Byte": 1}[kind]
            count = 96 // width if draw.random() < 0.8 else length()
            return claiming(kind, count, length(), shape, strides, stream)
    return changed_safetensors(steps, stream)


def test_many_files(tmp_path, monkeypatch):
    """Every file that fails here is made again by its number."""
    monkeypatch.setattr(WATCH, "allowed", str(tmp_path / "x"))
    read = slowest = largest = 0
    tracemalloc.start()
    monkeypatch.setattr(WATCH, "active", True)
    for number in range(examples(1000)):
        content = numbered(number)
        tracemalloc.reset_peak()
        before, started = tracemalloc.get_traced_memory()[0], time.process_time()
        try:
            read += throw_at(tmp_path / "x", content)
        except BaseException as error:
            error.add_note(f"file number {number}")
            raise
        slowest = max(slowest, time.process_time() - started)
        largest = max(largest, tracemalloc.get_traced_memory()[1] - before)
    WATCH.active = False
    tracemalloc.stop()
    print(f"{number + 1:,} files, {read:,} of them read; {slowest:.2f} s and {largest / 2**20:.1f} MiB at most")
    assert WATCH.seen == []
    assert slowest < 10
    assert largest < MEMORY
    assert 0.1 < read / (number + 1) < 0.5  # neither is hardly tried

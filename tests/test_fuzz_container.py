"""Hostile and damaged model files: only `ModelFileError` comes out, of one line, and memory stays bounded."""

import contextlib
import hashlib
import json
import random
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing import examples
from nabi import container
from nabi.errors import ModelFileError

EXAMPLES = examples(300)
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def small(tmp_path):
    container.write(
        tmp_path / "small", {"w": np.array([1.5, -2.0], np.float32), "b": np.array(True)}, {"name": "나비", "k": 3}
    )
    return tmp_path / "small"


def one_line(path, error):
    message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 500
    return message


def refuses(path, content):
    """The line that says what is wrong with this content."""
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        container.read(path)
    return one_line(path, caught.value)


def read_or_refuse(path):
    """What the file holds, or None where it was refused as it should be."""
    try:
        return container.read(path)
    except ModelFileError as error:
        one_line(path, error)
        return None


def signed(table, data=b"", length=None):
    """A file with any header and the digest that belongs to it, as an attacker would make it."""
    encoded = table if isinstance(table, bytes) else json.dumps(table, separators=(",", ":")).encode()
    length = len(encoded) if length is None else length
    digest = hashlib.sha256(length.to_bytes(8, "little") + encoded + data).hexdigest()
    return length.to_bytes(8, "little") + encoded.replace(b"0" * 64, digest.encode(), 1) + data


def table_of(entries, header='{"format_version":1}'):
    return {"__metadata__": {"nabi.sha256": "0" * 64, "nabi.header": header}} | entries


def test_the_hand_made_files_are_right_where_nothing_is_wrong(tmp_path):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    (tmp_path / "model").write_bytes(signed(table_of({"w": entry}), bytes(8)))
    assert container.read(tmp_path / "model")[0]["w"].tolist() == [0, 0]


# Damage


def test_every_flipped_bit_of_a_small_file_is_found(small):
    content = bytearray(small.read_bytes())
    for bit in range(8 * len(content)):
        content[bit // 8] ^= 1 << bit % 8
        refuses(small, content)
        content[bit // 8] ^= 1 << bit % 8
    small.write_bytes(content)
    container.read(small)


def test_flipped_bits_of_a_larger_file_are_found(tmp_path):
    path = tmp_path / "model"
    generator = np.random.default_rng(0)
    layers = {f"layers.{i}.weight": generator.standard_normal((64, 32)).astype(np.float32) for i in range(20)}
    container.write(path, layers, {"name": "mlp", "classes": [str(i) for i in range(100)]})
    content = bytearray(path.read_bytes())
    bits = random.Random(0)
    for _ in range(EXAMPLES):
        bit = bits.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        refuses(path, content)
        content[bit // 8] ^= 1 << bit % 8


def test_a_file_cut_anywhere_or_with_more_behind_is_found(small):
    content = small.read_bytes()
    for length in range(len(content)):
        refuses(small, content[:length])
    assert "cut short or too long" in refuses(small, content + b"\0")
    assert "cut short" in refuses(small, content[:-1])


@fuzz
@given(
    edits=st.lists(
        st.tuples(st.sampled_from(["replace", "insert", "delete", "copy"]), st.integers(0), st.binary(max_size=12)),
        min_size=1,
        max_size=4,
    ),
    sign=st.booleans(),
)
def test_mutated_files(small, edits, sign):
    original = content = small.read_bytes()
    for kind, position, piece in edits:
        position %= len(content) + 1
        behind = position + (0 if kind == "insert" else len(piece))
        if kind == "copy":
            piece = content[position // 2 :][: len(piece)]
        content = content[:position] + (b"" if kind == "delete" else piece) + content[behind:]
    if sign:
        with contextlib.suppress(ValueError):  # what no longer has a place for the digest is thrown in unsigned
            place = content.index(b'nabi.sha256":"') + 14
            unsigned = content[:place] + b"0" * 64 + content[place + 64 :]
            content = content[:place] + hashlib.sha256(unsigned).hexdigest().encode() + content[place + 64 :]
    mutated = small.with_name("mutated")
    mutated.write_bytes(content)
    if found := read_or_refuse(mutated):
        assert sign or content == original
        assert all(array.dtype in container.DTYPES.values() for array in found[0].values())


# Headers made to harm, each with the right digest


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=6,
)
entry = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*container.DTYPES, "BF16", "F8_E4M3", "", "object"]) | any_json,
        "shape": st.lists(st.integers(0, 5) | st.integers(-(2**70), 2**70) | any_json, max_size=70) | any_json,
        "data_offsets": st.lists(st.integers(0, 40) | st.integers(), max_size=3) | any_json,
    },
)


@fuzz
@given(
    entries=st.dictionaries(st.text(max_size=4), entry | any_json, max_size=3),
    header=any_json.map(json.dumps) | st.text() | any_json,
    data=st.binary(max_size=40),
)
def test_signed_headers_of_any_content(tmp_path, entries, header, data):
    path = tmp_path / "model"
    path.write_bytes(signed(table_of(entries, header), data))
    if found := read_or_refuse(path):
        assert sum(array.nbytes for array in found[0].values()) == len(data)
        assert found[1]["format_version"] == container.FORMAT_VERSION


@fuzz
@given(content=st.binary(max_size=200))
def test_bytes_of_any_kind(tmp_path, content):
    refuses(tmp_path / "model", content)


def one(shape, dtype="F32", offsets=(0, 8)):
    return table_of({"w": {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}})


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (one([10**12], offsets=[0, 4 * 10**12]), "8 bytes of arrays, and the header describes 4,000,000,000,000"),
        (one([2**62, 2**62]), "impossible shape"),
        (one([0, 2**62, 2**62]), "impossible shape"),
        (one([1] * 65), "impossible shape"),
        (one([-2]), "impossible shape"),
        (one([2.0]), "impossible shape"),
        (one([True, 2]), "impossible shape"),
        (one("2"), "impossible shape"),
        (one(2), "not iterable"),
        (one([2], "BF16"), "unknown dtype 'BF16'"),
        (one([2], ["F32"]), "damaged: "),
        (one([2], offsets=[8, 16]), "does not lie where"),
        (one([2], offsets=[0, 4]), "does not lie where"),
        (one([2], offsets=[-8, 0]), "does not lie where"),
        (one([1]) | {"v": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, "does not lie where"),
        (one([1], offsets=[0, 4]), "8 bytes of arrays, and the header describes 4"),
        (one([8], "BOOL"), "neither 0 nor 1"),
        (table_of({}, 3), "damaged: "),
        (table_of({}, "[]"), "not a JSON object"),
        (table_of({}, "{"), "damaged: "),
        (table_of({}, '{"format_version":1e999}'), "format version inf"),
        (table_of({}, '{"format_version":' + "1" * 5000 + "}"), "damaged: Exceeds the limit"),
        (table_of({}, '{"a":1,"a":2}'), "names one thing twice"),
        (table_of({}, '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "more than 32 levels"),
        (table_of({}, '{"format_version":"' + "9" * 100_000 + '"}'), "format version '9"),
        (table_of({"x" * 100_000: {}}), "damaged: no 'dtype'"),
        (table_of({str(i): {} for i in range(20_000)}), "20,000 arrays"),
        (b'{"__metadata__":{"nabi.sha256":"' + b"0" * 64 + b'"},"w":' + b"[" * 10**6 + b"]" * 10**6 + b"}", "levels"),
        (b'{"__metadata__":{"nabi.sha256":"' + b"0" * 64 + b'\\"' + b'\\"' * 10**6, "levels|damaged"),
        (b'{"__metadata__":{"nabi.sha256":"' + b"0" * 64 + b'"}}', "no 'nabi.header'"),
        (b'{"__metadata__":{"nabi.sha256":"' + b"0" * 64 + b"\xff" * 64, "damaged: 'utf-8'"),
        (b'{"__metadata__":{"nabi.sha256":"' + b"0" * 64, "header of"),
    ],
)
def test_headers_made_to_harm(tmp_path, table, says):
    content = signed(table, b"" if "format" in says else b"\x02" * 8)
    assert re.search(says, refuses(tmp_path / "model", content))


@pytest.mark.parametrize("length", [0, 50, 104, 2**22 + 1, 2**31, 2**63, 2**64 - 1])
def test_header_lengths_that_cannot_be(tmp_path, length):
    refuses(tmp_path / "model", signed(one([2]), bytes(8), length))


@pytest.mark.parametrize("content", [signed(one([10**12], offsets=[0, 4 * 10**12])), signed(one([2]), length=10**12)])
def test_a_small_file_that_claims_much_takes_little_memory(tmp_path, content):
    (tmp_path / "model").write_bytes(content)
    tracemalloc.start()
    with contextlib.suppress(ModelFileError):
        container.read(tmp_path / "model")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


@pytest.mark.parametrize("piece", [b"[[[]]],", b'{"a":{}},'])
def test_the_worst_header_takes_bounded_memory(tmp_path, piece):
    start = b'{"__metadata__":{"nabi.sha256":"' + b"0" * 64 + b'"},"w":['
    pieces = (container.MAX_HEADER_BYTES - len(start) - 10) // len(piece)
    (tmp_path / "model").write_bytes(signed(start + piece * pieces + b"0]}"))
    tracemalloc.start()
    with pytest.raises(ModelFileError, match="damaged"):
        container.read(tmp_path / "model")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * container.MAX_HEADER_BYTES


def test_a_file_longer_than_memory_is_refused(small, monkeypatch):
    def empty(*arguments):
        raise MemoryError

    monkeypatch.setattr(np, "empty", empty)
    with pytest.raises(ModelFileError, match="bytes do not fit in memory"):
        container.read(small)

"""One picture cut into strips, against the reference engine, and one whose weights are shared out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzing import examples
from nabi import engines, machine, ops, threads
from nabi.engines.cpu import convolve, segments, strips
from nabi.engines.cpu.program import Program
from nabi.engines.cpu.segments import walk
from random_graphs import compare
from test_cpu_engine import guarded, plan_of


def check(function: Callable[..., Any], *arrays: Any) -> set[str]:
    """Compute on both engines, with one thread and with two; gives the kinds of values that the fast one made."""
    plan = plan_of(function, *arrays)
    given = list(arrays)
    run = engines.prepare("cpu", plan)
    got = run(given)
    compare(plan, given, got, engines.prepare("reference", plan)(given), 4)
    threads.set_num_threads(1)
    try:
        alone = run(given)
    finally:
        threads.set_num_threads(None)
    assert [np.asarray(a).tobytes() for a in got] == [np.asarray(a).tobytes() for a in alone]
    return {value.kind for value in walk(Program(plan).outputs)}


@pytest.fixture(autouse=True)
def _cut_whatever_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "ENOUGH_WORK", 0)
    monkeypatch.setattr(strips, "FITS", 0)
    monkeypatch.setattr(segments, "FEW_OPERATIONS", 0)
    monkeypatch.setattr(segments, "TINY", 0)


def normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


LAYERS = ("3x3", "3x3 in steps of 2", "5x5 far apart", "1x1", "depthwise", "depthwise in steps of 2", "wide",
          "pool", "pool that overlaps", "pool with a border", "relu and bias", "residual", "no border", "inverted",
          "inverted in steps of 2")  # fmt: skip


def layer(kind: str, x: Any, w: list[Any], place: int) -> Any:
    """A layer of a kind; its weights are taken out of large arrays."""
    c = x.shape[3]
    if kind in ("3x3", "3x3 in steps of 2", "no border"):
        stride, padding = (2 if "steps" in kind else 1), (0 if kind == "no border" else "same")
        return ops.conv2d(x, w[0][:3, :3, :c, : c + place], stride=stride, padding=padding)
    if kind == "5x5 far apart":
        return ops.conv2d(x, w[0][:, :, :c, :c], padding="same", dilation=2)
    if kind == "1x1":
        return ops.conv2d(x, w[0][:1, :1, :c, : c + 3])
    if kind == "wide":
        return ops.conv2d(x, w[0][:3, :3, :c, :24], padding=1)
    if kind.startswith("depthwise"):
        stride = 2 if "steps" in kind else 1
        return ops.conv2d(x, w[1][:3, :3, :, :c], stride=stride, padding="same", groups=c)
    if kind.startswith("inverted"):
        many = ops.clip(ops.conv2d(x, w[0][:1, :1, :c, : min(3 * c, 48)]) + w[2][: min(3 * c, 48)], 0, 6)
        many = layer("depthwise in steps of 2" if "steps" in kind else "depthwise", many, w, place)
        few = ops.conv2d(ops.relu(many), w[0][:1, :1, : many.shape[3], :c])
        return few if "steps" in kind else x + few
    if kind.startswith("pool"):
        size, padding = (2, 0) if kind == "pool" else (3, 1 if "border" in kind else 0)
        return ops.max_pool2d(x, kernel_size=size, stride=2, padding=padding)
    if kind == "relu and bias":
        return ops.relu(x * 1.25 + w[2][:c])
    return x + ops.relu(ops.conv2d(x, w[0][:3, :3, :c, :c], padding=1))


@pytest.mark.parametrize("key", [np.s_[0, None], np.s_[None, 0], np.s_[:, 0]])
def test_a_picture_that_was_picked_by_another_key(key: Any) -> None:
    x, w = normal(0, 1, 1, 20, 20, 3) if key == np.s_[:, 0] else normal(0, 1, 20, 20, 3), normal(1, 3, 3, 3, 8)
    check(lambda x, w: ops.conv2d(ops.relu(ops.conv2d(x[key], w, padding="same"))[..., :3], w, padding="same"), x, w)


@settings(max_examples=examples(25), deadline=None)
@given(
    seed=st.integers(0, 1000),
    height=st.integers(8, 34),
    width=st.integers(5, 20),
    channels=st.sampled_from([1, 3, 16, 20]),
    kinds=st.lists(st.sampled_from(LAYERS), min_size=1, max_size=5),
    narrow=st.booleans(),
)
def test_networks_of_one_picture(
    seed: int, height: int, width: int, channels: int, kinds: list[str], narrow: bool
) -> None:
    weights = [normal(seed, 5, 5, 48, 48) * np.float32(0.1), normal(seed + 1, 3, 3, 1, 48), normal(seed + 2, 48)]

    def network(x: Any, *w: Any) -> list[Any]:
        for place, kind in enumerate(kinds):
            if kind == "depthwise" and x.shape[3] == 1:
                continue
            if min(x.shape[1:3]) < 5 or x.shape[3] > 40:
                break
            x = layer(kind, x, list(w), place)
        return [x, ops.mean(x, axis=(1, 2))]

    arrays = normal(seed + 3, 1, height, width, channels), *weights
    processor = machine.processor()
    with machine.pretending(machine.narrower(processor) if narrow else processor):
        check(network, *arrays)


@pytest.mark.parametrize("height", [8, 12, 16, 20, 28, 32, 56])
def test_what_is_cut(height: int) -> None:
    """Windows read strips, and pixels and means need none."""
    x, w, d = normal(0, 1, height, 9, 16), normal(1, 3, 3, 16, 16), normal(2, 3, 3, 1, 16)

    def network(x: Any, w: Any, d: Any) -> Any:
        x = ops.relu(ops.conv2d(x, w, padding=1))
        x = ops.relu(ops.conv2d(x, d, padding=1, groups=16))
        return ops.mean(ops.conv2d(x, w[:1, :1]), axis=(1, 2))

    kinds = check(network, x, w, d)
    assert "strips" in kinds
    outputs = Program(plan_of(network, x, w, d)).outputs
    pictures = [v for v in walk(outputs) if v.kind in ("convolution", "winograd")]
    assert {v.shape[0] for v in pictures} == {strips.count(height)}


@pytest.mark.parametrize("border", [(3, 20), (20, 3), (8, 40), (40, 8), (0, 90), (90, 0)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (3, 1), (5, 1), (3, 3)])
def test_strips_that_lie_in_the_border(border: tuple[int, int], kernel: int, stride: int) -> None:
    """Of them, and of memory around them, nothing else is written."""
    x, v, w = normal(0, 1, 16, 9, 16), normal(1, 3, 3, 16, 16), normal(2, kernel, kernel, 16, 20)

    def network(x: Any, v: Any, w: Any) -> Any:
        x = ops.relu(ops.conv2d(x, v, padding=1))
        return ops.conv2d(x, w, padding=(border, (2, 2)), stride=stride)

    with guarded() as overrun:
        check(network, x, v, w)
    assert overrun() == 0


def inverted(kernel: int, stride: int, padding: Any, dilation: int, stem: bool = False) -> Callable[..., Any]:
    """Few channels, many, each seen through a window of its own, and few again."""

    def network(x: Any, v: Any, d: Any, w: Any) -> Any:
        v, how = (v, {"stride": 2, "padding": 1}) if stem else (v[:1, :1], {})
        many = ops.clip(ops.conv2d(x, v, **how) + 0.5, 0, 6)  # a border of zeros is not what it makes of zeros
        seen = ops.conv2d(many, d[:kernel, :kernel], stride=stride, padding=padding, dilation=dilation, groups=24)
        few = ops.conv2d(ops.relu(seen), w)
        return x + few if few.shape == x.shape else few

    return network


@pytest.mark.parametrize("room", [1, 12_000])
@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        (3, 1, 1, 1),
        (3, 2, 1, 1),
        (5, 1, 2, 1),
        (5, 2, "same", 1),
        (3, 1, 2, 2),
        (3, 1, ((0, 2), (1, 0)), 1),
        (1, 1, 2, 1),
        (2, 2, 4, 1),
    ],
)
def test_many_channels_pass_through_strips(
    monkeypatch: pytest.MonkeyPatch, room: int, stem: bool, kernel: int, stride: int, padding: Any, dilation: int
) -> None:
    monkeypatch.setattr(strips, "ROOM", room)
    monkeypatch.setattr(strips, "MOST_REPEATED", 3)
    side = 80 if stem else 40
    arrays = normal(0, 1, side, 9, 6), normal(1, 3, 3, 6, 24), normal(2, 5, 5, 1, 24), normal(3, 1, 1, 24, 6)
    network = inverted(kernel, stride, padding, dilation, stem)
    with guarded() as overrun:
        check(network, *arrays)
    assert overrun() == 0
    (seen,) = (v for v in walk(Program(plan_of(network, *arrays)).outputs) if v.kind == "depthwise")
    assert seen.settings["apart"] == (room > 1)


def test_windows_and_steps_that_are_not_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "ROOM", 20_000)
    arrays = normal(0, 1, 48, 11, 6), normal(1, 1, 3, 6, 24), normal(2, 3, 5, 1, 24)

    def network(x: Any, v: Any, d: Any) -> Any:
        many = ops.relu(ops.conv2d(x, v, stride=(1, 2), padding=((0, 0), (1, 1))) + 0.5)
        return ops.conv2d(many, d, stride=(2, 1), padding=((1, 0), (3, 2)), dilation=(1, 2), groups=24)

    with guarded() as overrun:
        check(network, *arrays)
    assert overrun() == 0
    (seen,) = (v for v in walk(Program(plan_of(network, *arrays)).outputs) if v.kind == "depthwise")
    assert seen.settings["apart"]


def test_a_long_chain_is_cut_once() -> None:
    """Each value is read twice, so that whoever goes back through all readers never comes to an end."""
    x, w = normal(0, 1, 16, 9, 16), normal(1, 3, 3, 16, 16) * np.float32(0.1)

    def network(x: Any, w: Any) -> Any:
        for _ in range(60):
            x = 0.5 * x + 0.5 * ops.relu(x)
        return x + ops.conv2d(x, w, padding=1)

    check(network, x, w)


def test_no_picture_is_not_cut() -> None:
    x, y, w = normal(0, 1, 16, 9, 16), normal(1, 0, 16, 9, 16), normal(2, 3, 3, 16, 16)
    program = Program(plan_of(lambda x, y, w: [ops.conv2d(x, w), ops.conv2d(y, w)], x, y, w))
    made = [v.shape for v in walk(program.outputs) if v.kind in ("convolution", "winograd")]
    assert sorted(made) == [(0, 14, 7, 16), (strips.count(14), 14 // strips.count(14), 7, 16)]


@pytest.mark.parametrize("why", ["it fits", "there are more", "they are read again", "most rows are computed twice"])
def test_what_does_not_pass_through_strips(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setattr(strips, "ROOM", 12_000)
    monkeypatch.setattr(strips, "FITS", 40 * 9 * 24 * 4 - (why != "it fits"))
    few = 12 if why == "there are more" else 6
    dilation = 4 if why == "most rows are computed twice" else 1
    arrays = normal(0, 1, 40, 9, few), normal(1, 1, 1, few, 24), normal(2, 3, 3, 1, 24)

    def network(x: Any, v: Any, d: Any) -> Any:
        many = ops.relu(ops.conv2d(x, v))
        seen = ops.conv2d(many, d, padding=dilation, dilation=dilation, groups=24)
        return seen + many if why == "they are read again" else seen

    check(network, *arrays)
    (seen,) = (v for v in walk(Program(plan_of(network, *arrays)).outputs) if v.kind == "depthwise")
    assert not seen.settings["apart"]


def test_several_pictures_are_not_cut() -> None:
    assert "strips" not in check(
        lambda x, w: ops.conv2d(x, w, padding=1), normal(0, 2, 16, 16, 16), normal(1, 3, 3, 16, 16)
    )


def test_little_work_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "ENOUGH_WORK", 1 << 21)
    assert "strips" not in check(lambda x, w: ops.conv2d(x, w, padding=1), normal(0, 1, 8, 8, 8), normal(1, 3, 3, 8, 8))


@pytest.mark.parametrize("pictures", [1, 3])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 512), (96, 160), (128, 96)])
@pytest.mark.parametrize("padding", [0, 1])
def test_few_tiles_and_many_weights(pictures: int, inputs: int, outputs: int, padding: int) -> None:
    """Channels are shared out, not rows."""
    x, w, b = normal(0, pictures, 8, 7, inputs), normal(1, 3, 3, inputs, outputs), normal(2, outputs)
    plan = plan_of(lambda x, w, b: ops.relu(ops.conv2d(x, w, padding=padding) + b), x, w, b)
    program = Program(plan)
    roots = [root for root in _roots(program) if root.value.kind == "winograd"]
    assert [root.how for root in roots] == ["columns"]
    check(lambda x, w, b: ops.relu(ops.conv2d(x, w, padding=padding) + b), x, w, b)


def _roots(program: Program) -> list[segments.Root]:
    layout = segments.lay_out(program.outputs, set())
    return [root for stage in layout.stages for segment in stage for root in segment.roots]


def test_panels_are_whole() -> None:
    """Where channels make a single panel, there is nothing to share out."""
    plan = plan_of(lambda x, w: ops.conv2d(x, w, padding=1), normal(0, 2, 8, 8, 300), normal(1, 3, 3, 300, 30))
    (root,) = (root for root in _roots(Program(plan)) if root.value.kind == "winograd")
    assert not convolve.has_few_tiles(root.value)
    assert root.how == "write"

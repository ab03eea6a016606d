"""Pictures of graphs: what stands in them, that nothing overlaps, that nothing is too long, too deep or too strange."""

import re
import time
import unicodedata
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nabi
from nabi import losses, models, nn, ops
from nabi.errors import GraphError, SettingError
from nabi.graph.cost import cost
from nabi.graph.draw import Item, Picture, dot, svg
from nabi.graph.layout import arrange
from nabi.graph.operation import registry
from nabi.graph.shapes import Spec


def leaf(value, name=None):
    return nabi.tensor(value, name, requires_grad=True)


def lecture():
    x, y, z = leaf(-2.0, "x"), leaf(5.0, "y"), leaf(-4.0, "z")
    return (x + y) * z


def texts(picture: str) -> list[str]:
    return ["".join(e.itertext()) for e in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]


def a_deep_network():
    model = models.mlp((4, 4, 1), 3, hidden=(8, 8, 8, 8, 8))
    pictures = np.random.default_rng(0).integers(0, 255, (6, 4, 4, 1)).astype(np.float32)
    return losses.softmax_cross_entropy(model(pictures), nabi.tensor([0, 1, 2, 0, 1, 2]))


# --- what stands in a picture ---


def test_the_lecture_s_example_shows_every_value_and_every_gradient() -> None:
    shown = texts(lecture().graph().svg())
    assert shown[:-2] == ["x", "−2", "−4", "y", "5", "−4", "z", "−4", "3", "+", "q", "3", "−4", "×", "f", "−12", "1"]
    assert shown[-1] == "multiply-adds: forward → 2, backward ← 2"


def test_values_stand_above_the_lines_and_gradients_below() -> None:
    found = list(ET.fromstring(lecture().graph().svg()).iter())
    line = max(float(e.get("cy")) for e in found if e.tag.endswith("circle"))  # the product lies lowest
    value, gradient = (next(e for e in found if e.text == text and e.get("y")) for text in ("−12", "1"))
    assert float(value.get("y")) < line < float(gradient.get("y"))
    assert value.get("fill") == "#00695c"
    assert gradient.get("fill") == "#b53a00"


def test_the_sigmoid_neuron() -> None:
    w0, x0, w1, x1, b = (leaf(v, n) for v, n in ((2.0, "w0"), (-1.0, "x0"), (-3.0, "w1"), (-2.0, "x1"), (-3.0, "b")))
    shown = texts(ops.sigmoid(w0 * x0 + w1 * x1 + b).graph().svg())
    found = {shown[i]: (shown[i + 1], shown[i + 2]) for i in range(len(shown) - 2)}
    assert found["w0"] == ("2", "−0.197")
    assert found["x0"] == ("−1", "0.393")
    assert found["w1"] == ("−3", "−0.393")
    assert found["x1"] == ("−2", "−0.59")
    assert found["b"] == ("−3", "0.197")
    assert "σ" in shown
    assert "0.731" in shown


def test_the_same_graph_gives_the_same_bytes() -> None:
    assert lecture().graph().svg() == lecture().graph().svg()
    assert a_deep_network().graph().svg() == a_deep_network().graph().svg()
    assert a_deep_network().graph().dot() == a_deep_network().graph().dot()


def test_arrays_show_shape_and_statistics() -> None:
    w = leaf(np.arange(6.0).reshape(2, 3), "w")
    shown = texts((w * w).sum().graph().svg())
    assert "(2, 3)" in shown
    assert "0 ≤ 2.5 ≤ 5" in shown
    assert "0 ≤ 5 ≤ 10" in shown
    assert shown[-1] == "arrays: (shape), smallest ≤ mean ≤ largest"


@pytest.mark.parametrize("value", [np.zeros((0, 3)), [np.nan, 1.0, np.inf, 2.0], 1e30, np.ones((2, 2), bool)])
def test_strange_values_are_drawn(value) -> None:
    picture = (ops.where(nabi.tensor(value) == 0, leaf(2.0, "x"), 1.0)).sum().graph()
    ET.fromstring(picture.svg())
    assert picture.dot()


def test_what_has_no_gradient_is_drawn_with_a_word_about_it() -> None:
    shown = texts((leaf([1.0, 2.0], "x") * 3).graph().svg())
    assert "[1, 2]" in shown
    assert shown[-1].startswith("no gradients: a gradient starts from one floating-point number")
    assert texts(nabi.tensor(3.0, "x").graph().svg())[:2] == ["x", "3"]
    with pytest.raises(GraphError, match="starts from one number"):
        (leaf([1.0, 2.0], "x") * 3).graph().steps()
    with pytest.raises(GraphError, match="nothing that this tensor was made from"):
        nabi.tensor(3.0, "x").graph().steps()


def test_an_input_taken_twice_has_two_lines() -> None:
    x = leaf(3.0, "x")
    picture = (x * x).graph().dot()
    assert picture.count("n0 -> n1 ") == 2


def test_parts_of_a_tuple_are_one_box() -> None:
    x, w, b = leaf(np.ones((4, 2)), "x"), leaf(np.ones(2), "w"), leaf(np.ones(2), "b")
    y, mean, variance = ops.batch_norm(x, w, b)
    items = (y.sum() + mean.sum() + variance.sum()).graph().picture().items
    assert [item.title for item in items].count("batch_norm") == 1
    assert all(source < place for place, item in enumerate(items) for source in item.inputs)


def test_what_is_being_recorded_is_drawn_without_values() -> None:
    w = leaf([[1.0, 2.0], [3.0, 4.0]], "w")
    drawn = []

    def recorded(x):
        y, _, _ = ops.batch_norm(x @ w, x[0], x[0])
        graph = y.sum().graph()
        drawn.extend([graph.svg(), graph.dot()])
        with pytest.raises(GraphError, match="no values to walk back with"):
            graph.steps()
        with pytest.raises(GraphError, match="nothing can be timed"):
            y.sum().graph(timed=True)
        return y

    nabi.compile(recorded, state=[w])(np.ones((2, 2), np.float32))
    assert texts(drawn[0])[-1] == "recorded, not computed: there are shapes, but no values"
    assert "batch_norm" in texts(drawn[0])
    assert drawn[1].startswith("digraph")


# --- layers, and what does not fit ---


def test_long_graphs_are_collapsed_by_layer() -> None:
    items = a_deep_network().graph().picture().items
    groups = [item.title.split("\n") for item in items if item.kind == "group"]
    assert [title for title, _ in groups if title.startswith("linear")] == [f"linear{i}" for i in range(1, 7)]
    assert ["linear1", "2 operations, 136 parameters"] in groups
    assert not [item for item in items if item.title.startswith(("weight", "bias"))]


def test_depth_opens_layers() -> None:
    loss = a_deep_network()
    closed, one, two = (loss.graph(depth=d, limit=1000).picture().items for d in (0, 1, 9))
    assert [item.title.split("\n")[0] for item in closed if item.kind == "group"] == [
        "sequential",
        "softmax_cross_entropy",
    ]
    assert len(closed) < len(one) <= len(two)
    whole = loss.graph(limit=1000)
    assert len(two) <= len(whole._nodes)


def test_a_layer_used_left_and_used_again_makes_no_circle() -> None:
    x = leaf(1.0, "x")
    with nabi.scope("a"):
        y = ops.exp(x)
    with nabi.scope("b"):
        z = ops.sin(y)
    with nabi.scope("a"):
        root = y + z
    items = root.graph(depth=0).picture().items
    assert all(source < place for place, item in enumerate(items) for source in item.inputs)
    assert [item.title.split("\n")[0] for item in items] == ["x", "a", "b", "a"]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**32 - 1), st.integers(2, 12), st.sampled_from([None, 0, 1]))
def test_any_graph_is_drawn_without_circles_and_within_the_limit(count, seed, limit, depth) -> None:
    random = np.random.default_rng(seed)
    nodes = [leaf(1.0)]
    for _ in range(count):
        with nabi.scope(str(random.integers(3))), nabi.scope(str(random.integers(3))):
            nodes.append(nodes[random.integers(len(nodes))] + nodes[random.integers(len(nodes))] * 0.5)
    graph = nodes[-1].graph(depth, limit=limit)
    items = graph.picture().items
    assert len(items) <= limit
    assert all(source < place for place, item in enumerate(items) for source in item.inputs)
    used = {source for item in items for source in item.inputs}
    assert used == set(range(len(items) - 1))
    ET.fromstring(graph.svg())


def test_a_chain_of_100_000_nodes_is_drawn_in_seconds_with_a_note() -> None:
    x = end = leaf(1.0, "x")
    for _ in range(100_000):
        end = ops.sin(end)
    start = time.perf_counter()
    shown = texts(end.graph().svg())
    assert "… 99,972 more nodes" in shown
    assert shown.count("sin") == 29
    assert end.graph(limit=5).dot().count("sin") == 4
    assert time.perf_counter() - start < 20
    assert x.grad is None


def test_a_node_of_many_inputs_and_a_node_of_many_uses() -> None:
    many = ops.stack([leaf(float(i)) for i in range(3000)])
    shown = texts(many.sum().graph().svg())
    assert "… 2,973 more nodes" in shown
    x = leaf(1.0, "x")
    total = x
    for _ in range(200):
        total = total + x
    assert "… 172 more nodes" in texts(total.graph().svg())


@pytest.mark.parametrize("wrong", [{"depth": -1}, {"limit": 1}])
def test_settings_are_checked(wrong) -> None:
    with pytest.raises(SettingError):
        lecture().graph(**wrong)


# --- names of any kind ---


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.text(max_size=5))
@example('"><script>', "&amp;\\")
@example("\x00\x1b\ud800\ufffe", "\n\n")
@example("고양이 나비 " * 9, "قطة")
def test_any_name_makes_a_well_formed_picture(first: str, second: str) -> None:
    with nabi.scope(second):
        product = leaf(1.0, first) * leaf(2.0, second)
    graph = product.graph()
    root = ET.fromstring(graph.svg().encode())
    assert len(list(root.iter("{http://www.w3.org/2000/svg}script"))) == 0
    assert len([line for line in graph.dot().encode().splitlines() if b"->" in line]) == 3
    ET.fromstring((product + 1.0).graph(depth=0).svg().encode())


def test_names_in_any_script_stand_as_text() -> None:
    assert {"나비", "γάτα"} <= set(texts((leaf(1.0, "나비") * leaf(2.0, "γάτα")).graph().svg()))
    assert unicodedata.normalize("NFD", "나비") in texts(
        (leaf(1.0, unicodedata.normalize("NFD", "나비")) * 2).graph().svg()
    )


def test_automatic_names_keep_clear_of_given_ones() -> None:
    q, f, r = leaf(1.0, "q"), leaf(2.0, "f"), leaf(3.0, "q")
    shown = texts(((q + f) * r).graph().svg())
    assert [name for name in shown if name in ("q", "q_2", "f", "r", "L")] == ["q", "f", "q_2", "r", "L"]


# --- where things lie ---


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(5, 120), st.floats(5, 90), st.lists(st.integers(0, 99), max_size=3)),
        min_size=1,
        max_size=25,
    ),
    st.floats(150, 900),
)
def test_no_two_boxes_overlap_and_lines_go_forward(boxes, width) -> None:
    sizes = [(w, h) for w, h, _ in boxes]
    inputs = [sorted({s % place for s in sources}) if place else [] for place, (_, _, sources) in enumerate(boxes)]
    layout = arrange(sizes, inputs, width)
    areas = [
        (p.left, p.left + w, p.middle - h / 2, p.middle + h / 2) for p, (w, h) in zip(layout.places, sizes, strict=True)
    ]
    for i, (left, right, top, bottom) in enumerate(areas):
        assert left >= 0
        assert top >= 0
        assert right <= layout.width
        assert bottom <= layout.height
        for left2, right2, top2, bottom2 in areas[:i]:
            apart = right <= left2 or right2 <= left or bottom <= top2 + 1e-6 or bottom2 <= top + 1e-6
            assert apart
    assert all(link.start[0] <= link.end[0] for link in layout.links)
    for place, sources in enumerate(inputs):
        assert {link.source for link in layout.links if link.target == place} == set(sources)


def test_a_chain_lies_on_one_line_and_goes_on_below() -> None:
    places = arrange([(50, 20)] * 20, [[]] + [[i] for i in range(19)], 500).places
    assert len({p.middle for p in places}) == 4
    for before, after in pairwise(places):
        assert after.middle == before.middle or (after.middle > before.middle and after.left < before.left)


def test_dot_is_quoted() -> None:
    told = dot(Picture('a "b"', (Item("leaf", "\\n"), Item("operation", "+", (0,), above=("1",), below=("2",)))))
    assert 'label="a \\"b\\""' in told
    assert 'label="\\\\n"' in told
    assert 'n1 -> end [label="1\\n∂ 2"]' in told
    assert svg(Picture("", ())).endswith("</svg>\n")


# --- files ---


def test_save_writes_by_suffix_and_nothing_else(tmp_path) -> None:
    graph = lecture().graph()
    graph.save(tmp_path / "그림.svg")
    graph.save(str(tmp_path / "g.DOT"))
    assert (tmp_path / "그림.svg").read_text(encoding="utf-8") == graph.svg() == graph._repr_svg_()
    assert (tmp_path / "g.DOT").read_text(encoding="utf-8") == graph.dot()
    with pytest.raises(SettingError, match=re.escape("g.png must end in .svg or .dot")):
        graph.save(tmp_path / "g.png")
    with pytest.raises(OSError, match="nowhere"):
        graph.save(tmp_path / "nowhere" / "g.svg")
    assert len(list(tmp_path.iterdir())) == 2


# --- costs ---


def cost_of(name, *shapes, index=None, **settings):
    operation = registry[name]
    specs = [Spec(shape, "float32") for shape in shapes]
    forward, backward = cost(operation, specs, operation.complete(settings), () if index is None else (index,))
    return forward if index is None else backward


def test_multiply_adds() -> None:
    assert cost_of("add", (5, 1), (7,)) == 35
    assert cost_of("sigmoid", (5, 7)) == 35
    assert cost_of("matmul", (2, 8, 3), (3, 4)) == 2 * 8 * 3 * 4
    assert [cost_of("matmul", (8, 3), (3, 4), index=i) for i in (0, 1)] == [96, 96]
    assert cost_of("sum", (5, 7), axis=0) == 35
    assert cost_of("reshape", (5, 7), shape=(35,)) == 0
    convolution = {"stride": 2, "padding": "same", "groups": 2}
    once = 2 * 4 * 4 * 6 * (3 * 3 * 2)
    assert cost_of("conv2d", (2, 8, 8, 4), (3, 3, 2, 6), **convolution) == once
    assert [cost_of("conv2d", (2, 8, 8, 4), (3, 3, 2, 6), index=i, **convolution) for i in (0, 1)] == [once, once]
    assert cost_of("multiply", (5, 7), (7,), index=1) == 35 + 35  # the product, and its sum over the broadcast axis


def test_a_model_costs_what_its_summary_says() -> None:
    model = nn.Sequential(models.convnet((8, 8, 3), 4, channels=(4, 8)))
    pictures = np.ones((1, 8, 8, 3), np.float32)
    found = model(pictures).sum().graph().costs()
    products = sum(cost.forward for cost in found if cost.operation in ("conv2d", "matmul"))
    assert products == 8 * 8 * 4 * 27 + 4 * 4 * 8 * 36 + 8 * 4


@pytest.mark.parametrize("name", sorted(registry))
def test_every_operation_has_a_cost(name) -> None:
    operation = registry[name]
    kinds = {"boolean": "bool", "key": "uint32"}
    for given_example in operation.examples:
        specs = [
            Spec(draw.shape, "int64" if isinstance(draw.domain, int) else kinds.get(draw.domain, "float64"))
            for draw in given_example.arrays
        ]
        settings = operation.complete(given_example.settings)
        forward, backward = cost(operation, specs, settings, range(len(specs)))
        assert forward >= 0
        assert backward >= 0


def test_times_are_measured_when_asked() -> None:
    graph = a_deep_network().graph(timed=True)
    assert all(cost.forward_seconds > 0 for cost in graph.costs())
    assert any(cost.backward_seconds > 0 for cost in graph.costs())
    assert any("µs" in line or "ms" in line for item in graph.picture().items for line in item.cost)
    assert all(cost.forward_seconds is None for cost in a_deep_network().graph().costs())

"""A call that finds everything around it as it was does not look around again, and none misses a change.

Whatever changes, a compiled function must be recorded anew at the next call: each kind of thing is changed here after
calls that found nothing changed, one by one, and then many at random.
"""

import copy
import functools
import weakref
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nabi
from fuzzing import examples
from nabi import _compile, _watch
from nabi.graph import nest
from nabi.training.learner import GradientDescent

FACTOR: Any = 2.0
SWITCH: Any = True
TUNED: Any = {"by": [1.0, (2, {"deep": "text"})], "table": np.arange(3.0)}


class Part:
    def __init__(self, value: Any) -> None:
        self.value = value
        self.weight = nabi.tensor([1.0, 2.0], "weight", requires_grad=True)

    def scaled(self, x: Any) -> Any:
        return x * self.value


class Other(Part):
    pass


def by_factor(x: Any, weight: Any = None) -> Any:
    return x * FACTOR


class World:
    """A compiled function with something of every kind around it, which it reads only where it is told to."""

    def __init__(self) -> None:
        number, zero, text, things, table = 2.0, 0.0, "text", [1, [2.0, {"a": (3, [4])}]], np.arange(4.0)
        part, method, same, unbound = Part(1), Part(2.0).scaled, Part(2.0).scaled, None
        partial = functools.partial(by_factor, [0.5], weight=[1.0])

        def helper(x: Any, shift: Any = (0.0, [1.0]), *, scale: Any = 1.0) -> Any:
            return repr([x, shift, scale, FACTOR, SWITCH, TUNED])

        def function(x: Any, *, reads: bool = False) -> Any:
            return [number, zero, text, things, table, unbound, part, method, same, partial, helper] if reads else x

        self.cells: dict[str, Any] = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        del self.cells["unbound"].cell_contents
        self.things, self.table, self.partial, self.helper = things, table, partial, helper
        self.method, self.same = method, same
        self.state: Any = {
            "parts": [Part(1), Part([1.0, {"x": 2}])],
            "plain": Part({"a": 1, "b": 2}),
            0: functools.partial(by_factor, weight=nabi.tensor(1.0)),
            "count": 3,
            "same": (0.0, float("nan")),
        }
        self.state |= {"empty": [], "again": self.state["parts"][1], "weight": self.state["plain"].weight}
        self.compiled = nabi.compile(function, state=self.state)

    def bind(self, name: str, value: Any) -> None:
        self.cells[name].cell_contents = value

    @property
    def part(self) -> Part:
        return self.state["parts"][0]  # type: ignore[no-any-return]


def rename(fields: dict[Any, Any], old: Any, new: Any) -> None:
    """Another key in the same place."""
    items = [(new if key is old else key, value) for key, value in fields.items()]
    fields.clear()
    fields.update(items)


def put(things: Any, place: Any, value: Any) -> None:
    things[place] = value


CHANGES: dict[str, Any] = {
    "closure": lambda w: w.bind("number", 3.0),
    "closure, its kind": lambda w: w.bind("number", 2),
    "closure, its sign": lambda w: w.bind("zero", -0.0),
    "closure, text": lambda w: w.bind("text", "other"),
    "closure, bound": lambda w: w.bind("unbound", 1),
    "closure, unbound": lambda w: delattr(w.cells["text"], "cell_contents"),
    "closure, another object": lambda w: w.bind("part", Part(1)),
    "list, longer": lambda w: w.things.append(1),
    "list, shorter": lambda w: w.things.pop(),
    "list, as long": lambda w: put(w.things, 0, 9),
    "list, as long, another kind": lambda w: put(w.things, 0, True),
    "list, in another order": lambda w: w.things.reverse(),
    "list in a list": lambda w: put(w.things[1], 0, 9.0),
    "list in a tuple in a dict": lambda w: put(w.things[1][1]["a"][1], 0, 5),
    "dict, another key": lambda w: rename(w.things[1][1], "a", "b"),
    "dict, a key more": lambda w: put(w.things[1][1], "b", 1),
    "array, in place": lambda w: put(w.table, 2, 7.0),
    "array, longer": lambda w: w.bind("table", np.arange(5.0)),
    "array, its dtype": lambda w: w.bind("table", np.arange(4)),
    "function": lambda w: w.bind("helper", lambda x: x),
    "function, defaults": lambda w: setattr(w.helper, "__defaults__", ((0.5, [1.0]),)),
    "function, within a default": lambda w: w.helper.__defaults__[0][1].append(2.0),
    "function, a keyword's default": lambda w: put(w.helper.__kwdefaults__, "scale", 2.0),
    "function, keywords' defaults": lambda w: setattr(w.helper, "__kwdefaults__", {"scale": 3.0}),
    "function, the names in its code": lambda w: setattr(w.helper, "__code__", by_factor.__code__),
    "function, what it wraps": lambda w: setattr(w.helper, "__wrapped__", by_factor),
    "partial, an argument in place": lambda w: w.partial.args[0].append(1.0),
    "partial, a keyword": lambda w: put(w.partial.keywords, "weight", 1.0),
    "partial, a keyword in place": lambda w: w.partial.keywords["weight"].append(1.0),
    "partial, all of it": lambda w: w.partial.__setstate__((by_factor, (3,), {}, None)),
    "method, another's field": lambda w: setattr(w.same.__self__, "value", 5.0),
    "method, a field": lambda w: setattr(w.method.__self__, "value", 5.0),
    "method, a field more": lambda w: setattr(w.method.__self__, "other", 5.0),
    "method, its type": lambda w: setattr(w.method.__self__, "__class__", Other),
    "global": lambda w: put(globals(), "FACTOR", 3.0),
    "global, its kind": lambda w: put(globals(), "SWITCH", 1),
    "global, in place": lambda w: put(TUNED["by"], 0, 5.0),
    "global, further in": lambda w: put(TUNED["by"][1][1], "deep", "other"),
    "global, an array in place": lambda w: put(TUNED["table"], 0, 5.0),
    "global, gone": lambda w: globals().pop("FACTOR"),
    "global, in place of a builtin": lambda w: put(globals(), "repr", str),
    "state, an item": lambda w: put(w.state, "count", 4),
    "state, an item, its kind": lambda w: put(w.state, "count", 3.0),
    "state, an item more": lambda w: put(w.state, "another", 4),
    "state, an item less": lambda w: w.state.pop("count"),
    "state, a key": lambda w: rename(w.state, "count", "amount"),
    "state, a key, its kind": lambda w: rename(w.state, 0, False),
    "state, a list longer": lambda w: w.state["parts"].append(1),
    "state, a list in another order": lambda w: w.state["parts"].reverse(),
    "state, an object": lambda w: put(w.state["parts"], 0, Part(1)),
    "state, a partial's keyword": lambda w: put(w.state[0].keywords, "weight", nabi.tensor(1.0)),
    "state, all of it": lambda w: setattr(w.compiled, "state", {**w.state, "more": 1}),
    "state, a tuple for a list": lambda w: put(w.state, "parts", tuple(w.state["parts"])),
    "state, a partial": lambda w: w.state[0].__setstate__((by_factor, (1,), w.state[0].keywords, vars(w.state[0]))),
    "state, an empty list more": lambda w: put(w.state, "another", []),
    "state, an empty tuple for an empty list": lambda w: put(w.state, "empty", ()),
    "state, the same twice": lambda w: put(w.state, "other", w.state["plain"]),
    "state, another one twice": lambda w: put(w.state, "again", w.state["parts"][0]),
    "state, another tensor twice": lambda w: put(w.state, "weight", w.state["parts"][0].weight),
    "field": lambda w: setattr(w.part, "value", 2),
    "field, its kind": lambda w: setattr(w.part, "value", True),
    "field, a list in place": lambda w: put(w.state["parts"][1].value, 0, 2.0),
    "field, further in": lambda w: put(w.state["parts"][1].value[1], "x", 3),
    "field, a key": lambda w: rename(w.state["plain"].value, "a", "c"),
    "field, added": lambda w: setattr(w.part, "other", 1),
    "field, deleted": lambda w: delattr(w.part, "value"),
    "field, renamed": lambda w: rename(vars(w.part), "value", "other"),
    "field, one for another": lambda w: (delattr(w.part, "value"), setattr(w.part, "other", 1)),
    "fields, in another order": lambda w: put(vars(w.part), "value", vars(w.part).pop("value")),
    "fields, another dict": lambda w: setattr(w.part, "__dict__", {**vars(w.part), "value": 5}),
    "type": lambda w: setattr(w.part, "__class__", Other),
    "tensor": lambda w: setattr(w.part, "weight", nabi.tensor([1.0, 2.0], "weight", requires_grad=True)),
    "tensor, whether it requires a gradient": lambda w: setattr(w.part.weight, "requires_grad", False),
    "tensor, its shape": lambda w: setattr(w.part.weight, "held", np.ones(3, np.float32)),
    "tensor, its dtype": lambda w: setattr(w.part.weight, "held", np.ones(2)),
    "the function itself": lambda w: setattr(w.compiled, "function", lambda x, **keywords: x),
}

SAME: dict[str, Any] = {
    "nothing": lambda w: None,
    "closure": lambda w: w.bind("number", float("2.0")),
    "list": lambda w: w.bind("things", copy.deepcopy(w.things)),
    "list, and back": lambda w: (w.things.append(1), w.things.pop()),
    "array": lambda w: w.bind("table", w.table.copy()),
    "array, and back": lambda w: (put(w.table, 0, 5.0), put(w.table, 0, 0.0)),
    "function, defaults": lambda w: setattr(w.helper, "__defaults__", copy.deepcopy(w.helper.__defaults__)),
    "function, its name": lambda w: setattr(w.helper, "__name__", "other"),
    "partial": lambda w: put(w.partial.keywords, "weight", [1.0]),
    "global": lambda w: put(globals(), "TUNED", copy.deepcopy(TUNED)),
    "global that is not read": lambda w: put(globals(), "UNREAD", 1),
    "state": lambda w: setattr(w.compiled, "state", dict(w.state)),
    "state, numbers": lambda w: put(w.state, "same", (float("0"), float("nan"))),
    "field": lambda w: setattr(w.state["plain"], "value", dict(w.state["plain"].value)),
    "fields": lambda w: setattr(w.part, "__dict__", dict(vars(w.part))),
    "tensor, its numbers": lambda w: w.part.weight.assign([5.0, 6.0]),
    "tensor, its numbers in place": lambda w: put(w.part.weight.held, 0, 7.0),
}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    for name in ("FACTOR", "SWITCH", "TUNED"):
        monkeypatch.setitem(globals(), name, copy.deepcopy(globals()[name]))
    for name in ("repr", "UNREAD"):  # taken away again afterwards
        monkeypatch.setitem(globals(), name, None)
        del globals()[name]
    made = World()
    for _ in range(3):
        made.compiled(1.0)
    assert made.compiled.recordings == ["first call"]
    return made


def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one whenever a compiled function looks around."""
    made: list[Any] = []
    look = _compile.Compiled._look
    monkeypatch.setattr(_compile.Compiled, "_look", lambda compiled: made.append(compiled) or look(compiled))
    return made


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_recorded_anew_once(change: str, world: World) -> None:
    CHANGES[change](world)
    for _ in range(3):
        world.compiled(1.0)
    assert len(world.compiled.recordings) == 2


@pytest.mark.parametrize("change", SAME)
def test_what_is_equal_is_not_recorded_anew(change: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    SAME[change](world)
    for _ in range(3):
        world.compiled(1.0)
    assert world.compiled.recordings == ["first call"]
    looked = looks(monkeypatch)
    world.compiled(2.0)
    assert not looked, "after one look, all is as it was again"


def test_a_form_that_was_there_before_is_not_recorded_anew(world: World) -> None:
    for value in (2, 1, 2, 1):
        world.part.value = value
        world.compiled(1.0)
    assert world.compiled.recordings == ["first call", "changed: state parts.0.value"]


def test_what_is_given_and_whether_gradients_are_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = looks(monkeypatch)
    scale = nabi.compile(lambda *x, by=None: x)
    x = np.ones((2, 3), np.float32)
    calls: list[Any] = [
        lambda: scale(x),
        lambda: scale(x[:, :2]),
        lambda: scale(x.astype(np.float64)),
        lambda: scale(x, x),
        lambda: scale([x, x]),
        lambda: scale([x], x),
        lambda: scale({"a": x}),
        lambda: scale({"b": x}),
        lambda: scale(1.0),
        lambda: scale(1),
        lambda: scale(True),
        lambda: scale(np.float32(1)),
        lambda: scale(x, by=1.0),
        lambda: scale(x, by=-0.0),
        lambda: scale(x, by=0.0),
        lambda: scale(x, by=True),
        lambda: scale(x, by=[1, {"a": 2}]),
        lambda: scale(x, by=[1, {"a": 3}]),
    ]
    for call in calls * 2:
        call()
    with nabi.no_grad():
        scale(x)
        scale(nabi.tensor(x, requires_grad=True))
        scale(nabi.tensor(x))
    scale(nabi.tensor(x))
    scale(np.float64(1.0))
    assert len(scale.recordings) == len(calls) + 2
    assert len(looked) == 1


def test_the_recording_used_longest_ago_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compile, "KEPT", 3)
    part = Part(1)
    run = nabi.compile(lambda x: x * part.value, state=part)
    for value, shape in [(1, 1), (1, 2), (2, 1), (1, 1), (1, 3), (1, 1), (2, 1)]:
        part.value = value
        run(np.ones(shape, np.float32))
    assert len(run.recordings) == 4, "(1, 2) made room for (1, 3)"
    part.value = 1
    run(np.ones(2, np.float32))
    assert len(run.recordings) == 5


def test_a_function_that_changes_what_it_reads_is_recorded_until_it_no_longer_does() -> None:
    part = Part(0)

    def counted(x: Any) -> Any:
        part.value = min(part.value + 1, 3)
        return x * part.value

    run = nabi.compile(counted, state=part)
    assert [float(run(1.0)) for _ in range(6)] == [1, 2, 3, 3, 3, 3]
    assert len(run.recordings) == 4


def test_steps_of_training_look_around_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = looks(monkeypatch)
    model = nabi.models.mlp((4,), 3, hidden=(5,), dropout=0.5)
    optimizer = nabi.optim.SGD(nabi.nn.parameters(model), momentum=0.9)
    learner = GradientDescent(model, optimizer, nabi.losses.LOSSES["softmax"], clip_norm=1.0, average=0.9)
    for size in (2, 3, 2, 3, 2):
        learner.learning_rate = 1 / size
        learner.step(np.ones((size, 4), np.float32), np.zeros(size, np.int64))
    learner.swap()
    learner.step(np.ones((2, 4), np.float32), np.zeros(2, np.int64))
    assert len(looked) == 1


def test_a_look_keeps_no_array_alive() -> None:
    """Else the parameters that a training began with would lie in memory to its end."""
    weight = nabi.tensor(np.arange(3, dtype=np.float32), name="weight")
    compiled = nabi.compile(lambda x: x * weight, state=weight)
    compiled(1.0)
    held = weakref.ref(weight.held)
    weight.held = np.ones(3, np.float32)
    assert held() is None
    assert np.asarray(compiled(2.0)).tolist() == [2, 2, 2]
    assert len(compiled.recordings) == 1


def test_tensors_of_a_nest_are_those_in_it_now() -> None:
    state: Any = {"parts": [Part(1)], "other": 1}
    now = _watch.tensors(state)
    assert now() is now()
    for change in (
        lambda: state["parts"].append(Part(2)),
        lambda: setattr(state["parts"][0], "weight", nabi.tensor(1.0)),
        lambda: delattr(state["parts"][1], "weight"),
        lambda: put(state, "other", Part(3)),
    ):
        change()
        assert [id(t) for t in now()] == [id(t) for t in nest.tensors(state).values()]


# --- at random ---

LEAVES = st.sampled_from([0, 1, True, False, 1.0, 0.0, -0.0, float("nan"), "a", "b", "", b"a", None, 2**70])
KEYS = st.sampled_from(["a", "b", "c", 0, 1, True, False, 1.0, "1", None, "None", (1, "a"), "a.a"])


class Fields:
    def __repr__(self) -> str:
        return f"Fields({vars(self)})"


class MoreFields(Fields):
    def __repr__(self) -> str:
        return f"More{super().__repr__()}"


@st.composite
def things(draw: st.DrawFn, depth: int = 3, objects: bool = True) -> Any:
    """A nest of all that is read in full; objects are so in the state alone."""
    kinds = ["list", "tuple", "dict", "array", *(["object"] if objects else [])]
    kind = draw(st.sampled_from(["leaf", *kinds] if depth else ["leaf"]))
    if kind == "leaf":
        return draw(LEAVES)
    inner = draw(st.lists(things(depth - 1, objects), max_size=3))
    if kind == "array":
        return np.array(draw(st.lists(st.integers(0, 2), max_size=3)), draw(st.sampled_from(["int64", "float32"])))
    if kind == "object":
        made = draw(st.sampled_from([Fields, MoreFields]))()
        vars(made).update(zip("abc", inner, strict=False))
        return made
    if kind == "dict":
        return {draw(KEYS): value for value in inner}
    return inner if kind == "list" else tuple(inner)


def places(thing: Any) -> list[Any]:
    """Everything in a nest that can be changed in place."""
    if isinstance(thing, np.ndarray):
        return [thing] if thing.size else []
    inner = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list | tuple) else ()
    fields = [thing, *places(vars(thing))] if isinstance(thing, Fields) else []
    return [
        *([thing] if isinstance(thing, dict | list) else []),
        *fields,
        *(place for value in inner for place in places(value)),
    ]


def disturb(draw: Any, place: Any, objects: bool) -> None:
    """Change something in place, or nothing, or something for the same."""
    if isinstance(place, np.ndarray):
        place[draw(st.integers(0, len(place) - 1))] = draw(st.integers(0, 2))
    elif isinstance(place, Fields):
        if draw(st.booleans()):
            place.__class__ = draw(st.sampled_from([Fields, MoreFields]))
        else:
            place.__dict__ = dict(vars(place))
    elif isinstance(place, list):
        match draw(st.sampled_from(["put", "add", "remove", "reverse"])):
            case "put" if place:
                place[draw(st.integers(0, len(place) - 1))] = draw(things(1, objects))
            case "add":
                place.insert(draw(st.integers(0, len(place))), draw(things(1, objects)))
            case "remove" if place:
                del place[draw(st.integers(0, len(place) - 1))]
            case _:
                place.reverse()
    else:
        fields = all(type(key) is str for key in place)  # may be those of an object
        key = draw(st.sampled_from(["a", "b", "c"]) if fields else KEYS)
        match draw(st.sampled_from(["put", "remove", "move", "rename"])):
            case "put":
                place[key] = draw(things(1, objects))
            case "remove":
                place.pop(key, None)
            case "move" if key in place:
                place[key] = place.pop(key)
            case _ if place:
                old = draw(st.sampled_from(list(place)))
                rename(place, old, key)


@settings(max_examples=examples(150))
@given(st.data())
def test_what_is_computed_is_never_out_of_date(data: st.DataObject) -> None:
    """The function gives a number that depends on everything around it: at any call, the same as uncompiled."""
    inside: Any = [data.draw(things())]
    outside: Any = inside if data.draw(st.booleans()) else [data.draw(things(objects=False))]

    def read(x: Any) -> Any:
        return x + zlib.crc32(repr((inside, outside)).encode())

    run = nabi.compile(read, state=inside)
    for _ in range(data.draw(st.integers(1, 8))):
        assert float(run(0.0)) == read(0.0)
        before = len(run.recordings)
        assert float(run(0.0)) == read(0.0)
        assert len(run.recordings) == before, "nothing changed between these calls"
        known = data.draw(st.sampled_from([inside, outside]))
        disturb(data.draw, data.draw(st.sampled_from(places(known))), objects=known is inside)

"""The engine that makes machine code, in what it is for: convolutions by Winograd's way, and steps of training."""

import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import nabi
from nabi import engines, machine, nn, ops, optim, threads
from nabi.engines.cpu import panels, profile, program, programs, segments, values
from nabi.engines.cpu.program import Program as Compiled
from nabi.graph.plan import Plan
from nabi.losses import softmax_cross_entropy
from nabi.models import convnet, mlp
from nabi.training.learner import GradientDescent
from random_graphs import WINOGRAD, compare, noisy_run, within
from test_cpu_engine import KINDS, guarded, plan_of, same_bits, surrounded

UNIT = float(np.finfo(np.float32).eps) / 2

# --- Winograd: y = Aᵀ[(G w Gᵀ) ⊙ (Bᵀ x B)]A, by tiles of 4×4 outputs ---

INPUT = np.array([  # Bᵀ
    [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
], np.float64)  # fmt: skip
WEIGHT = np.array([  # G
    [1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1],
])  # fmt: skip
OUTPUT = np.array([  # Aᵀ
    [1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1],
], np.float64)  # fmt: skip
ROUNDINGS = {"input": 2 * 2, "weight": 2 * 4, "output": 2 * 3, "points": 2 * 2, "weights back": 2 * 5, "product": 1}
"""Roundings one after another that a number goes through at most, along rows and along columns; in a product, where the
processor does not multiply and add at once. Those of factors such as 1/6, which are rounded too, are among them."""


def tiles(x: Any, side: int, steps: tuple[int, int]) -> Any:
    """Pictures, with their border, in tiles of side×side in steps of 4: (N, down, across, side, side, C)."""
    down, across = (-(-n // 4) for n in steps)
    whole = np.zeros((x.shape[0], 4 * down + side - 4, 4 * across + side - 4, x.shape[3]))
    whole[:, : x.shape[1], : x.shape[2]] = x[:, : whole.shape[1], : whole.shape[2]]
    rows = [whole[:, 4 * i : 4 * i + side] for i in range(down)]
    return np.stack([np.stack([row[:, :, 4 * j : 4 * j + side] for j in range(across)], 1) for row in rows], 1)


def winograd(x: Any, w: Any, padding: int, of: Callable[[Any], Any] = lambda a: a) -> Any:
    """The convolution in float64; with ``of=np.abs`` what its roundings are relative to, element by element."""
    x = np.pad(x.astype(np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    steps = x.shape[1] - 2, x.shape[2] - 2
    points = np.einsum("pi,nhwijc,qj->nhwpqc", of(INPUT), of(tiles(x, 6, steps)), of(INPUT), optimize=True)
    weights = np.einsum("pa,abio,qb->pqio", of(WEIGHT), of(w.astype(np.float64)), of(WEIGHT), optimize=True)
    products = np.einsum("nhwpqi,pqio->nhwpqo", points, weights, optimize=True)
    found = np.einsum("ap,nhwpqo,bq->nhawbo", of(OUTPUT), products, of(OUTPUT), optimize=True)
    n, down, _, across, _, outputs = found.shape
    return found.reshape(n, 4 * down, 4 * across, outputs)[:, : steps[0], : steps[1]]


def winograd_gradient(x: Any, g: Any, padding: int, of: Callable[[Any], Any] = lambda a: a) -> Any:
    """The gradient on the weights, likewise: Gᵀ[Σ (Bᵀ x B) ⊙ (A g Aᵀ)]G."""
    x = np.pad(x.astype(np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    steps = g.shape[1:3]
    points = np.einsum("pi,nhwijc,qj->nhwpqc", of(INPUT), of(tiles(x, 6, steps)), of(INPUT), optimize=True)
    others = np.einsum("ap,nhwabo,bq->nhwpqo", of(OUTPUT), of(tiles(g.astype(np.float64), 4, steps)), of(OUTPUT),
                       optimize=True)  # fmt: skip
    sums = np.einsum("nhwpqi,nhwpqo->pqio", points, others, optimize=True)
    return np.einsum("pa,pqio,qb->abio", of(WEIGHT), sums, of(WEIGHT), optimize=True)


def gamma(roundings: float) -> float:
    """How much n roundings may change a number, relatively. Source: Higham (2002), lemma 3.1."""
    return roundings * UNIT / (1 - roundings * UNIT)


def with_gradients(padding: int) -> Callable[..., list[Any]]:
    """A convolution, and its gradients for ``g`` upstream."""

    def function(x: Any, w: Any, g: Any) -> list[Any]:
        y = ops.conv2d(x, w, padding=padding)
        return [y, *nabi.gradients(ops.sum(y * g), [x, w])]

    return function


def convolved(engine: str, x: Any, w: Any, g: Any, padding: int) -> list[Any]:
    tensors = [nabi.tensor(a, requires_grad=i < 2) for i, a in enumerate((x, w, g))]
    plan = nabi.compile(with_gradients(padding), engine="reference").plan(*tensors)
    return engines.prepare(engine, plan)([x, w, g])


CONVOLUTIONS = [  # pictures, height, width, inputs, outputs, padding
    (2, 8, 8, 16, 16, 1),
    (3, 7, 13, 16, 17, 1),
    (1, 4, 4, 33, 16, 1),
    (2, 5, 6, 24, 40, 2),
    (2, 9, 6, 16, 16, 0),
    (70, 4, 5, 16, 16, 1),
    (2, 32, 32, 64, 64, 1),
]


def numbers(n: int, h: int, w: int, inputs: int, outputs: int, padding: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng([n, h, w, inputs, outputs])
    shapes = (n, h, w, inputs), (3, 3, inputs, outputs), (n, h + 2 * padding - 2, w + 2 * padding - 2, outputs)
    x, weight, g = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return np.maximum(x, 0), weight, g  # as they come out of a rectifier


def backwards(weight: Any) -> Any:
    """From outputs to inputs: the window turned around."""
    return weight[::-1, ::-1].swapaxes(2, 3)


@pytest.mark.parametrize("shape", CONVOLUTIONS[1:2], ids=str)
def test_winograd_bound_on_a_narrower_processor(shape: tuple[int, ...]) -> None:
    with machine.pretending(machine.narrower(machine.processor())):
        test_winograd_bound(shape)


@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
def test_winograd_bound(shape: tuple[int, ...]) -> None:
    """No element lies farther from the convolution in float64 than roundings can carry it.

    A sum of products of numbers that were transformed, transformed back: each number goes through so many roundings,
    and each rounding is relative to what the same formula gives with all signs positive. Source: Barabasz, Anderson,
    Soodhalter and Gregg, "Error analysis and improving the accuracy of Winograd convolution for deep neural networks"
    (2020), theorem 2. `random_graphs` takes this as `WINOGRAD` times the noise of a sum: none is farther off.
    """
    padding, pictures, (x, w, g) = shape[-1], shape[0], numbers(*shape)
    exact = convolved("reference", *(a.astype(np.float64) for a in (x, w, g)), padding)
    back = 2 - padding
    formulas = winograd(x, w, padding), winograd(g, backwards(w), back), winograd_gradient(x, g, padding)
    for formula, y in zip(formulas, exact, strict=True):
        np.testing.assert_allclose(formula, y, rtol=1e-9, atol=1e-9)  # the transformations above are the right ones
    sizes = (
        winograd(x, w, padding, np.abs),
        winograd(g, backwards(w), back, np.abs),
        winograd_gradient(x, g, padding, np.abs),
    )
    forward = ROUNDINGS["input"] + ROUNDINGS["weight"] + ROUNDINGS["output"] + ROUNDINGS["product"]
    summed = pictures * -(-g.shape[1] // 4) * -(-g.shape[2] // 4)
    backward = ROUNDINGS["input"] + ROUNDINGS["points"] + ROUNDINGS["weights back"] + ROUNDINGS["product"]
    roundings = forward + shape[3], forward + shape[4], backward + summed
    got = convolved("cpu", x, w, g, padding)
    direct = convolved("reference", *(np.abs(a).astype(np.float64) for a in (x, w, g)), padding)
    for name, a, y, size, count, whole in zip("ygw", got, exact, sizes, roundings, direct, strict=True):
        error = np.abs(a - y)
        assert (error <= gamma(count) * size).all(), name
        assert (error <= WINOGRAD * UNIT * whole.max()).all(), name
        assert np.sqrt((error**2).mean() / (y**2).mean()) < 1e-5, f"{name}: the error that is stated"


@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
def test_direct_bound(shape: tuple[int, ...]) -> None:
    """As for any sum of products: |error| ≤ γₙ·Σ|x|·|w|. Source: Higham, "Accuracy and stability of
    numerical algorithms" (2002), equation 3.5.
    """
    padding, (x, w, g) = shape[-1], numbers(*shape)
    exact = convolved("reference", *(a.astype(np.float64) for a in (x, w, g)), padding)
    sizes = convolved("reference", *(np.abs(a).astype(np.float64) for a in (x, w, g)), padding)
    lengths = 9 * shape[3], 9 * shape[4], g.shape[0] * g.shape[1] * g.shape[2]
    for name, a, y, size, n in zip(
        "ygw", convolved("cpu-direct", x, w, g, padding), exact, sizes, lengths, strict=True
    ):
        assert (np.abs(a - y) <= gamma(n) * size).all(), name
        assert np.sqrt(((a - y) ** 2).mean() / (y**2).mean()) < 1e-6, f"{name}: the error that is stated"


def kinds(engine: str, shape: tuple[int, ...], **how: Any) -> set[str]:
    """The kinds of all values that a convolution and its gradients are made of."""
    x, w = np.zeros(shape[:4], np.float32), np.zeros((*how.pop("kernel", (3, 3)), shape[3], shape[4]), np.float32)

    def function(x: Any, w: Any) -> list[Any]:
        return nabi.gradients(ops.sum(ops.sin(ops.conv2d(x, w, **how))), [x, w])

    tensors = nabi.tensor(x, requires_grad=True), nabi.tensor(w, requires_grad=True)
    plan = nabi.compile(function, engine="reference").plan(*tensors)
    _, settings = engines.ENGINES[engine]
    found, pending = set(), list(Compiled(plan, **settings).outputs)
    while pending:
        value = pending.pop()
        found.add(value.kind)
        pending += value.inputs
    return {kind for kind in found if kind.startswith(("winograd", "convolution", "external"))}


WINOGRAD_KINDS = {"winograd", "winograd_weight", "winograd_gradient"}
DIRECT_KINDS = {"convolution", "convolution_gradient"}


def test_which_convolutions_go_winograds_way() -> None:
    """3×3 windows in steps of 1, from 16 channels on; and none where the engine is told not to."""
    assert kinds("cpu", (2, 8, 8, 16, 16), padding=1) == WINOGRAD_KINDS
    assert kinds("cpu", (2, 6, 9, 64, 33), padding=0) >= {"winograd", "winograd_gradient"}
    for shape, how in [
        ((2, 8, 8, 15, 16), {"padding": 1}),
        ((2, 8, 8, 3, 64), {"padding": 1}),
        ((2, 8, 8, 16, 10), {"padding": 1}),
        ((2, 8, 8, 16, 16), {"padding": 1, "dilation": 2}),
        ((2, 8, 8, 16, 16), {"kernel": (1, 1)}),
        ((2, 8, 8, 16, 16), {"kernel": (5, 5), "padding": 2}),
    ]:
        assert kinds("cpu", shape, **dict(how)) == DIRECT_KINDS, (shape, how)
    assert kinds("cpu", (2, 9, 9, 16, 16), stride=2, padding=1) > DIRECT_KINDS  # back it goes in steps of 1
    assert kinds("cpu-direct", (2, 8, 8, 16, 16), padding=1) == DIRECT_KINDS
    assert kinds("cpu-direct", (2, 32, 32, 64, 64), padding=1) == DIRECT_KINDS


@pytest.mark.parametrize("edge", [np.nan, np.inf, -np.inf])
def test_winograd_makes_nothing_finite_of_what_is_not(edge: float) -> None:
    """It spreads what is not finite over its tile, and over no other; a sum that is infinite may come out as NaN."""
    x, w, g = numbers(2, 12, 12, 16, 16, 1)
    x[0, 5, 6, 3] = edge
    wanted = convolved("reference", x, w, g, 1)
    got = convolved("cpu", x, w, g, 1)
    for a, y in zip(got, wanted, strict=True):
        assert not np.isfinite(a[~np.isfinite(y)]).any()
    assert np.isfinite(got[0][1]).all(), "the other picture"
    assert not np.isfinite(wanted[0][0, 4:7, 5:8]).any()
    touched = ~np.isfinite(got[0][0]).all(axis=-1)
    assert touched[4:8, 4:8].all()
    assert not touched[8:].any(), "a tile that does not see the place"
    for a, y in zip(convolved("cpu-direct", x, w, g, 1), wanted, strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(y))
        np.testing.assert_array_equal(np.isinf(a), np.isinf(y))


# --- steps of training ---


def overlapping(seed: int) -> nn.Sequential:
    """A small network in the manner of 2012: strides, pools that overlap, dropout, dense layers."""
    keys = (ops.fold_in(nabi.random.key(seed), number) for number in range(9))
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2, key=next(keys)),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(16, 24, 3, padding=1, key=next(keys)),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Flatten(),
        nn.Dropout(0.5, key=next(keys)),
        nn.Linear(24 * 9, 48, key=next(keys)),
        nn.ReLU(),
        nn.Dropout(0.25, key=next(keys)),
        nn.Linear(48, 7, key=next(keys)),
    )


Make = Callable[[Any], optim.Optimizer]
MODELS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "convnet": (lambda: convnet((8, 8, 3), 7, channels=(16, 24)), (12, 8, 8, 3)),
    "convnet, two convolutions a block": (
        lambda: convnet((9, 9, 3), 7, channels=(16, 24), convolutions=2),
        (10, 9, 9, 3),
    ),
    "mlp": (lambda: mlp((6, 6, 3), 7, hidden=(40, 24), dropout=0.3), (64, 6, 6, 3)),
    "overlapping pools": (lambda: overlapping(1), (9, 31, 31, 3)),
}
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: optim.SGD(p, 0.1),
    "nesterov": lambda p: optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "rmsprop": lambda p: optim.RMSProp(p, 0.01, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: optim.Adam(p, 0.01, weight_decay=0.01),
    "adamw": lambda p: optim.AdamW(p, 0.01, weight_decay=0.1),
    "muon": lambda p: optim.Muon(p, 0.1, weight_decay=0.01),
}
EVERYTHING = {"clip_norm": 0.5, "average": 0.9}
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "convnet": ("convnet", "nesterov", EVERYTHING),
    "two convolutions a block": ("convnet, two convolutions a block", "nesterov", {}),
    "overlapping pools": ("overlapping pools", "nesterov", EVERYTHING),
    "mlp, nesterov": ("mlp", "nesterov", {}),
    **{f"mlp, {optimizer}": ("mlp", optimizer, EVERYTHING) for optimizer in OPTIMIZERS if optimizer != "nesterov"},
    "convnet, adamw": ("convnet", "adamw", {}),
    "convnet, muon": ("convnet", "muon", EVERYTHING),
}


def learner_of(model: str, optimizer: str, how: dict[str, Any], engine: str) -> GradientDescent:
    made = MODELS[model][0]()
    return GradientDescent(
        made, OPTIMIZERS[optimizer](nn.parameters(made)), softmax_cross_entropy, engine=engine, **how
    )


def batches(model: str, count: int) -> Iterator[list[Any]]:
    rng = np.random.default_rng(0)
    shape = MODELS[model][1]
    for _ in range(count):
        yield [rng.standard_normal(shape).astype(np.float32), rng.integers(0, 7, shape[0])]


def held(learner: GradientDescent) -> list[Any]:
    return [np.array(t.held) for t in nabi.graph.nest.tensors(learner.state).values()]


def after(plan: Plan, state: list[Any], results: list[Any], changed: list[int]) -> list[Any]:
    """The state after a step."""
    new = list(state)
    for place, value in zip(changed, results[2:], strict=True):
        new[place] = np.asarray(value)
    return new


@pytest.mark.parametrize(("model", "optimizer", "how"), RUNS.values(), ids=RUNS)
def test_steps_of_training(model: str, optimizer: str, how: dict[str, Any]) -> None:
    """Each step, from where the reference stands, as near to the reference's as rounding carries; and several in a row.

    The steps in a row are compared with rows of steps in every operation of which there is noise.
    """
    ours, theirs = (learner_of(model, optimizer, how, engine) for engine in ("cpu", "reference"))
    given = list(batches(model, 3))
    plan = theirs._step.plan(*given[0])
    changed = changes(theirs, given[0])
    run = engines.prepare("cpu", plan)
    rows = [held(theirs) for _ in range(3)]
    losses: list[list[Any]] = [[] for _ in rows]
    for number, batch in enumerate(given):
        before = held(theirs)
        value, correct = theirs.step(*batch)
        state = held(theirs)
        compare(plan, [*batch, *before], run([*batch, *before]),
                [value.numpy(), correct.numpy(), *(state[i] for i in changed)], runs=3)  # fmt: skip
        mine, _ = ours.step(*batch)
        for i, row in enumerate(rows):
            results = noisy_run(plan, [*batch, *row], 100 * number + i)
            rows[i] = after(plan, row, results, changed)
            losses[i].append(results[0])
        within([mine.numpy()], [value.numpy()], [[row[-1]] for row in losses])
    places = [i for i in changed if np.asarray(rows[0][i]).dtype.kind == "f"]
    mine = held(ours)
    within([mine[i] for i in places], [state[i] for i in places], [[row[i] for i in places] for row in rows])
    counts = [i for i in changed if i not in places]
    assert all((mine[i] == state[i]).all() for i in counts)


def changes(learner: GradientDescent, batch: list[Any]) -> list[int]:
    """Which of the state's tensors a step changes, in the order of its plan's outputs."""
    state = list(nabi.graph.nest.tensors(learner.state).values())
    (recordings,) = learner._step._cache.values()
    (recording,) = recordings.values()
    numbers = {id(t): i for i, t in enumerate(state)}
    return [numbers[id(t)] for t in recording.updates]


def test_every_optimiser_is_among_the_runs() -> None:
    classes = {c for c in vars(optim).values() if isinstance(c, type) and issubclass(c, optim.Optimizer)}
    parameter = [nabi.tensor(0.0, requires_grad=True)]
    assert {type(make(parameter)) for make in OPTIMIZERS.values()} == classes - {optim.Optimizer}


# --- what is prepared ---


def test_weights_that_were_assigned_are_seen() -> None:
    """What was computed of weights beforehand is computed again for others."""
    rng = np.random.default_rng(0)
    layer = nn.Conv2d(16, 16, 3, padding=1, key=nabi.random.key(0))
    forward = {engine: nabi.compile(lambda x: ops.relu(layer(x)), state=layer, engine=engine)
               for engine in ("cpu", "reference")}  # fmt: skip
    x = rng.standard_normal((4, 12, 12, 16)).astype(np.float32)
    answers = []
    for number in range(3):
        got, wanted = (forward[engine](x).numpy() for engine in ("cpu", "reference"))
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(forward["cpu"](x).numpy(), got)
        answers.append(got)
        layer.weight.assign(layer.weight * -(number + 2.0))
    assert not np.allclose(answers[0], answers[1])
    layer.weight.assign(layer.weight * 0.0)
    np.testing.assert_array_equal(
        forward["cpu"](x).numpy(), np.maximum(np.broadcast_to(layer.bias.numpy(), x.shape), 0)
    )


PRECISIONS = [
    "float32",
    pytest.param("bf16", marks=pytest.mark.skipif(not machine.processor().bfloat16, reason="no bfloat16 here")),
]
WIDTHS = [(257, 100, 130), (257, 100, 100, 3), (192, 130, 130, 130), (256, 64, 256)]
"""Rows and columns of weights: odd ones, such as fill no panel, and alike ones, which are gone through together."""


class Descent:
    """Steps of training of a few layers, in which all depends on the panels of weights that a step leaves behind."""

    def __init__(self, widths: tuple[int, ...], precision: str) -> None:
        rng = np.random.default_rng(0)
        draw = lambda *shape: (rng.standard_normal(shape) / 8).astype(np.float32)
        self.weights = [nabi.tensor(draw(*pair), requires_grad=True) for pair in itertools.pairwise(widths)]
        self.optimizer = optim.SGD(self.weights, 0.05, momentum=0.9)
        self.precision = precision
        self.batch = draw(160, widths[0])
        self.step = self.compiled()

    def compiled(self) -> Any:
        """A step that no other has left anything for."""

        def step(x: Any) -> Any:
            for weight in self.weights:
                x = ops.tanh(x @ weight)
            loss = ops.mean(x * x)
            self.optimizer.minimize(loss)
            return loss

        return nabi.compile(step, state=self.optimizer, engine="cpu", precision=self.precision)

    @property
    def state(self) -> list[Any]:
        return list(nabi.graph.nest.tensors(self.optimizer).values())

    def laid_out(self) -> int:
        """How many of a step's kernels lay out panels, beside those that do in any step."""
        with profile.profiling() as found:
            self.step(self.batch)
        return round(sum(share for about, share in found.strands.items() if "panels" in about.what))

    def check(self, steps: int = 1) -> None:
        """Steps as they are, each with the bits that it has without what was left behind."""
        for _ in range(steps):
            before = [t.held for t in self.state]
            anew = self.compiled()(self.batch).numpy()
            wanted = [t.numpy() for t in self.state]
            for tensor, array in zip(self.state, before, strict=True):
                tensor.held = array
            assert self.step(self.batch).numpy() == anew
            for tensor, array in zip(self.state, wanted, strict=True):
                np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.fixture
def _default_threads() -> Iterator[None]:
    yield
    threads.set_num_threads(None)


@pytest.mark.usefixtures("_default_threads")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_a_step_lays_weights_out_for_the_next(widths: tuple[int, ...], precision: str) -> None:
    """The forward pass's panels: only the first step lays them out by themselves."""
    descent = Descent(widths, precision)
    threads.set_num_threads(2)
    descent.check(2)
    threads.set_num_threads(1)
    descent.check(2)
    again = descent.laid_out()
    descent.weights[0].assign(descent.weights[0].numpy())
    assert descent.laid_out() == again + 1
    assert descent.laid_out() == again


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_that_are_changed_between_steps_are_seen(precision: str) -> None:
    """Whoever changes them, and however: what a step left behind is for the weights that it made, and no others."""
    descent = Descent(WIDTHS[0], precision)
    first, second = descent.weights
    other = descent.compiled()
    at_first = [t.held for t in descent.state]
    rng = np.random.default_rng(0)
    descent.check(2)
    for _ in range(2):  # in some of these every weight is another array, in some one of two
        first.assign(first * -1.5)
        descent.check(2)
        second.assign(rng.standard_normal(second.shape, np.float32) / 8)
        descent.check()
        other(descent.batch)
        descent.check()
        other(descent.batch[:150])
        descent.check()
        earlier = [t.held for t in descent.state]
        descent.check(3)
        for tensor, array in zip(descent.state, earlier, strict=True):
            tensor.held = array
        descent.check()
        for tensor, array in zip(descent.state, at_first, strict=True):
            tensor.assign(array)
        descent.check(2)


@pytest.mark.parametrize("vector", [32, 16])
def test_panels_for_the_next_step_on_a_narrower_processor(vector: int) -> None:
    processor = machine.narrower(machine.processor())
    with machine.pretending(processor._replace(vector=vector)):
        Descent(WIDTHS[0], "float32").check(3)


def test_panels_for_the_next_step_in_strands_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "FEW_OPERATIONS", 0)
    monkeypatch.setattr(segments, "BLOCK", 1 << 10)
    for precision in ("float32", "auto"):
        Descent(WIDTHS[0], precision).check(3)


def test_panels_that_are_still_read_are_not_written_over() -> None:
    """Where new weights do not wait for the product with the old ones."""
    rng = np.random.default_rng(0)
    weight = nabi.tensor(rng.standard_normal((256, 256), np.float32))
    x = rng.standard_normal((256, 256), np.float32)

    def step(x: Any) -> Any:
        y = x @ weight
        weight.assign(weight * 0.5)
        return y

    run = nabi.compile(step, state=weight, engine="cpu")
    first = run(x).numpy()
    for power in range(1, 4):
        np.testing.assert_array_equal(run(x).numpy(), first * np.float32(0.5) ** power)
    assert not Compiled(run.plan(x), 1, updates=[0]).carried


# --- updates in a product's registers ---

UPDATES: dict[str, tuple[Make, dict[str, Any]]] = {
    "sgd": (lambda p: optim.SGD(p, 0.1), {}),
    "momentum": (lambda p: optim.SGD(p, 0.05, momentum=0.9), {}),
    "nesterov, decay": (lambda p: optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01), {}),
    "rmsprop": (lambda p: optim.RMSProp(p, 0.01, momentum=0.9, weight_decay=0.01), {}),
    "adam": (lambda p: optim.Adam(p, 0.01, weight_decay=0.01), {}),
    "adamw": (lambda p: optim.AdamW(p, 0.01, weight_decay=0.1), {}),
    "the gradient is asked for": (lambda p: optim.SGD(p, 0.05, momentum=0.9), {"asks": True}),
    "all gradients are read before": (lambda p: optim.SGD(p, 0.05, momentum=0.9), {"clip_norm": 0.01}),
    "the new weights are read": (lambda p: optim.SGD(p, 0.05, momentum=0.9), {"average": 0.9}),
    "more than a group holds": (lambda p: optim.Adam(p, 0.01), {"average": 0.9}),
}


class Updates:
    """Steps of two layers, where gradients on the first one's weights are products in panels."""

    def __init__(self, how: str, rows: int = 256, inputs: int = 200, hidden: int = 130) -> None:
        make, reads = UPDATES[how]
        clip_norm, average, asks = (reads.get(name) for name in ("clip_norm", "average", "asks"))
        rng = np.random.default_rng(0)
        self.given = [rng.standard_normal((rows, inputs), np.float32), rng.integers(0, 7, rows)]
        network = mlp((inputs,), 7, hidden=(hidden,))
        weights = nn.parameters(network)
        optimizer = make(weights)
        averages = None if average is None else optim.MovingAverage(weights, average)
        self.state = {"network": network, "optimizer": optimizer, "averages": averages}
        first = next(p for p in weights.values() if p.shape == (inputs, hidden))

        def step(x: Any, labels: Any) -> Any:
            loss = softmax_cross_entropy(network(x, training=True), labels)
            gradient = nabi.gradients(loss, [first])[0] if asks else loss
            optimizer.minimize(loss, clip_norm)
            if averages is not None:
                averages.update()
            return loss, gradient

        self.step = nabi.compile(step, state=self.state, engine="cpu")

    def run(self, steps: int = 3) -> list[bytes]:
        """The bits of all that steps give, and of the state after them."""
        given = [t.numpy().tobytes() for _ in range(steps) for t in self.step(*self.given)]
        return [*given, *(t.numpy().tobytes() for t in nabi.graph.nest.tensors(self.state).values())]


@pytest.fixture
def _made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """No program is shared with one that was made in another way."""
    monkeypatch.setattr(programs, "kept", lambda key, make: make())


def made_in_tiles(monkeypatch: pytest.MonkeyPatch) -> list[list[bool]]:
    """Of each product with what is made of it in registers: whether they are written; as code is made."""
    found: list[list[bool]] = []
    write = panels.matmul

    def listing(reader: Any, rows: Any, most: int, made: Any, work: str) -> None:
        if len(made) > 1:
            found.append([value.serial in reader.places for value, _ in made])
        write(reader, rows, most, made, work)

    monkeypatch.setattr(panels, "matmul", listing)
    return found


def in_loops_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_is_in_tiles", lambda root: False)


FORWARD = [True, True]
"""The product, which the way back reads, and what the rectifier leaves of it."""
WRITTEN: dict[str, list[list[bool]]] = {
    "sgd": [[False, True]],
    "momentum": [[False, True, True]],
    "nesterov, decay": [[False, True, True]],
    "rmsprop": [[False, True, True, True]],
    "adam": [[False, True, True, True]],
    "adamw": [[False, True, True, True]],
    "the gradient is asked for": [[True, True, True]],
    "all gradients are read before": [],
    "the new weights are read": [[False, True, True, True]],
    "more than a group holds": [[False, True, True, True]],
}
"""The gradient, moments, weights, and their average: what is written of them."""


@pytest.mark.usefixtures("_made_anew", "_default_threads")
@pytest.mark.parametrize("how", UPDATES)
def test_updates_in_registers(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit as from memory, for any number of threads; and nothing is written that nobody reads."""
    threads.set_num_threads(2)
    found = made_in_tiles(monkeypatch)
    got = Updates(how).run()
    assert found == [FORWARD, *WRITTEN[how]]
    for number in (1, 3):
        threads.set_num_threads(number)
        assert Updates(how).run() == got
    found.clear()
    in_loops_of_their_own(monkeypatch)
    assert Updates(how).run() == got
    assert found == []


@pytest.mark.usefixtures("_made_anew")
@pytest.mark.parametrize("vector", KINDS)
@pytest.mark.parametrize("shape", [(256, 77, 64), (259, 130, 67), (128, 300, 129)], ids=str)
@pytest.mark.parametrize("longest", [None, 100])
def test_updates_in_registers_of_all_shapes(
    shape: tuple[int, int, int], vector: int, longest: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and columns that fill no tile; vectors of all lengths; and sums that are cut, whose parts lie in memory."""
    monkeypatch.setattr(values, "FAR_WEIGHTS", 0)
    monkeypatch.setattr(segments, "FEW_OPERATIONS", 0)
    monkeypatch.setattr(segments, "BLOCK", 1 << 14)
    monkeypatch.setattr(program, "OUT_OF_CACHE", 0)
    monkeypatch.setattr(program, "LARGE", 0)
    if longest is not None:
        monkeypatch.setattr(panels, "LONGEST", longest)
    found = made_in_tiles(monkeypatch)
    with machine.pretending(KINDS[vector](machine.processor())):
        got = Updates("nesterov, decay", *shape).run()
        assert found == [FORWARD, [longest is not None, True, True]]
        in_loops_of_their_own(monkeypatch)
        assert Updates("nesterov, decay", *shape).run() == got


@pytest.mark.usefixtures("_made_anew")
@pytest.mark.parametrize("vector", KINDS)
def test_updates_in_registers_write_nothing_else(vector: int) -> None:
    """Nor read what was not written; and the values are the reference's."""
    ours, theirs = Updates("adam", 259, 130, 67), Updates("adam", 259, 130, 67)
    state = [t.held for t in nabi.graph.nest.tensors(ours.state).values()]
    plan = ours.step.plan(*ours.given)
    with machine.pretending(KINDS[vector](machine.processor())), guarded() as overrun:
        got = engines.prepare("cpu", plan, len(state))([*map(surrounded, ours.given), *state])
        assert overrun() == 0
    wanted = engines.prepare("reference", plan)([*theirs.given, *state])
    compare(plan, [*ours.given, *state], got, wanted, runs=3)


@pytest.mark.skipif(not machine.processor().passes_by, reason="nothing is written by the cache here")
@pytest.mark.parametrize(("columns", "wanted"), [(64, 2), (68, 0), (72, 0)])
def test_updates_in_registers_pass_by_the_cache_in_whole_lines(
    columns: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product comes panel by panel: where these do not end with a line, both would write to it."""
    monkeypatch.setattr(values, "FAR_WEIGHTS", 0)
    monkeypatch.setattr(program, "OUT_OF_CACHE", 0)
    monkeypatch.setattr(program, "LARGE", 64 * 200 * 4)
    descent = Updates("momentum", hidden=columns)
    assert len(Compiled(descent.step.plan(*descent.given)).passing) == wanted


@pytest.mark.usefixtures("_made_anew")
def test_what_is_not_made_in_a_products_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads it elsewhere than at its own place, or not element by element, or has another shape."""
    found = made_in_tiles(monkeypatch)
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-4, 4, shape).astype(np.float32) for shape in ((128, 256), (256, 128)))
    others: list[Callable[[Any], Any]] = [
        lambda z: ops.flip(z, axis=1) + z,
        lambda z: z + ops.permute_dims(z, (1, 0)),
        lambda z: z - z[0],
        lambda z: z - ops.sum(z, axis=0),
        lambda z: z[:, :100] * 2.0,
        lambda z: z[:, 1] * 2.0,
    ]
    for other in others:
        plan = plan_of(lambda x, y, other=other: [x @ y, other(x @ y)], x, y)
        got, wanted = (engines.prepare(engine, plan)([x, y]) for engine in ("cpu", "reference"))
        assert same_bits(got, wanted)  # of whole numbers, nothing is rounded
    assert found == []
    plan = plan_of(lambda x, y: [ops.relu(x @ y), ops.sum(x @ y, axis=1)], x, y)
    got, wanted = (engines.prepare(engine, plan)([x, y]) for engine in ("cpu", "reference"))
    assert same_bits(got, wanted)
    assert found.pop() == [True, True]
    plan = plan_of(lambda x, y: [x @ y, x @ y * 2.0 > y[0, 0], ops.astype(x @ y + y[0, :], dtype="float64")], x, y)
    got, wanted = (engines.prepare(engine, plan)([x, y]) for engine in ("cpu", "reference"))
    assert same_bits(got, wanted)
    assert found == [[True, True, True]]


def test_an_array_that_is_changed_in_place_is_seen() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 12, 12, 16)).astype(np.float32)
    w = rng.standard_normal((3, 3, 16, 16)).astype(np.float32)
    function = lambda x, w: ops.conv2d(x, w, padding=1)
    ours, theirs = nabi.compile(function, engine="cpu"), nabi.compile(function, engine="reference")
    for _ in range(3):
        np.testing.assert_allclose(ours(x, w).numpy(), theirs(x, w).numpy(), rtol=1e-3, atol=1e-3)
        w *= -2.0
        np.testing.assert_allclose(ours(x, w).numpy(), theirs(x, w).numpy(), rtol=1e-3, atol=1e-3)
        x[:, 1:] += 1.0


def test_a_product_reads_its_arrays_anew() -> None:
    w = nabi.tensor(np.ones((64, 64), np.float32))
    x = np.ones((256, 64), np.float32)
    double = nabi.compile(lambda x, w: x @ w, engine="cpu")
    assert (double(x, w).numpy() == 64).all()
    x[:] = 2
    assert (double(x, w).numpy() == 128).all()
    w.assign(w * 0.5)
    assert (double(x, w).numpy() == 64).all()


def test_a_running_step_allocates_no_arrays() -> None:
    """Memory is laid out once: what a step of training needs beside its results' handles is a few kilobytes."""
    model = mlp((32, 32, 3), 10, hidden=(256,))
    optimizer = optim.SGD(nn.parameters(model), 0.01, 0.9)
    learner = GradientDescent(model, optimizer, softmax_cross_entropy, engine="cpu")
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (64, 32, 32, 3), np.uint8), random.integers(0, 10, 64)
    for _ in range(4):  # until memory is there for those whose results are held
        learner.step(images, labels)
    assert sum(tensor.numpy().nbytes for tensor in nn.parameters(model).values()) > 3_000_000
    peaks = []
    for _ in range(3):  # what other threads of the process take, as those that report tests do, is counted, too
        tracemalloc.start()
        try:
            for _ in range(5):
                learner.step(images, labels)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert min(peaks) < 64 << 10

"""Random programs for engines, and how far rounding may carry what they compute.

A program is made of a seed: `Program` calls, in an order and with shapes that the seed decides, what the registry
declares. New elementwise operations and reductions are part of it as soon as they are declared; any other operation
that none of `MOVES` knows shapes for is called as its own examples do.

How far two engines may lie apart is not one number: where a program subtracts near numbers, or asks which of two is
larger, the least difference in rounding grows. `noisy_run` runs the plan over NumPy with noise in every operation that
rounds, of the size that `Noisy` states, and the spread of some runs is how far rounding carries.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import nabi
from nabi import ops
from nabi.errors import SettingError, ShapeError
from nabi.graph import namespace
from nabi.graph.indexing import ARRAY
from nabi.graph.node import Node
from nabi.graph.operation import Draw, Operation
from nabi.graph.plan import Plan
from operation_inputs import OPERATIONS, array

ONE = [o for o in OPERATIONS if o.kind == "elementwise" and len(o.arrays) == 1 and not o.variadic]
MORE = [o for o in OPERATIONS if o.kind == "elementwise" and len(o.arrays) > 1]
FOLDS = [o for o in OPERATIONS if o.kind == "reduction"]
KNOWN = (
    "matmul", "conv2d", "max_pool2d", "avg_pool2d", "batch_norm", "softmax", "log_softmax", "dropout", "reshape",
    "permute_dims", "broadcast_to", "flip", "pad", "concat", "stack", "take", "take_along_axis", "one_hot", "fold_in",
    "random_bits", "random_uniform", "random_normal", "random_integers", "random_permutation", "expand_dims", "squeeze",
    "matrix_transpose",
)  # fmt: skip
"""Operations of other kinds that `MOVES` calls in shapes of all sorts."""
OTHERS = [o for o in OPERATIONS if o not in (*ONE, *MORE, *FOLDS) and o.name not in KNOWN]
DTYPES = ("float32",) * 8 + ("float64",) * 2


class Size(NamedTuple):
    """How large the arrays of a program are."""

    rows: tuple[int, int]
    others: tuple[int, int]
    channels: tuple[int, ...]
    most: int  # elements of an array that is worked on further
    moves: tuple[int, int]


SMALL = Size((1, 9), (1, 9), (1, 2, 3, 5, 8, 16, 17), 1 << 12, (3, 14))
LARGE = Size((60, 300), (5, 24), (8, 16, 24, 33), 1 << 20, (3, 7))


class Program:
    """What a seed says, as a function of arrays.

    Attributes
    ----------
    inputs : list of array
        Made while the program was run once.
    """

    def __init__(self, seed: int, size: Size = SMALL) -> None:
        self.seed = seed
        self.size = size
        self.inputs: list[Any] = []
        with np.errstate(all="ignore"):
            self(None)

    def __call__(self, given: Sequence[Any] | None) -> list[Any]:
        return _Run(self, given).outputs()

    def plan(self) -> Plan:
        """The program as it is recorded, with the gradients on its floating-point inputs."""
        tensors = [nabi.tensor(x, requires_grad=x.dtype.kind == "f") for x in self.inputs]
        return nabi.compile(lambda *given: self(given), engine="reference").plan(*tensors)


class _Run:
    """One run: with tensors, or with symbols where it is recorded."""

    def __init__(self, program: Program, given: Sequence[Any] | None) -> None:
        self.program, self.size = program, program.size
        self.rng = np.random.default_rng(program.seed)
        self.numbers = np.random.default_rng([program.seed, 1])
        self.given = None if given is None else iter(given)
        self.dtype = self.pick(DTYPES)
        self.taken: list[Any] = []
        self.pool: list[Any] = []

    # --- choices ---

    def pick(self, things: Sequence[Any]) -> Any:
        return things[int(self.rng.integers(len(things)))]

    def within(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def chance(self, one_in: int) -> bool:
        return int(self.rng.integers(one_in)) == 0

    def fresh(self, *shape: int, domain: Any = "real", dtype: Any = None) -> Any:
        """An input of the program."""
        dtype = dtype or self.dtype
        turned = len(shape) > 1 and self.chance(5)
        if self.given is None:
            made = array(Draw(shape, domain), self.numbers, dtype)
            if turned:
                made = np.asfortranarray(made)
            self.program.inputs.append(made)
            tensor = nabi.tensor(made, requires_grad=np.asarray(made).dtype.kind == "f")
        else:
            tensor = next(self.given)
        self.taken.append(tensor)
        return tensor

    def shape(self, ndim: int) -> tuple[int, ...]:
        lengths = [1 if self.chance(6) else self.within(*self.size.others) for _ in range(ndim)]
        if ndim:
            lengths[0] = self.within(*self.size.rows)
        if ndim == 4:
            lengths[3] = self.pick(self.size.channels)
            while math.prod(lengths) > self.size.most:
                lengths[0] = max(1, lengths[0] // 2)
        return tuple(lengths)

    def any(self, ndim: int | None = None, floating: bool = True) -> Any:
        """Something that was made before, or something new."""
        fitting = [
            t for t in self.pool
            if ndim in (None, t.ndim) and (not floating or t.dtype.kind == "f") and 0 < t.size <= self.size.most
        ]  # fmt: skip
        if fitting and not self.chance(8):
            return self.pick(fitting[-6:])
        return self.fresh(*self.shape(self.within(0, 4) if ndim is None else ndim))

    def axes(self, ndim: int) -> Any:
        if not ndim or self.chance(4):
            return None
        if self.chance(2):
            return self.within(-ndim, ndim - 1)
        return tuple(i for i in range(ndim) if self.chance(2)) or (0,)

    # --- the whole ---

    def outputs(self) -> list[Any]:
        self.pool.append(self.fresh(*self.shape(self.within(0, 4))))
        for _ in range(self.within(*self.size.moves)):
            move = self.pick(MOVES)
            try:
                made = move(self)
            except (ShapeError, SettingError):  # the seed asked for what does not fit, as integers between halves
                continue
            self.pool += made if isinstance(made, tuple | list) else [made]
        made = self.pool[1:] or self.pool
        ends = [t for t in made if t.dtype.kind == "f" and t.size][-4:]
        loss = sum((ops.mean(ops.tanh(t)) for t in ends), start=nabi.tensor(0.0))
        floats = [t for t in self.taken if t.dtype.kind == "f"]
        loss = sum((ops.sum(t) * 0.125 for t in floats), start=loss)
        kept = made[-8:]
        if self.chance(6):  # an input given back, and something twice
            kept = [*kept, self.taken[0], kept[-1]]
        return [*kept, *nabi.gradients(loss, floats)]


# --- what a program is made of ---


def _held(run: _Run, x: Any, domain: Any) -> Any:
    """A tensor taken into an operation's domain."""
    if domain == "positive":
        return ops.abs(x) + 0.25
    if domain == "boolean":
        return x > 0
    if isinstance(x, nabi.Tensor) and x.dtype.kind == "b":  # whose negative and difference NumPy refuses
        return ops.astype(x, dtype="int32")
    return x


def _example_of(run: _Run, operation: Operation) -> Any:
    return run.pick(operation.examples)


def elementwise(run: _Run) -> Any:
    operation = run.pick(ONE)
    example = _example_of(run, operation)
    x = run.any(floating=not run.chance(8))
    domain = example.arrays[0].domain
    if domain != "positive" or not run.chance(12):  # now and then outside: what is not a number passes as it must
        x = _held(run, x, domain)
    return operation(x, **example.settings)


def broadcast(run: _Run) -> Any:
    operation = run.pick(MORE)
    example = _example_of(run, operation)
    x = run.any(floating=not run.chance(8))
    values = [_held(run, x, example.arrays[0].domain)]
    values += [_held(run, _beside(run, x), draw.domain) for draw in example.arrays[1:]]
    if len(values) == 2 and run.chance(2):
        values = [_held(run, v, d.domain) for v, d in zip(values[::-1], example.arrays, strict=True)]
    return operation(*values, **example.settings)


def _beside(run: _Run, x: Any) -> Any:
    """Something that broadcasts with ``x``."""
    kind = run.within(0, 5)
    same = [t for t in run.pool if t.shape == x.shape]
    if kind == 0 and same:
        return run.pick(same)
    if kind == 1:
        return run.pick([2, 0.5, -1.5, 3.0])
    if kind == 2 and x.ndim:
        return ops.mean(x, axis=run.axes(x.ndim), keepdims=True)
    if kind == 3 and x.ndim:
        return x[(..., slice(0, 1))]
    lengths = [1 if run.chance(3) else n for n in x.shape]
    return run.fresh(*lengths[run.within(0, x.ndim) :] if run.chance(2) else lengths)


def fold(run: _Run) -> Any:
    operation = run.pick(FOLDS)
    x = run.any(floating=not run.chance(6))
    axis = run.axes(x.ndim)
    if operation.name.startswith("arg"):
        axis = axis[-1] if isinstance(axis, tuple) else axis
        axis = x.ndim - 1 if x.ndim and run.chance(2) else axis
    return operation(x, axis=axis, keepdims=run.chance(2))


def normalise(run: _Run) -> Any:
    x = run.any(run.within(1, 4))
    return run.pick([ops.softmax, ops.log_softmax])(x, axis=run.axes(x.ndim) if run.chance(2) else -1)


def reshape(run: _Run) -> Any:
    x = run.any()
    kind = run.within(0, 3)
    if kind == 0:
        return ops.reshape(x, (-1,))
    if kind == 1 and x.ndim > 1:
        return ops.reshape(x, (x.shape[0], -1))
    if kind == 2 and x.ndim > 1:
        return ops.reshape(x, (-1, x.shape[-1]))
    place = run.within(0, x.ndim)
    return ops.expand_dims(x, axis=place)


def permute(run: _Run) -> Any:
    x = run.any()
    return ops.permute_dims(x, tuple(int(i) for i in run.rng.permutation(x.ndim)))


def cut(run: _Run) -> Any:
    x = run.any(floating=not run.chance(8))
    key: list[Any] = []
    for n in x.shape:
        kind = run.within(0, 7)
        if kind == 0:
            key.append(run.within(-n, n - 1))
            continue
        if kind == 1:
            key.append(None)
        start, stop = sorted((run.within(0, n), run.within(0, n)))
        step = run.pick([1, 1, 2, 3, -1, -2])
        if kind == 2:
            key.append(slice(None, None, -1))
        elif kind == 3 and stop > start:
            key.append(slice(start, stop, abs(step)))
        elif kind == 4 and stop > start:
            key.append(
                slice(start or None, stop, step) if step > 0 else slice(stop - 1, start - 1 if start else None, step)
            )
        else:
            key.append(slice(None))
    return x[tuple(key)]


def pad(run: _Run) -> Any:
    x = run.any()
    widths = tuple((run.within(0, 2), run.within(0, 2)) if run.chance(2) else (0, 0) for _ in x.shape)
    return ops.pad(x, widths, value=run.pick([0.0, 0.0, 1.5, -math.inf]))


def flip(run: _Run) -> Any:
    x = run.any()
    return ops.flip(x, axis=run.axes(x.ndim))


def join(run: _Run) -> Any:
    x = run.any()
    if not x.ndim or run.chance(3):
        return ops.stack([x, ops.sin(x), x][: run.within(1, 3)], axis=run.within(-x.ndim - 1, x.ndim))
    axis = run.within(-x.ndim, x.ndim - 1)
    return ops.concat([x, ops.flip(x, axis=axis), x * 0.5][: run.within(1, 3)], axis=axis)


def spread(run: _Run) -> Any:
    x = run.any()
    if x.size * 3 > run.size.most:
        return x * 0.5
    return ops.broadcast_to(x, (*([run.within(1, 3)] if run.chance(2) else []), *x.shape))


def matmul(run: _Run) -> Any:
    x = run.any(2)
    m = run.pick(run.size.channels) if run.chance(2) else run.within(1, 40)
    kind = run.within(0, 4)
    if kind == 0:
        return x @ run.fresh(x.shape[1], m)
    if kind == 1:
        return x @ ops.permute_dims(run.fresh(m, x.shape[1]), (1, 0))
    if kind == 2:
        return ops.permute_dims(x, (1, 0)) @ run.fresh(x.shape[0], m)
    if kind == 3:
        turned = ops.permute_dims(x, (1, 0))
        return turned @ x if x.shape[1] < 64 else x @ turned
    return x @ run.pick([run.fresh(x.shape[1]), run.fresh(2, x.shape[1], 3)])


def _pair(run: _Run, *values: int) -> Any:
    return run.pick(values) if run.chance(2) else (run.pick(values), run.pick(values))


def convolve(run: _Run) -> Any:
    x = run.any(4)
    channels = x.shape[3]
    kind = run.within(0, 4)
    if kind == 0:  # one of the shapes that nets are made of
        weight = run.fresh(3, 3, channels, run.pick(run.size.channels))
        return ops.conv2d(x, weight, padding=run.pick([1, "same", 0]))
    if kind == 1:
        return ops.conv2d(x, run.fresh(1, 1, channels, run.pick(run.size.channels)), stride=run.pick([1, 1, 2]))
    if kind == 2:
        weight = run.fresh(run.within(1, 3), run.within(1, 3), 1, channels)
        groups = channels
    else:
        groups = run.pick([g for g in range(1, channels + 1) if channels % g == 0][:3])
        weight = run.fresh(
            run.within(1, 4), run.within(1, 4), channels // groups, groups * run.within(1, max(1, 8 // groups))
        )
    padding = run.pick([0, 1, 2, (1, 0), "same", "valid", ((0, 1), (2, 0))])
    return ops.conv2d(
        x, weight, stride=_pair(run, 1, 2, 3), padding=padding, dilation=_pair(run, 1, 1, 2), groups=groups
    )


def pool(run: _Run) -> Any:
    x = run.any(4)
    kernel = _pair(run, 2, 3)
    padding = run.pick([0, 0, 1, "valid"])
    stride = run.pick([None, 1, 2, (1, 2), 3])
    return run.pick([ops.max_pool2d, ops.max_pool2d, ops.avg_pool2d])(
        x, kernel_size=kernel, stride=stride, padding=padding
    )


def standardise(run: _Run) -> Any:
    x = run.any(run.pick([2, 4, 4]))
    channels = x.shape[-1]
    return ops.batch_norm(x, run.fresh(channels, domain="positive"), run.fresh(channels))


def block(run: _Run) -> Any:
    """A convolution, normalised, rectified and pooled: the way that nets go."""
    x = run.any(4)
    y = ops.conv2d(x, run.fresh(3, 3, x.shape[3], run.pick(run.size.channels)), padding="same")
    channels = y.shape[-1]
    y = ops.batch_norm(y, run.fresh(channels, domain="positive"), run.fresh(channels))[0]
    y = run.pick([ops.relu, ops.relu, ops.relu6, ops.silu])(y)
    return ops.max_pool2d(y, kernel_size=2) if min(y.shape[1:3]) > 1 and not run.chance(4) else y


def dense(run: _Run) -> Any:
    x = run.any(2)
    m = run.within(1, 40)
    y = x @ run.fresh(x.shape[1], m) + run.fresh(m)
    return run.pick([ops.relu, ops.sigmoid, ops.tanh, ops.gelu])(y)


def classify(run: _Run) -> Any:
    x = run.any(2)
    labels = run.fresh(x.shape[0], domain=x.shape[1])
    return run.pick([nabi.losses.softmax_cross_entropy, nabi.losses.multiclass_hinge])(x, labels)


def dropout(run: _Run) -> Any:
    return ops.dropout(run.any(), run.fresh(2, domain="key"), rate=run.pick([0.1, 0.5, 0.9]))


def update(run: _Run) -> Any:
    """What an optimiser makes of a parameter."""
    p = run.any()
    g = run.fresh(*p.shape, dtype=p.dtype.name)
    how = run.pick([
        lambda leaf: nabi.optim.SGD(leaf, 0.1),
        lambda leaf: nabi.optim.SGD(leaf, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda leaf: nabi.optim.RMSProp(leaf, momentum=0.5, weight_decay=0.1),
        lambda leaf: nabi.optim.Adam(leaf, weight_decay=0.1),
        lambda leaf: nabi.optim.AdamW(leaf),
    ])  # fmt: skip
    optimizer = how([nabi.tensor(0.0, requires_grad=True)])
    optimizer.step = run.fresh(domain=9) + 1
    names = list(optimizer.moments)
    moments = {name: run.fresh(*p.shape, domain="positive", dtype=p.dtype.name) for name in names}
    rate = ops.astype(run.fresh(domain="positive", dtype="float64"), dtype=p.dtype)
    (g,) = nabi.optim.clip([g], 1.0) if run.chance(2) else (g,)
    decay = None
    if optimizer.weight_decay is not None:
        decay = ops.astype(run.fresh(domain="positive", dtype="float64"), dtype=p.dtype)
    new, after = optimizer.formula(p, g, moments, rate, decay)
    return [new, *after.values()]


def gather(run: _Run) -> Any:
    """What indices choose, and what they are turned into."""
    x = run.any()
    if not x.ndim:
        return x + 1.0
    axis = run.within(0, x.ndim - 1)
    kind = run.within(0, 3)
    if kind == 0:
        return ops.getitem(x, run.fresh(run.within(1, 9), domain=x.shape[0]), key=(ARRAY,))
    if kind == 1:
        return ops.take(x, run.fresh(run.within(1, 9), domain=x.shape[axis]), axis=axis)
    if kind == 2:
        chosen = (*x.shape[:axis], run.within(1, 4), *x.shape[axis + 1 :])
        return ops.take_along_axis(x, run.fresh(*chosen, domain=x.shape[axis]), axis=axis - run.pick([0, x.ndim]))
    depth = x.shape[-1]
    return ops.one_hot(run.fresh(*x.shape[:-1], domain=depth), depth=depth, dtype=x.dtype) * x


def rearrange(run: _Run) -> Any:
    """Axes of length 1 that come and go, and matrices turned."""
    x = run.any()
    kind = run.within(0, 2)
    if kind == 0 and x.ndim > 1:
        return ops.matrix_transpose(x)
    if kind == 1 and 1 in x.shape:
        return ops.squeeze(x, axis=run.pick([i for i, n in enumerate(x.shape) if n == 1]))
    return ops.expand_dims(x, axis=run.within(-x.ndim - 1, x.ndim))


def draw(run: _Run) -> Any:
    """Random numbers, of a key that the program is given or makes of it."""
    x = run.any()
    key = run.fresh(2, domain="key")
    if run.chance(2):
        key = ops.fold_in(key, run.fresh(domain=1000))
    kind = run.within(0, 4)
    if kind == 0:
        return ops.random_permutation(key, length=run.within(1, 40))
    if kind == 1:
        return ops.random_integers(key, shape=x.shape, low=-run.within(0, 5), high=run.within(1, 300))
    if kind == 2:
        return ops.random_bits(key, shape=x.shape)
    return x * run.pick([ops.random_uniform, ops.random_normal])(key, shape=x.shape)


def slope(run: _Run) -> Any:
    """A gradient to go on with: the program's own gradients are then of second order."""
    x = run.any()
    y = run.pick([ops.sin, ops.tanh, ops.silu, ops.square])(x)
    if x.ndim == 4 and run.chance(2) and min(x.shape[1:3]) > 2:
        y = ops.max_pool2d(y, kernel_size=run.pick([2, 3]), stride=run.pick([1, 2]))
    elif x.ndim and run.chance(2):
        y = ops.softmax(y)
    if not x.requires_grad:
        return y
    return nabi.gradients(ops.sum(y * y), [x])


def other(run: _Run) -> Any:
    """An operation of any other kind, as its example calls it."""
    operation = run.pick(OTHERS)
    example = _example_of(run, operation)
    return operation(*(run.fresh(*draw.shape, domain=draw.domain) for draw in example.arrays), **example.settings)


def change(run: _Run) -> Any:
    x = run.any(floating=False)
    dtype = run.pick(["float64", "float32", "float32", "int64", "int32", "bool", "uint8"])
    if x.dtype.kind == "f" and np.dtype(dtype).kind in "iu":
        x = ops.clip(ops.where(ops.isnan(x), 0.0, x), min=0.0, max=200.0)  # outside, NumPy itself says anything
    return ops.astype(x, dtype=dtype)


def count(run: _Run) -> Any:
    """Arithmetic of integers and truth values."""
    x = run.any()
    i = run.fresh(*x.shape, domain=run.pick([2, 7, 1000]))
    kind = run.within(0, 3)
    if kind == 0:
        return i * 3 - 5
    if kind == 1:
        return ops.where(i > 1, x, i)
    if kind == 2:
        return (i == 1) & (x > 0)
    return x * i


def fixed(run: _Run) -> Any:
    """A constant array."""
    x = run.any()
    held = np.random.default_rng(x.ndim).standard_normal(x.shape[-1:]).astype(x.dtype)
    return x * nabi.tensor(held)


Move = Callable[[_Run], Any]
MOVES: list[Move] = [
    *[elementwise] * 6, *[broadcast] * 6, *[fold] * 4, normalise, *[reshape] * 2, *[permute] * 2, *[cut] * 3, pad, flip,
    join, spread, *[matmul] * 2, *[convolve] * 3, *[pool] * 2, standardise, *[block] * 2, *[dense] * 2, classify,
    dropout, update, *[gather] * 2, rearrange, draw, slope, *[other] * 2, change, count, fixed,
]  # fmt: skip


# --- how far rounding carries ---

UNITS = 16
"""Unit roundoffs of noise in an operation: four times the four units in the last place that a function may be off."""
WINOGRAD = 256
"""How many times more rounding Winograd's F(4×4, 3×3) may make than the sum itself: see `test_winograd_bound`."""
EXACT = {
    np.maximum, np.minimum, np.negative, np.absolute, np.sign, np.floor, np.ceil, np.rint, np.fmax, np.fmin,
    np.trunc, np.positive, np.copysign,
}  # fmt: skip


class Noisy(np.ndarray[Any, Any]):
    """An array in whose arithmetic every rounding is larger than it is."""

    rng: np.random.Generator = np.random.default_rng(0)
    factor: float = 1.0  # of products of matrices

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **settings: Any) -> Any:
        plain = [x.view(np.ndarray) if isinstance(x, Noisy) else x for x in inputs]
        if method == "at":
            getattr(ufunc, method)(*plain, **settings)
            plain[0][plain[1]] = self.rounded(ufunc, method, plain, plain[0][plain[1]], settings)
            return None
        if out is not None:
            (target,) = (x.view(np.ndarray) if isinstance(x, Noisy) else x for x in out)
            getattr(ufunc, method)(*plain, out=target, **settings)
            target[...] = self.rounded(ufunc, method, plain, target, settings)
            return out[0]
        result = getattr(ufunc, method)(*plain, **settings)
        if isinstance(result, tuple):
            return tuple(np.asarray(r).view(Noisy) for r in result)
        return self.rounded(ufunc, method, plain, np.asarray(result), settings).view(Noisy)

    @classmethod
    def rounded(cls, ufunc: Any, method: str, plain: list[Any], result: Any, settings: dict[str, Any]) -> Any:
        """What a function gave, with the noise of its rounding."""
        if result.dtype.kind != "f" or ufunc in EXACT:
            return result
        unit = float(np.finfo(result.dtype).eps) / 2
        if ufunc is np.matmul:  # λ·√n·u·Σ|x|·|y| with λ = 4: Higham and Mary (2019), theorem 2.4
            size = np.matmul(*map(np.abs, plain))
            units = max(4 * math.sqrt(plain[0].shape[-1]), cls.factor, UNITS)
        elif ufunc is np.add and method == "reduce":
            size = np.add.reduce(np.abs(plain[0]), **settings)
            units = max(4 * math.sqrt(plain[0].size / max(1, result.size)), UNITS)
        else:
            size, units = np.abs(result), UNITS
        noise = cls.rng.uniform(-1, 1, result.shape).astype(result.dtype)
        tiny = np.finfo(result.dtype).smallest_subnormal * UNITS
        with np.errstate(all="ignore"):  # of the thread that this is in: large products are shared out
            result = result + noise * np.maximum(size * result.dtype.type(units * unit), tiny * (result != 0))
        return np.asarray(result, dtype=noise.dtype)


def _noisily(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, giving arrays in whose arithmetic there is noise: of zeros that something is added to, too."""

    def call(*arguments: Any, **settings: Any) -> Any:
        result = function(*arguments, **settings)
        return np.asarray(result).view(Noisy) if isinstance(result, np.ndarray | np.generic) else result

    return call


def _noisy_sum(x: Any, **settings: Any) -> Any:
    """NumPy's namespace adds float32 up in float64, where noise has no weight; then it rounds once."""
    result = np.asarray(namespace.numpy.sum(x, **settings)).view(np.ndarray)
    return np.asarray(Noisy.rounded(np.add, "", [], result, {})).view(Noisy)


class _Library:
    """NumPy, every function of it `_noisily`."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        return _noisily(found) if callable(found) and not isinstance(found, type) else found


_adapters = {name: _noisily(getattr(namespace.numpy, name)) for name in
             ("matmul", "precise_matmul", "erf", "pad", "getitem", "scatter_add")}  # fmt: skip
NOISE = namespace.Namespace(_Library(), sum=_noisy_sum, **_adapters)
"""NumPy as ``xp``, with noise."""


def noisy_run(plan: Plan, inputs: Sequence[Any], seed: int) -> list[Any]:
    """The outputs of a plan, as a run with larger roundings gives them."""
    Noisy.rng = np.random.default_rng(seed)
    values: dict[int, Any] = {n.serial: np.asarray(v).view(Noisy) for n, v in zip(plan.inputs, inputs, strict=True)}
    values |= {n.serial: np.asarray(n.held).view(Noisy) for n in plan.constants}
    with np.errstate(all="ignore"):
        for node in plan.nodes:
            assert node.operation is not None
            Noisy.factor = WINOGRAD if _may_go_winograds_way(node) else 1.0
            given = [values[s.serial] for s in node.inputs]
            values[node.serial] = node.operation.forward(NOISE, *given, **node.settings)
    return [np.asarray(values[n.serial]) for n in plan.outputs]


def _may_go_winograds_way(node: Node) -> bool:
    """Whether it is a convolution, or a gradient of one, with 3×3 weights that move by single pixels."""
    assert node.operation is not None
    if not node.operation.name.startswith("conv2d"):
        return False
    weight = node if node.operation.name == "conv2d_weight_gradient" else node.inputs[1]
    steps = (node.settings.get(name, 1) for name in ("stride", "dilation"))
    return weight.spec.shape[:2] == (3, 3) and all(step in (1, (1, 1)) for step in steps)


class Compared(NamedTuple):
    """Elements that were compared: all of floating point, and those for which the tolerance says little."""

    elements: int
    loose: int


MANY_RUNS = 64


def compare(plan: Plan, inputs: Sequence[Any], got: Sequence[Any], wanted: Sequence[Any], runs: int = 8) -> Compared:
    """Raise AssertionError where ``got`` lies farther from ``wanted`` than rounding carries: see `within`.

    A decision, such as which of a window's pixels is the largest, falls otherwise in few runs, and then much is
    different; so where some runs do not allow a result, many are asked.
    """
    noisy = [noisy_run(plan, inputs, seed) for seed in range(runs)]
    try:
        return within(got, wanted, noisy)
    except AssertionError:
        return within(got, wanted, noisy + [noisy_run(plan, inputs, seed) for seed in range(runs, MANY_RUNS)])


def within(got: Sequence[Any], wanted: Sequence[Any], noisy: Sequence[Sequence[Any]]) -> Compared:
    """Raise AssertionError where ``got`` lies farther from ``wanted`` than some noisy runs do.

    For each element: four units in the last place, and the largest that noise carried it, or a quarter of what noise
    carries the elements of its array in the mean, where that is more.
    """
    wanted = [np.asarray(w) for w in wanted]
    elements, loose = 0, 0
    for place, (a, b) in enumerate(zip(got, wanted, strict=True)):
        a = np.asarray(a)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), f"output {place}: {a.dtype} {a.shape}, not {b.dtype} {b.shape}"
        samples = np.stack([run[place] for run in noisy])
        if b.dtype.kind != "f":
            steady = (samples == b).all(axis=0)
            wrong = steady & (a != b)
            assert not wrong.any(), (
                f"output {place}: {wrong.sum()} of {a.size} differ: {a[wrong][:3]}, not {b[wrong][:3]}"
            )
            continue
        with np.errstate(all="ignore"):
            finite = np.isfinite(b) & np.isfinite(samples).all(axis=0)
            same = ((samples == b) | (np.isnan(samples) & np.isnan(b))).all(axis=0) & ~np.isfinite(b)
            wrong = same & ~((a == b) | (np.isnan(a) & np.isnan(b)))
            assert not wrong.any(), f"output {place}: {wrong.sum()} of {a.size}: {a[wrong][:3]}, not {b[wrong][:3]}"
            off = np.where(finite, np.abs(samples.astype(np.float64) - b), 0)
            typical = np.sqrt((off**2).mean()) if off.size else 0.0
            information = np.finfo(b.dtype)
            allowed = 4 * information.eps * np.abs(b, dtype=np.float64) + np.maximum(off.max(axis=0), typical / 4)
            allowed += UNITS * float(information.smallest_subnormal)
            error = np.abs(a.astype(np.float64) - b)
            wrong = finite & ~(error <= allowed)
        if wrong.any():
            worst = np.unravel_index(np.argmax(np.where(wrong, error / allowed, 0)), a.shape)
            raise AssertionError(
                f"output {place}, {b.dtype} {b.shape}: {wrong.sum()} of {a.size} are wrong, the worst at "
                f"{tuple(map(int, worst))}: {a[worst]}, not {b[worst]} ± {allowed[worst]:.3g}"
            )
        elements += a.size
        loose += int(
            (finite & (allowed > 0.01 * np.abs(b) + 1e-4 * np.abs(np.where(finite, b, 0)).max(initial=0))).sum()
        ) + int((~finite & ~same).sum())
    return Compared(elements, loose)


def listing(plan: Plan) -> str:
    """A plan as text, to see what a program of a seed does."""
    lines = [f"%{n.serial} = input {n.spec}" for n in plan.inputs]
    lines += [f"%{n.serial} = constant {n.spec}" for n in plan.constants]
    for n in plan.nodes:
        assert n.operation is not None
        sources = ", ".join(f"%{s.serial}" for s in n.inputs)
        lines.append(f"%{n.serial} = {n.operation.name}({sources}) {n.settings} -> {n.spec}")
    return "\n".join([*lines, "outputs " + ", ".join(f"%{n.serial}" for n in plan.outputs)])

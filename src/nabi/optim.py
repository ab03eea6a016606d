"""Optimisers: a formula per parameter; and schedules: from the step to the learning rate.

An optimiser allocates its moments when it is made. It keeps them, the learning rate, the weight decay and the number of
steps taken as tensors, so that a compiled step need not be compiled again when they change, and a saved run goes on
where it was.

Examples
--------
>>> import nabi
>>> x = nabi.tensor(4.0, requires_grad=True)
>>> optimizer = SGD([x], learning_rate=0.25)
>>> for _ in range(3):
...     optimizer.minimize(x * x)
>>> x
tensor(0.5, requires_grad=True)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nabi import ops
from nabi._tensor import Tensor, tensor
from nabi.autodiff import gradients
from nabi.errors import SettingError, ShapeError
from nabi.graph.interpreter import no_grad

Moments = dict[str, Tensor]


class Optimizer:
    """The base of every optimiser: a subclass names its moments and writes down `formula`.

    Parameters
    ----------
    parameters : mapping of str to Tensor, or sequence of Tensor
        What is trained: `nabi.nn.parameters` of a model.
    learning_rate : float
        May be assigned at any time: ``optimizer.learning_rate.assign(schedule(step))``.
    weight_decay : float
        How strongly parameters are pulled to 0. May be assigned as well, except of an optimiser that was made with 0.
    moments : sequence of str
        What is kept of each parameter from step to step.

    Attributes
    ----------
    parameters : dict of str to Tensor
    moments : dict of str to dict of str to Tensor
        For each moment, one tensor a parameter, in its shape and dtype; zeros at first.
    learning_rate : Tensor, float64, shape ()
    weight_decay : Tensor, float64, shape (), or None
        None where it was made with 0.
    step : Tensor, int64, shape ()
        How many updates have been made.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor] | Sequence[Tensor],
        learning_rate: float = 0.01,
        weight_decay: float = 0.0,
        moments: Sequence[str] = (),
    ) -> None:
        named = parameters if isinstance(parameters, Mapping) else {str(i): p for i, p in enumerate(parameters)}
        name = type(self).__name__
        if not named:
            raise SettingError(f"{name}: there are no parameters to train")
        for path, parameter in named.items():
            if not parameter.requires_grad or parameter.operation is not None:
                raise SettingError(f"{name}: parameter {path!r} is not a leaf that requires a gradient")
        _check(name, learning_rate=(learning_rate, 0, math.inf), weight_decay=(weight_decay, 0, math.inf))
        self.parameters = dict(named)
        self.moments = {moment: {path: _zeros_like(p) for path, p in named.items()} for moment in moments}
        self.weight_decay = tensor(weight_decay, dtype=np.float64) if weight_decay else None
        self.learning_rate = tensor(learning_rate, dtype=np.float64)
        self.step = tensor(0)

    def formula(
        self, p: Tensor, g: Tensor, moments: Moments, learning_rate: Tensor, weight_decay: Tensor | None
    ) -> tuple[Tensor, Moments]:
        """From a parameter, its gradient and its moments to the new parameter and moments.

        ``learning_rate`` and ``weight_decay`` are of the parameter's dtype; there may be no weight decay.
        ``self.step`` is 1 in the first update.
        """
        raise NotImplementedError

    def update(self, gradients: Sequence[Tensor]) -> None:
        """Change every parameter by its gradient.

        Parameters
        ----------
        gradients : sequence of Tensor
            One for each of ``parameters``, in order.

        Raises
        ------
        ShapeError
            Where there are more or fewer gradients than parameters, or one is not of its parameter's shape and dtype.
        """
        if len(gradients) != len(self.parameters):
            raise ShapeError(f"{type(self).__name__}: {len(gradients)} gradients for {len(self.parameters)} parameters")
        for (path, parameter), gradient in zip(self.parameters.items(), gradients, strict=True):
            if gradient.shape != parameter.shape or gradient.dtype != parameter.dtype:
                raise ShapeError(
                    f"{type(self).__name__}: parameter {path!r} is {parameter.dtype} {parameter.shape}, "
                    f"its gradient {gradient.dtype} {gradient.shape}"
                )
        with no_grad():
            self.step.assign(self.step + 1)
            for (path, parameter), gradient in zip(self.parameters.items(), gradients, strict=True):
                before = {moment: by_path[path] for moment, by_path in self.moments.items()}
                rate = ops.astype(self.learning_rate, dtype=parameter.dtype)
                decay = None if self.weight_decay is None else ops.astype(self.weight_decay, dtype=parameter.dtype)
                new, after = self.formula(parameter, gradient, before, rate, decay)
                parameter.assign(new)
                for moment, value in after.items():
                    before[moment].assign(value)

    def minimize(self, loss: Tensor, clip_norm: float | None = None) -> None:
        """One step down: `update` by the gradients of ``loss``, shape (); see `clip` for ``clip_norm``."""
        found = gradients(loss, list(self.parameters.values()))
        self.update(found if clip_norm is None else clip(found, clip_norm))

    def __repr__(self) -> str:
        plain = {name: value for name, value in vars(self).items() if isinstance(value, bool | int | float)}
        plain |= {} if self.weight_decay is None else {"weight_decay": float(self.weight_decay)}
        settings = ", ".join(f"{name}={value}" for name, value in plain.items())
        return f"{type(self).__name__}({len(self.parameters)} parameters, {settings})"


def clip(gradients: Sequence[Tensor], norm: float) -> list[Tensor]:
    """Gradients that are together no longer than ``norm``: g·min(1, norm / ‖g‖), in their own direction.

    Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013), algorithm 1.

    Examples
    --------
    >>> import nabi
    >>> clip([nabi.tensor([3.0]), nabi.tensor([4.0])], 1.0)  # together 5 long
    [tensor([0.6]), tensor([0.8])]
    """
    if not norm > 0:
        raise SettingError(f"clip: norm={norm} must be above 0")
    squares = [ops.sum(ops.square(ops.astype(g, dtype="float64"))) for g in gradients]
    total = ops.sqrt(sum(squares[1:], squares[0]))
    shorter = norm / ops.maximum(total, norm)
    return [g * ops.astype(shorter, dtype=g.dtype) for g in gradients]


class MovingAverage:
    """An exponential moving average of parameters, which lies nearer to a minimum than the last step does.

    a ← a + (1 - d)·(p - a) after step t, with d = min(decay, (1 + t) / (10 + t)), so that the first steps are soon
    forgotten. Sources: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992).

    Parameters
    ----------
    parameters : mapping of str to Tensor
        Trained in place by an optimiser; the averages start as they are.
    decay : float
        Between 0 and 1; with 0.999 a step counts for some thousand steps.

    Examples
    --------
    >>> import nabi
    >>> weight = nabi.tensor([1.0], requires_grad=True)
    >>> average = MovingAverage({"weight": weight}, decay=0.5)
    >>> weight.assign([2.0])
    >>> average.update()
    >>> average.swap()
    >>> weight.numpy().round(3)
    array([1.818], dtype=float32)
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        _check("MovingAverage", decay=(decay, 0, 1))
        self.parameters = dict(parameters)
        self.decay = decay
        self.step = tensor(np.array(0, np.int64))
        self.averages = {path: tensor(parameter.numpy()) for path, parameter in self.parameters.items()}

    def update(self) -> None:
        """Take account of the parameters as they are now."""
        with no_grad():
            self.step.assign(self.step + 1)
            t = ops.astype(self.step, dtype="float64")
            rest = 1 - ops.minimum(self.decay, (1 + t) / (10 + t))
            for path, parameter in self.parameters.items():
                average = self.averages[path]
                average.assign(average + ops.astype(rest, dtype=average.dtype) * (parameter - average))

    def swap(self) -> None:
        """Put the averages where the parameters are, and the parameters where the averages were."""
        for path, parameter in self.parameters.items():
            now, before = parameter.numpy(), self.averages[path].numpy()
            parameter.assign(before)
            self.averages[path].assign(now)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

    v ← momentum·v + g, p ← p - rate·v, with g = ∂L/∂p + decay·p. Nesterov's form looks one step ahead:
    p ← p - rate·(g + momentum·v). Sources: Robbins and Monro, "A stochastic approximation method" (1951); Polyak
    (1964); Sutskever and others, "On the importance of initialization and momentum in deep learning" (2013).
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor] | Sequence[Tensor],
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        _check("SGD", momentum=(momentum, 0, 1))
        if nesterov and not momentum:
            raise SettingError("SGD: nesterov needs a momentum above 0")
        super().__init__(parameters, learning_rate, weight_decay, ["velocity"] if momentum else [])
        self.momentum = momentum
        self.nesterov = nesterov

    def formula(
        self, p: Tensor, g: Tensor, moments: Moments, learning_rate: Tensor, weight_decay: Tensor | None
    ) -> tuple[Tensor, Moments]:
        if weight_decay is not None:
            g = g + weight_decay * p
        if not self.momentum:
            return p - learning_rate * g, {}
        velocity = self.momentum * moments["velocity"] + g
        way = g + self.momentum * velocity if self.nesterov else velocity
        return p - learning_rate * way, {"velocity": velocity}


class RMSProp(Optimizer):
    """Gradient descent in units of each gradient's own recent size.

    s ← decay·s + (1 - decay)·g², p ← p - rate·g / (√s + ε). With momentum, v ← momentum·v + g / (√s + ε) and
    p ← p - rate·v. Source: Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5 (2012).
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor] | Sequence[Tensor],
        learning_rate: float = 0.01,
        decay: float = 0.99,
        momentum: float = 0.0,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        _check("RMSProp", decay=(decay, 0, 1), momentum=(momentum, 0, 1), epsilon=(epsilon, 0, math.inf))
        super().__init__(parameters, learning_rate, weight_decay, ["square", "velocity"] if momentum else ["square"])
        self.decay = decay
        self.momentum = momentum
        self.epsilon = epsilon

    def formula(
        self, p: Tensor, g: Tensor, moments: Moments, learning_rate: Tensor, weight_decay: Tensor | None
    ) -> tuple[Tensor, Moments]:
        if weight_decay is not None:
            g = g + weight_decay * p
        square = self.decay * moments["square"] + (1 - self.decay) * (g * g)
        way = g / (ops.sqrt(square) + self.epsilon)
        if not self.momentum:
            return p - learning_rate * way, {"square": square}
        velocity = self.momentum * moments["velocity"] + way
        return p - learning_rate * velocity, {"square": square, "velocity": velocity}


class Adam(Optimizer):
    """Momentum in units of the gradient's own recent size, both corrected for having started at zero.

    m ← β₁·m + (1 - β₁)·g, v ← β₂·v + (1 - β₂)·g²; m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ); p ← p - rate·m̂ / (√v̂ + ε).
    Weight decay is added to the gradient. Source: Kingma and Ba, "Adam" (2015), algorithm 1.
    """

    decoupled = False

    def __init__(
        self,
        parameters: Mapping[str, Tensor] | Sequence[Tensor],
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        _check(type(self).__name__, beta1=(beta1, 0, 1), beta2=(beta2, 0, 1), epsilon=(epsilon, 0, math.inf))
        super().__init__(parameters, learning_rate, weight_decay, ["first", "second"])
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon

    def formula(
        self, p: Tensor, g: Tensor, moments: Moments, learning_rate: Tensor, weight_decay: Tensor | None
    ) -> tuple[Tensor, Moments]:
        if weight_decay is not None and self.decoupled:
            p = p - (learning_rate * weight_decay) * p
        elif weight_decay is not None:
            g = g + weight_decay * p
        first = self.beta1 * moments["first"] + (1 - self.beta1) * g
        second = self.beta2 * moments["second"] + (1 - self.beta2) * (g * g)
        # 1 - βᵗ is a small difference of near numbers: taken in float64, whatever the parameter's dtype
        t = ops.astype(self.step, dtype="float64")
        correction1 = ops.astype(1 - self.beta1**t, dtype=p.dtype)
        correction2 = ops.astype(ops.sqrt(1 - self.beta2**t), dtype=p.dtype)
        way = first / (ops.sqrt(second) / correction2 + self.epsilon)
        return p - (learning_rate / correction1) * way, {"first": first, "second": second}


class AdamW(Adam):
    """Adam with weight decay beside the gradient, not in it: p ← p - rate·decay·p first.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization" (2019), algorithm 2.
    """

    decoupled = True

    def __init__(
        self,
        parameters: Mapping[str, Tensor] | Sequence[Tensor],
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, learning_rate, beta1, beta2, epsilon, weight_decay)


class Muon(SGD):
    """Filters move the same way in all directions that their gradient has; everything else as under `SGD`.

    For filters, v ← filter_momentum·v + g, and p ← √n·p / ‖p‖ - rate·filter_rate·orthogonal(g + filter_momentum·v)
    with n outputs, whose length therefore stays; they need no weight decay. Of a network with batch normalisation, the
    length of filters means nothing. Everything else has Nesterov's momentum. Sources: Jordan and others, "Muon: an
    optimizer for hidden layers in neural networks" (2024); the rates between the two from the same author's networks
    for CIFAR-10.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor] | Sequence[Tensor],
        learning_rate: float = 0.2,
        momentum: float = 0.9,
        filter_rate: float = 0.25,
        filter_momentum: float = 0.6,
        weight_decay: float = 0.0,
    ) -> None:
        _check("Muon", filter_rate=(filter_rate, 0, math.inf), filter_momentum=(filter_momentum, 0, 1))
        super().__init__(parameters, learning_rate, momentum, True, weight_decay)
        self.filter_rate = filter_rate
        self.filter_momentum = filter_momentum

    def formula(
        self, p: Tensor, g: Tensor, moments: Moments, learning_rate: Tensor, weight_decay: Tensor | None
    ) -> tuple[Tensor, Moments]:
        if p.ndim != 4:
            return super().formula(p, g, moments, learning_rate, weight_decay)
        velocity = self.filter_momentum * moments["velocity"] + g
        way = ops.reshape(g + self.filter_momentum * velocity, (-1, p.shape[3]))
        kept = p * (math.sqrt(p.shape[3]) / _length(p))
        step = ops.reshape(orthogonal(way), p.shape)
        return kept - learning_rate * self.filter_rate * step, {"velocity": velocity}


def orthogonal(x: Tensor) -> Tensor:
    """UVᵀ of a matrix x = USVᵀ, roughly: all that was not next to nothing is between 0.7 and 1.2 times as long.

    Five rounds of a polynomial that sends every singular value between 0 and 1 towards 1: x ← x(a + b·xᵀx + c·(xᵀx)²).
    All of them are polynomials of one xᵀx, so that only this small matrix is gone round with: precisely, since what
    rounding adds to a singular value of next to nothing grows twelvefold with each round. Source: Jordan and others,
    "Muon" (2024), after Björck and Bowie (1971).

    Examples
    --------
    >>> import nabi
    >>> x = nabi.tensor(np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32))
    >>> values = np.linalg.svd(orthogonal(x).numpy(), compute_uv=False)
    >>> bool((values > 0.6).all() and (values < 1.3).all())
    True
    """
    if x.shape[0] < x.shape[1]:
        turned: Tensor = ops.permute_dims(orthogonal(ops.permute_dims(x, (1, 0))), (1, 0))
        return turned
    x = x / (_length(x) + 1e-7)
    square = ops.permute_dims(x, (1, 0)) @ x
    one = np.eye(x.shape[1], dtype=x.dtype)
    factor: Any = None
    for left in range(ROUNDS - 1, -1, -1):
        by = LINEAR * one + CUBIC * square + QUINTIC * ops.precise_matmul(square, square)
        factor = by if factor is None else ops.precise_matmul(factor, by)
        if left:
            square = ops.precise_matmul(ops.precise_matmul(square, by), by)
    y: Tensor = x @ factor
    return y


ROUNDS = 5
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
"""The coefficients of Muon's polynomial: as steep at 0 as it can be, if 1 need not stay 1."""


def _length(x: Tensor) -> Tensor:
    return ops.sqrt(ops.sum(x * x))  # type: ignore[no-any-return]


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "rmsprop": RMSProp,
    "adam": Adam,
    "adamw": AdamW,
    "muon": Muon,
}
"""The optimisers by the names that people choose them by."""


def _zeros_like(parameter: Tensor) -> Tensor:
    return tensor(np.zeros(parameter.shape, parameter.dtype))


def _check(owner: str, **settings: tuple[float, float, float]) -> None:
    """Raise SettingError unless each setting lies in [low, high)."""
    for name, (value, low, high) in settings.items():
        if not low <= value < high:
            raise SettingError(f"{owner}: {name}={value} must lie in [{low}, {high})")


# --- schedules ---

Schedule = Callable[[int], float]
"""From the number of updates made so far, 0 at first, to the learning rate of the next."""


def constant(peak: float) -> Schedule:
    """The same learning rate at every step.

    Examples
    --------
    >>> constant(0.1)(1000)
    0.1
    """
    return lambda step: peak


def step_decay(peak: float, every: int, factor: float = 0.1) -> Schedule:
    """Multiplied by ``factor`` after each ``every`` steps. Source: He and others (2016), section 3.4.

    Examples
    --------
    >>> halve = step_decay(0.8, every=10, factor=0.5)
    >>> halve(9), halve(10), halve(25)
    (0.8, 0.4, 0.2)
    """
    _positive("step_decay", every=every)
    return lambda step: peak * factor ** (step // every)


def cosine(peak: float, steps: int, floor: float = 0.0) -> Schedule:
    """From ``peak`` down to ``floor`` along half a cosine, in ``steps`` steps; then it stays there.

    Source: Loshchilov and Hutter, "SGDR" (2017), equation 5.

    Examples
    --------
    >>> down = cosine(1.0, 10)
    >>> down(0), round(down(5), 9), down(10), down(11)
    (1.0, 0.5, 0.0, 0.0)
    """
    _positive("cosine", steps=steps)
    return lambda step: _between(peak, floor, step / steps)


def one_cycle(
    peak: float, steps: int, *, rise: float = 0.3, start_factor: float = 25.0, end_factor: float = 1e4
) -> Schedule:
    """Up to ``peak`` and down to almost nothing, both along half a cosine.

    From peak / start_factor to the peak in the first ``rise`` of the steps, then down to
    peak / (start_factor·end_factor). Source: Smith and Topin, "Super-convergence" (2018), in PyTorch's form.

    Examples
    --------
    >>> cycle = one_cycle(1.0, 101, rise=0.5)
    >>> round(cycle(0), 4), round(cycle(50), 3), cycle(100) < 1e-5
    (0.04, 1.0, True)
    """
    _positive("one_cycle", steps=steps)
    if not 0 < rise < 1:
        raise SettingError(f"one_cycle: rise={rise} must lie between 0 and 1")
    start = peak / start_factor
    top = max(rise * steps - 1, 0.0)  # the step, not always whole, at which the peak is reached
    fall = steps - 1 - top or 1.0

    def schedule(step: int) -> float:
        if step < top:
            return _between(start, peak, step / top)
        return _between(peak, start / end_factor, (step - top) / fall)

    return schedule


def warm_up(schedule: Schedule, steps: int) -> Schedule:
    """Rise evenly over the first ``steps`` steps to where ``schedule`` starts, and follow it from there.

    Source: Goyal and others, "Accurate, large minibatch SGD" (2017), section 2.2.

    Examples
    --------
    >>> gently = warm_up(constant(1.0), 4)
    >>> [gently(step) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    _positive("warm_up", steps=steps)
    return lambda step: schedule(0) * (step + 1) / steps if step < steps else schedule(step - steps)


def _between(start: float, end: float, part: float) -> float:
    """From start to end along half a cosine: part 0 is the start, 1 and beyond the end."""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(part, 0.0), 1.0))) / 2


def _positive(owner: str, **settings: Any) -> None:
    for name, value in settings.items():
        if value < 1:
            raise SettingError(f"{owner}: {name} must be at least 1, not {value}")

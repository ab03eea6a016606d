"""Layers made of layers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from nabi import ops
from nabi._tensor import Tensor
from nabi.errors import SettingError
from nabi.graph.interpreter import scope
from nabi.nn.layer import Layer


class Sequential(Layer):
    """y = f_n(… f₂(f₁(x)))

    Parameters
    ----------
    *layers : Layer
        One after another, named by what they are, with a number where there are several: "flatten", "linear1", "relu",
        "linear2". Or one mapping from names to layers.

    Each layer is a field of its name: ``model.linear1.weight``. They can also be had by place (``model[0]``,
    ``model[1:]``), iterated over, and counted.

    Examples
    --------
    >>> import nabi
    >>> from nabi import nn
    >>> keys = [nabi.ops.fold_in(nabi.random.key(0), i) for i in range(2)]
    >>> model = nn.Sequential(nn.Linear(4, 8, key=keys[0]), nn.ReLU(), nn.Linear(8, 2, key=keys[1]))
    >>> list(nn.parameters(model))
    ['linear1.weight', 'linear1.bias', 'linear2.weight', 'linear2.bias']
    """

    label = "sequential"

    def __init__(self, *layers: Layer | Mapping[str, Layer]) -> None:
        named = layers[0] if len(layers) == 1 and isinstance(layers[0], Mapping) else _named(layers)
        for name, layer in named.items():
            if not name.isidentifier() or hasattr(type(self), name):
                raise SettingError(f"Sequential: a layer cannot be called {name!r}")
            if not isinstance(layer, Layer):
                raise SettingError(f"Sequential: {name!r} is {type(layer).__name__}, not a layer")
            vars(self)[name] = layer

    def forward(self, x: Any, training: bool) -> Tensor:
        y: Tensor = x
        for name, layer in self.items():
            with scope(name):
                y = layer.forward(y, training)
        return y

    def items(self) -> list[tuple[str, Layer]]:
        """Names and layers, in order."""
        return list(vars(self).items())

    def __iter__(self) -> Iterator[Layer]:
        return iter(vars(self).values())

    def __len__(self) -> int:
        return len(vars(self))

    @overload
    def __getitem__(self, place: int) -> Layer: ...

    @overload
    def __getitem__(self, place: slice) -> "Sequential": ...

    def __getitem__(self, place: int | slice) -> "Layer | Sequential":
        if isinstance(place, slice):
            return Sequential(dict(self.items()[place]))
        return self.items()[place][1]

    def __getattr__(self, name: str) -> Any:  # asked only for what is not there
        raise AttributeError(f"no layer is named {name!r}; there are {', '.join(vars(self)) or 'none'}")

    def __repr__(self) -> str:
        rows = [f"  {name}: {layer!r}".replace("\n", "\n  ") for name, layer in self.items()]
        return "\n".join([f"{type(self).__name__}(", *rows, ")"])


class Mirrored(Sequential):
    """y = (f(x) + f(mirror(x))) / 2, where f is what `Sequential` computes; in training y = f(x)

    For pictures that are of the same class in a mirror: two looks err less than one, for twice the work. Source:
    Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks" (2012),
    section 4.1.
    """

    label = "mirrored"

    def forward(self, x: Any, training: bool) -> Tensor:
        if training:
            return super().forward(x, training)
        looks = self._looks(x)
        looks += [ops.flip(look, axis=2) for look in looks]
        # The looks at a picture lie together: so it is for any number of pictures.
        each = ops.reshape(ops.stack(*looks, axis=1), (x.shape[0] * len(looks), *x.shape[1:]))
        answers = super().forward(each, training)
        y: Tensor = ops.mean(ops.reshape(answers, (x.shape[0], len(looks), *answers.shape[1:])), axis=1)
        return y

    def _looks(self, x: Any) -> list[Any]:
        return [x]


class MultiCrop(Mirrored):
    """The mean of `Mirrored` over a picture moved by a pixel up and to the left, and down and to the right

    In training y = f(x), too. Edges are repeated where pixels would be missing. For pictures that are of the same class
    a pixel further: four looks err less than two. Sources: Krizhevsky, Sutskever and Hinton (2012), section 4.1;
    Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (2024), section 3.5, who looks at the middle, too.
    """

    label = "multi_crop"

    def _looks(self, x: Any) -> list[Any]:
        up = ops.concat(x[:, 1:], x[:, -1:], axis=1)
        down = ops.concat(x[:, :1], x[:, :-1], axis=1)
        left = ops.concat(up[:, :, 1:], up[:, :, -1:], axis=2)
        right = ops.concat(down[:, :, :1], down[:, :, :-1], axis=2)
        return [left, right]


def _named(layers: Sequence[Any]) -> dict[str, Layer]:
    """Layers by what they are, with a number where there are several of a kind."""
    kinds = [getattr(layer, "label", type(layer).__name__) for layer in layers]
    total, so_far = Counter(kinds), Counter[str]()
    named = {}
    for kind, layer in zip(kinds, layers, strict=True):
        so_far[kind] += 1
        named[f"{kind}{so_far[kind]}" if total[kind] > 1 else kind] = layer
    return named


class Residual(Layer):
    """y = body(x) + shortcut(x); without a shortcut, y = body(x) + x

    Source: He and others, "Deep residual learning for image recognition" (2016), equations 1 and 2.
    """

    label = "residual"

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Any, training: bool) -> Tensor:
        with scope("body"):
            y = self.body.forward(x, training)
        if self.shortcut is None:
            return y + x  # type: ignore[no-any-return]
        with scope("shortcut"):
            return y + self.shortcut.forward(x, training)  # type: ignore[no-any-return]

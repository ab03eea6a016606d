"""Activations: one function on every element."""

from typing import Any, ClassVar

from nabi import ops
from nabi._tensor import Tensor
from nabi.errors import SettingError
from nabi.nn.layer import Layer


class Activation(Layer):
    """y = f(x), element by element, where f is the operation that ``label`` names and plain fields are its settings"""

    label: ClassVar[str]

    def forward(self, x: Any, training: bool) -> Tensor:
        y: Tensor = getattr(ops, self.label)(x, **vars(self))
        return y


class ReLU(Activation):
    """y = max(0, x). Source: Nair and Hinton, "Rectified linear units improve restricted Boltzmann machines" (2010)"""

    label = "relu"


class ReLU6(Activation):
    """y = min(max(0, x), 6). Source: Krizhevsky, "Convolutional deep belief networks on CIFAR-10" (2010)"""

    label = "relu6"


class LeakyReLU(Activation):
    """y = x where x > 0, slope·x elsewhere. Source: Maas, Hannun and Ng, "Rectifier nonlinearities" (2013)"""

    label = "leaky_relu"

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope


class ELU(Activation):
    """y = x where x > 0, α·(eˣ - 1) elsewhere. Source: Clevert, Unterthiner and Hochreiter (2016)"""

    label = "elu"

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha


class GELU(Activation):
    """y = x·Φ(x), Φ the normal distribution function. Source: Hendrycks and Gimpel (2016)"""

    label = "gelu"


class SiLU(Activation):
    """y = x·σ(x). Source: Elfwing, Uchibe and Doya (2018)"""

    label = "silu"


class HardSwish(Activation):
    """y = x·min(max(0, x + 3), 6) / 6. Source: Howard and others, "Searching for MobileNetV3" (2019)"""

    label = "hard_swish"


class Sigmoid(Activation):
    """y = σ(x) = 1 / (1 + e⁻ˣ). Source: the lecture, chapter 5.3"""

    label = "sigmoid"


class Tanh(Activation):
    """y = tanh x"""

    label = "tanh"


class Softplus(Activation):
    """y = ln(1 + eˣ)"""

    label = "softplus"


ACTIVATIONS: dict[str, type[Activation]] = {
    kind.label: kind for kind in (ReLU, ReLU6, LeakyReLU, ELU, GELU, SiLU, HardSwish, Sigmoid, Tanh, Softplus)
}


def activation(name: str) -> Activation:
    """The activation of a name, with its usual settings.

    Examples
    --------
    >>> activation("leaky_relu")
    LeakyReLU(negative_slope=0.01)
    """
    if name not in ACTIVATIONS:
        raise SettingError(f"activation {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()

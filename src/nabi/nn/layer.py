"""What a layer is: an object with tensors in its fields, that can be called on a batch."""

from typing import Any, ClassVar

from nabi._tensor import Tensor
from nabi.errors import SettingError
from nabi.graph.interpreter import scope


class Layer:
    """The base of every layer.

    A subclass keeps its tensors in plain fields and computes in ``forward``. Nothing is registered: `nabi.graph.nest`
    finds the tensors by walking the fields in the order in which they were set. Calling a layer marks what it
    computes as its own, so that a drawing can collapse it into one box.

    Examples
    --------
    >>> import nabi
    >>> class Double(Layer):
    ...     label = "double"
    ...
    ...     def forward(self, x, training):
    ...         return 2 * x
    >>> Double()(nabi.tensor([1.0, 2.0]))
    tensor([2., 4.])
    """

    label: ClassVar[str] = "layer"  # what `Sequential` and drawings call it

    def __call__(self, x: Any, *, training: bool = False) -> Tensor:
        """Apply the layer to a batch.

        Parameters
        ----------
        x : Tensor or array
            The batch, examples along the first axis.
        training : bool
            Whether this is a step of training: it matters to batch normalisation and dropout.
        """
        with scope(self.label):
            return self.forward(x, training)

    def forward(self, x: Any, training: bool) -> Tensor:
        """What the layer computes."""
        raise NotImplementedError

    def __repr__(self) -> str:
        parts = [
            f"{name} {value.shape}" if isinstance(value, Tensor) else f"{name}={value!r}"
            for name, value in vars(self).items()
        ]
        return f"{type(self).__name__}({', '.join(parts)})"


def size(owner: str, **sizes: int) -> None:
    """Raise SettingError unless every size is an integer of at least 1."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SettingError(f"{owner}: {name} must be an integer of at least 1, not {value!r}")

"""``nabi look MODEL IMAGE...`` for nets: what each layer makes of a picture, and where the net looked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import figures, nn
from nabi.cli.characters import printable
from nabi.cli.look_table import aligned
from nabi.data.files import Progress
from nabi.look.activations import Activation, activations
from nabi.look.grad_cam import GradCAM, grad_cam
from nabi.look.occlusion import Occlusion, occlusion
from nabi.look.saliency import saliency


class Inside(NamedTuple):
    """What goes on in a classifier when it sees a picture; what it has no use for is None or empty.

    Attributes
    ----------
    name, prediction : str
    layers : list of Activation
    gradient : ndarray of float32, (H, W), or None
        The largest absolute gradient over the channels.
    occlusion : Occlusion
    grad_cam : GradCAM or None
    figure : Path
    """

    name: str
    prediction: str
    layers: list[Activation]
    gradient: NDArray[np.float32] | None
    occlusion: Occlusion
    grad_cam: GradCAM | None
    figure: Path

    def lines(self) -> list[str]:
        """As text."""
        score = self.occlusion.score
        lines = [f"{printable(self.name)}: {printable(self.prediction)}, score {score:z.2f}"]
        if self.layers:
            rows = [("layer", "output", "mean", "zeros")]
            rows += [(a.name, _shape(a.value), f"{a.mean:z.3f}", f"{a.zeros:.0%}") for a in self.layers]
            lines += [f"  {line}" for line in aligned(rows, right=2)]
        if self.gradient is not None:
            top, left = _peak(self.gradient)
            lines.append(f"  gradient of the score: strongest at x={left}, y={top}")
        high, wide = self.occlusion.patch
        top, left = self.occlusion.corners[self.occlusion.falls.argmax()]
        fall = self.occlusion.falls.max()
        hidden = f"at x={left}, y={top} the score falls most, to {score - fall:z.2f}"
        if fall <= 0:
            hidden = f"the score {'falls' if (self.occlusion.falls < 0).any() else 'changes'} nowhere"
        lines.append(f"  hidden by a grey patch of {wide}x{high}: {hidden}")
        if self.grad_cam is not None:
            where = "nothing there speaks for the class"
            if self.grad_cam.map.any():
                top, left = _peak(self.grad_cam.map)
                where = f"strongest at column {left}, row {top} of {_shape(self.grad_cam.map)}"
            lines.append(f"  Grad-CAM of {self.grad_cam.layer}: {where}")
        elif self.layers:
            lines.append("  no Grad-CAM: there is no convolution in this net")
        return [*lines, f"  figure: {printable(str(self.figure))}"]

    def as_data(self) -> dict[str, Any]:
        """As JSON has it."""
        hidden = self.occlusion
        return {
            "layers": [
                {"name": a.name, "layer": a.layer, "shape": list(a.value.shape), "mean": a.mean, "zeros": a.zeros}
                for a in self.layers
            ],
            "gradient": None if self.gradient is None else _rounded(self.gradient),
            "occlusion": {"patch": {"height": hidden.patch[0], "width": hidden.patch[1]}, "map": _rounded(hidden.map)},
            "grad_cam": None
            if self.grad_cam is None
            else {"layer": self.grad_cam.layer, "map": _rounded(self.grad_cam.map)},
            "figure": str(self.figure),
        }


def look_inside(
    classifier: Any,
    picture: NDArray[np.uint8],
    name: str,
    place: int,
    prediction: str,
    bars: Sequence[tuple[str, float]],
    figure: Path,
    progress: Progress,
) -> Inside:
    """Explain why a picture is taken for a class, by its place and name, and draw the explanation.

    A classifier without a net inside is explained by its scores alone, with parts of the picture hidden.
    """
    model = getattr(classifier, "model_", None)
    hidden = occlusion(classifier.scores, picture, place, progress=progress)
    layers: list[Activation] = []
    gradient = cam = None
    if isinstance(model, nn.Layer):
        layers = activations(model, picture)
        gradient = np.abs(saliency(model, picture, place)).max(axis=2)
        cam = grad_cam(model, picture, place)
    heats: dict[str, NDArray[Any]] = {}
    if gradient is not None:
        heats["gradient"] = gradient
    heats["score falls if hidden"] = hidden.map
    if cam is not None:
        heats[f"Grad-CAM, {cam.layer}"] = cam.over(*picture.shape[:2])
    # What only lays the numbers out otherwise, or does nothing when predicting, would be drawn twice.
    drawn = [(_caption(a), a.value) for a in layers if a.layer not in ("Flatten", "Dropout")]
    figures.explanation(
        picture, f"{name}\n{prediction}", heats, [n for n, _ in bars], [s for _, s in bars], drawn, figure
    )
    return Inside(name, prediction, layers, gradient, hidden, cam, figure)


def _caption(activation: Activation) -> str:
    return f"{activation.name}: {_shape(activation.value)}\nmean {activation.mean:z.2f}, {activation.zeros:.0%} zeros"


def _shape(value: NDArray[Any]) -> str:
    return " × ".join(map(str, value.shape))


def _peak(heat: NDArray[Any]) -> tuple[int, ...]:
    """Row and column of the largest number."""
    return tuple(int(place) for place in np.unravel_index(heat.argmax(), heat.shape))


def _rounded(values: NDArray[Any]) -> Any:
    return [[float(f"{number:.6g}") for number in row] for row in values]

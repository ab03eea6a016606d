"""How a classifier is trained: the constructor arguments that classifiers share, and what they may be.

They are a dataclass, so that each is written down once and a constructor does nothing but assign, which is what
scikit-learn asks of an estimator.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from nabi import optim
from nabi.data import augment
from nabi.engines import ENGINES, PRECISIONS
from nabi.errors import SettingError
from nabi.losses import LOSSES
from nabi.optim import OPTIMIZERS

SCHEDULES: dict[str, Callable[[float, int], optim.Schedule]] = {
    "constant": lambda rate, steps: optim.constant(rate),
    "cosine": optim.cosine,
    "one-cycle": optim.one_cycle,
}
"""How the learning rate goes over a run of so many steps, by the names that people choose it by."""

MAX_LAYERS = 1000
MAX_SIZE = 2**27  # of one layer


@dataclass(kw_only=True, eq=False, repr=False)
class TrainingSettings:
    """What all classifiers that learn epoch by epoch are told about it.

    Parameters
    ----------
    max_iter : int or "auto"
        How many epochs, at most.
    augment : str, sequence of str, or None
        How training pictures are varied, such as "flip,crop:4": see `nabi.data.augment`. Pictures only.
    class_weight : dict, "balanced" or None
        How much the inputs of each class count: by label, or so that all classes together count alike.
    early_stopping : bool
        End when validation has not become better for ``n_iter_no_change`` epochs. Where ``fit`` is given no validation
        inputs, ``validation_fraction`` of the training inputs are held out.
    validation_fraction : float
    n_iter_no_change : int
    warm_start : bool
        ``fit`` goes on with the weights of the last ``fit``, on inputs of the same kind and classes.
    callbacks : sequence of callable, optional
        Each is called with every event of `nabi.training`; one that returns True ends the training.
    verbose : bool or int
        Print a line an epoch.
    random_state : int, RandomState or None
        An integer gives the same bits every time.
    engine : str
        See `nabi.compile`.
    """

    max_iter: int | str = "auto"
    augment: str | Sequence[str] | None = None
    class_weight: Mapping[Any, float] | str | None = None
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    warm_start: bool = False
    callbacks: Sequence[Callable[[Any], Any]] | None = None
    verbose: int = 0
    random_state: Any = None
    engine: str = "auto"

    def check_settings(self) -> None:
        """Raise SettingError where a constructor argument has a value that it cannot have."""
        check_choice("engine", self.engine, {"auto": None} | ENGINES)
        for name in ("early_stopping", "warm_start"):
            check_flag(name, getattr(self, name))
        augment.parse(self.augment)
        check_whole("n_iter_no_change", self.n_iter_no_change)
        if self.max_iter != "auto":
            check_whole("max_iter", self.max_iter)
        check_number("validation_fraction", self.validation_fraction, above=0, below=1)
        check_class_weight(self.class_weight)
        listening = self.callbacks if isinstance(self.callbacks, Sequence) else [None]
        if self.callbacks is not None and not all(map(callable, listening)):
            raise SettingError(f"callbacks is {self.callbacks!r}: it must be a sequence of functions, or None")
        check_random_state_argument(self.random_state)


@dataclass(kw_only=True, eq=False, repr=False)
class NetworkSettings(TrainingSettings):
    """What all classifiers that are trained by gradient descent are told about it, beside `TrainingSettings`.

    Parameters
    ----------
    loss : str
        "softmax", "hinge" or "perceptron".
    alpha : float
        Weight decay.
    max_iter : int or "auto"
        How many epochs; by default what makes 1,000 steps, but between 30 and 50 (of a convolutional network 3,000, 16
        and 30), and no fewer than 500 steps.
    batch_size : int
        At most so many inputs a step.
    learning_rate : float, "auto" or "find"
        The highest of the run; "auto" is what suits the optimiser, "find" what `nabi.training.find_learning_rate`
        finds before the run.
    optimizer : str
        "sgd" (with Nesterov's momentum 0.9), "rmsprop", "adam", "adamw" or "muon": see `nabi.optim`. "auto" is "muon"
        for the "convnet" and "sgd" for all others.
    schedule : str
        "cosine", "one-cycle" or "constant".
    label_smoothing : float or "auto"
        How much of the target is spread over all classes; with ``loss="softmax"`` only. "auto" is 0.1 for the "convnet"
        and 0 for all others.
    clip_norm : float, optional
        The gradient of a step is shortened to this length where it is longer.
    average : float, optional
        The decay of an exponential moving average of the weights, which is then what is validated and kept.
    precision : str
        "float32"; "bf16", where steps of training multiply matrices in bfloat16, on a processor that can; or "auto": as
        the processor can. See `nabi.compile`. Weights, validation and predictions are in float32 always.
    """

    loss: str = "softmax"
    alpha: float = 1e-4
    batch_size: int = 128
    learning_rate: float | str = "auto"
    optimizer: str = "auto"
    schedule: str = "cosine"
    label_smoothing: float | str = "auto"
    clip_norm: float | None = None
    average: float | None = None
    precision: str = "float32"

    def check_settings(self) -> None:
        """Raise SettingError where a constructor argument has a value that it cannot have."""
        super().check_settings()
        check_choice("loss", self.loss, LOSSES)
        check_choice("optimizer", self.optimizer, {"auto": None} | OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_number("alpha", self.alpha, least=0)
        check_whole("batch_size", self.batch_size)
        if self.learning_rate not in ("auto", "find"):
            check_number("learning_rate", self.learning_rate, above=0)
        if self.label_smoothing != "auto":
            check_number("label_smoothing", self.label_smoothing, least=0, below=1)
            if self.label_smoothing and self.loss != "softmax":
                raise SettingError(
                    f"label_smoothing is {self.label_smoothing}: only loss='softmax' has targets to smooth"
                )
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, above=0)
        if self.average is not None:
            check_number("average", self.average, least=0, below=1)
        check_choice("precision", self.precision, PRECISIONS)


def explained(classifier: type[Any]) -> str:
    """The docstring of a classifier, with the parameters that it shares in the place of "OTHERS".

    Where people ask what an argument means, in a notebook or an editor, they see that classifier's docstring alone.
    """
    text = classifier.__doc__ or ""
    own = set(re.findall(r"^    (\w+) :", text, re.MULTILINE))
    shared: dict[str, str] = {}
    for settings in (NetworkSettings, TrainingSettings):
        if issubclass(classifier, settings):
            for name, lines in re.findall(r"^    (\w+) :(.*?)(?=^    \S|\Z)", settings.__doc__ or "", re.M | re.S):
                shared.setdefault(name, f"    {name} :{lines.rstrip()}\n")
    return text.replace("    OTHERS\n", "".join(lines for name, lines in shared.items() if name not in own))


def check_choice(name: str, value: Any, known: Mapping[str, Any]) -> None:
    """Raise SettingError unless ``value`` is a key of ``known``."""
    if not isinstance(value, str) or value not in known:
        raise SettingError(f"{name} {value!r} is not one of {', '.join(known)}")


def check_flag(name: str, value: Any) -> None:
    """Raise SettingError unless ``value`` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise SettingError(f"{name} is {value!r}: it must be True or False")


def check_sizes(name: str, value: Any, count: int | None = None) -> None:
    """Raise SettingError unless ``value`` is a sequence of positive whole numbers, ``count`` of them if given."""
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str):
        hint = f", such as ({value},)" if isinstance(value, int) and not isinstance(value, bool) else ""
        raise SettingError(f"{name} is {value!r}: it must be a sequence of whole numbers{hint}")
    if count is not None and len(value) != count:
        raise SettingError(f"{name} is {value!r}: there must be {count} of them")
    if len(value) > MAX_LAYERS:
        raise SettingError(f"{name} holds {len(value):,} sizes: there may be {MAX_LAYERS:,}")
    for size in value:
        check_whole(name, size, MAX_SIZE)


def check_whole(name: str, value: Any, most: int = 2**31 - 1, *, least: int = 1) -> None:
    """Raise SettingError unless ``value`` is a whole number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise SettingError(f"{name} is {value!r}: it must be a whole number from {least} to {most:,}")


def check_number(
    name: str, value: Any, *, least: float | None = None, above: float | None = None, below: float | None = None
) -> None:
    """Raise SettingError unless ``value`` is a finite number within these bounds."""
    bound = f"above {above}" if above is not None else f"{least} or more"
    bound += "" if below is None else f", and less than {below}"
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.integer | np.floating)
        or not -sys.float_info.max <= value <= sys.float_info.max  # nor is NaN
        or (value <= above if above is not None else value < (least or 0))
        or (below is not None and value >= below)
    ):
        raise SettingError(f"{name} is {value!r}: it must be a number {bound}")


def check_class_weight(value: Any) -> None:
    """Raise SettingError unless ``value`` is "balanced", None, or numbers by label."""
    if value is None or (isinstance(value, str) and value == "balanced"):
        return
    if not isinstance(value, Mapping):
        raise SettingError(f"class_weight is {value!r}: it must be 'balanced', None or a dict of numbers by label")
    for label, weight in value.items():
        check_number(f"class_weight of {label!r}", weight, least=0)


def check_random_state_argument(value: Any) -> None:
    """Raise SettingError unless ``value`` can seed a run."""
    if isinstance(value, int | np.integer):
        if isinstance(value, bool) or not 0 <= value < 2**63:
            raise SettingError(f"random_state is {value}: a seed lies between 0 and 2**63 - 1")
        return
    try:
        check_random_state(value)
    except ValueError:
        raise SettingError(f"random_state is {value!r}: it must be a whole number, a RandomState or None") from None


def seed_of(random_state: Any) -> int:
    """The seed of a run: a number stays as it is, so that it gives the same run every time."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))

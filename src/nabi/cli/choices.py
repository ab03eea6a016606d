"""What a person may choose about a classifier on the command line, and the classifier that this makes."""

import inspect
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from nabi import engines
from nabi.classifiers import Classifier, registered
from nabi.classifiers.photo import PhotoClassifier
from nabi.cli import backbone
from nabi.errors import SettingError

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "knn": ("knn", {}),
    "perceptron": ("perceptron", {}),
    "linear": ("linear", {}),
    "mlp": ("mlp", {}),
    "three-layer": ("three-layer", {}),
    "convnet": ("convnet", {}),
    "alexnet": ("convnet", {"architecture": "alexnet"}),
}
"""Which classifier each model's name stands for, and with which arguments; in the order of the lecture."""

SIZES = {"alexnet": 224}
"""Models that take pictures of one size only."""

# Each option's name in a classifier's constructor, and what run.json may say of it.
OPTIONS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "loss": ("loss", str),
    "epochs": ("max_iter", int),
    "batch_size": ("batch_size", int),
    "learning_rate": ("learning_rate", (int, float, str)),
    "optimizer": ("optimizer", str),
    "hidden": ("hidden_layer_sizes", str),
    "dropout": ("dropout", (int, float)),
    "weight_decay": ("alpha", (int, float)),
    "augment": ("augment", str),
    "label_smoothing": ("label_smoothing", (int, float)),
    "clip_norm": ("clip_norm", (int, float)),
    "average": ("average", (int, float)),
    "precision": ("precision", str),
    "patience": ("n_iter_no_change", int),
    "balanced": ("class_weight", bool),
    "averaged": ("averaged", bool),
    "neighbors": ("n_neighbors", int),
    "metric": ("metric", str),
    "seed": ("random_state", int),
}

FINETUNED = 3
"""Epochs of ``--finetune``."""
BESIDE_FINETUNING = ("epochs", "hidden", "dropout", "weight_decay", "augment", "balanced", "seed")
"""Options that say something of it, or of the head that it begins with; everything else it has of its own."""

KINDS: dict[str, type | tuple[type, ...]] = {
    "data": str,
    "model": str,
    "backbone": str,
    "finetune": bool,
    "size": int,
    **{name: kind for name, (_, kind) in OPTIONS.items()},
}


def as_typed(option: str, value: Any = None) -> str:
    """An option as it is typed; where its value is False, as it is typed for that."""
    if option == "data":
        return "DATA"
    return ("--no-" if value is False else "--") + option.replace("_", "-")


def chosen(asked: Mapping[str, Any]) -> Classifier:
    """The classifier that was asked for, unfitted.

    Raises
    ------
    SettingError
        An option that this model lacks, or with a value that it cannot have.
    """
    if asked["model"] not in MODELS:
        raise SettingError(f"--model {asked['model']!r} is not one of {', '.join(MODELS)}")
    name, arguments = MODELS[asked["model"]]
    kind = registered(name)
    known = inspect.signature(kind).parameters
    arguments = dict(arguments)
    for option, value in asked.items():
        if option not in OPTIONS:
            continue
        argument = OPTIONS[option][0]
        if argument in known:
            arguments |= _arguments(option, argument, value)
        elif option != "seed" and value is not False:  # every run has one, whether anything is drawn at random or not
            raise SettingError(f"{as_typed(option)}: the model {asked['model']} has nothing of the kind")
    if not 0 <= asked["seed"] < 2**63:
        raise SettingError(f"--seed {asked['seed']}: it must lie between 0 and 2**63 - 1")
    classifier: Classifier
    if asked.get("backbone", backbone.NONE) == backbone.NONE:
        if asked.get("finetune"):
            raise SettingError("--finetune: there is no backbone to train further")
        classifier = kind(**arguments)
    else:
        classifier = _of_features(name, arguments, asked)
    try:
        classifier.check_settings()
        if "precision" in asked:  # before pictures are decoded, which may take minutes
            engines.check(getattr(classifier, "engine", "auto"), asked["precision"])
    except SettingError as error:
        argument, _, what = str(error).partition(" ")
        option = next((option for option, (name, _) in OPTIONS.items() if name == argument), argument)
        raise SettingError(f"{as_typed(option)} {what}") from None
    return classifier


def _of_features(head: str, arguments: dict[str, Any], asked: Mapping[str, Any]) -> Classifier:
    """A head, and the backbone that was asked for."""
    name, where = backbone.parts(asked["backbone"])
    own: dict[str, Any] = {}
    if asked.get("finetune"):
        for option in OPTIONS:
            if option in asked and option not in BESIDE_FINETUNING:
                raise SettingError(f"{as_typed(option)}: --finetune has a way of its own")
        own["finetune"] = arguments.pop("max_iter", FINETUNED)
        if own["finetune"] < 1:
            raise SettingError(f"--epochs {own['finetune']}: --finetune takes 1 or more")
    elif "augment" in arguments:
        raise SettingError("--augment: with a backbone each photo is looked at once, as it is; but for --finetune")
    arguments.pop("random_state", None)
    own |= {name: arguments.pop(name) for name in ("alpha", "class_weight", "augment") if name in arguments}
    return PhotoClassifier(
        head, backbone=name, weights=where, settings=arguments or None, random_state=asked["seed"], **own
    )


def flip_colours(classifier: Classifier, images: NDArray[Any]) -> None:
    """Have colour pictures (N, H, W, 3) flipped at random in training: what a mirror shows is of the same class.

    A convolutional network sees them shifted a little, too.
    """
    if hasattr(classifier, "augment") and classifier.augment is None and images.shape[3] == 3:
        shifts = hasattr(classifier, "convolutions") and min(images.shape[1:3]) >= 16
        classifier.augment = f"flip,crop:{max(2, min(images.shape[1:3]) // 12)}" if shifts else "flip"


def _arguments(option: str, argument: str, value: Any) -> dict[str, Any]:
    """The constructor arguments that an option stands for."""
    match option:
        case "hidden":
            return {argument: _sizes(value)}
        case "balanced":
            return {argument: "balanced" if value else None}
        case "patience":
            return {argument: value, "early_stopping": True}
        case "learning_rate" if value != "find":
            try:
                return {argument: float(value)}
            except ValueError:
                raise SettingError(f"--learning-rate {value!r}: it must be a number, or find") from None
        case _:
            return {argument: value}


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(units) for units in text.split(","))
    except ValueError:
        raise SettingError(f"--hidden {text!r}: it must be whole numbers, such as 512,256") from None

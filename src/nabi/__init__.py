"""nabi (나비): image classifiers that you can see through.

Every number on the way from pixels to a prediction can be opened and looked at, because everything is a graph that one
can look at and run fast. This public face is lazy: what it names is imported when it is asked for.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_names = {
    "Tensor": "nabi._tensor",
    "tensor": "nabi._tensor",
    "from_dlpack": "nabi._tensor",
    "grad": "nabi.autodiff",
    "value_and_grad": "nabi.autodiff",
    "gradients": "nabi.autodiff",
    "no_grad": "nabi.graph.interpreter",
    "scope": "nabi.graph.interpreter",
    "check_gradients": "nabi.gradient_check",
    "compile": "nabi._compile",
    "get_num_threads": "nabi.threads",
    "set_num_threads": "nabi.threads",
    "load": "nabi.classifiers",
    "KNNClassifier": "nabi.classifiers",
    "Perceptron": "nabi.classifiers",
    "LinearClassifier": "nabi.classifiers",
    "MLPClassifier": "nabi.classifiers",
    "ThreeLayerClassifier": "nabi.classifiers",
    "ConvNetClassifier": "nabi.classifiers",
    "PhotoClassifier": "nabi.classifiers",
    "FeatureExtractor": "nabi.classifiers",
}
_modules = frozenset(
    "cache check classifiers data errors figures look losses metrics models nn ops optim random report training"
    " weights".split()
)

__all__ = sorted([*_names, *_modules])


def __getattr__(name: str) -> Any:
    if name in _names:
        found = getattr(importlib.import_module(_names[name]), name)
    elif name in _modules:
        if name == "ops":
            importlib.import_module("nabi._tensor")  # what computes the values of operations
        found = importlib.import_module(f"nabi.{name}")
    else:
        raise AttributeError(f"module 'nabi' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return list(__all__)

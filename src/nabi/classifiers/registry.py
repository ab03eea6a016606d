"""Which classifiers there are: one declaration each, by the name that the command line and model files use."""

from collections.abc import Callable
from typing import Any, TypeVar

from nabi.classifiers.settings import explained
from nabi.errors import SettingError

Class = TypeVar("Class", bound=type[Any])

registry: dict[str, type[Any]] = {}


def register(name: str) -> Callable[[Class], Class]:
    """Declare a classifier: ``@register("linear")`` above its class.

    Its constructor arguments must be what `nabi.classifiers.base.plain` can say; its trained state, arrays. In its
    docstring, "OTHERS" stands for the parameters that it shares.
    """

    def declare(classifier: Class) -> Class:
        classifier.__doc__ = explained(classifier)
        registry[name] = classifier
        classifier.registered_name = name
        return classifier

    return declare


def registered(name: str) -> type[Any]:
    """The class of a name.

    Raises
    ------
    SettingError
        There is none of that name.
    """
    if name not in registry:
        raise SettingError(f"model {name!r} is not one of {', '.join(registry)}")
    return registry[name]

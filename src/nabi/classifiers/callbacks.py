"""Who is told of a training: our own callbacks, which take events, and scikit-learn's, which take tasks.

scikit-learn's callbacks (``set_callbacks``, from version 1.9, experimental) see a fit as a task with one subtask an
epoch. Where scikit-learn has none, nothing here knows of them.
"""

from collections.abc import Callable, Iterable
from typing import Any

from nabi.training import EpochEnded, Event, Finished, Started

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # before scikit-learn 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands for scikit-learn's."""

    def with_callbacks(method: Any) -> Any:
        """Stands for scikit-learn's."""
        return method


__all__ = ["CallbackSupportMixin", "Callbacks", "with_callbacks"]


class Callbacks:
    """All that listen to one training; ``stopped`` says whether one of them has asked for its end.

    Parameters
    ----------
    estimator : Classifier
    listeners : iterable of callable
        Each is called with every event; one that returns something true ends the training.
    X, y : array_like
        What it is fitted on: scikit-learn's callbacks may ask for them.
    """

    def __init__(self, estimator: Any, listeners: Iterable[Callable[[Any], Any]], X: Any, y: Any) -> None:
        self._estimator = estimator
        self._given = {"X": X, "y": y}
        self._listeners = list(listeners)
        self._fit: Any = None
        self.stopped = False

    def __call__(self, event: Event) -> None:
        """Tell all of them."""
        for listener in self._listeners:
            self.stopped |= bool(listener(event))
        if getattr(self._estimator, "_skl_callbacks", None) or hasattr(self._estimator, "_parent_callback_ctx"):
            self._tell_scikit_learn(event)

    def _tell_scikit_learn(self, event: Event) -> None:
        tell = {"estimator": self._estimator, **self._given}
        match event:
            case Started():
                self._fit = self._estimator._init_callback_context(max_subtasks=event.epochs)
                self._fit.call_on_fit_task_begin(**tell)
            case EpochEnded():
                # Both at once: what an epoch was is known when it has ended.
                epoch = self._fit.subcontext(task_name="epoch").call_on_fit_task_begin(**tell)
                fitted = lambda: {name: value for name, value in vars(self._estimator).items() if name.endswith("_")}
                self.stopped |= bool(epoch.call_on_fit_task_end(**tell, reconstruction_attributes=fitted))
            case Finished():
                self._fit.call_on_fit_task_end(**tell)
            case _:
                pass

"""Models that answer: compiled when they are made or come out of a pickle, which holds no compiled function."""

from typing import Any

from sklearn.base import BaseEstimator

from nabi._compile import compile


class Answering(BaseEstimator):
    """An estimator that answers with ``model_``.

    Attributes
    ----------
    model_ : nabi.nn.Sequential
    """

    model_: Any
    engine: str
    _apply: Any

    def _prepare(self) -> None:
        """Make what answers: recorded once for each size of batch."""
        model = self.model_
        self._apply = compile(lambda images: model(images, training=False), state=model, engine=self.engine)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_apply"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "model_"):
            self._prepare()

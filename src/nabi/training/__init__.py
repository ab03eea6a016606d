"""Training: a generator of events. It prints nothing, and knows neither files of pictures nor terminals.

Everything that a run does follows from its seed, and all that it is at a step is in its checkpoint: a run that was
stopped and goes on ends with the same bits as one that never stopped.
"""

from nabi.training.batches import Examples, answer_bounds, batch_bounds, evaluation_batch, filled
from nabi.training.events import EpochEnded, Event, Finished, Looked, Started, Stepped, Tried
from nabi.training.learner import GradientDescent, Learner
from nabi.training.loop import evaluate, run
from nabi.training.range_test import RangeTest, find_learning_rate

__all__ = [
    "EpochEnded",
    "Event",
    "Examples",
    "Finished",
    "GradientDescent",
    "Learner",
    "Looked",
    "RangeTest",
    "Started",
    "Stepped",
    "Tried",
    "answer_bounds",
    "batch_bounds",
    "evaluate",
    "evaluation_batch",
    "filled",
    "find_learning_rate",
    "run",
]

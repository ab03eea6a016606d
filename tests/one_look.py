"""That `Classifier.answers` says what the other answers say: for every kind of classifier."""

from typing import Any

import numpy as np

from nabi.classifiers import Classifier
from nabi.classifiers.base import Answers


def answers_of(classifier: Classifier, inputs: Any) -> Answers:
    """All that is said of inputs, after a comparison with what is said by parts."""
    answers = classifier.answers(inputs)
    assert np.array_equal(classifier.classes_[answers.places], classifier.predict(inputs))
    assert np.array_equal(answers.scores, classifier.scores(inputs))
    assert (answers.probabilities is None) == (not hasattr(classifier, "predict_proba"))
    if answers.probabilities is not None:
        assert np.array_equal(answers.probabilities, classifier.predict_proba(inputs))
    return answers

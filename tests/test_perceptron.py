"""The perceptron against Rosenblatt's rule written out, and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Perceptron as Peer

from nabi import data, random
from nabi.classifiers import LinearClassifier, Perceptron
from nabi.errors import SettingError
from nabi.graph import namespace


def by_the_rule(rows, labels, epochs: int, seed: int, counts=None):
    """Weights and thresholds after, and the mean of them after every input; one input and one number at a time."""
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    classes = sorted(set(labels.tolist()))
    weights, thresholds = np.zeros((len(classes), rows.shape[1])), np.zeros(len(classes))
    sums, threshold_sums, seen = np.zeros_like(weights), np.zeros_like(thresholds), 0
    for epoch in range(epochs):
        key = random.fold_in(namespace.numpy, random.key(seed), np.uint32(epoch))
        wrong = 0
        for place in random.permutation(namespace.numpy, key, len(rows)):
            x, right = standard[place], classes.index(labels[place])
            answer = int(np.argmax(weights @ x - thresholds))
            if answer != right:
                wrong += 1
                step = 1.0 if counts is None else counts[place]
                weights[right] += step * x
                thresholds[right] -= step
                weights[answer] -= step * x
                thresholds[answer] += step
            sums += weights
            threshold_sums += thresholds
            seen += 1
        if not wrong:
            break
    return weights, thresholds, sums / seen, threshold_sums / seen, epoch + 1


def noisy(seed: int, classes: int, separate: float = 0.5, n: int = 60):
    r = np.random.default_rng(seed)
    labels = r.integers(0, classes, n)
    centres = separate * r.normal(size=(classes, 4))
    return r.normal(size=(n, 4)) + centres[labels], labels


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("averaged", [False, True])
def test_learns_by_rosenblatts_rule(classes: int, averaged: bool) -> None:
    rows, labels = noisy(1, classes)
    rows = rows.astype(np.float32).astype(float)
    unit = Perceptron(averaged=averaged, max_iter=7, random_state=3).fit(rows, labels)
    weights, thresholds, mean, mean_threshold, epochs = by_the_rule(rows, labels, 7, 3)
    assert unit.n_iter_ == epochs == 7
    np.testing.assert_allclose(unit.templates_, mean if averaged else weights, atol=2e-4)
    np.testing.assert_allclose(unit.thresholds_, mean_threshold if averaged else thresholds, atol=2e-4)


def test_what_counts_more_moves_more() -> None:
    rows, labels = noisy(1, 3)
    rows = rows.astype(np.float32).astype(float)
    counts = np.random.default_rng(0).uniform(0.2, 3, 60)
    unit = Perceptron(max_iter=4, random_state=3).fit(rows, labels, sample_weight=counts)
    weights, *_ = by_the_rule(rows, labels, 4, 3, counts * len(counts) / counts.sum())
    np.testing.assert_allclose(unit.templates_, weights, atol=5e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 4))
def test_what_can_be_separated_is_and_then_it_stops(seed: int, classes: int) -> None:
    """Rosenblatt's theorem: a separation without errors is found wherever there is one."""
    r = np.random.default_rng(seed)
    rows = r.normal(size=(40, 3)).astype(np.float32)
    labels = (rows @ r.normal(size=(3, classes))).argmax(axis=1)
    if len(set(labels.tolist())) < 2:
        return
    unit = Perceptron(max_iter=3000, random_state=seed).fit(rows, labels)
    if unit.n_iter_ < 3000:  # a margin may be too narrow for float32 and so many epochs
        assert unit.score(rows, labels) == 1
        assert unit.history_["train_accuracy"].index(1.0) + 1 == unit.n_iter_
    else:
        assert unit.score(rows, labels) > 0.9


def test_with_two_classes_it_is_one_unit_that_fires_above_its_threshold() -> None:
    rows, labels = noisy(2, 2, 3.0)
    unit = Perceptron(random_state=0).fit(rows, labels)
    weight = unit.templates_[1] - unit.templates_[0]
    threshold = unit.thresholds_[1] - unit.thresholds_[0]
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    assert np.array_equal(unit.predict(rows), (standard @ weight > threshold).astype(int))


def test_as_good_as_scikit_learns_on_digits() -> None:
    digits = data.load("digits")
    rows = digits.train.images.reshape(len(digits.train), -1) / 255
    others = digits.test.images.reshape(len(digits.test), -1) / 255
    ours = Perceptron(random_state=0).fit(rows, digits.train.labels).score(others, digits.test.labels)
    peer = Peer(random_state=0).fit(rows, digits.train.labels).score(others, digits.test.labels)
    assert ours > peer - 0.03


def test_templates_have_the_shape_of_pictures() -> None:
    digits = data.load("digits")
    for kind in (Perceptron(max_iter=1), LinearClassifier(max_iter=1)):
        fitted = kind.fit(digits.train.images, digits.train.labels)
        assert fitted.templates_.shape == (10, 8, 8, 1)
        assert np.array_equal(fitted.templates_, fitted.weight_pictures())
        pixels = digits.test.images[:5] / 255
        standard = (pixels - fitted.model_.standardize.mean.numpy()) / fitted.model_.standardize.std.numpy()
        scores = np.einsum("nhwc,khwc->nk", standard, fitted.templates_) + fitted.model_.linear.bias.numpy()
        np.testing.assert_allclose(fitted.scores(digits.test.images[:5]), scores, rtol=1e-3, atol=1e-2)


def test_has_no_use_for_mixed_pictures() -> None:
    with pytest.raises(SettingError, match="has no use for mixup"):
        Perceptron(augment="flip,mixup").fit(np.zeros((4, 8, 8, 1), np.uint8), [0, 1, 0, 1])

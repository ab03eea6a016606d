"""Metrics against scikit-learn, published values and their own definitions."""

import tracemalloc

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.stats import binomtest

from nabi import metrics
from nabi.errors import DataError, DTypeError, SettingError, ShapeError

K = 5
some_labels = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*(npst.arrays(np.int64, n, elements=st.integers(0, K - 1)) for _ in range(2)))
)


@given(some_labels)
def test_agrees_with_scikit_learn(pair):
    labels, predictions = pair
    classes = range(K)
    assert metrics.accuracy(labels, predictions) == sklearn.metrics.accuracy_score(labels, predictions)
    np.testing.assert_array_equal(
        metrics.confusion_matrix(labels, predictions, K),
        sklearn.metrics.confusion_matrix(labels, predictions, labels=classes),
    )
    theirs = sklearn.metrics.precision_recall_fscore_support(labels, predictions, labels=classes, zero_division=0)
    ours = metrics.per_class(labels, predictions, K)
    for name, values in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        np.testing.assert_allclose(ours[name], values, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
def test_every_integer_dtype(dtype):
    labels = np.array([0, 199, 199], dtype)
    matrix = metrics.confusion_matrix(labels, labels[::-1], 200)
    assert matrix.dtype == np.int64
    assert (matrix[0, 199], matrix[199, 199], matrix[199, 0], matrix.sum()) == (1, 1, 1, 3)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # Newcombe (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_as_published(correct, total, low, high):
    assert metrics.wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
@settings(deadline=None)
def test_wilson_interval_agrees_with_scipy(total, share, confidence):
    correct = round(share * total)
    low, high = metrics.wilson_interval(correct, total, confidence)
    theirs = binomtest(correct, total).proportion_ci(confidence, method="wilson")
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= low <= correct / total <= high <= 1


@pytest.mark.parametrize(
    ("correct", "total", "confidence"), [(1, 0, 0.95), (0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 0), (1, 2, 1)]
)
def test_wilson_interval_refuses(correct, total, confidence):
    with pytest.raises(SettingError):
        metrics.wilson_interval(correct, total, confidence)


def calibration_by_definition(probabilities, labels, bins):
    error = 0.0
    for m in range(1, bins + 1):
        inside = [
            (max(row), int(np.argmax(row)) == label)
            for row, label in zip(probabilities, labels, strict=True)
            if (m - 1) / bins < max(row) <= m / bins
        ]
        if inside:
            confidences, right = zip(*inside, strict=True)
            error += len(inside) / len(labels) * abs(np.mean(right) - np.mean(confidences))
    return error


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_error_is_its_definition(bins):
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.full(4, 0.3), 200)
    labels = generator.integers(0, 4, 200)
    expected = calibration_by_definition(probabilities, labels, bins)
    assert metrics.expected_calibration_error(probabilities, labels, bins) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_of_the_extremes():
    sure = np.eye(3)[[0, 1, 2, 0]]
    assert metrics.expected_calibration_error(sure, [0, 1, 2, 0]) == 0
    assert metrics.expected_calibration_error(sure, [1, 2, 0, 1]) == 1
    # Bins are closed above: 0.5 and 0.75 lie in the second and third of four, not together in the third.
    assert metrics.expected_calibration_error([[0.5, 0.5], [0.75, 0.25]], [0, 1], 4) == pytest.approx((0.5 + 0.75) / 2)


def test_calibration_error_takes_the_rounding_of_float32():
    over = np.array([[np.nextafter(np.float32(1), np.float32(2)), 0]], np.float32)
    assert metrics.expected_calibration_error(over, [0]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: metrics.accuracy([0, 1], [0]), ShapeError, r"labels \(2,\) and predictions \(1,\)"),
        (lambda: metrics.accuracy([[0]], [[0]]), ShapeError, r"\(1, 1\)"),
        (lambda: metrics.accuracy([], []), DataError, "no predictions"),
        (lambda: metrics.accuracy([0.0], [0.0]), DTypeError, "integers, not float64"),
        (lambda: metrics.accuracy(["cat"], ["cat"]), DTypeError, "integers, not <U3"),
        (lambda: metrics.confusion_matrix([0, 3], [0, 0], 3), DataError, "the label 3 is none of the 3 classes"),
        (lambda: metrics.confusion_matrix([0, 0], [0, -1], 3), DataError, "the prediction -1 is none"),
        (lambda: metrics.per_class([0, 3], [0, 0], 3), DataError, "per_class: the label 3 is none of the 3 classes"),
        (lambda: metrics.expected_calibration_error([0.5], [0]), ShapeError, r"\(1,\) and labels \(1,\)"),
        (lambda: metrics.expected_calibration_error([[0.5]], [0, 1]), ShapeError, r"labels \(2,\)"),
        (lambda: metrics.expected_calibration_error(np.zeros((0, 3)), []), DataError, "no predictions"),
        (lambda: metrics.expected_calibration_error([[2.0, -1.0]], [0]), DataError, "before softmax"),
        (lambda: metrics.expected_calibration_error([[np.nan, 1.0]], [0]), DataError, "not between 0 and 1"),
        (lambda: metrics.expected_calibration_error([[0.5, 0.5]], [0], 0), SettingError, "0 bins"),
    ],
)
def test_what_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_no_pictures_of_no_class():
    assert metrics.confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]
    assert metrics.per_class([], [], 2)["f1"].tolist() == [0, 0]


def test_memory_of_per_class_grows_with_the_classes_and_not_with_their_square():
    tracemalloc.start()
    try:
        found = metrics.per_class([0, 99_999, 5], [0, 99_999, 6], 100_000)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()
    assert found["support"].nonzero()[0].tolist() == [0, 5, 99_999]
    assert found["recall"].nonzero()[0].tolist() == [0, 99_999]

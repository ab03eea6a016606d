"""Losses: the lecture's numbers, what must hold for any scores, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nabi
from nabi import losses
from nabi.errors import DTypeError, SettingError, ShapeError

# The lecture, chapter 3.2: scores of (cat, car, frog) for three pictures, labelled cat, car and frog.
SCORES = np.array([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]])
LABELS = np.array([0, 1, 2])

every_loss = pytest.mark.parametrize("loss", losses.LOSSES.values(), ids=losses.LOSSES)


def drawn(seed: int, examples: int = 5, classes: int = 4) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(scale=3, size=(examples, classes)), rng.integers(0, classes, examples)


def test_hinge_loss_of_the_lecture() -> None:
    each = losses.multiclass_hinge(SCORES, LABELS, reduction="none").numpy()
    np.testing.assert_allclose(each, [2.9, 0, 12.9], atol=1e-12)
    assert each[1] == 0
    assert losses.multiclass_hinge(SCORES, LABELS).item() == pytest.approx(5.27, abs=0.005)
    assert losses.multiclass_hinge(SCORES, LABELS, reduction="sum").item() == pytest.approx(15.8)


def test_hinge_gradient_counts_the_classes_that_are_too_near() -> None:
    scores = nabi.tensor(SCORES, requires_grad=True)
    losses.multiclass_hinge(scores, LABELS, reduction="sum").backward()
    assert scores.grad is not None
    np.testing.assert_array_equal(scores.grad.numpy(), [[-1, 1, 0], [0, 0, 0], [1, 1, -2]])


def test_exactly_at_the_hinge_nothing_is_lost_and_nothing_flows() -> None:
    scores = nabi.tensor([[2.0, 1.0]], requires_grad=True)
    loss = losses.multiclass_hinge(scores, [0])
    assert loss.item() == 0
    assert not nabi.gradients(loss, [scores])[0].numpy().any()


def test_softmax_cross_entropy_by_hand() -> None:
    probabilities = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)
    expected = -np.log(probabilities[np.arange(3), LABELS])
    found = losses.softmax_cross_entropy(SCORES, LABELS, reduction="none").numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    smooth = losses.softmax_cross_entropy(SCORES, LABELS, label_smoothing=0.3, reduction="none").numpy()
    targets = 0.7 * np.eye(3)[LABELS] + 0.1
    np.testing.assert_allclose(smooth, -(targets * np.log(probabilities)).sum(axis=1), rtol=1e-12)


def test_softmax_cross_entropy_of_even_logits_is_the_logarithm_of_the_number_of_classes() -> None:
    for smoothing in (0.0, 0.2, 1.0):
        loss = losses.softmax_cross_entropy(np.zeros((3, 10)), [1, 2, 3], label_smoothing=smoothing)
        assert loss.item() == pytest.approx(np.log(10), rel=1e-14)


def test_softmax_cross_entropy_of_huge_logits_is_finite() -> None:
    scores = nabi.tensor(np.array([[1e4, 0.0], [-1e4, 0.0]]), requires_grad=True)
    loss = losses.softmax_cross_entropy(scores, [1, 1], reduction="none")
    np.testing.assert_array_equal(loss.numpy(), [1e4, 0])
    np.testing.assert_array_equal(nabi.gradients(loss.sum(), [scores])[0].numpy(), [[1, -1], [0, 0]])


def test_perceptron_loss_of_the_lectures_scores() -> None:
    found = losses.perceptron(SCORES, LABELS, reduction="none").numpy()
    np.testing.assert_allclose(found, [1.9, 0, 5.6], atol=1e-12)


def test_mean_squared_error() -> None:
    predictions, targets = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[1.0, 0.0], [0.0, 4.0]])
    assert losses.mean_squared_error(predictions, targets).item() == 14 / 4
    assert losses.mean_squared_error(predictions, targets, reduction="sum").item() == 14
    none = losses.mean_squared_error(predictions, targets, reduction="none")
    np.testing.assert_array_equal(none.numpy(), [[0, 4], [9, 1]])


@every_loss
@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-50, 50))
def test_what_holds_for_any_scores(loss: Callable[..., Any], seed: int, shift: float) -> None:
    scores, labels = drawn(seed)
    each = loss(scores, labels, reduction="none").numpy()
    assert each.shape == labels.shape
    assert (each >= 0).all()
    np.testing.assert_allclose(loss(scores + shift, labels, reduction="none").numpy(), each, atol=1e-9)
    np.testing.assert_allclose(loss(scores, labels, reduction="sum").item(), each.sum(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(loss(scores, labels).item(), each.mean(), rtol=1e-12, atol=1e-12)
    order = np.random.default_rng(seed).permutation(scores.shape[1])  # other names for the classes
    np.testing.assert_allclose(loss(scores[:, order], np.argsort(order)[labels], reduction="none").numpy(), each)


@every_loss
@given(seed=st.integers(0, 2**32 - 1), counts=st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_a_weight_counts_an_example_so_often(loss: Callable[..., Any], seed: int, counts: list[int]) -> None:
    scores, labels = drawn(seed)
    counts[0] += 1
    found = loss(scores, labels, weights=counts).item()
    np.testing.assert_allclose(found, loss(np.repeat(scores, counts, axis=0), np.repeat(labels, counts)).item())


@every_loss
def test_gradients_agree_with_differences(loss: Callable[..., Any]) -> None:
    scores, labels = drawn(1)
    nabi.check_gradients(lambda s: loss(s, labels, reduction="none", weights=[1.0, 2.0, 0.0, 0.5, 1.0]), scores)


def test_gradients_of_the_remaining_settings_agree_with_differences() -> None:
    scores, labels = drawn(2)
    nabi.check_gradients(lambda s: losses.softmax_cross_entropy(s, labels, label_smoothing=0.1), scores)
    nabi.check_gradients(lambda s: losses.multiclass_hinge(s, labels, margin=2.5), scores)
    nabi.check_gradients(losses.mean_squared_error, scores, scores + 1)


@every_loss
def test_compiled_gives_the_same_bits(loss: Callable[..., Any]) -> None:
    scores, labels = drawn(3)
    scores = scores.astype(np.float32)

    def both(s: Any, y: Any) -> Any:
        value = loss(s, y)
        return value, nabi.gradients(value, [s])[0]

    given = nabi.tensor(scores, requires_grad=True)
    for eager, compiled in zip(both(given, labels), nabi.compile(both)(given, labels), strict=True):
        assert eager.dtype == np.float32
        np.testing.assert_array_equal(eager.numpy(), compiled.numpy())


@every_loss
@pytest.mark.parametrize(
    ("scores", "labels", "error", "message"),
    [
        (np.zeros((3, 2)), [0, 1], ShapeError, r"\(3, 2\) and \(2,\)"),
        (np.zeros(3), [0, 1, 0], ShapeError, r"\(3,\)"),
        (np.zeros((3, 0)), [0, 0, 0], ShapeError, r"\(3, 0\)"),
        (np.zeros((3, 2)), [[0], [1], [0]], ShapeError, r"\(3, 1\)"),
        (np.zeros((3, 2), int), [0, 1, 0], DTypeError, "scores must be floating point, not int64"),
        (np.zeros((3, 2)), [0.0, 1.0, 0.0], DTypeError, "labels must be integers, not float32"),
        (np.zeros((3, 2)), [0, 2, 0], SettingError, "label 2 at place 1 is not one of 2 classes"),
        (np.zeros((3, 2)), [0, 1, -1], SettingError, "label -1 at place 2"),
    ],
)
def test_what_is_refused(
    loss: Callable[..., Any], scores: Any, labels: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        loss(scores, labels)


@every_loss
def test_settings_that_are_refused(loss: Callable[..., Any]) -> None:
    with pytest.raises(SettingError, match="reduction 'average' is not one of mean, sum, none"):
        loss(SCORES, LABELS, reduction="average")
    with pytest.raises(ShapeError, match=r"weights \(2,\)"):
        loss(SCORES, LABELS, weights=[1.0, 1.0])


def test_other_refusals() -> None:
    with pytest.raises(ShapeError, match=r"predictions \(3, 1\) and targets \(3,\)"):
        losses.mean_squared_error(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(SettingError, match="label_smoothing"):
        losses.softmax_cross_entropy(SCORES, LABELS, label_smoothing=1.5)

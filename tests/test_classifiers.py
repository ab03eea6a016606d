"""Every classifier against the contract of all of them; then what is special to one."""

import copy
import fractions
import inspect
import pickle
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

from nabi import container, machine, models, nn, threads
from nabi.classifiers import (
    Classifier,
    LinearClassifier,
    MLPClassifier,
    ThreeLayerClassifier,
    load,
    registered,
    registry,
)
from nabi.classifiers.statistics import statistics
from nabi.cli.choices import MODELS
from nabi.data import OnDemand, augment
from nabi.errors import DataError, DTypeError, ModelFileError, NonFiniteError, SettingError, ShapeError
from nabi.losses import LOSSES
from nabi.training import EpochEnded
from one_look import answers_of

SMALL = {
    "knn": {"n_neighbors": 3},
    "perceptron": {},
    "linear": {"learning_rate": 0.02},
    "mlp": {"hidden_layer_sizes": (16,), "learning_rate": 0.01},
    "three-layer": {"hidden_layer_sizes": (16, 8), "learning_rate": 0.03},
    "convnet": {"channels": (4, 8), "convolutions": 1, "whitening": False, "learning_rate": 0.02},
}
QUICK = {"max_iter": 8, "batch_size": 16, "random_state": 0}
NAMES = np.array(["cat", "나비", "ship"])
NETWORKS = ("linear", "mlp", "three-layer", "convnet")
every = pytest.mark.parametrize("name", SMALL)
every_trained = pytest.mark.parametrize("name", ["perceptron", *NETWORKS])
every_network = pytest.mark.parametrize("name", NETWORKS)


def made(name: str, **changes) -> Classifier:
    known = inspect.signature(registry[name]).parameters
    quick = {argument: value for argument, value in QUICK.items() if argument in known}
    changes = {argument: value for argument, value in changes.items() if argument != "max_iter" or name != "knn"}
    return registry[name](**(quick | SMALL[name] | changes))


def pictures(seed: int = 0, n: int = 120, channels: int = 3):
    """Noise with a bright patch in another corner for each class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)
    images = random.integers(0, 100, (n, 6, 6, channels))
    for image, label in zip(images, labels, strict=True):
        image[3 * (label % 2) :, 3 * (label // 2) :][:3, :3] += 120
    return images.astype(np.uint8), NAMES[labels]


def weights(classifier):
    return {path: array.tobytes() for path, array in classifier._arrays().items()}


# --- what all do ---


def test_the_registry_is_what_the_command_line_offers() -> None:
    assert set(registry) - {"photo"} == set(SMALL) == {name for name, _ in MODELS.values()}  # and tests/test_photo.py
    assert registered("mlp") is MLPClassifier
    with pytest.raises(SettingError, match=r"model .cnn. is not one of .*linear"):
        registered("cnn")


@every
def test_the_constructor_only_assigns(name: str) -> None:
    strange = {parameter: object() for parameter in inspect.signature(registry[name]).parameters}
    classifier = registry[name](**strange)
    assert vars(classifier) == strange
    assert clone(made(name)).get_params() == made(name).get_params()


@every_trained
def test_learns_pictures_with_labels_of_any_kind(name: str) -> None:
    images, labels = pictures()
    others, answers = pictures(1)
    classifier = made(name).fit(images, labels, validation=(others, answers))
    assert classifier.classes_.tolist() == sorted(NAMES)
    assert classifier.predict(others).tolist() == classifier.classes_[classifier.scores(others).argmax(axis=1)].tolist()
    assert classifier.score(others, answers) > 0.9
    epochs = classifier.n_iter_  # the perceptron ends when all are separated
    assert classifier.history_["epoch"] == list(range(1, epochs + 1))
    assert epochs == 8 or (name == "perceptron" and classifier.history_["train_accuracy"][-1] == 1)
    best = classifier.history_["validation_accuracy"][classifier.best_epoch_ - 1]
    assert best == max(classifier.history_["validation_accuracy"]) == classifier.score(others, answers)


@every_trained
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name: str) -> None:
    images, labels = pictures(n=60)
    runs = [weights(made(name, max_iter=2, random_state=seed).fit(images, labels)) for seed in (3, 3, 4)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@every
def test_saved_and_loaded_it_answers_the_same_bits(name: str, tmp_path) -> None:
    images, labels = pictures(n=60)
    classifier = made(name, max_iter=2).fit(images, labels)
    path = tmp_path / "model.safetensors"
    classifier.save(path, {"data": "noise"})
    other = load(path)
    assert type(other) is type(classifier)
    assert other.get_params() == classifier.get_params()
    assert other.classes_.tolist() == classifier.classes_.tolist()
    assert np.array_equal(other.scores(images), classifier.scores(images))
    assert container.read(path)[1]["about"] == {"data": "noise"}
    other.save(tmp_path / "again")
    classifier.save(tmp_path / "and again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "and again").read_bytes()


@every
def test_one_look_says_all(name: str) -> None:
    images, labels = pictures(n=60)
    classifier = made(name, max_iter=2).fit(images, labels)
    assert answers_of(classifier, images).none is None


@every
def test_pickles(name: str) -> None:
    images, labels = pictures(n=40)
    classifier = made(name, max_iter=1).fit(images, labels)
    assert np.array_equal(pickle.loads(pickle.dumps(classifier)).scores(images), classifier.scores(images))
    assert pickle.loads(pickle.dumps(made(name))).get_params() == made(name).get_params()


@every
def test_refuses_what_it_was_not_fitted_on(name: str) -> None:
    images, labels = pictures(n=40)
    on_bytes = made(name, max_iter=1).fit(images, labels)
    on_floats = made(name, max_iter=1).fit(images / 255, labels)
    with pytest.raises(DTypeError, match=r"of floating-point numbers, but .* fitted on uint8 pixels"):
        on_bytes.predict(images / 255)
    with pytest.raises(DTypeError, match=r"of uint8 pixels, but .* fitted on floating-point numbers"):
        on_floats.predict(images)
    with pytest.raises(ShapeError, match=r"pictures of \(6, 5, 3\), but .* was fitted on \(6, 6, 3\)"):
        on_bytes.predict(images[:, :, :5])
    with pytest.raises(ShapeError, match="fitted on"):
        on_bytes.predict(images.reshape(40, -1)[:, :6])
    with pytest.raises(ShapeError, match=r"inputs of shape .* for grey pictures write X\[\.\.\., None\], for a single"):
        on_bytes.predict(images[0])
    with pytest.raises(ShapeError, match=r"rows of 108 numbers, but .* was fitted on pictures \(6, 6, 3\)"):
        on_bytes.predict(images.reshape(40, -1))
    with pytest.raises(NotFittedError):
        made(name).predict(images)


@every
def test_floats_are_taken_as_given(name: str) -> None:
    images, labels = pictures()
    given = images / 255
    classifier = made(name).fit(given, labels)
    assert classifier.score(given, labels) > 0.9
    assert np.array_equal(classifier.scores(given), classifier.scores(given.astype(np.float32)))


@every
def test_refuses_what_cannot_be_learnt(name: str) -> None:
    images, labels = pictures(n=40)
    if name != "knn":  # whose neighbours are then all of that class
        with pytest.raises(DataError, match="only one class, 'cat': there is nothing to tell apart"):
            made(name).fit(images, ["cat"] * 40)
    with pytest.raises(
        DataError, match="the class 'dog' of validation is not among those of training: either train/ lacks"
    ):
        made(name).fit(images, labels, validation=(images, ["dog"] * 40))
    with pytest.raises(ValueError, match="NaN"):
        made(name).fit(np.full((40, 6, 6, 3), np.nan), labels)
    with pytest.raises(DataError, match="too large for float32"):
        made(name).fit(np.full((40, 6, 6, 3), 1e300), labels)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        made(name).fit(images, labels[:-1])
    with pytest.raises(ShapeError, match="takes"):
        made(name).fit(images[0], labels[:6])


WRONG = {
    "loss": "l2",
    "optimizer": "sgdd",
    "schedule": None,
    "alpha": -1,
    "batch_size": 0,
    "learning_rate": float("nan"),
    "max_iter": 1.5,
    "random_state": -1,
    "engine": "gpu",
    "augment": "flop",
    "label_smoothing": 1.0,
    "clip_norm": 0,
    "average": 1,
    "class_weight": "even",
    "early_stopping": "yes",
    "validation_fraction": 1.0,
    "n_iter_no_change": 0,
    "warm_start": 1,
    "callbacks": [3],
}


@every_network
@pytest.mark.parametrize("argument", WRONG)
def test_an_argument_that_cannot_be_is_named(name: str, argument: str) -> None:
    images, labels = pictures(n=20)
    with pytest.raises(SettingError, match=argument):
        made(name, **{argument: WRONG[argument]}).fit(images, labels)


@every_trained
@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "7", True, {}], ids=repr)
def test_a_seed_that_cannot_be_is_refused_before_anything_is_read(name: str, seed) -> None:
    with pytest.raises(SettingError, match="random_state is"):
        made(name, random_state=seed).check_settings()


def test_checking_settings_draws_no_random_number() -> None:
    state = np.random.RandomState(3)
    made("linear", random_state=state).check_settings()
    assert state.randint(2**31) == np.random.RandomState(3).randint(2**31)


@every
def test_two_classes_as_scikit_learn_has_them(name: str) -> None:
    images, labels = pictures(n=60)
    classifier = made(name, max_iter=2).fit(images, labels == "cat")
    decision = classifier.decision_function(images)
    assert decision.shape == (60,)
    assert np.array_equal(classifier.predict(images), decision > 0)
    assert classifier.predict(images).dtype == bool


@every
def test_answers_do_not_depend_on_the_size_of_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = pictures(n=50)
    classifier = made(name, max_iter=1).fit(images, labels)
    whole = classifier.scores(images)
    for module in ("base", "trained"):
        monkeypatch.setattr(f"nabi.classifiers.{module}.evaluation_batch", lambda shape: 7)
    np.testing.assert_allclose(classifier.scores(images), whole, atol=1e-5)


@every_trained
def test_any_numbers_of_pictures_are_answered_in_batches_of_few_sizes(name: str) -> None:
    images, labels = pictures(n=70)
    classifier = made(name, max_iter=1).fit(images, labels)
    whole = classifier.scores(images)
    for number in (*range(1, 40), 63, 64, 65, 70):
        np.testing.assert_allclose(classifier.scores(images[:number]), whole[:number], atol=1e-5)
    assert len(classifier._apply.recordings) <= 7  # 1, 2, 4, ..., 64


@every_network
def test_what_a_batch_is_filled_up_with_does_not_count_in_validation(name: str) -> None:
    images, labels = pictures(n=70)
    for count in (1, 6, 40):
        held = images[-count:], labels[-count:]
        sharp = {"label_smoothing": 0.0} if name in NETWORKS else {}
        classifier = made(name, max_iter=1, **sharp).fit(images, labels, validation=held)
        places = np.searchsorted(classifier.classes_, held[1])
        scores = classifier.scores(held[0])
        expected = LOSSES[classifier.loss](scores.astype(np.float64), places)
        assert classifier.history_["validation_loss"] == [pytest.approx(float(expected), rel=1e-5)]
        assert classifier.history_["validation_accuracy"] == [np.mean(scores.argmax(axis=1) == places)]


@every
def test_reads_a_memory_map(name: str, tmp_path) -> None:
    images, labels = pictures(n=40)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    changes = {} if name == "knn" else {"augment": "flip"}
    from_disk, from_memory = (made(name, max_iter=1, **changes).fit(source, labels) for source in (mapped, images))
    assert weights(from_disk) == weights(from_memory)


@every_trained
def test_goes_on_from_a_checkpoint_with_the_same_bits(name: str, tmp_path) -> None:
    images, labels = pictures(n=60)
    whole = made(name, max_iter=3).fit(images, labels)
    path = tmp_path / "checkpoint"
    steps = iter(range(100))
    list(made(name, max_iter=3).fit_events(images, labels, checkpoint=path, stop=lambda: next(steps) == 4))
    second = made(name, max_iter=3)
    list(second.fit_events(images, labels, checkpoint=path))
    assert weights(second) == weights(whole)
    assert second.history_["train_loss"] == whole.history_["train_loss"]
    with pytest.raises(SettingError, match="of a run with class_weight="):
        list(made(name, max_iter=3, class_weight="balanced").fit_events(images, labels, checkpoint=path))


@every_network
def test_probabilities_come_with_the_softmax_only(name: str) -> None:
    images, labels = pictures(n=40)
    probabilities = made(name, loss="softmax", max_iter=1).fit(images, labels).predict_proba(images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    hinge = made(name, loss="hinge", max_iter=1).fit(images, labels)
    assert not hasattr(hinge, "predict_proba")


@every
def test_the_first_layer_can_be_looked_at(name: str) -> None:
    images, labels = pictures(n=40)
    shown = made(name, max_iter=1).fit(images, labels).weight_pictures(most=4)
    if name == "knn":
        assert shown is None
        return
    assert shown.shape[1:] == ((3, 3, 3) if name == "convnet" else (6, 6, 3))
    assert len(shown) == (3 if name in ("linear", "perceptron") else 4)


@every
def test_rows_of_numbers_in_a_cross_validation(name: str) -> None:
    images, labels = pictures()
    rows = images.reshape(len(images), -1).astype(np.float64)
    made_for_rows = {"image_shape": (6, 6, 3)} if name == "convnet" else {}
    assert cross_val_score(made(name, **made_for_rows), rows, labels, cv=2).min() > 0.8
    assert made(name, max_iter=1).fit(rows, labels).weight_pictures() is None


SIZES = {"mlp": "hidden_layer_sizes", "three-layer": "hidden_layer_sizes", "convnet": "channels"}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("sizes", [np.array([4, 5]), [np.int64(4), np.uint8(5)]], ids=repr)
def test_sizes_may_be_numbers_of_numpy(name: str, sizes, tmp_path) -> None:
    images, labels = pictures(n=40)
    expected = made(name, max_iter=1, **{SIZES[name]: (4, 5)}).fit(images, labels)
    given = made(name, max_iter=1, **{SIZES[name]: sizes})
    list(given.fit_events(images, labels, checkpoint=tmp_path / "checkpoint"))
    assert weights(given) == weights(expected)
    given.save(tmp_path / "model")
    assert load(tmp_path / "model").get_params() == expected.get_params()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("sizes", [(2**27 + 1, 1), (10**400, 1), (0, 1), (1.0, 1), (True, 1), "12", 3, [1] * 1001])
def test_sizes_that_cannot_be_are_refused_at_once(name: str, sizes) -> None:
    images, labels = pictures(n=40)
    with pytest.raises(SettingError, match=SIZES[name]):
        made(name, **{SIZES[name]: sizes}).fit(images, labels)


# --- what all that are trained are told about it ---


@every_trained
def test_part_by_part_it_learns_what_it_would_learn_at_once(name: str) -> None:
    images, labels = pictures(n=240)
    classifier = made(name)
    with pytest.raises(DataError, match="partial_fit needs classes= at its first call"):
        classifier.partial_fit(images, labels)
    parts = np.array_split(np.arange(240), 4)
    for _ in range(4):
        for part in parts:
            classifier.partial_fit(images[part], labels[part], classes=NAMES)
    assert classifier.n_iter_ == len(classifier.loss_curve_) == 16
    others, answers = pictures(1)
    assert classifier.score(others, answers) > 0.9
    with pytest.raises(DataError, match="the class 'dog' is not among those of the first call"):
        classifier.partial_fit(images, ["dog"] * 240)
    with pytest.raises(DataError, match="classes= are not those of the first call"):
        classifier.partial_fit(images, labels, classes=["cat", "dog"])
    with pytest.raises(SettingError, match="'balanced' needs all inputs"):
        made(name, class_weight="balanced").partial_fit(images, labels, classes=NAMES)


@every_trained
def test_a_first_part_may_lack_a_class(name: str) -> None:
    images, labels = pictures(n=60)
    some = labels != "cat"
    classifier = made(name).partial_fit(images[some], labels[some], classes=NAMES)
    assert classifier.classes_.tolist() == sorted(NAMES)
    assert classifier.scores(images).shape == (60, 3)
    with pytest.raises(DataError, match="the class 'cat' is not among classes"):
        made(name).partial_fit(images, labels, classes=["ship", "나비"])


@pytest.mark.parametrize(("name", "averaging"), [("perceptron", {"averaged": True}), ("mlp", {"average": 0.9})])
def test_what_is_averaged_part_by_part_goes_on_from_the_weights_and_not_from_their_average(name, averaging) -> None:
    images, labels = pictures()
    classifier, plain = made(name, **averaging), made(name)
    for _ in range(3):
        classifier.partial_fit(images, labels, classes=NAMES)
        plain.partial_fit(images, labels, classes=NAMES)
        way = classifier._partial
        assert all(np.array_equal(way[f"model.{path}"], array) for path, array in plain._arrays().items())
        assert weights(classifier) != weights(plain)


@every_trained
def test_part_by_part_goes_on_in_a_copy(name: str) -> None:
    """Momentum, averages and all that is on the way go with a pickle."""
    images, labels = pictures()
    more = {"averaged": True} if name == "perceptron" else {"average": 0.9}
    classifier = made(name, **more)
    for _ in range(2):
        classifier.partial_fit(images, labels, classes=NAMES)
    copies = [pickle.loads(pickle.dumps(classifier)), copy.deepcopy(classifier)]
    for one in (classifier, *copies):
        one.partial_fit(images, labels)
    assert weights(copies[0]) == weights(copies[1]) == weights(classifier)


@every_network
def test_each_part_is_learnt_at_the_rate_that_is_asked_for(name: str) -> None:
    images, labels = pictures(n=60)
    classifier = made(name).partial_fit(images, labels, classes=NAMES)
    before = classifier._arrays()
    classifier.set_params(learning_rate=1e-12, optimizer="sgd").partial_fit(images, labels)
    for path, array in classifier._arrays().items():
        if "running" not in path and "count" not in path:
            np.testing.assert_allclose(array, before[path], atol=1e-6)
    with pytest.raises(SettingError, match="learning_rate 'find' needs all inputs"):
        classifier.set_params(learning_rate="find").partial_fit(images, labels)


@every_network
def test_between_parts_the_rule_may_change(name: str) -> None:
    images, labels = pictures(n=60)
    classifier = made(name).partial_fit(images, labels, classes=NAMES)
    before = weights(classifier)
    classifier.set_params(optimizer="adam", average=0.5).partial_fit(images, labels)
    classifier.set_params(optimizer="sgd", average=None).partial_fit(images, labels)
    assert weights(classifier) != before
    assert classifier.n_iter_ == 3


@pytest.mark.parametrize("name", ["linear", "perceptron"])
def test_a_part_counts_as_much_as_it_is_given(name: str) -> None:
    images, labels = pictures(n=60)
    once, more = (made(name).partial_fit(images, labels, classes=NAMES, sample_weight=np.full(60, w)) for w in (1, 3))
    assert np.abs(more.templates_).sum() > 1.5 * np.abs(once.templates_).sum()


@every_trained
def test_a_fit_that_fails_changes_nothing(name: str) -> None:
    images, labels = pictures(n=60)
    classifier = made(name, max_iter=1).fit(images, labels)
    scores = classifier.scores(images)
    half = images[:, :3]
    for again, kind in [
        (lambda c: c.fit(half, labels == "cat", sample_weight=np.ones(3)), ValueError),
        (lambda c: c.fit(half, labels, validation=(half, ["dog"] * 60)), DataError),
        (lambda c: c.fit(half, labels, validation=(half, labels[:5])), ValueError),
        (lambda c: c.partial_fit(images, labels, sample_weight=np.zeros(60)), ValueError),
    ]:
        with pytest.raises(kind):
            again(classifier)
        assert np.array_equal(classifier.scores(images), scores)
        assert classifier.classes_.tolist() == sorted(NAMES)
    unfitted = made(name)
    with pytest.raises(DataError):
        unfitted.fit(images, labels, validation=(images, ["dog"] * 60))
    with pytest.raises(NotFittedError):
        unfitted.predict(images)


@pytest.mark.parametrize("way", ["partial_fit", "fit"])
def test_what_diverges_at_once_leaves_what_was_learnt_before(way: str) -> None:
    rows, labels = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32), np.repeat(["a", "b", "c"], 20)
    classifier = made("mlp").partial_fit(rows, labels, classes=["a", "b", "c"])
    before = classifier.scores(rows)
    with pytest.raises(NonFiniteError):
        getattr(classifier.set_params(learning_rate=1e30), way)(rows, labels)
    assert np.array_equal(classifier.scores(rows), before)
    classifier.set_params(learning_rate=0.01).partial_fit(rows, labels)
    assert np.isfinite(classifier.scores(rows)).all()


def test_early_stopping_holds_out_before_weights_are_weighed() -> None:
    images, labels = pictures()
    counts = np.zeros(120)
    counts[:30] = 1
    classifier = made("linear", early_stopping=True, validation_fraction=0.5).fit(images, labels, sample_weight=counts)
    assert np.abs(classifier.templates_).sum() > 0


def test_an_input_of_weight_nothing_does_not_keep_a_perceptron_from_stopping() -> None:
    images, labels = pictures()
    spoilt = labels.copy()
    spoilt[0] = np.roll(NAMES, 1)[NAMES.tolist().index(labels[0])]
    counts = np.r_[0.0, np.ones(119)]
    assert made("perceptron", max_iter=200).fit(images, spoilt, sample_weight=counts).n_iter_ < 200


@every
def test_a_docstring_says_what_every_argument_means(name: str) -> None:
    text = registry[name].__doc__
    for argument in inspect.signature(registry[name]).parameters:
        assert re.search(rf"^    {argument}( :|,)", text, re.MULTILINE), argument
    assert "OTHERS" not in text


def test_colours_that_come_first_are_warned_of() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8)).astype(np.uint8)
    with pytest.warns(UserWarning, match=r"channels come last here; .* write np\.moveaxis\(X, 1, -1\)"):
        made("linear", max_iter=1).fit(images, np.arange(20) % 2)


@pytest.mark.parametrize("callbacks", [print, [3], "x"])
def test_callbacks_are_a_sequence_of_functions(callbacks) -> None:
    with pytest.raises(SettingError, match="it must be a sequence of functions, or None"):
        made("linear", callbacks=callbacks).fit(*pictures(n=20))


def test_a_folder_with_one_model_is_loaded(tmp_path) -> None:
    images, labels = pictures(n=40)
    classifier = made("linear", max_iter=1).fit(images, labels)
    with pytest.raises(ModelFileError, match="a folder with one model file is wanted; there is none"):
        load(tmp_path)
    classifier.save(tmp_path / "model.safetensors")
    assert np.array_equal(load(tmp_path).scores(images), classifier.scores(images))
    classifier.save(tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match=r"there is model\.safetensors, other\.safetensors"):
        load(str(tmp_path))


# --- files say what was learnt, whatever was set since ---


@every_trained
def test_a_file_has_the_model_that_answers(name: str, tmp_path) -> None:
    images, labels = pictures(n=40)
    classifier = made(name, max_iter=1).fit(images, labels)
    later = {"mlp": {"activation": "tanh", "hidden_layer_sizes": (3, 4)}, "convnet": {"channels": (2,)}}
    classifier.set_params(**later.get(name, {"max_iter": 3}))
    classifier.save(tmp_path / "model")
    other = load(tmp_path / "model")
    assert np.array_equal(other.scores(images), classifier.scores(images))
    assert other.get_params() == classifier.get_params()


@every_network
def test_what_could_not_be_read_is_not_written(name: str, tmp_path) -> None:
    images, labels = pictures(n=40)
    classifier = made(name, max_iter=1).fit(images, labels)
    with pytest.raises(SettingError, match="alpha"):
        classifier.set_params(alpha=-1).save(tmp_path / "model")
    classifier.set_params(alpha=0)
    next(iter(nn.parameters(classifier.model_).values())).assign(
        np.full_like(next(iter(nn.parameters(classifier.model_).values())).numpy(), np.nan)
    )
    with pytest.raises(NonFiniteError, match="holds an infinity or a NaN: nothing was saved"):
        classifier.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@every
def test_the_names_of_features_are_in_the_file(name: str, tmp_path) -> None:
    pandas = pytest.importorskip("pandas")
    rows, labels = np.random.default_rng(0).normal(size=(40, 3)), np.repeat(["a", "b"], 20)
    table = pandas.DataFrame(rows, columns=["p", "q", "r"])
    made(name, max_iter=1).fit(table, labels).save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.feature_names_in_.tolist() == ["p", "q", "r"]
    with pytest.raises(ValueError, match="feature names"):
        again.predict(table[["r", "q", "p"]])


def test_what_json_cannot_say_is_said_in_words_or_left_out(tmp_path) -> None:
    images, labels = pictures(n=40)
    random = np.random.RandomState(3)
    classifier = made("linear", max_iter=1, augment=(augment.flip(), augment.crop(1)), random_state=random)
    list(classifier.fit_events(images, labels, checkpoint=tmp_path / "checkpoint"))
    classifier.save(tmp_path / "model")
    assert load(tmp_path / "model").augment == ("flip:0.5", "crop:1")
    assert load(tmp_path / "model").random_state is None


@every_trained
def test_a_warm_start_goes_on_where_the_last_fit_ended(name: str) -> None:
    images, labels = pictures()
    once, twice = (made(name, max_iter=1, warm_start=warm) for warm in (False, True))
    for classifier in (once, twice):
        classifier.fit(images, labels)
        before = weights(classifier)
        classifier.fit(images, labels)
        # (The perceptron learns nothing more where all are separated.)
        assert weights(classifier) == before or classifier is twice
        assert weights(classifier) != before or classifier is once or name == "perceptron"
    with pytest.raises(DataError, match="warm_start: the classes are not those of the last fit"):
        twice.fit(images, labels == "cat")
    twice.fit(images, labels)  # and it is as good as before
    assert twice.classes_.tolist() == sorted(NAMES)


@every_trained
def test_inputs_of_weight_nothing_do_not_matter(name: str) -> None:
    images, labels = pictures()
    spoilt = labels.copy()
    spoilt[:40] = np.roll(NAMES, 1)[np.searchsorted(np.sort(NAMES), labels[:40])]
    counts = np.r_[np.zeros(40), np.ones(80)]
    others, answers = pictures(1)
    assert made(name, max_iter=15).fit(images, spoilt, sample_weight=counts).score(others, answers) > 0.9
    with pytest.raises(ValueError, match="at least one non-zero"):
        made(name).fit(images, labels, sample_weight=np.zeros(120))
    with pytest.raises(DataError, match=r"add up to 0\.0: some must count"):
        made(name, class_weight=dict.fromkeys(NAMES.tolist(), 0.0)).fit(images, labels)
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        made(name).fit(images, labels, sample_weight=-counts)


@every_trained
def test_weights_of_classes_move_answers(name: str) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(300, 5)).astype(np.float32)
    labels = np.where(random.random(300) < 0.8, "often", "seldom")  # which nothing in the rows tells
    seldom = [
        np.mean(made(name, class_weight=weight, max_iter=5).fit(rows, labels).predict(rows) == "seldom")
        for weight in (None, "balanced", {"seldom": 50.0})
    ]
    assert seldom[0] < seldom[1] < seldom[2] or (name == "perceptron" and seldom[0] < seldom[2])
    with pytest.raises(DataError, match="class_weight names the class 'never'"):
        made(name, class_weight={"never": 1.0}).fit(rows, labels)


@every_trained
def test_stops_early_and_keeps_the_best(name: str) -> None:
    images, labels = pictures()
    noisy = labels.copy()
    noisy[::3] = np.roll(noisy[::3], 1)
    classifier = made(name, max_iter=200, early_stopping=True, n_iter_no_change=2, validation_fraction=0.25)
    classifier.fit(images, noisy)
    assert classifier.n_iter_ == classifier.best_epoch_ + 2 < 200
    assert max(classifier.history_["validation_accuracy"]) > 0.4


@every_trained
def test_a_callback_hears_every_event_and_may_end_the_training(name: str, capsys) -> None:
    images, labels = pictures(n=60)
    heard = []

    def listen(event):
        heard.append(type(event).__name__)
        return isinstance(event, EpochEnded) and event.epoch == 2

    classifier = made(name, callbacks=[listen], verbose=True).fit(images, labels)
    assert heard[0] == "Started"
    assert heard[-2:] == ["EpochEnded", "Finished"]
    assert classifier.n_iter_ == 2
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == ["epoch 1/8", "epoch 2/8"]


@every_trained
def test_scikit_learns_callbacks_see_epochs(name: str) -> None:
    callback = pytest.importorskip("sklearn.callback", reason="this scikit-learn has no callbacks")
    images, labels = pictures(n=60)
    monitor = callback.ScoringMonitor(scoring="accuracy")
    classifier = made(name, max_iter=3)
    classifier.set_callbacks(monitor)
    classifier.fit(images, labels)
    scores = [row["accuracy"] for row in monitor.get_logs().data]
    assert len(scores) == classifier.n_iter_ > 1
    assert scores[-1] == classifier.score(images, labels)


@every_network
def test_label_smoothing_is_the_softmaxs_alone(name: str) -> None:
    images, labels = pictures(n=40)
    sharp, smooth = (made(name, loss="softmax", label_smoothing=share).fit(images, labels) for share in (0.0, 0.5))
    assert smooth.predict_proba(images).max(axis=1).mean() < sharp.predict_proba(images).max(axis=1).mean()
    with pytest.raises(SettingError, match=r"label_smoothing is 0\.1: only loss='softmax' has targets to smooth"):
        made(name, loss="hinge", label_smoothing=0.1).fit(images, labels)


@every_network
@pytest.mark.parametrize("loss", ["softmax", "hinge", "perceptron"])
def test_a_learning_rate_is_found(name: str, loss: str) -> None:
    images, labels = pictures()
    first, second = (made(name, learning_rate="find", loss=loss, max_iter=25).fit(images, labels) for _ in range(2))
    assert first.history_["learning_rate"] == second.history_["learning_rate"]
    assert len(first.range_test_.losses) > 20
    assert first.score(images, labels) > 0.7
    assert not hasattr(first.set_params(learning_rate=0.01).fit(images, labels), "range_test_")


# --- statistics ---


def test_statistics_are_those_of_numpy() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2500, 3, 2, 3)).astype(np.uint8)
    mean, deviation = statistics(images, (0, 1, 2))
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(deviation, (images / 255).std(axis=(0, 1, 2)), rtol=1e-12)
    for kind in (np.float64, np.uint8):
        assert statistics(np.full((5, 2), 7, kind), (0,))[1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("many", "processor"), [(0, lambda this: this), (0, machine.narrower), (10**9, lambda this: this)]
)
@pytest.mark.parametrize("axes", [(0,), (0, 1, 2), None])
def test_statistics_of_pixels_are_exact_whatever_the_number_of_threads(
    axes: tuple[int, ...] | None,
    many: int,
    processor: Callable[[machine.Processor], machine.Processor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nabi.classifiers.statistics.MANY", many)
    images = np.random.default_rng(0).integers(0, 256, (1203, 5, 5, 3)).astype(np.uint8)
    images[:, 0, 0, 0] = 255  # squares at their largest
    images[:1202, 0, 1, 1], images[1202, 0, 1, 1] = 254, 255  # two numbers near each other, at a distance from 0
    with machine.pretending(processor(machine.processor())):
        with_two, with_one = (with_threads(number, lambda: statistics(images, axes)) for number in (2, 1))
    np.testing.assert_array_equal(with_two, with_one)
    mean, deviation = (np.atleast_1d(value) for value in with_two)
    columns = (np.moveaxis(images.reshape(1203 * 25, 3), -1, 0) if axes == (0, 1, 2) else
               images.reshape(1203, -1).T if axes else images.reshape(1, -1))  # fmt: skip
    for place, column in enumerate(columns.tolist()):
        exact = fractions.Fraction(sum(column), len(column))
        variance = sum((value - exact) ** 2 for value in column) / len(column)
        np.testing.assert_allclose(mean.flat[place], float(exact) / 255, rtol=1e-15)
        np.testing.assert_allclose(deviation.flat[place], float(variance) ** 0.5 / 255 or 1.0, rtol=1e-15)


def with_threads(number: int, work: Callable[[], Any]) -> Any:
    threads.set_num_threads(number)
    try:
        return work()
    finally:
        threads.set_num_threads(None)


def test_statistics_fetch_each_picture_once() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2500, 3, 2, 3)).astype(np.uint8)
    fetched: list[int] = []

    def fetch(positions: Any) -> Any:
        fetched.extend(positions.tolist())
        return images[positions]

    np.testing.assert_array_equal(
        statistics(OnDemand(fetch, images.shape), (0, 1, 2)),  # type: ignore[arg-type]
        statistics(images, (0, 1, 2)),
    )
    assert sorted(fetched) == list(range(2500))


@every_trained
def test_standardises_features_each_by_its_own_and_pixels_together(name: str) -> None:
    images, labels = pictures(n=40)
    rows = images.reshape(40, -1)
    together = made(name, max_iter=1).fit(rows, labels).model_.standardize.std.numpy()
    own = made(name, max_iter=1).fit(rows / 255, labels).model_.standardize.std.numpy()
    assert len(set(together.tolist())) == 1
    np.testing.assert_allclose(own, (rows / 255).std(axis=0), rtol=1e-5)


# --- what is special ---


def test_a_run_that_diverges_says_where() -> None:
    images, labels = pictures()
    classifier = made("mlp", optimizer="sgd", learning_rate=1e30)
    with pytest.raises(NonFiniteError, match="epoch 1, step"):
        classifier.fit(images, labels)
    with pytest.raises(NotFittedError):
        classifier.predict(images)


def test_the_three_layer_network_is_the_lectures() -> None:
    images, labels = pictures(n=20)
    layers = [name for name, _ in ThreeLayerClassifier((5, 4), max_iter=1).fit(images, labels).model_.items()]
    assert layers == ["standardize", "flatten", "linear1", "sigmoid1", "linear2", "sigmoid2", "linear3"]


def test_a_linear_classifier_starts_from_nothing() -> None:
    images, labels = pictures(n=20)
    classifier = LinearClassifier(learning_rate=1e-20, max_iter=1).fit(images, labels)
    assert np.abs(classifier.weight_pictures()).max() < 1e-15


def test_importing_nabi_does_not_import_scikit_learn() -> None:
    code = "import nabi, sys; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- model files from elsewhere ---


def header_of(**changes):
    header = {
        "classifier": "linear",
        "arguments": {"loss": "hinge"},
        "classes": ["a", "b"],
        "classes_dtype": "<U1",
        "input_shape": [2],
        "input_dtype": "float32",
        "model": nn.describe(models.linear((2,), 2)),
    } | changes
    return {name: value for name, value in header.items() if value is not ...}


@pytest.mark.parametrize(
    "changes",
    [
        {"classifier": ...},
        {"classifier": "os.system"},
        {"classifier": ["linear"]},
        {"arguments": {"nothing": 1}},
        {"arguments": {"loss": "l1"}},
        {"arguments": [1]},
        {"arguments": {"loss": []}},
        {"arguments": {"engine": {}}},
        {"arguments": {"engine": "abacus"}},
        {"arguments": {"augment": "flop"}},
        {"arguments": {"augment": 1}},
        {"arguments": {"random_state": "7"}},
        {"arguments": {"alpha": 10**400}},
        {"arguments": {"x" * 10**6: 1}},
        {"classifier": "mlp", "arguments": {"activation": {}}},
        {"classifier": "mlp", "arguments": {"dropout": False}},
        {"classifier": "mlp", "arguments": {"hidden_layer_sizes": [1] * 20000}},
        {"model": ...},
        {"model": nn.describe(models.mlp((2,), 2, hidden=(20000, 5000)))},
        {"model": nn.describe(models.linear((3,), 2))},
        {"model": nn.describe(models.linear((2,), 3))},
        {"model": nn.describe(models.three_layer((2,), 2))},
        {"model": nn.describe(nn.Flatten())},
        {"model": nn.describe(nn.Sequential())},
        {"model": [1]},
        {"feature_names": ["a"]},
        {"feature_names": ["a", 1]},
        {"input_shape": [100000, 1000, 3]},
        {"classes": "ab"},
        {"classes": ["b", "a"]},
        {"classes": ["a", "a"]},
        {"classes": ["a", "a\0"]},
        {"classes": [{}, []], "classes_dtype": "|O"},
        {"classes": ["a" * 10**6, *map("{:05}".format, range(100))]},
        {"classes": [1, 2]},
        {"classes": [1, "a"], "classes_dtype": "|O"},
        {"classes": [1.5, 2.5], "classes_dtype": "<i8"},
        {"classes": [1, 300], "classes_dtype": "|u1"},
        {"classes_dtype": "(1000000,)f8"},
        {"classes_dtype": ["<U1"]},
        {"classes": ["a"]},
        {"classes": [["a"], ["b"]]},
        {"classes_dtype": "V8"},
        {"classes_dtype": "nonsense"},
        {"classes_dtype": 7},
        {"input_shape": [0]},
        {"input_shape": [3]},
        {"input_shape": [2, 2]},
        {"input_shape": ["2"]},
        {"input_shape": [10**15]},
        {"input_dtype": "float64"},
        {"input_dtype": ...},
    ],
    ids=lambda changes: str(changes)[:80],
)
def test_a_header_that_makes_no_sense_is_refused_in_one_line(tmp_path, changes) -> None:
    path = tmp_path / "model.safetensors"
    good = LinearClassifier(max_iter=1).fit([[0.0, 1.0], [1.0, 0.0]], ["a", "b"])
    container.write(path, good._arrays(), header_of())
    load(path)
    container.write(path, good._arrays(), header_of(**changes))
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=str(path)) as caught:
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_the_width_of_class_names_is_their_own_whatever_the_header_claims(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    good = LinearClassifier(max_iter=1).fit([[0.0, 1.0], [1.0, 0.0]], ["a", "b"])
    container.write(path, good._arrays(), header_of(classes_dtype="<U100000000"))
    assert load(path).classes_.dtype == "<U1"


@pytest.mark.parametrize(
    "labels", [[False, True], [3, 250], np.uint8([3, 250]), np.float32([0, 1]), np.array(["a", "bc"], object)], ids=repr
)
def test_classes_of_every_kind_come_back(tmp_path, labels) -> None:
    path = tmp_path / "model.safetensors"
    saved = LinearClassifier(max_iter=1).fit([[0.0, 1.0], [1.0, 0.0]], labels)
    saved.save(path)
    assert load(path).classes_.dtype == saved.classes_.dtype
    assert load(path).classes_.tolist() == saved.classes_.tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value) -> None:
    path = tmp_path / "model.safetensors"
    arrays = LinearClassifier(max_iter=1).fit([[0.0, 1.0], [1.0, 0.0]], ["a", "b"])._arrays()
    arrays["linear.weight"][0, 1] = value
    container.write(path, arrays, header_of())
    with pytest.raises(ModelFileError, match=r"'linear\.weight' holds an infinity or a NaN"):
        load(path)


def test_arrays_that_do_not_fit_are_refused(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    good = LinearClassifier(max_iter=1).fit([[0.0, 1.0], [1.0, 0.0]], ["a", "b"])._arrays()
    for arrays in ({}, good | {"more": np.zeros(1)}, good | {"linear.bias": np.zeros(3, np.float32)}):
        container.write(path, arrays, header_of())
        with pytest.raises(ModelFileError, match=str(path)):
            load(path)
    container.write(path, {}, {"checkpoint": {}})
    with pytest.raises(ModelFileError, match="the checkpoint of a run, not a model"):
        load(path)

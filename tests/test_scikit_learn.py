"""scikit-learn's own suite for estimators, on every classifier; and the places in scikit-learn that take estimators."""

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import SkipTest

import joblib
import numpy as np
import pytest
import sklearn
from sklearn import set_config
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import VotingClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from nabi import data
from nabi.classifiers import (
    Classifier,
    ConvNetClassifier,
    KNNClassifier,
    LinearClassifier,
    MLPClassifier,
    Perceptron,
    ThreeLayerClassifier,
    registry,
)

# With their defaults, but for the sizes of networks: small ones are quicker.
ESTIMATORS: dict[str, Classifier] = {
    "knn": KNNClassifier(),
    "perceptron": Perceptron(random_state=0),
    "linear": LinearClassifier(random_state=0),
    "mlp": MLPClassifier((32,), random_state=0),
    "three-layer": ThreeLayerClassifier((32, 16), random_state=0),
    "convnet": ConvNetClassifier(channels=(8,), random_state=0),
}
every = pytest.mark.parametrize("name", ESTIMATORS)

MAY_FAIL = {
    "check_sample_weight_equivalence_on_dense_data": (
        "an input of twice the weight is not the same as one that is seen twice, where batches and their order are "
        "drawn at random; scikit-learn excuses its own SGDClassifier for the same reason"
    ),
}

SKIPPED = {"check_array_api_input"}  # which needs SciPy in a mode of its own

counted: Counter[tuple[str, str]] = Counter()


def checks() -> Iterator[Any]:
    for name, estimator in ESTIMATORS.items():
        for made, check in estimator_checks_generator(estimator):
            yield pytest.param(name, made, check, id=f"{name}-{check.func.__name__}")


def test_every_classifier_is_here() -> None:
    assert set(ESTIMATORS) == set(registry) - {"photo"}  # which takes no rows of numbers


@pytest.mark.parametrize(("name", "estimator", "check"), list(checks()))
def test_scikit_learns_own_check(name: str, estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's checks are full of them
        try:
            check(estimator)
        except SkipTest as reason:
            if check.func.__name__ not in SKIPPED:
                raise AssertionError(f"{check.func.__name__} was skipped: {reason}") from None
            counted[name, "skipped"] += 1
            pytest.skip(str(reason))
        except AssertionError:
            if name == "knn" or check.func.__name__ not in MAY_FAIL:
                raise
            counted[name, "excused"] += 1
            pytest.xfail(MAY_FAIL[check.func.__name__])
    counted[name, "passed"] += 1


def test_how_many_checks_there_were(capsys: pytest.CaptureFixture[str]) -> None:
    """Comes after them, and says it even where output is captured."""
    if not counted:
        pytest.skip("the checks were not run")
    with capsys.disabled():
        print(f"\nscikit-learn {sklearn.__version__}, checks of its own suite:")
        for name in ESTIMATORS:
            numbers = [f"{counted[name, how]} {how}" for how in ("passed", "excused", "skipped") if counted[name, how]]
            print(f"  {name}: {', '.join(numbers)}")
    assert all(counted[name, "passed"] > 50 for name in ESTIMATORS)


# --- in other estimators ---


@pytest.fixture(scope="module")
def digits() -> Any:
    return data.load("digits")


def quick(name: str, epochs: int = 60) -> Classifier:
    known = ESTIMATORS[name].get_params()
    settings = {"max_iter": epochs, "batch_size": 16, "channels": (8, 16)}
    return clone(ESTIMATORS[name]).set_params(**{key: value for key, value in settings.items() if key in known})


@pytest.fixture(scope="module")
def iris() -> tuple[Any, Any]:
    rows, labels = load_iris(return_X_y=True)
    return rows, np.array(["setosa", "versicolor", "virginica"])[labels]


@every
def test_in_a_pipeline(name: str, iris: tuple[Any, Any]) -> None:
    rows, labels = iris
    pipeline = make_pipeline(StandardScaler(), quick(name)).fit(rows, labels)
    assert pipeline.score(rows, labels) > 0.85
    assert pipeline.classes_.tolist() == ["setosa", "versicolor", "virginica"]


@every
def test_pictures_in_a_pipeline(name: str, digits: Any) -> None:
    brighter = FunctionTransformer(lambda images: images // 2 + 20)
    pipeline = make_pipeline(brighter, quick(name, 6)).fit(digits.train.images, digits.train.labels)
    assert pipeline.score(digits.test.images, digits.test.labels) > 0.8


GRIDS = {
    "knn": {"n_neighbors": [1, 5]},
    "perceptron": {"averaged": [False, True]},
    "convnet": {"channels": [(4,), (8,)]},
}


@every
def test_a_grid_search_in_two_processes(name: str, iris: tuple[Any, Any]) -> None:
    rows, labels = iris
    search = GridSearchCV(quick(name), GRIDS.get(name, {"alpha": [1e-4, 1e-2]}), cv=2, n_jobs=2).fit(rows, labels)
    assert search.best_score_ > 0.8
    assert len(search.cv_results_["params"]) == 2
    alone = GridSearchCV(quick(name), GRIDS.get(name, {"alpha": [1e-4, 1e-2]}), cv=2).fit(rows, labels)
    assert np.array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


@every
def test_cross_validated(name: str, iris: tuple[Any, Any]) -> None:
    assert cross_val_score(quick(name), *iris, cv=3).mean() > 0.85


@every
def test_calibrated(name: str, iris: tuple[Any, Any]) -> None:
    rows, labels = iris
    calibrated = CalibratedClassifierCV(quick(name), cv=2).fit(rows, labels)
    np.testing.assert_allclose(calibrated.predict_proba(rows).sum(axis=1), 1, rtol=1e-6)
    assert calibrated.score(rows, labels) > 0.8


def test_all_vote(iris: tuple[Any, Any]) -> None:
    rows, labels = iris
    everyone = [(name, quick(name)) for name in ESTIMATORS]
    assert VotingClassifier(everyone).fit(rows, labels).score(rows, labels) > 0.9
    soft = [(name, quick(name)) for name in ESTIMATORS if hasattr(ESTIMATORS[name], "predict_proba")]
    assert len(soft) == 4
    assert VotingClassifier(soft, voting="soft").fit(rows, labels).score(rows, labels) > 0.9


@every
def test_one_against_the_rest(name: str, iris: tuple[Any, Any]) -> None:
    rows, labels = iris
    assert OneVsRestClassifier(quick(name)).fit(rows, labels).score(rows, labels) > 0.6


@every
def test_tables_and_what_their_columns_are_called(name: str, iris: tuple[Any, Any]) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(iris[0], columns=["a", "b", "c", "d"])
    scaler = StandardScaler().set_output(transform="pandas")
    pipeline = make_pipeline(scaler, quick(name)).fit(table, pandas.Series(iris[1]))
    assert pipeline[-1].feature_names_in_.tolist() == ["a", "b", "c", "d"]
    assert pipeline.score(table, iris[1]) > 0.85
    classifier = quick(name).fit(table, iris[1])
    with pytest.raises(ValueError, match="feature names should match"):
        classifier.predict(table[["b", "a", "c", "d"]])


@every
def test_metadata_is_routed(name: str, iris: tuple[Any, Any]) -> None:
    rows, labels = iris
    set_config(enable_metadata_routing=True)
    try:
        classifier = quick(name)
        if name == "knn":
            with pytest.raises(TypeError, match="sample_weight"):
                classifier.set_fit_request(sample_weight=True)
            return
        classifier.set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
        counts = np.where(labels == "virginica", 0.0, 1.0)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, classifier).fit(rows, labels, sample_weight=counts)
        assert np.mean(pipeline.predict(rows) == "virginica") < 0.1
    finally:
        set_config(enable_metadata_routing=False)


@every
def test_goes_through_joblib(name: str, digits: Any, tmp_path: Any) -> None:
    classifier = quick(name, 1).fit(digits.train.images, digits.train.labels)
    joblib.dump(classifier, tmp_path / "classifier.joblib")
    again = joblib.load(tmp_path / "classifier.joblib")
    assert np.array_equal(again.scores(digits.test.images), classifier.scores(digits.test.images))


@every
def test_shows_itself_in_a_notebook(name: str, digits: Any) -> None:
    classifier = quick(name, 1)
    assert type(classifier).__name__ in classifier._repr_html_()
    fitted = classifier.fit(digits.train.images, digits.train.labels)._repr_html_()
    assert "Fitted" in fitted
    assert ("data:image/png;base64," in fitted) is (name != "knn")

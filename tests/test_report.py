"""The report of a run: what it measures, the page it writes, and what becomes of hostile names."""

import csv
import json
import re
import shutil
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import nabi
import tiny_photos
from fuzzing import examples
from nabi import metrics
from nabi.classifiers import FeatureExtractor, LinearClassifier, PhotoClassifier
from nabi.cli import main
from nabi.data import Dataset, Split, complete_splits, load
from nabi.errors import DataError, SettingError, ShapeError
from nabi.report import Measuring, card, examine, page
from nabi.report.label_errors import (
    FOLDS,
    confident_class,
    confident_joint,
    cross_validated,
    estimated_joint,
    folds,
    suspicion,
    thresholds,
)
from tiny_photos import photos

HOSTILE = '<script>alert("x")</script>&\'--> ![x](http://evil.example)|`{{ 7*7 }}\u2028'


@pytest.fixture(autouse=True)
def _quick_backbone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_data" not in request.fixturenames:
        tiny_photos.put_in_place(monkeypatch)


# --- calibration ---

scores_of = arrays(
    np.float64, st.tuples(st.integers(1, 30), st.integers(2, 5)), elements=st.floats(-30, 30, allow_subnormal=False)
)


def likelihood(scores, labels, temperature: float) -> float:
    """The mean of -log softmax(s / T) at the right class."""
    scaled = np.asarray(scores, np.float64) / temperature
    return float((np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())


@given(scores_of, st.randoms(use_true_random=False))
def test_a_temperature_makes_what_happened_no_less_likely(scores, random) -> None:
    labels = np.array([random.randrange(scores.shape[1]) for _ in scores])
    temperature = metrics.fit_temperature(scores, labels)
    assert 1 / metrics.HOTTEST <= temperature <= metrics.HOTTEST
    best = likelihood(scores, labels, temperature)
    assert best <= likelihood(scores, labels, 1.0) + 1e-9
    if temperature not in (1.0, metrics.HOTTEST):
        for other in (0.99 * temperature, 1.01 * temperature):
            assert best <= likelihood(scores, labels, other) + 1e-9


@pytest.mark.parametrize("true", [0.25, 1.0, 3.0])
def test_a_temperature_is_found_again(true: float) -> None:
    random = np.random.default_rng(0)
    scores = random.normal(0, 2, (20_000, 4))
    labels = np.array([random.choice(4, p=row) for row in metrics.softmax(scores)])
    assert metrics.fit_temperature(scores * true, labels) == pytest.approx(true, rel=0.05)


def test_where_all_is_right_there_is_no_temperature_to_find() -> None:
    assert metrics.fit_temperature([[5.0, 0.0], [0.0, 7.0]], [0, 1]) == 1.0
    assert metrics.fit_temperature([[5.0, 0.0], [0.0, 7.0]], [1, 0]) == metrics.HOTTEST
    assert metrics.fit_temperature([[3.0]], [0]) == 1.0


@pytest.mark.parametrize(
    ("scores", "labels", "error"),
    [
        ([[1.0, 2.0]], [0, 1], ShapeError),
        ([1.0, 2.0], [0, 1], ShapeError),
        (np.zeros((0, 2)), np.zeros(0, int), DataError),
        ([[np.inf, 0.0]], [0], DataError),
        ([[1.0, 0.0]], [2], DataError),
    ],
)
def test_temperature_refuses(scores, labels, error) -> None:
    with pytest.raises(error):
        metrics.fit_temperature(scores, labels)


@given(scores_of, st.integers(1, 20), st.randoms(use_true_random=False))
def test_reliability_has_the_parts_of_the_calibration_error(scores, bins: int, random) -> None:
    labels = np.array([random.randrange(scores.shape[1]) for _ in scores])
    shares = metrics.softmax(scores)
    found = metrics.reliability(shares, labels, bins)
    assert found["count"].sum() == len(labels)
    error = (found["count"] * np.abs(found["accuracy"] - found["confidence"])).sum() / len(labels)
    assert error == pytest.approx(metrics.expected_calibration_error(shares, labels, bins), abs=1e-12)
    assert 0 <= error <= 1
    best = shares.max(axis=1)
    for place, count in enumerate(found["count"]):
        inside = (best > place / bins) & (best <= (place + 1) / bins)
        assert abs(int(inside.sum()) - count) <= (np.abs(best * bins - np.round(best * bins)) < 1e-9).sum()


def test_reliability_golden() -> None:
    shares = [[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.45, 0.55]]
    found = metrics.reliability(shares, [0, 1, 1, 0], bins=10)
    assert found["count"].tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 2]
    assert found["accuracy"].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 0.5]
    assert found["confidence"].round(3).tolist() == [0, 0, 0, 0, 0, 0.55, 0.65, 0, 0, 0.95]
    assert metrics.expected_calibration_error(shares, [0, 1, 1, 0], 10) == pytest.approx((0.9 + 0.55 + 0.35) / 4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0, 0.99))
def test_no_more_than_the_rate_is_rejected(scores: list[float], rate: float) -> None:
    threshold = metrics.rejection_threshold(scores, rate)
    below = sum(score < threshold for score in scores)
    assert below <= rate * len(scores)
    higher = min((score for score in scores if score > threshold), default=None)
    if higher is not None:
        assert sum(score < higher for score in scores) > rate * len(scores) - 1e-9


@pytest.mark.parametrize(
    ("scores", "rate", "error"), [([], 0.1, DataError), ([[0.1]], 0.1, ShapeError), ([0.1], 1.0, SettingError)]
)
def test_rejection_refuses(scores, rate, error) -> None:
    with pytest.raises(error):
        metrics.rejection_threshold(scores, rate)


# --- labels that may be wrong ---


def by_the_paper(probabilities, labels):
    """Confident learning word for word (Northcutt and others, equations 1 to 3), picture by picture; off the diagonal,
    but for those of which the label is the likeliest."""
    n, m = len(labels), len(probabilities[0])
    t = []
    for j in range(m):
        own = [float(probabilities[x][j]) for x in range(n) if labels[x] == j]
        t.append(sum(own) / len(own) if own else float("inf"))
    joint = [[0] * m for _ in range(m)]
    off = []
    for x in range(n):
        reached = [j for j in range(m) if probabilities[x][j] >= t[j]]
        if reached:
            likeliest = max(reached, key=lambda j: (probabilities[x][j], -j))
            joint[labels[x]][likeliest] += 1
            if likeliest != labels[x] and max(probabilities[x]) > probabilities[x][labels[x]]:
                off.append(x)
    estimated = [[0.0] * m for _ in range(m)]
    for i in range(m):
        many = sum(label == i for label in labels)
        for j in range(m):
            if sum(joint[i]):
                estimated[i][j] = joint[i][j] / sum(joint[i]) * many
            elif i == j:
                estimated[i][j] = many
    total = sum(map(sum, estimated))
    return t, joint, [[value / total for value in row] for row in estimated], off


@settings(max_examples=examples(200))
@given(
    st.integers(2, 4).flatmap(
        lambda k: st.lists(
            # Eighths: sums of them are exact in any order, so that who just reaches a threshold does in both.
            st.tuples(st.lists(st.integers(0, 8), min_size=k, max_size=k), st.integers(0, k - 1)),
            min_size=1,
            max_size=16,
        )
    )
)
def test_confident_learning_is_that_of_the_paper(rows) -> None:
    probabilities = np.array([shares for shares, _ in rows]) / 8
    labels = np.array([label for _, label in rows])
    t, joint, estimated, off = by_the_paper(probabilities, labels.tolist())
    assert thresholds(probabilities, labels).tolist() == t
    assert confident_joint(probabilities, labels).tolist() == joint
    assert np.allclose(estimated_joint(joint, labels), estimated)
    found = suspicion(probabilities, labels)
    assert np.flatnonzero(found.suspected).tolist() == off
    assert sorted(found.order.tolist()) == list(range(len(labels)))
    assert (np.diff(found.self_confidence[found.order]) >= 0).all()
    assert (found.instead != labels).all()
    assert found.joint.sum() == pytest.approx(1)


def test_confident_joint_golden() -> None:
    """Of three classes, worked out by hand: t = (0.6, 0.475, 0.7)."""
    shares = [[0.8, 0.1, 0.1], [0.4, 0.6, 0.0], [0.3, 0.6, 0.1], [0.65, 0.35, 0.0], [0.2, 0.1, 0.7]]
    labels = [0, 0, 1, 1, 2]
    assert thresholds(shares, labels).round(6).tolist() == [0.6, 0.475, 0.7]
    assert confident_class(shares, labels).tolist() == [0, 1, 1, 0, 2]
    assert confident_joint(shares, labels).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert suspicion(shares, labels).order.tolist() == [3, 1, 2, 4, 0]


def test_a_label_that_is_the_likeliest_is_not_suspected() -> None:
    """Of a class of two pictures nobody is sure, and a tenth reaches its threshold."""
    shares = [[0.9, 0.1], [0.95, 0.05], [0.7, 0.3], [0.9, 0.1], [0.92, 0.08], [0.4, 0.6]]
    labels = [0, 0, 0, 1, 1, 0]
    assert confident_class(shares, labels).tolist() == [0, 0, 1, 0, 0, 1]
    assert suspicion(shares, labels).suspected.tolist() == [False, False, False, True, True, True]


def noisy(share: float, seed: int = 0):
    """Points around four centres, and labels of which a share is wrong."""
    random = np.random.default_rng(seed)
    right = random.integers(0, 4, 400)
    features = (random.normal(0, 1, (4, 20))[right] * 2 + random.normal(0, 1, (400, 20))).astype(np.float32)
    wrong = random.permutation(400)[: round(share * 400)]
    labels = right.copy()
    labels[wrong] = (labels[wrong] + random.integers(1, 4, len(wrong))) % 4
    return features, labels, wrong


def test_planted_errors_come_first() -> None:
    features, labels, wrong = noisy(0.05)
    told: list[tuple[str, int, int]] = []
    shares = cross_validated(features, labels, 4, lambda *said: told.append(said))
    assert len(told) == FOLDS + 1
    found = suspicion(shares, labels)
    assert len(set(found.order[:40].tolist()) & set(wrong.tolist())) >= 0.9 * len(wrong)
    assert 1 - np.trace(found.joint) == pytest.approx(0.05, abs=0.03)
    again = cross_validated(features, labels, 4)
    assert again.tobytes() == shares.tobytes()


def test_nobody_is_answered_by_who_learnt_of_it() -> None:
    """A label that is changed changes no answer of its own fold."""
    features, labels, _ = noisy(0)
    fold_of = folds(labels)
    assert np.bincount(fold_of, minlength=FOLDS).min() > 0
    for label in range(4):
        counts = np.bincount(fold_of[labels == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    shuffled = features.copy()
    shuffled[fold_of == 0] = shuffled[fold_of == 0][
        ::-1
    ]  # who is held out first, in another order: the same statistics
    expected = cross_validated(features, labels, 4)[fold_of == 0]
    assert np.allclose(cross_validated(shuffled, labels, 4)[fold_of == 0], expected[::-1], atol=1e-4)


def test_cross_validation_refuses_what_it_cannot_judge() -> None:
    features, labels, _ = noisy(0)
    labels[labels == 3] = 2
    labels[0] = 3
    with pytest.raises(DataError, match="two pictures of each"):
        cross_validated(features, labels, 4)
    with pytest.raises(DataError, match="one class only"):
        suspicion([[1.0]], [0])
    with pytest.raises(ShapeError):
        suspicion([[0.5, 0.5]], [0, 1])
    with pytest.raises(DataError, match="no labels"):
        suspicion(np.zeros((0, 2)), np.zeros(0, int))
    with pytest.raises(DataError, match="not between 0 and 1"):
        suspicion([[3.0, 0.5]], [0])
    with pytest.raises(DataError, match="none of the 2 classes"):
        suspicion([[0.5, 0.5]], [2])


# --- a classifier that knows how sure to be ---


def trained(head: str = "linear", **settings) -> PhotoClassifier:
    images, labels = photos(60)
    arguments = {"linear": {"max_iter": 2}, "mlp": {"max_iter": 2}}.get(head)
    return PhotoClassifier(
        head, alpha="auto" if head == "knn" else 0.1, settings=arguments, random_state=0, **settings
    ).fit(images, labels)


def test_calibration_keeps_scores_and_is_kept_in_the_file(tmp_path: Path) -> None:
    classifier = trained()
    images, labels = photos(50, seed=1)
    labels[::5] = np.roll(labels, 1)[::5]  # so that there is something to be less sure of
    before, probable = classifier.scores(images), classifier.predict_proba(images)
    assert (classifier.temperature_, classifier.threshold_) == (1.0, None)
    with pytest.raises(SettingError, match="no threshold"):
        classifier.fits_none(images)
    classifier.calibrate(images, labels)
    assert classifier.temperature_ != 1
    assert classifier.scores(images).tobytes() == before.tobytes()
    after = classifier.predict_proba(images)
    assert (after.dtype, after.argmax(axis=1).tolist()) == (np.float32, probable.argmax(axis=1).tolist())
    assert np.allclose(after, metrics.softmax(before, classifier.temperature_), atol=1e-6)
    assert classifier.fits_none(images).mean() <= 0.05
    assert classifier.fits_none(images).tolist() == (classifier.likeness(images) < classifier.threshold_).tolist()
    classifier.save(tmp_path / "model.safetensors")
    again = nabi.load(tmp_path / "model.safetensors")
    assert (again.temperature_, again.threshold_) == (classifier.temperature_, classifier.threshold_)
    assert again.predict_proba(images).tobytes() == after.tobytes()
    assert again.likeness(images).tobytes() == classifier.likeness(images).tobytes()
    assert again.scores(images).tobytes() == before.tobytes()
    classifier.fit(*photos(40))
    assert (classifier.temperature_, classifier.threshold_) == (1.0, None)


def test_votes_have_a_threshold_and_no_temperature() -> None:
    classifier = trained("knn").calibrate(*photos(40, seed=1))
    assert classifier.temperature_ == 1.0
    assert classifier.threshold_ is not None
    assert trained("perceptron").calibrate(*photos(40, seed=1)).threshold_ is not None


def test_likeness_is_the_cosine_to_the_nearest_mean() -> None:
    classifier = trained()
    images, labels = photos(60)
    features = classifier.extractor_.transform(images).astype(np.float64)
    means = np.stack([features[labels == name].mean(axis=0) for name in classifier.classes_])
    cosines = features @ means.T / np.linalg.norm(features, axis=1)[:, None] / np.linalg.norm(means, axis=1)
    assert np.allclose(classifier.likeness(images), cosines.max(axis=1), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 0.0), ("temperature", 1e9), ("threshold", 2.0), ("threshold", "a")]
)
def test_a_file_with_an_impossible_calibration_is_refused(tmp_path: Path, name: str, value) -> None:
    classifier = trained()
    header = classifier.header() | {name: value}
    nabi.container.write(tmp_path / "model.safetensors", classifier._arrays(), header)
    with pytest.raises(nabi.errors.ModelFileError, match=f"its {name} is"):
        nabi.load(tmp_path / "model.safetensors")


# --- the page ---


class Outside(HTMLParser):
    """Everything in a page that would be fetched or run, and all of its text and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.texts: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag, attributes) -> None:
        if tag in ("script", "link", "iframe", "object", "embed", "base", "form", "audio", "video"):
            self.wrong.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for name, value in attributes:
            if name.startswith("on") or name in ("srcset", "xlink:href", "action"):
                self.wrong.append(f"{tag} {name}={value}")
            if name == "src":
                self.pictures += 1
                if not value.startswith("data:image/jpeg;base64,"):
                    self.wrong.append(f"{tag} src={value}")
            if name == "href":
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
            if name == "style" and "url" in value:
                self.wrong.append(value)

    def handle_startendtag(self, tag, attributes) -> None:
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")

    def handle_data(self, data) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)


def read(text: str) -> Outside:
    parser = Outside()
    parser.feed(text)
    parser.close()
    assert parser.wrong == []
    assert parser.open == []
    assert all(link.startswith("#") and link[1:] in parser.ids for link in parser.links)
    assert len(set(parser.ids)) == len(parser.ids)
    style = re.search("<style>(.*?)</style>", text, re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    return parser


def dataset_of(*, names=("a", HOSTILE, "나비"), mislabelled: int = 4) -> Dataset:
    parts = []
    for seed, n in ((0, 60), (1, 40), (2, 40)):
        images, labels = photos(n, seed)
        places = np.searchsorted(np.sort(tiny_photos.NAMES), labels)
        if seed == 2:
            places[:mislabelled] = (places[:mislabelled] + 1) % 3
        files = [f"{HOSTILE}/{number}.png" for number in range(n)]
        parts.append(Split(images, places.astype(np.int64), files))
    train, validation, test = parts
    return Dataset("data " + HOSTILE, tuple(names), train, test, validation)


def fitted_on(data: Dataset, head: str = "linear") -> PhotoClassifier:
    names = np.array(data.classes)
    settings = {"max_iter": 2} if head in ("linear", "mlp") else None
    classifier = PhotoClassifier(head, alpha="auto" if head == "knn" else 0.1, settings=settings, random_state=0)
    return classifier.fit(data.train.images, names[data.train.labels])


def test_a_page_shows_those_labels_that_another_class_is_likelier_for() -> None:
    data = dataset_of()
    found = examine(fitted_on(data, "linear"), data)
    shown = {picture.file for picture in found.suspects.doubtful()}
    rows = zip(found.suspects.pictures, found.suspects.found.order.tolist(), strict=True)
    assert shown == {picture.file for picture, place in rows if found.suspects.found.margin[place] < 0}
    assert len(shown) < len(found.suspects.pictures)


def test_a_page_shows_reliability_before_and_after_the_temperature() -> None:
    data = dataset_of()
    classifier = fitted_on(data, "linear")
    classifier.temperature_ = 3.0
    found = examine(classifier, data)
    found.missing["cost"] = "Not measured."
    text = page(found, "run", "", "", {})
    said = found.calibration()
    assert said["ece_before"] != said["ece_after"]
    assert said["bins_before"] != said["bins"]
    diagrams = text[text.index("reliability diagram") :].split("</svg>")[0]
    assert diagrams.count("<g ") == 2


@pytest.mark.parametrize("head", ["linear", "knn", "perceptron"])
def test_a_page_holds_everything_and_runs_nothing(head: str) -> None:
    data = dataset_of()
    classifier = fitted_on(data, head)
    if head != "linear":
        classifier.calibrate(data.validation.images, np.array(data.classes)[data.validation.labels])
    found = examine(classifier, data)
    found.missing["cost"] = "Not measured."
    text = page(found, HOSTILE, HOSTILE, HOSTILE, {"nabi": HOSTILE})
    seen = read(text)
    words = " ".join(seen.texts)
    assert HOSTILE in words
    assert "http" not in words.replace(HOSTILE, "")
    assert seen.pictures > 10
    test = found.test
    matrix = metrics.confusion_matrix(test.labels, test.predicted, 3)
    assert [link for link in seen.links if link.startswith("#c")].count("#confusion") == np.count_nonzero(matrix)
    for label, answer in np.argwhere(matrix):
        assert f"c{label}-{answer}" in seen.ids
    assert len(found.mistakes()) == len(data.test) - int(matrix.trace())
    assert ("reliability diagram" in text) == (head != "perceptron")
    assert ("nabi predict --none" in words) == (head != "linear")
    assert "labels of training and validation" in words


def test_the_counts_of_the_page_are_those_of_the_data() -> None:
    data = dataset_of()
    found = examine(fitted_on(data), data)
    for place, name in enumerate(found.classes):
        counts = found.counts[name]
        label = data.classes.index(name)
        assert counts == {split: int((getattr(data, split).labels == label).sum()) for split in counts}, place
    about = found.as_dict()
    assert json.loads(json.dumps(about)) == about
    assert about["imbalance"] == pytest.approx(
        max(sum(row.values()) for row in found.counts.values())
        / min(sum(row.values()) for row in found.counts.values()),
        abs=0.01,
    )
    assert len(about["mistakes"]) == min(24, len(found.mistakes()))
    assert about["label_errors"]["judged"] == 100
    shares = [one.share for one in found.mistakes()]
    assert shares == sorted(shares, reverse=True)
    assert all(one.label != one.answer for one in found.mistakes())


def test_many_pictures_are_counted_and_not_shown() -> None:
    data = dataset_of(mislabelled=0)
    test = Split(data.test.images, np.roll(data.test.labels, 7) * 0 + (data.test.labels + 1) % 3, data.test.names)
    wrong = Dataset(data.name, data.classes, data.train, test, data.validation)
    found = examine(fitted_on(data), wrong)
    found.missing["cost"] = ""
    assert len(found.mistakes()) == 40
    words = " ".join(read(page(found, "run", "", "", {})).texts)
    assert "and 16 more" in words  # of 40 mistakes 24 are shown


def test_a_class_without_test_pictures_has_no_shares() -> None:
    """Neither on the page nor on the card: 0.000 would say that all of its pictures were wrong."""
    data = dataset_of(mislabelled=0)
    kept = np.flatnonzero(data.test.labels != data.classes.index("a"))
    test = Split(data.test.images[kept], data.test.labels[kept], [data.test.names[i] for i in kept])
    found = examine(fitted_on(data), Dataset(data.name, data.classes, data.train, test, data.validation))
    found.missing["cost"] = ""
    text, written = page(found, "run", "", "", {}), card(found, "run", "model.safetensors")
    assert re.search(r"<tr><td>a</td><td>–</td><td>–</td><td>–</td>", text)
    assert re.search(r"<tr><td>나비</td><td>\d\.\d{3}</td>", text)
    assert "| a | – | – | 0 |" in written
    assert re.search(r"\| 나비 \| \d\.\d{3} \|", written)


def test_a_classifier_of_pixels_has_a_report_without_features(tmp_path: Path) -> None:
    data = dataset_of()
    names = np.array(data.classes)
    classifier = LinearClassifier(loss="softmax", max_iter=1, random_state=0).fit(
        data.train.images, names[data.train.labels]
    )
    found = examine(classifier, data)
    assert found.suspects is None
    assert found.as_dict()["label_errors"] is None
    found.missing["cost"] = ""
    words = " ".join(read(page(found, "run", "", "", {})).texts)
    assert "this classifier learns from pixels" in words
    classifier.save(tmp_path / "model.safetensors")
    with Measuring() as process:
        process.prepare(tmp_path / "model.safetensors", data.test.images)
        measured = process.measured()
    assert measured["milliseconds"] > 0
    assert 20 < measured["peak_mib"] < 2000
    assert measured["file_mib"] == round((tmp_path / "model.safetensors").stat().st_size / 2**20, 2)
    with Measuring() as process:
        process.prepare(tmp_path / "none.safetensors", data.test.images)
        with pytest.raises(nabi.report.CostError, match="could not be measured"):
            process.measured()
    with Measuring() as process:
        pass
    assert process._process.poll() is not None  # nobody waits for the process of a run that was stopped
    with Measuring() as process:
        process._process.kill()
        process._process.wait()
        process.prepare(tmp_path / "model.safetensors", data.test.images)
        with pytest.raises(nabi.report.CostError, match="could not be measured"):
            process.measured()
    assert not Path(process._folder.name).exists()


def test_a_set_without_a_test_has_a_report() -> None:
    data = dataset_of()
    found = examine(fitted_on(data), Dataset(data.name, data.classes, data.train, None, None))
    found.missing["cost"] = ""
    words = " ".join(read(page(found, "run", "", "", {})).texts)
    assert "too few pictures" in words
    assert "nothing is known of how good it is" in card(found, "run", "model.safetensors")


def test_pictures_that_are_alone_are_not_judged() -> None:
    data = dataset_of()
    labels = data.train.labels.copy()
    labels[labels == 2] = 1
    labels[0] = 2
    validation = Split(data.validation.images, np.minimum(data.validation.labels, 1), data.validation.names)
    found = examine(
        fitted_on(data), Dataset(data.name, data.classes, Split(data.train.images, labels), None, validation)
    )
    assert (found.suspects.left_out, len(found.suspects.pictures)) == (1, 99)


# --- the card ---


def test_a_card_says_what_hubs_read() -> None:
    data = dataset_of()
    found = examine(fitted_on(data), data)
    assert "base_model" not in card(found, HOSTILE, "model.safetensors")
    found.classifier.weights = "hf:timm/resnet18.a1_in1k/model.safetensors"
    text = card(found, HOSTILE, "model.safetensors")
    _, fields, rest = re.split("^---$", text, maxsplit=2, flags=re.M)
    read_fields = {}
    for line in fields.strip().splitlines():
        name, value = line.split(": ", 1)
        read_fields[name] = json.loads(value)  # which YAML reads as well
    assert "license" not in read_fields
    assert read_fields["base_model"] == "timm/resnet18.a1_in1k"
    assert (read_fields["library_name"], read_fields["pipeline_tag"]) == ("nabi", "image-classification")
    (entry,) = read_fields["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == HOSTILE
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"]["name"] == data.name
    (measured,) = result["metrics"]
    assert measured["value"] == pytest.approx(metrics.accuracy(found.test.labels, found.test.predicted), abs=1e-6)
    assert "<script>" not in rest
    assert "](http" not in rest
    assert len([line for line in rest.splitlines() if line.startswith("| ")]) == 2 + len(found.classes)


# --- the command line ---


def folder_of(root: Path, n: int = 110) -> Path:
    images, labels = photos(n)
    shown = {"cat": '<b>cat" & {{ 7*7 }}'}
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = root / "photos" / shown.get(label, label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((120, 100)).save(place / f"<i onload='alert({number})'>.png")
    return root / "photos"


COST = {
    "milliseconds": 1.5, "milliseconds_in_batches": 0.5, "batch": 8, "repeats": 3, "peak_mib": 100.0,
    "file_mib": 0.1, "machine": "<a machine>", "threads": 2,
}  # fmt: skip


@pytest.fixture
def quick_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that measures knows nothing of the quick backbone, and starts slowly."""
    monkeypatch.setattr(Measuring, "__enter__", lambda self: self)
    monkeypatch.setattr(Measuring, "__exit__", lambda self, *what: None)
    monkeypatch.setattr(Measuring, "prepare", lambda self, model, pictures: None)
    monkeypatch.setattr(Measuring, "measured", lambda self: COST)


RUN = ["--epochs", "2", "--weight-decay", "0.1"]


@pytest.mark.usefixtures("quick_cost")
def test_a_run_on_photos_ends_with_a_report(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, out = folder_of(tmp_path), tmp_path / "run"
    assert main(["train", str(source), "--out", str(out), *RUN]) == 0
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    seen = read((out / "report.html").read_text(encoding="utf-8"))
    assert "<b>cat" in " ".join(seen.texts)
    about = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    said = about["report"]
    stands = (out / "README.md").read_text(encoding="utf-8").splitlines()
    assert sum(bool(re.fullmatch(r"Asked to, it says .* wrongly says so of \d+\.\d%\.", line)) for line in stands) == 1
    assert sum(line.startswith("A picture takes 1.5 ms on ") for line in stands) == 1
    assert set(said) == {
        "format", "data", "pictures", "imbalance", "class_weight", "mistakes", "label_errors", "calibration",
        "none_of_these", "cost", "missing",
    }  # fmt: skip
    assert sum(row["test"] for row in said["pictures"].values()) == about["test_total"]
    assert said["missing"] == {}
    with (out / "label-errors.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == said["label_errors"]["judged"]
    assert [float(row["probability"]) for row in rows] == sorted(float(row["probability"]) for row in rows)
    model = nabi.load(out)
    assert model.threshold_ == said["none_of_these"]["threshold"]
    assert said["none_of_these"]["rejected_validation"] <= 0.05
    # Once more, as a command: the same findings, and a card that was written in stays.
    with (out / "README.md").open("a") as file:
        file.write("license: mine\n")
    before = (out / "model.safetensors").read_bytes()
    assert main(["report", str(out)]) == 0
    again = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert again == about
    assert (out / "README.md").read_text().endswith("license: mine\n")
    assert (out / "model.safetensors").read_bytes() == before
    # What is of none of the classes.
    capsys.readouterr()
    ask = PhotoClassifier.answers
    monkeypatch.setattr(
        PhotoClassifier, "answers", lambda self, X: ask(self, X)._replace(none=np.arange(len(X)) % 2 == 0)
    )
    files = sorted(map(str, (source / "ship").iterdir()))[:2]
    assert main(["predict", str(out), *files, "--none", "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [("none of these" in line) for line in lines] == [True, False]
    assert main(["predict", str(out), *files, "--none", "--json"]) == 0
    assert [answer["none"] for answer in json.loads(capsys.readouterr().out)] == [True, False]
    assert main(["predict", str(out), *files, "--json"]) == 0
    assert all("none" not in answer for answer in json.loads(capsys.readouterr().out))
    assert main(["predict", str(out), *files, "--none", "--csv", "--top", "1"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["none"] for row in rows] == ["yes", "no"]


@pytest.mark.usefixtures("quick_cost")
def test_what_was_trained_on_is_no_test_wherever_it_lies(tmp_path: Path, capsys) -> None:
    source, out, other = folder_of(tmp_path), tmp_path / "run", tmp_path / "other"
    assert main(["train", str(source), "--out", str(out), *RUN]) == 0
    dataset = complete_splits(load(source, size=64))
    images, labels = photos(30, seed=7)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        for split in ("train", "test"):
            place = other / split / label
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image if split == "train" else 255 - image).save(place / f"{number}.png")
    seen = [*dataset.train.names[:5], *dataset.validation.names[:2]]
    for name in seen:
        shutil.copy(source / name, other / "test" / "ship")
    capsys.readouterr()
    assert main(["report", str(out), str(other)]) == 0
    assert f"7 of 37 test pictures were seen in training by {out}, and are not counted" in capsys.readouterr().out
    words = " ".join(read((out / "report.html").read_text(encoding="utf-8")).texts)
    assert re.search(
        rf"trained on {source}; this is about other: \d+ training pictures, \d for validation, 30 for the test", words
    )
    assert json.loads((out / "metrics.json").read_text(encoding="utf-8"))["report"]["data"] == "other"
    assert main(["evaluate", str(out), str(other), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["total"] == 30
    assert "7 of 37 test pictures were seen in training" in said.err
    assert main(["evaluate", str(out / "model.safetensors"), str(other), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == 30
    (out / "trained-on.npy").write_bytes(b"something else")
    assert main(["evaluate", str(out), str(other)]) == 2
    assert "trained-on.npy: it is damaged" in capsys.readouterr().err
    (other / "train").rename(tmp_path / "train")
    (other / "test").rename(other / "train")
    for place in (other / "train").iterdir():
        place.rename(other / "train" / f"no {place.name}")
    before = (out / "report.html").read_bytes()
    assert main(["report", str(out), str(other)]) == 2
    assert "none of its classes (no " in capsys.readouterr().err
    assert (out / "report.html").read_bytes() == before


@pytest.mark.usefixtures("quick_cost")
def test_a_report_that_fails_in_part_leaves_the_rest(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nabi.cli.report.page", fails)
    monkeypatch.setattr(Measuring, "measured", fails_to_measure)
    out = tmp_path / "run"
    assert main(["train", str(folder_of(tmp_path, 60)), "--out", str(out), *RUN]) == 0
    assert "report.html could not be written" in capsys.readouterr().err
    assert not (out / "report.html").exists()
    about = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert "no process" in about["report"]["missing"]["cost"]
    assert (out / "README.md").exists()
    assert nabi.load(out).threshold_ is not None


def fails_to_measure(*arguments):
    raise nabi.report.CostError("no process can be started")


@pytest.mark.usefixtures("quick_cost")
def test_any_finished_run_has_a_report(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--model", "linear", "--epochs", "1", "--out", "run"]) == 0
    assert not Path("run/report.html").exists()
    assert main(["report", "run"]) == 0
    read(Path("run/report.html").read_text(encoding="utf-8"))
    assert json.loads(Path("run/metrics.json").read_text())["report"]["label_errors"] is None
    capsys.readouterr()
    assert main(["predict", "run", "run/weights.png", "--none"]) == 2
    assert "--none" in capsys.readouterr().err
    assert main(["report", "nowhere"]) == 2
    assert "no folder of a run" in capsys.readouterr().err


# --- MLflow ---


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch):
    """A module that looks like MLflow and takes note of what it is told."""
    told: dict[str, list] = {"params": [], "metrics": [], "steps": [], "files": []}

    class Run:
        info = types.SimpleNamespace(run_id="run-1")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    module = types.ModuleType("mlflow")
    module.start_run = lambda run_name: told.setdefault("name", [run_name]) and Run()
    module.log_params = told["params"].append
    module.log_metrics = told["metrics"].append
    module.log_metric = lambda key, value, step: told["steps"].append((key, value, step))
    module.log_artifact = lambda path: told["files"].append(Path(path).name)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return told, module


@pytest.mark.usefixtures("quick_cost")
def test_mlflow_is_told(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, stand_in) -> None:
    told, module = stand_in
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--model", "linear", "--epochs", "2", "--out", "run", "--mlflow"]) == 0
    assert "logged in MLflow as run run-1" in capsys.readouterr().out
    assert told["name"] == ["run"]
    (parameters,), (measures,) = told["params"], told["metrics"]
    assert (parameters["model"], parameters["epochs"]) == ("linear", "2")
    assert measures["test_accuracy"] == json.loads(Path("run/metrics.json").read_text())["test_accuracy"]
    assert {step for _, _, step in told["steps"]} == {1, 2}
    assert {"model.safetensors", "metrics.json"} <= set(told["files"])

    def fails(path):
        raise RuntimeError("the server\nis away")

    module.log_artifact = fails
    assert main(["report", "run", "--mlflow"]) == 0
    assert "not logged: MLflow: the server is away" in capsys.readouterr().err


def test_without_mlflow_one_line_says_what_to_install(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(["train", "digits", "--mlflow"]) == 2
    assert capsys.readouterr().err == "nabi: --mlflow needs mlflow-skinny: pip install mlflow-skinny\n"
    assert not (tmp_path / "runs").exists()


# --- real photos ---


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)])
def test_of_wrong_labels_on_real_photos_most_are_in_the_first_tenth(real_data: Path, seed: int, capsys) -> None:
    source = real_data / "clothing-photos.tar"
    if not source.exists():
        pytest.skip("real data: no clothing-photos.tar")
    extractor = FeatureExtractor()
    try:
        extractor.fit()
    except (SettingError, nabi.errors.ModelFileError) as error:
        pytest.skip(f"weights: {error}")
    data = nabi.data.load(source, size=224)
    images, labels = (
        nabi.data.ondemand.joined([data.train.images, data.validation.images]),
        np.concatenate([data.train.labels, data.validation.labels]),
    )
    features = extractor.transform(images)
    random = np.random.default_rng(seed)
    k, n = len(data.classes), len(labels)
    wrong = random.permutation(n)[: round(0.05 * n)]
    flipped = labels.copy()
    flipped[wrong] = (labels[wrong] + random.integers(1, k, len(wrong))) % k
    found = suspicion(cross_validated(features, flipped, k), flipped)
    share = len(set(found.order[: n // 10].tolist()) & set(wrong.tolist())) / len(wrong)
    with capsys.disabled():
        print(f"\nseed {seed}: {share:.1%} of {len(wrong)} wrong labels in the first {n // 10} of {n};", end=" ")
        print(f"{found.suspected.sum()} are suspected, of them {found.suspected[wrong].sum()} wrong")
    assert share >= 0.8

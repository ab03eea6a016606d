"""What is to be said about a trained classifier, as numbers and as rows of pictures to look at."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import metrics
from nabi.classifiers import Classifier, FeatureExtractor, PhotoClassifier
from nabi.classifiers.photo import FALSE_REJECTS
from nabi.data import Dataset, Split
from nabi.data.files import composed
from nabi.errors import NabiError
from nabi.report.label_errors import FOLDS, Suspicion, cross_validated, suspicion
from nabi.waiting import Show

FORMAT = 1  # of what `as_dict` gives: raised when something in it changes its meaning or goes
BATCH = 256  # pictures between two signs of progress
MOST_MISTAKES, MOST_SUSPECTS = 24, 60  # that are named in metrics.json, and shown
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Picture:
    """One picture of the data, and what there is to say about it."""

    split: str
    row: int
    file: str
    label: str
    answer: str
    """The class that was answered; or, of a suspected label, the class that it may be."""
    share: float | None = None
    """The probability of the answer; of a suspected label, that of the label."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "split": self.split,
            "file": self.file,
            "label": self.label,
            "answer": self.answer,
            "probability": None if self.share is None else round(self.share, 6),
        }


@dataclass(frozen=True, eq=False)
class Tested:
    """What a classifier says of a split, and what is right. Places are positions in ``classes`` of `Findings`."""

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float64] | None
    """By the order of the classifier's classes, as it gives them to whoever asks; None where it gives none."""
    none: NDArray[np.bool_] | None
    """Which are said to be of none of the classes; None where it has not learnt that."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Suspects:
    """The labels of training and validation, the likeliest to be wrong first."""

    pictures: list[Picture]
    suspected: int
    """How many surely are of another class; most of them are among the first."""
    found: Suspicion
    accuracy: float
    """Of the cross-validated classifiers, by these labels."""
    left_out: int
    """Pictures that are the only ones of their class."""

    def doubtful(self) -> list[Picture]:
        """Those that another class is likelier for than the label, in their order."""
        return self._of(self.found.margin < 0)

    def surely(self) -> list[Picture]:
        """Those that are suspected, in their order."""
        return self._of(self.found.suspected)

    def _of(self, chosen: NDArray[np.bool_]) -> list[Picture]:
        return [picture for picture, there in zip(self.pictures, chosen[self.found.order], strict=True) if there]


@dataclass(eq=False)
class Findings:
    """Everything that a report says, and what it could not find out."""

    classifier: Classifier
    dataset: Dataset
    classes: list[str]
    """The classifier's, then those that only the pictures have."""
    counts: dict[str, dict[str, int]]
    test: Tested | None = None
    validation: Tested | None = None
    suspects: Suspects | None = None
    missing: dict[str, str] = field(default_factory=dict)
    """By the name of a part that there is not, why."""
    cost: dict[str, Any] | None = None

    # --- the test ---

    def split(self, name: str) -> Split:
        """One of the splits, by its name."""
        found: Split = getattr(self.dataset, name)
        return found

    def picture(self, split: str, row: int, label: str, answer: str, share: float | None = None) -> Picture:
        """A picture with its name."""
        names = self.split(split).names
        return Picture(split, row, f"{split}/{row}" if names is None else str(names[row]), label, answer, share)

    def cells(self) -> dict[tuple[int, int], list[Picture]]:
        """Of the test, the pictures by true and by answered class, those answered most surely first."""
        test = self.test
        if test is None:
            return {}
        found: dict[tuple[int, int], list[Picture]] = {}
        for row in np.argsort(-self._sureness(test), kind="stable").tolist():
            label, answer = int(test.labels[row]), int(test.predicted[row])
            found.setdefault((label, answer), []).append(self._answered("test", test, row))
        return found

    def mistakes(self) -> list[Picture]:
        """Wrong answers of the test, the surest first."""
        test = self.test
        if test is None:
            return []
        wrong = np.flatnonzero(test.labels != test.predicted)
        order = wrong[np.argsort(-self._sureness(test)[wrong], kind="stable")]
        return [self._answered("test", test, row) for row in order.tolist()]

    def _answered(self, split: str, answers: Tested, row: int) -> Picture:
        label, answer = int(answers.labels[row]), int(answers.predicted[row])
        share = None if answers.probabilities is None else float(answers.probabilities[row].max())
        return self.picture(split, row, self.classes[label], self.classes[answer], share)

    def _sureness(self, answers: Tested) -> NDArray[np.float64]:
        """How sure each answer is: its probability, or by how much its score is ahead of the next."""
        if answers.probabilities is not None:
            best: NDArray[np.float64] = answers.probabilities.max(axis=1)
            return best
        ordered = np.sort(answers.scores.astype(np.float64), axis=1)
        ahead: NDArray[np.float64] = ordered[:, -1] - ordered[:, -2]
        return ahead

    # --- what it says of itself ---

    def calibration(self) -> dict[str, Any] | None:
        """How reliable the probabilities of the test are, before and after the temperature; None without any."""
        test = self.test
        if test is None or test.probabilities is None:
            return None
        known = test.labels < len(self.classifier.classes_)  # of a class that it does not know no answer is right
        temperature = float(getattr(self.classifier, "temperature_", 1.0))
        before = metrics.softmax(test.scores) if temperature != 1.0 else test.probabilities
        found = metrics.reliability(test.probabilities[known], test.labels[known])
        plain = metrics.reliability(before[known], test.labels[known])
        return {
            "temperature": temperature,
            "pictures": int(known.sum()),
            "ece_before": metrics.expected_calibration_error(before[known], test.labels[known]),
            "ece_after": metrics.expected_calibration_error(test.probabilities[known], test.labels[known]),
            "bins_before": {name: np.asarray(values).tolist() for name, values in plain.items()},
            "bins": {name: np.asarray(values).tolist() for name, values in found.items()},
        }

    def none_of_these(self) -> dict[str, Any] | None:
        """How like a class a photo must be to be of one; None where that was not learnt."""
        threshold = getattr(self.classifier, "threshold_", None)
        if threshold is None:
            return None

        def rejected(answers: Tested | None) -> float | None:
            """Of pictures of its classes, the share that it takes for none of them."""
            if answers is None or answers.none is None:
                return None
            known = answers.labels < len(self.classifier.classes_)
            return float(answers.none[known].mean()) if known.any() else None

        return {
            "score": "largest cosine between a photo's features and the mean of a class's",
            "threshold": threshold,
            "rate": FALSE_REJECTS,
            "rejected_validation": rejected(self.validation),
            "rejected_test": rejected(self.test),
        }

    def as_dict(self) -> dict[str, Any]:
        """What metrics.json has of it."""
        totals = {name: sum(row.values()) for name, row in self.counts.items()}
        some = [total for total in totals.values() if total]
        suspects = self.suspects
        return {
            "format": FORMAT,
            "data": self.dataset.name,
            "pictures": self.counts,
            "imbalance": round(max(some) / min(some), 2),
            "class_weight": _weighting(self.classifier),
            "mistakes": [picture.as_dict() for picture in self.mistakes()[:MOST_MISTAKES]],
            "label_errors": None
            if suspects is None
            else {
                "judged": len(suspects.pictures),
                "left_out": suspects.left_out,
                "folds": FOLDS,
                "accuracy": suspects.accuracy,
                "suspected": suspects.suspected,
                "estimated_share": float(1 - np.trace(suspects.found.joint)),
                "first": [picture.as_dict() for picture in suspects.pictures[:MOST_SUSPECTS]],
            },
            "calibration": self.calibration(),
            "none_of_these": self.none_of_these(),
            "cost": self.cost,
            "missing": dict(self.missing),
        }


def examine(classifier: Classifier, dataset: Dataset, show: Show = lambda what, done, total: None) -> Findings:
    """Find out what there is to say about a trained classifier.

    Parameters
    ----------
    classifier : Classifier
        Fitted; of photos calibrated, too: see `nabi.classifiers.PhotoClassifier.calibrate`.
    dataset : Dataset
        That it was trained on, with its splits.
    show : callable, optional
        Called from time to time as ``show(what, done, total)``.
    """
    parts = {name: split for name in SPLITS if (split := getattr(dataset, name)) is not None and len(split)}
    classes, places = matched(classifier, dataset, parts.values())
    counts = {
        name: dict(zip(classes, np.bincount(places[split.labels], minlength=len(classes)).tolist(), strict=True))
        for name, split in parts.items()
    }
    by_class = {name: {split: counts[split][name] if split in counts else 0 for split in SPLITS} for name in classes}
    found = Findings(classifier, dataset, classes, by_class)
    for name in ("validation", "test"):
        if name in parts:
            setattr(found, name, _tested(classifier, parts[name], places, name, show))
    if found.test is None:
        found.missing["test"] = f"{why_no_test(dataset)}."
    elif found.test.probabilities is None:
        found.missing["calibration"] = "It gives scores and no probabilities: there is nothing to be calibrated."
    if getattr(classifier, "threshold_", None) is None:
        found.missing["none_of_these"] = (
            "Only classifiers of photos that had validation photos learn what is of none of their classes."
        )
    try:
        found.suspects = _suspects(found, places, parts, show)
    except NabiError as error:
        found.missing["label_errors"] = f"Wrong labels could not be looked for: {error}."
    return found


def matched(classifier: Classifier, dataset: Dataset, splits: Iterable[Split]) -> tuple[list[str], NDArray[np.int64]]:
    """Names of classes, composed: the classifier's, then those that only pictures of these splits have.

    And, for each class of the data set, the place of its name among them, -1 for one that is not there.
    """
    known = [composed(str(name)) for name in classifier.classes_]
    given = [composed(name) for name in dataset.classes]
    present = {given[label] for split in splits for label in np.unique(split.labels)}
    classes = known + sorted(present - set(known))
    place = {name: number for number, name in reversed([*enumerate(classes)])}
    return classes, np.array([place.get(name, -1) for name in given])


def why_no_test(dataset: Dataset) -> str:
    """Of data without test pictures, why there are none."""
    if dataset.test is not None:
        return "All test pictures are copies of pictures seen in training"
    return "There are too few pictures to set any aside for a test"


def _tested(classifier: Classifier, split: Split, places: NDArray[np.int64], name: str, show: Show) -> Tested:
    found = []
    for start in range(0, len(split), BATCH):
        show(f"answering the {name} pictures", start, len(split))
        found.append(classifier.answers(np.asarray(split.images[start : start + BATCH])))
    shares = [one.probabilities for one in found if one.probabilities is not None]
    none = [one.none for one in found if one.none is not None]
    return Tested(
        places[split.labels],
        np.concatenate([one.places for one in found]),
        np.concatenate([one.scores for one in found]),
        np.concatenate(shares).astype(np.float64) if shares else None,
        np.concatenate(none) if none else None,
    )


def _suspects(found: Findings, places: NDArray[np.int64], parts: Mapping[str, Split], show: Show) -> Suspects | None:
    """The labels of training and validation by how likely they are wrong; None for classifiers of pixels."""
    classifier = found.classifier
    if not isinstance(classifier, PhotoClassifier):
        found.missing["label_errors"] = (
            "Wrong labels are looked for by the features of a backbone, and this classifier learns from pixels."
        )
        return None
    extractor = classifier.extractor_
    if classifier.finetune:  # a backbone that was trained further has learnt the wrong labels, too
        extractor = FeatureExtractor(classifier.backbone, classifier.weights, classifier.engine).fit()
    rows: list[tuple[str, int]] = []
    features, labels = [], []
    for name in ("train", "validation"):
        if name in parts:
            steps = extractor.looked(parts[name].images)
            while True:
                try:
                    looked = next(steps)
                except StopIteration as done:
                    features.append(done.value)
                    break
                show("looking at photos", looked.done, looked.total)
            labels.append(places[parts[name].labels])
            rows += [(name, row) for row in range(len(parts[name]))]
    label = np.concatenate(labels)
    judged = np.flatnonzero(np.bincount(label, minlength=len(found.classes))[label] > 1)
    label = label[judged]
    probabilities = cross_validated(np.concatenate(features)[judged], label, len(found.classes), show)
    suspect = suspicion(probabilities, label)
    pictures = [
        found.picture(
            rows[judged[place]][0],
            rows[judged[place]][1],
            found.classes[label[place]],
            found.classes[suspect.instead[place]],
            float(suspect.self_confidence[place]),
        )
        for place in suspect.order.tolist()
    ]
    accuracy = float((probabilities.argmax(axis=1) == label).mean())
    return Suspects(pictures, int(suspect.suspected.sum()), suspect, accuracy, len(rows) - len(judged))


def _weighting(classifier: Classifier) -> Any:
    given = getattr(classifier, "class_weight", None)
    return {str(name): float(weight) for name, weight in given.items()} if isinstance(given, Mapping) else given

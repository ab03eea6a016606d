"""What every classifier has in common: what it takes, how it answers, how it is written to a file.

A classifier takes pictures (N, H, W, C) or rows (N, features). uint8 means pixels from 0 to 255; every other number is
taken as given, in float32. One that was fitted on the one kind refuses the other: the same picture in another scale
would be answered without complaint, and wrongly.
"""

import inspect
import itertools
import math
import os
import re
import reprlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import estimator_html_repr
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from nabi import container, nn
from nabi.classifiers.notebook import with_weights
from nabi.data import OnDemand, augment
from nabi.errors import DataError, DTypeError, ModelFileError, NabiError, NonFiniteError, ShapeError
from nabi.training import Event, answer_bounds, evaluation_batch

Arrays = dict[str, NDArray[Any]]

FOREIGN = (
    "of validation is not among those of training: either train/ lacks a class that val/ has, or its only pictures "
    "there were copies of others and left out"
)

MAX_LETTERS = 2**24  # that the names of classes may have in a model file, all counted as long as the longest


class Answers(NamedTuple):
    """All that is said of inputs, found out in one look at them.

    Attributes
    ----------
    places : ndarray of int64, (N,)
        The answers, as positions in ``classes_``.
    scores : ndarray of float32, (N, K)
    probabilities : ndarray, (N, K), or None
        None where the classifier gives none.
    none : ndarray of bool, (N,), or None
        Which are of none of the classes; None where the classifier has not learnt that.
    """

    places: NDArray[np.int64]
    scores: NDArray[np.float32]
    probabilities: NDArray[Any] | None = None
    none: NDArray[np.bool_] | None = None

    @property
    def numbers(self) -> NDArray[Any]:
        """Probabilities, or scores where there are none: what people are shown."""
        return self.scores if self.probabilities is None else self.probabilities


class Classifier(ClassifierMixin, BaseEstimator):
    """An image classifier as a scikit-learn estimator.

    A subclass has ``fit`` and what stands below under "what a subclass has", and is declared with `register`.

    Attributes
    ----------
    classes_ : ndarray, (K,)
        The labels it can answer with, sorted.
    input_shape_ : tuple of int
        Shape of one input, (H, W, C) or (features,).
    input_dtype_ : dtype
        uint8 or float32.
    n_features_in_ : int
        As scikit-learn counts: the length of the second axis, which is the height of pictures.
    feature_names_in_ : ndarray of object, (features,)
        Only where the columns that it was fitted on had names.
    """

    registered_name: str

    classes_: NDArray[Any]
    input_shape_: tuple[int, ...]
    input_dtype_: np.dtype[Any]
    n_features_in_: int
    feature_names_in_: NDArray[Any]  # where they were names

    # --- what a subclass has ---

    def check_settings(self) -> None:
        """Raise SettingError where a constructor argument has a value that it cannot have."""
        raise NotImplementedError

    def fit_events(
        self, X: ArrayLike, y: ArrayLike, *, validation: tuple[ArrayLike, ArrayLike] | None = None, **options: Any
    ) -> Iterator[Event]:
        """Fit as ``fit`` does, one event of `nabi.training` at a time.

        Parameters
        ----------
        X, y, validation
            As for ``fit``.
        **options
            ``about``, ``checkpoint``, ``checkpoint_seconds`` and ``stop``, as for `nabi.training.run`.
        """
        raise NotImplementedError

    def weight_pictures(self, most: int = 64) -> NDArray[np.float32] | None:
        """What the weights look for, as pictures (K, H, W, C); None where there is nothing to be seen."""
        return None

    def _batch_scores(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Scores (N, K) of one batch."""
        raise NotImplementedError

    def _arrays(self) -> Arrays:
        """The trained state, by name."""
        raise NotImplementedError

    def _described(self) -> dict[str, Any]:
        """What the header of a file says of the trained state."""
        return {}

    def _restore(self, arrays: Arrays, header: Mapping[str, Any]) -> None:
        """Take the trained state that `_arrays` and `_described` gave; what an input is, is set already."""
        raise NotImplementedError

    # --- answers ---

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most likely class of each input.

        Parameters
        ----------
        X : array_like, (N, H, W, C) or (N, features)
            Of the shape and kind that the classifier was fitted on.

        Returns
        -------
        ndarray, (N,)
            Of the kind that ``classes_`` is.

        Raises
        ------
        ShapeError, DTypeError
            Inputs of another shape, or floats where it was fitted on uint8, or the reverse.
        """
        places = self.scores(X).argmax(axis=1)
        predicted: NDArray[Any] = self.classes_[places]
        return predicted

    def answers(self, X: ArrayLike) -> Answers:
        """Everything that the classifier says of inputs, found out in one look at them."""
        scores = self.scores(X)
        return Answers(scores.argmax(axis=1), scores)

    def scores(self, X: ArrayLike) -> NDArray[np.float32]:
        """The score of each class, before any softmax, for any number of classes.

        Looked at in batches: beyond inputs and scores, memory does not grow with their number.

        Returns
        -------
        ndarray of float32, (N, K)
            In the order of ``classes_``.
        """
        check_is_fitted(self, "classes_")
        images = self._checked(X)
        bounds = answer_bounds(len(images), evaluation_batch(self.input_shape_))
        scores = np.empty((len(images), len(self.classes_)), np.float32)
        for start, end in itertools.pairwise(bounds):
            scores[start:end] = self._batch_scores(np.asarray(images[start:end]))
        return scores

    def _probabilities(self, X: Any) -> Any:
        """What `predict_proba` gives, where a subclass has it."""
        found = self.answers(X).probabilities
        assert found is not None
        return found

    def decision_function(self, X: ArrayLike) -> NDArray[np.float32]:
        """The scores as scikit-learn has them.

        Returns
        -------
        ndarray of float32, (N, K)
            With two classes (N,): the score of the second less that of the first.
        """
        scores = self.scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    # --- what comes in ---

    def _learn_input(
        self, X: ArrayLike, y: ArrayLike, *, classes: ArrayLike | None = None, fewest: int = 2
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Check what to fit on, take note of its kind and classes, and give the arrays to train with.

        Parameters
        ----------
        X, y : array_like
        classes : array_like, optional
            All classes that there will ever be, where ``y`` is only the first part of the labels.
        fewest : int
            Fewer classes than these are refused.
        """
        given = _as_array(X)
        seen, labels = validate_data(self, _stand_in(given), y, **_ACCEPTED)
        on_demand = isinstance(given, OnDemand)
        images: NDArray[Any] = given if on_demand else seen
        check_classification_targets(labels)
        images = _in_float32(images)
        _check_axes(self, images)
        if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] == images.shape[2] > 3:
            warnings.warn(
                f"pictures {images.shape[1:]}: channels come last here; where the first axis is that of the colours, "
                "write np.moveaxis(X, 1, -1)",
                stacklevel=4,
            )
        found = np.unique(labels if classes is None else column_or_1d(classes))
        if not len(found):
            raise DataError("classes= is empty: it must hold all labels that there will ever be")
        if len(found) < fewest:
            raise DataError(f"only one class, {_shown(found[0])}: there is nothing to tell apart")
        self.classes_ = found
        self.input_shape_ = tuple(images.shape[1:])
        self.input_dtype_ = images.dtype
        return images, self._encoded(labels, "is not among classes")

    def _learn_part(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None, *, fewest: int = 2
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Check a part of what to fit on, the first or one more, and give the arrays to train with."""
        if not hasattr(self, "classes_"):
            if classes is None:
                raise DataError("partial_fit needs classes= at its first call: all labels that there will ever be")
            return self._learn_input(X, y, classes=classes, fewest=fewest)
        if classes is not None and not np.array_equal(np.unique(np.asarray(classes)), self.classes_):
            raise DataError("classes= are not those of the first call")
        images = self._checked(X)
        labels = column_or_1d(y, warn=True)
        check_consistent_length(images, labels)
        return images, self._encoded(labels, "is not among those of the first call")

    def _held_out(self, validation: tuple[ArrayLike, ArrayLike]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Check inputs and labels to validate with."""
        images, labels = self._checked(validation[0]), column_or_1d(validation[1], warn=True)
        check_consistent_length(images, labels)
        return images, self._encoded(labels, FOREIGN)

    def _checked(self, X: ArrayLike) -> NDArray[Any]:
        """Inputs to answer, as arrays of the kind that the classifier was fitted on."""
        given = _as_array(X)
        pixels = type(given) is np.ndarray and given.dtype == self.input_dtype_ == np.uint8
        if pixels and given.ndim > 2 and given.shape[1:] == self.input_shape_ and len(given):
            whole: NDArray[np.uint8] = given
            return whole  # scikit-learn's checks take 0.1 ms, half of a prediction, and find nothing in these
        if given.ndim == len(self.input_shape_) + 1 > 2 and given.shape[1:] != self.input_shape_:
            raise ShapeError(f"pictures of {given.shape[1:]}, but {_name(self)} was fitted on {self.input_shape_}")
        if given.ndim == 2 < len(self.input_shape_):
            raise ShapeError(
                f"rows of {given.shape[1]} numbers, but {_name(self)} was fitted on pictures {self.input_shape_}"
            )
        seen = validate_data(self, _stand_in(given), reset=False, **_ACCEPTED)
        on_demand = isinstance(given, OnDemand)
        images = _in_float32(given if on_demand else seen)
        _check_axes(self, images)
        if images.shape[1:] != self.input_shape_:
            raise ShapeError(f"inputs of {images.shape[1:]}, but {_name(self)} was fitted on {self.input_shape_}")
        if images.dtype != self.input_dtype_:
            kinds = {np.dtype(np.uint8): "uint8 pixels", np.dtype(np.float32): "floating-point numbers"}
            raise DTypeError(
                f"inputs of {kinds[images.dtype]}, but {_name(self)} was fitted on {kinds[self.input_dtype_]}"
            )
        return images

    def _encoded(self, y: ArrayLike, complaint: str) -> NDArray[np.int64]:
        """Labels as positions in ``classes_``."""
        labels = np.asarray(y)
        places = np.searchsorted(self.classes_, labels).clip(0, len(self.classes_) - 1)
        strange = self.classes_[places] != labels
        if strange.any():
            raise DataError(f"the class {_shown(labels[strange][0])} {complaint}")
        return places.astype(np.int64)

    # --- in notebooks ---

    def _html_repr(self) -> str:
        diagram: str = estimator_html_repr(self)
        return with_weights(diagram, self.weight_pictures(), self.classes_) if hasattr(self, "classes_") else diagram

    # --- files ---

    def save(self, path: str | os.PathLike[str], about: Mapping[str, Any] | None = None) -> None:
        """Write the classifier to a model file, whole or not at all; `nabi.load` reads it.

        Parameters
        ----------
        path : path-like
            By custom its name ends in ``.safetensors``.
        about : mapping, optional
            What else the file is to say, as JSON: how it was trained, say. It stands under ``about`` in the header.

        Raises
        ------
        NotFittedError
            It was not fitted.
        ModelFileError
            Constructor arguments that JSON cannot say.
        OSError
            The file cannot be written.
        """
        check_is_fitted(self, "classes_")
        self.check_settings()  # of a file that could not be read nobody should hear that it was saved
        arrays = self._arrays()
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise NonFiniteError(f"{name!r} holds an infinity or a NaN: nothing was saved")
        container.write(path, arrays, self.header() | {"about": dict(about or {})})

    def header(self) -> dict[str, Any]:
        """What a file says of the classifier beside its arrays, as JSON has it; `rebuild` understands it."""
        return {
            "classifier": self.registered_name,
            "arguments": {
                name: plain(value) for name, value in self.get_params(deep=False).items() if name not in _NOT_IN_FILES
            },
            "classes": self.classes_.tolist(),
            "classes_dtype": self.classes_.dtype.str,
            "input_shape": list(self.input_shape_),
            "input_dtype": self.input_dtype_.name,
            "feature_names": getattr(self, "feature_names_in_", np.array([])).tolist(),
            **self._described(),
        }


def rebuild(classifier: type[Classifier], arrays: Arrays, header: Mapping[str, Any]) -> Classifier:
    """The classifier that `Classifier.save` wrote.

    Raises
    ------
    ModelFileError
        The header does not say what it must, or does not go with the arrays; the message does not name the file.
    """
    try:
        held = sum(array.size for array in arrays.values())
        arguments = {name: _read_back(value, held) for name, value in header["arguments"].items()}
        known = set(inspect.signature(classifier).parameters)
        if not known >= set(arguments):
            raise ModelFileError(f"unknown argument {reprlib.repr(min(set(arguments) - known))}: of a newer nabi?")
        made = classifier(**arguments)
        made.classes_ = _classes(header["classes"], header["classes_dtype"])
        shape = tuple(header["input_shape"])
        if len(shape) not in (1, 3) or not all(type(length) is int and length > 0 for length in shape):
            raise ModelFileError(f"inputs of the impossible shape {reprlib.repr(shape)}")
        if header["input_dtype"] not in ("uint8", "float32"):
            raise ModelFileError(f"inputs of the unknown kind {reprlib.repr(header['input_dtype'])}")
        made.input_shape_, made.input_dtype_ = shape, np.dtype(header["input_dtype"])
        made.n_features_in_ = shape[0]
        names = header.get("feature_names", [])
        if names:
            if len(shape) != 1 or len(names) != shape[0] or not all(type(name) is str for name in names):
                raise ModelFileError(f"{len(names)} names of features for inputs of {shape}")
            made.feature_names_in_ = np.array(names, object)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ModelFileError(f"{name!r} holds an infinity or a NaN")
        made._restore(arrays, header)
    except KeyError as error:
        raise ModelFileError(f"its header lacks {error}") from None
    except NabiError as error:
        raise ModelFileError(str(error)) from None
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, MemoryError, RecursionError) as error:
        raise ModelFileError(f"its header makes no sense: {error or type(error).__name__}") from None
    return made


def _classes(names: Any, dtype: Any) -> NDArray[Any]:
    """The classes that a header names. How wide their dtype is follows from the names, whatever it claims."""
    if not isinstance(names, list) or not names or not all(type(name) in (str, int, float, bool) for name in names):
        raise ModelFileError("its classes are not a list of names or numbers")
    if not isinstance(dtype, str) or not re.fullmatch("[<>=|]?([biuf][0-9]{1,2}|U[0-9]*|O)", dtype):
        raise ModelFileError(f"classes of the unknown kind {reprlib.repr(dtype)}")
    if "U" in dtype and len(names) * max(len(str(name)) for name in names) > MAX_LETTERS:
        raise ModelFileError(f"{len(names):,} class names, as wide as the longest, are too much")
    classes = np.array(names, np.str_ if "U" in dtype else dtype)
    # What does not come back as it was given is of another kind than the dtype says.
    if classes.tolist() != names or not np.array_equal(np.unique(classes), classes):
        raise ModelFileError("its classes are not in order, each once and of the kind that it names")
    if not all(math.isfinite(name) for name in names if not isinstance(name, str)):
        raise ModelFileError("one of its classes is an infinity or a NaN")
    return classes


_NOT_IN_FILES = ("callbacks",)  # in files: they belong to who trains

# allow_nd: pictures have four axes. Which shapes and kinds there are is checked here, in words of our own.
_ACCEPTED: dict[str, Any] = {"dtype": "numeric", "allow_nd": True, "ensure_min_samples": 1}


def _as_array(X: Any) -> Any:
    """Arrays as they are (memory maps too); other things are for scikit-learn to convert or to refuse."""
    return X if hasattr(X, "shape") else np.asarray(X)


def _stand_in(given: Any) -> Any:
    """What scikit-learn is to look at: not at pictures that are fetched on demand, for it would fetch all of them."""
    return np.broadcast_to(np.uint8(0), given.shape) if isinstance(given, OnDemand) else given


def _in_float32(images: NDArray[Any]) -> NDArray[Any]:
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "biuf":
        raise DTypeError(f"inputs of dtype {images.dtype}: they must be uint8 pixels or real numbers")
    with np.errstate(over="ignore"):
        converted = images.astype(np.float32, copy=False)
    if images.dtype != np.float32 and not np.isfinite(converted).all():
        raise DataError("inputs hold a number too large for float32")
    return converted


def _check_axes(classifier: Classifier, images: NDArray[Any]) -> None:
    if images.ndim not in (2, 4):
        hint = "; for grey pictures write X[..., None], for a single picture X[None]"
        raise ShapeError(
            f"inputs of shape {images.shape}: {_name(classifier)} takes (N, H, W, C) or (N, features)"
            + (hint if images.ndim == 3 else "")
        )
    if images.ndim == 4 and 0 in images.shape:
        raise DataError(f"inputs of shape {images.shape}: there is nothing in them")


def _name(classifier: Classifier) -> str:
    return f"this {type(classifier).__name__}"


def _shown(label: Any) -> str:
    return repr(label.item() if isinstance(label, np.generic) else label)


def plain(value: Any) -> Any:
    """A constructor argument as JSON has it: lists for tuples, Python's numbers for NumPy's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {"pairs": [[plain(key), plain(item)] for key, item in value.items()]}
    if isinstance(value, nn.Layer):
        return nn.describe(value)
    if isinstance(value, augment.Augmentation | augment.Mixup | augment.Pipeline):
        return str(value)
    if isinstance(value, np.random.RandomState):
        return None  # which draws another seed each time
    return value


def _read_back(value: Any, held: int) -> Any:
    """A constructor argument that `plain` wrote; a model in it may ask for so many numbers."""
    if isinstance(value, list):
        return tuple(_read_back(item, held) for item in value)
    if isinstance(value, dict) and "pairs" in value:
        return {key: _read_back(item, held) for key, item in value["pairs"]}
    return nn.build(value, held) if isinstance(value, dict) else value

"""Photos: features of a trained network, and the classifiers that learn from them."""

import errno
import itertools
import json
import os
import pickle
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

import nabi
from nabi import container, models, nn, threads
from nabi.classifiers import FeatureExtractor, PhotoClassifier, pretrained
from nabi.classifiers.features import _key
from nabi.classifiers.finetuning import parted
from nabi.classifiers.photo import ALPHAS, HEADS
from nabi.cli import main
from nabi.cli.report import _command
from nabi.errors import DataError, DTypeError, ModelFileError, NonFiniteError, SettingError, ShapeError
from nabi.models import BACKBONES, Backbone
from nabi.training import EpochEnded, Examples, Finished, GradientDescent, Looked, Tried, run
from one_look import answers_of
from tiny_photos import NAMES, photos, put_in_place, tiny

every_head = pytest.mark.parametrize("head", HEADS)


@pytest.fixture(autouse=True)
def _quick_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch)


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def as_files(images, folder: Path) -> list[str]:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(len(images))]


@every_head
def test_every_head_learns_and_is_the_same_from_a_file(head: str, tmp_path: Path) -> None:
    images, labels = photos()
    others, answers = photos(seed=1)
    classifier = PhotoClassifier(head, random_state=0).fit(images, labels)
    assert classifier.classes_.tolist() == sorted(NAMES)
    assert classifier.score(others, answers) > 0.9
    classifier.save(tmp_path / "model.safetensors")
    again = nabi.load(tmp_path / "model.safetensors")
    assert isinstance(again, PhotoClassifier)
    assert again.head == head
    assert again.scores(others).tobytes() == classifier.scores(others).tobytes()
    assert again.predict(others).tolist() == classifier.predict(others).tolist()
    copied = pickle.loads(pickle.dumps(classifier))
    assert copied.scores(others).tobytes() == classifier.scores(others).tobytes()


def test_files_are_answered_as_the_arrays_in_them(tmp_path: Path) -> None:
    images, labels = photos(30)
    files = as_files(images, tmp_path / "photos")
    from_arrays = PhotoClassifier(random_state=0).fit(images, labels)
    from_files = PhotoClassifier(random_state=0).fit(files, labels)
    assert from_files.scores(images).tobytes() == from_arrays.scores(images).tobytes()
    assert from_files.scores(files).tobytes() == from_arrays.scores(images).tobytes()
    assert from_files.scores(files[0]).tobytes() == from_arrays.scores(images[:1]).tobytes()
    assert np.allclose(from_files.predict_proba(files).sum(axis=1), 1)


def test_photos_go_wherever_an_estimator_goes(tmp_path: Path) -> None:
    images, labels = photos(30)
    files = as_files(images, tmp_path / "photos")
    for given in (files, np.array(files), np.array(files, object), images):
        assert cross_val_score(PhotoClassifier(alpha=0.1, random_state=0), given, labels, cv=3).mean() > 0.8
    search = GridSearchCV(PhotoClassifier(random_state=0), {"head": ["linear", "knn"], "alpha": [0.01]}, cv=2)
    assert search.fit(files, labels).score(images, labels) > 0.8


def test_the_whole_is_one_network() -> None:
    images, labels = photos(30)
    classifier = PhotoClassifier(random_state=0).fit(images, labels)
    together = classifier.model_(images, training=False).numpy()
    assert np.allclose(together, classifier.scores(images), atol=1e-4 * np.abs(together).max())


def test_weight_decay_is_chosen_on_validation_photos() -> None:
    images, labels = photos()
    held = photos(40, seed=1)
    classifier = PhotoClassifier(random_state=0).fit(images, labels, validation=held)
    assert len(classifier.tried_) > 1
    assert classifier.tried_[classifier.alpha_] == max(classifier.tried_.values())
    assert classifier.alpha_ == max(
        a for a, value in classifier.tried_.items() if value == max(classifier.tried_.values())
    )
    given = PhotoClassifier(alpha=0.01, random_state=0).fit(images, labels)
    assert (given.alpha_, given.tried_, given.head_.alpha) == (0.01, {}, 0.01)
    assert PhotoClassifier("knn").fit(images, labels).alpha_ is None


def test_the_head_is_told_what_it_is_to_be_told() -> None:
    images, labels = photos(30)
    settings = {"loss": "hinge", "max_iter": 3}
    classifier = PhotoClassifier(alpha=0.1, settings=settings, class_weight="balanced", random_state=0)
    head = classifier.fit(images, labels).head_
    assert (head.loss, head.max_iter, head.class_weight) == ("hinge", 3, "balanced")
    assert not hasattr(classifier, "predict_proba")
    assert clone(classifier).get_params() == classifier.get_params()
    with pytest.raises(SettingError, match=r"settings 'n_neighbors': a linear classifier has no such argument"):
        PhotoClassifier(settings={"n_neighbors": 3}).fit(images, labels)
    with pytest.raises(SettingError, match=r"settings 'alpha': it is an argument of PhotoClassifier itself"):
        PhotoClassifier(settings={"alpha": 0.5}).fit(images, labels)
    with pytest.raises(SettingError, match=r"finetune is -1: it must be a whole number from 0 to"):
        PhotoClassifier(finetune=-1).fit(images, labels)
    with pytest.raises(SettingError, match=r"head 'convnet' is not one of linear"):
        PhotoClassifier("convnet").fit(images, labels)


@pytest.mark.parametrize("head", ["linear", "mlp", "perceptron"])
def test_one_photo_of_each_class_is_enough(head: str) -> None:
    images, labels = photos(40)
    one = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]
    classifier = PhotoClassifier(head, random_state=0).fit(images[one], labels[one])
    assert classifier.predict(images[one]).tolist() == labels[one].tolist()
    with pytest.raises(SettingError, match="n_neighbors is 5, but it is fitted on n_samples = "):
        PhotoClassifier("knn").fit(images[one], labels[one])


def test_a_large_head_ends_when_it_gets_no_better_on_validation_photos() -> None:
    images, labels = photos(30)
    held = images, np.random.default_rng(0).permutation(labels)  # of which nothing can be learnt
    validated = PhotoClassifier("mlp", random_state=0).fit(images, labels, validation=held)
    assert validated.n_iter_ == validated.best_epoch_ + validated.head_.n_iter_no_change < 500
    alone = PhotoClassifier("mlp", settings={"max_iter": 12}, random_state=0).fit(images, labels)
    assert (alone.n_iter_, alone.head_.early_stopping) == (12, False)  # no photo is held out for that
    asked = PhotoClassifier("mlp", settings={"max_iter": 30, "early_stopping": False}, random_state=0)
    assert asked.fit(images, labels, validation=held).n_iter_ == 30


def test_a_fit_that_fails_leaves_what_was_learnt() -> None:
    images, labels = photos(30)
    classifier = PhotoClassifier(alpha=0.1, random_state=0).fit(images, labels)
    before = classifier.scores(images).tobytes()
    with pytest.raises(DataError, match="only one class"):
        classifier.fit(images, ["one"] * 30)
    assert classifier.scores(images).tobytes() == before


@pytest.mark.parametrize(("head", "finetune"), [*((head, 0) for head in HEADS), ("linear", 1), ("mlp", 1)])
def test_who_stops_listening_at_the_end_has_what_was_learnt(head: str, finetune: int) -> None:
    images, labels = photos(30)
    classifier = PhotoClassifier(head, finetune=finetune, random_state=0)
    events = classifier.fit_events(images, labels)
    assert any(isinstance(event, Finished) for event in events)
    events.close()
    assert classifier.score(images, labels) > 0.9


@pytest.fixture
def _one_thread() -> Iterator[None]:
    threads.set_num_threads(1)
    yield
    threads.set_num_threads(None)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("asked", [1, 3, 24, 36, 60])
def test_a_run_that_is_stopped_while_decays_are_tried_has_the_best_that_learnt_in_whole(asked: int) -> None:
    images, labels = photos(40)
    held = photos(20, seed=1)
    times = itertools.count(1)
    classifier = PhotoClassifier(settings={"max_iter": 20}, random_state=0)
    *_, finished = classifier.fit_events(images, labels, validation=held, stop=lambda: next(times) >= asked)
    assert finished.stopped
    assert len(classifier.tried_) < len(ALPHAS)
    assert classifier.tried_[classifier.alpha_] == max(classifier.tried_.values())
    assert float((classifier.predict(held[0]) == held[1]).mean()) == classifier.tried_[classifier.alpha_]
    assert classifier.n_iter_ == len(classifier.history_["epoch"])
    if len(classifier.tried_) > 1:
        alone = PhotoClassifier(alpha=classifier.alpha_, settings={"max_iter": 20}, random_state=0)
        assert (
            alone.fit(images, labels, validation=held).scores(images).tobytes() == classifier.scores(images).tobytes()
        )


@pytest.mark.parametrize("number", [2, 4])
def test_decays_tried_side_by_side_learn_what_they_learn_alone(number: int) -> None:
    images, labels = photos(40)
    held = photos(20, seed=1)
    try:
        threads.set_num_threads(number)
        found = PhotoClassifier(settings={"max_iter": 8}, random_state=0).fit(images, labels, validation=held)
        times = itertools.count(1)
        stopped = PhotoClassifier(settings={"max_iter": 8}, random_state=0)
        *_, finished = stopped.fit_events(images, labels, validation=held, stop=lambda: next(times) >= 12)
    finally:
        threads.set_num_threads(None)
    alone = PhotoClassifier(alpha=found.alpha_, settings={"max_iter": 8}, random_state=0)
    assert alone.fit(images, labels, validation=held).scores(images).tobytes() == found.scores(images).tobytes()
    assert finished.stopped
    assert stopped.tried_[stopped.alpha_] == max(stopped.tried_.values())
    assert float((stopped.predict(held[0]) == held[1]).mean()) == stopped.tried_[stopped.alpha_]


def test_finetuning_trains_the_last_part_of_the_backbone(tmp_path: Path) -> None:
    images, labels = photos()
    held = photos(30, seed=1)
    classifier = PhotoClassifier(alpha=0.01, finetune=2, random_state=0).fit(images, labels, validation=held)
    before, after = nn.tensors(models.features(tiny())), nn.tensors(classifier.extractor_.model_)
    changed = [path for path in before if before[path].numpy().tobytes() != after[path].numpy().tobytes()]
    assert "conv2.weight" in changed
    assert "conv1.weight" not in changed
    assert not any("running" in path for path in changed)
    assert {tensor.requires_grad for path, tensor in after.items() if path.endswith("weight")} == {True}
    assert classifier.history_["epoch"] == [1, 2]
    assert classifier.n_iter_ == 2
    assert classifier.score(*held) == classifier.history_["validation_accuracy"][classifier.best_epoch_ - 1]
    classifier.save(tmp_path / "model.safetensors")
    assert nabi.load(tmp_path / "model.safetensors").scores(held[0]).tobytes() == classifier.scores(held[0]).tobytes()
    again = clone(classifier).fit(images, labels, validation=held)
    assert again.scores(held[0]).tobytes() == classifier.scores(held[0]).tobytes()
    with pytest.raises(SettingError, match="a knn head has no gradient to train by"):
        PhotoClassifier("knn", finetune=2).fit(images, labels)


def test_what_is_not_trained_looks_at_a_photo_and_at_its_mirror_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = photos(20)
    seen: list[Examples] = []

    def noted(learner, loss, train, validation=None, **options):
        seen.append(train)
        return run(learner, loss, train, validation, **options)

    monkeypatch.setattr("nabi.classifiers.finetuning.run", noted)
    classifier = PhotoClassifier(alpha=0.01, finetune=3, class_weight={"cat": 2, "나비": 1, "ship": 1}, random_state=0)
    events = list(classifier.fit_events(images, labels))
    assert [event for event in events if isinstance(event, Looked)][-1] == Looked(40, 40)
    (train,) = seen
    trunk, last = parted(models.features(tiny()))
    expected = [trunk(these, training=False).numpy() for these in (images, np.ascontiguousarray(images[:, :, ::-1]))]
    assert np.allclose(train.images, np.concatenate(expected), atol=1e-5)
    assert "conv2" in dict(last.items())
    assert train.labels.tolist() == [*np.searchsorted(sorted(NAMES), labels)] * 2
    assert train.weights.tobytes() == np.tile(train.weights[:20], 2).tobytes()
    of_cats, of_others = train.weights[:20][labels == "cat"], train.weights[:20][labels != "cat"]
    assert of_cats[0] == pytest.approx(2 * of_others[0])
    PhotoClassifier(alpha=0.01, finetune=1, augment=None, random_state=0).fit(images, labels)
    assert np.allclose(seen[1].images, expected[0], atol=1e-5)
    with pytest.raises(SettingError, match="augment is 'flip,mixup': with finetune, photos are not mixed"):
        PhotoClassifier(finetune=1, augment="flip,mixup").fit(images, labels)


def test_what_memory_does_not_hold_goes_to_the_disk(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = photos(30)
    classifier = PhotoClassifier(alpha=0.01, finetune=1, random_state=0)
    expected = classifier.fit(images, labels).scores(images).tobytes()
    monkeypatch.setattr("nabi.classifiers.finetuning.IN_MEMORY", 0)
    assert clone(classifier).fit(images, labels).scores(images).tobytes() == expected
    assert [file.name for file in (own_cache / "training").iterdir()] == ["CACHEDIR.TAG"]

    def full(**how: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", full)
        with pytest.raises(DataError, match=r"takes a file in .*: No space left"):
            clone(classifier).fit(images, labels)
    monkeypatch.setattr("nabi.cache.has_room", lambda size: False)
    with pytest.raises(DataError, match=r"fine-tuning on so many photos takes 0\.0 GiB of disk in "):
        clone(classifier).fit(images, labels)


def test_which_part_of_a_backbone_is_trained() -> None:
    trained = {name: [layer for layer, _ in parted(models.features(build()))[1].items()] for name, build in (
        ("efficientnet_lite0", models.efficientnet_lite0), ("mobilenet_v2", models.mobilenet_v2),
        ("resnet18", models.resnet18),
    )}  # fmt: skip
    last = ["stage7", "last", "global_avg_pool"]
    assert trained == {
        "efficientnet_lite0": last, "mobilenet_v2": last, "resnet18": ["stage4", "global_avg_pool"]
    }  # fmt: skip


def test_finetuning_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    images, labels = photos(40)
    held = photos(20, seed=1)
    whole = PhotoClassifier(alpha=0.01, finetune=2, random_state=0).fit(images, labels, validation=held)
    options = {"checkpoint": tmp_path / "checkpoint", "checkpoint_seconds": 0}
    stopped = clone(whole)
    *_, finished = stopped.fit_events(images, labels, validation=held, stop=lambda: True, **options)
    assert finished.stopped
    again = clone(whole)
    *_, finished = again.fit_events(images, labels, validation=held, **options)
    assert not finished.stopped
    assert again.scores(held[0]).tobytes() == whole.scores(held[0]).tobytes()


@pytest.mark.parametrize("epochs", [1, 2])
def test_finetuning_remembers_the_epochs_before_it_was_stopped(tmp_path: Path, epochs: int) -> None:
    images, labels = photos(40)
    held = photos(20, seed=1)
    whole = PhotoClassifier(alpha=0.01, finetune=3, random_state=0).fit(images, labels, validation=held)
    options = {"checkpoint": tmp_path / "checkpoint", "checkpoint_seconds": 0}
    stopped = clone(whole)
    list(stopped.fit_events(images, labels, validation=held, stop=lambda: stopped.n_iter_ == epochs, **options))
    again = clone(whole)
    events = list(again.fit_events(images, labels, validation=held, **options))
    assert sum(isinstance(event, EpochEnded) for event in events) == 3 - epochs
    assert again.scores(held[0]).tobytes() == whole.scores(held[0]).tobytes()
    assert (again.best_epoch_, again.n_iter_) == (whole.best_epoch_, whole.n_iter_)
    for name in ("epoch", "validation_accuracy", "validation_loss", "train_loss"):
        assert again.history_[name] == whole.history_[name]


@pytest.mark.parametrize("finetune", [0, 3])
def test_a_run_that_diverges_keeps_its_best_epoch(monkeypatch: pytest.MonkeyPatch, finetune: int) -> None:
    images, labels = photos(40)
    classifier = PhotoClassifier(alpha=0.01, finetune=finetune, settings={"max_iter": 5}, random_state=0)
    ended = False
    step = GradientDescent.step

    def diverging(self, *batch):
        if ended:
            raise NonFiniteError("the loss is nan")
        return step(self, *batch)

    monkeypatch.setattr(GradientDescent, "step", diverging)
    events = classifier.fit_events(images, labels, validation=photos(20, seed=1))
    ended = sum(1 for event in itertools.takewhile(lambda event: not isinstance(event, EpochEnded), events)) > 0
    with pytest.raises(NonFiniteError):
        list(events)
    assert classifier.best_epoch_ == classifier.n_iter_ == 1
    scores = classifier.scores(images)
    assert np.isfinite(scores).all()
    if finetune:
        before, after = (nn.tensors(model) for model in (models.features(tiny()), classifier.extractor_.model_))
        assert before["conv2.weight"].numpy().tobytes() != after["conv2.weight"].numpy().tobytes()


def test_photos_that_are_not_square(tmp_path: Path) -> None:
    images, labels = photos(30)
    wide = np.ascontiguousarray(images[:, 8:-8])
    files = as_files(wide, tmp_path / "photos")
    classifier = PhotoClassifier(alpha=0.1, random_state=0).fit(wide, labels, validation=(files[:9], labels[:9]))
    assert classifier.scores(files).tobytes() == classifier.scores(wide).tobytes()


def test_a_backbone_as_it_came_names_the_classes_of_imagenet(tmp_path: Path, capsys, monkeypatch) -> None:
    small = Backbone(lambda weights: tiny(1000), 16, {}, packaged="packaged:efficientnet_lite0", size=64)
    monkeypatch.setitem(BACKBONES, "efficientnet_lite0", small)
    images, _ = photos(4)
    classifier = pretrained()
    expected = tiny(1000)(images, training=False).numpy().argmax(axis=1)
    assert classifier.predict(images).tolist() == [models.imagenet_classes()[place] for place in expected]
    classifier.save(tmp_path / "model.safetensors")
    assert nabi.load(tmp_path / "model.safetensors").predict(images).tolist() == classifier.predict(images).tolist()
    (file,) = as_files(images[:1], tmp_path / "photos")
    assert main(["predict", "efficientnet_lite0", file, "--top", "1"]) == 0
    assert models.imagenet_classes()[expected[0]] in capsys.readouterr().out
    assert main(["look", "efficientnet_lite0"]) == 0
    assert "one of 1,000 classes" in capsys.readouterr().out


def test_a_backbone_as_it_came_is_exported(tmp_path: Path, capsys, monkeypatch) -> None:
    pytest.importorskip("onnxruntime")
    small = Backbone(lambda weights: tiny(1000), 16, {}, packaged="packaged:efficientnet_lite0", size=64)
    monkeypatch.setitem(BACKBONES, "efficientnet_lite0", small)
    assert main(["export", "efficientnet_lite0", "--onnx", str(tmp_path / "net.onnx")]) == 0
    assert "compared on made pictures" in capsys.readouterr().err


# --- features ---


def test_features_are_those_of_the_network() -> None:
    images, _ = photos(11)
    extractor = FeatureExtractor().fit()
    features = extractor.transform(images)
    assert (features.shape, features.dtype, extractor.n_features_out_) == ((11, 16), np.float32, 16)
    expected = models.features(tiny())(images, training=False).numpy()
    assert np.allclose(features, expected, atol=1e-5)
    assert extractor.get_feature_names_out()[0] == "efficientnet_lite00"


@pytest.mark.usefixtures("own_cache")
def test_a_photo_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = photos(9)
    first = FeatureExtractor().fit().transform(images[:6])
    extractor = FeatureExtractor().fit()
    seen: list[int] = []
    apply = extractor._apply

    def counting(block):
        seen.append(len(block))
        return apply(block)

    monkeypatch.setattr(extractor, "_apply", counting)
    assert extractor.transform(images[:6]).tobytes() == first.tobytes()
    assert seen == []
    both = extractor.transform(images)  # of which three are new
    assert sum(seen) == 3
    assert both[:6].tobytes() == first.tobytes()


def test_a_photo_is_known_by_its_pixels_and_their_order() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    keys = [_key(photo), _key(photo.reshape(64, 32, 3)), _key(photo[:, ::-1]), _key(photo + np.uint8(1))]
    assert len(set(keys)) == 4
    assert keys[0] == _key(photo.copy())


def test_few_new_photos_do_not_have_all_written_anew(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = photos(40)
    extractor = FeatureExtractor().fit()
    extractor.transform(images[:34])
    (kept,) = [file for file in (own_cache / "features").iterdir() if file.name != "CACHEDIR.TAG"]
    before = kept.read_bytes()
    one = extractor.transform(images[34:35])
    assert kept.read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr(extractor, "_apply", None)
        assert extractor.transform(images[34:35]).tobytes() == one.tobytes()  # in memory they are, all the same
    assert pickle.loads(pickle.dumps(extractor))._kept.new == 0
    extractor.transform(images)  # with five more it is worth it
    assert kept.read_bytes() != before


def test_no_more_than_the_latest_features_are_kept(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nabi.classifiers.features.KEPT", 8)
    images, _ = photos(20)
    extractor = FeatureExtractor().fit()
    all_of_them = extractor.transform(images)
    again = FeatureExtractor().fit()
    assert len(again._kept.features) == len(extractor._kept.features) == 8
    assert again.transform(images).tobytes() == all_of_them.tobytes()


def test_a_damaged_cache_is_no_cache(own_cache: Path) -> None:
    images, _ = photos(5)
    before = FeatureExtractor().fit().transform(images)
    (kept,) = [file for file in (own_cache / "features").iterdir() if file.name != "CACHEDIR.TAG"]
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    assert FeatureExtractor().fit().transform(images).tobytes() == before.tobytes()


def test_progress_is_told() -> None:
    images, _ = photos(40)
    told = list(FeatureExtractor().fit().looked(images))
    assert told[0] == Looked(0, 40)
    assert told[-1] == Looked(40, 40)
    tried = [event for event in PhotoClassifier().fit_events(*photos(40)) if isinstance(event, Tried)]
    assert tried == [Tried(done, len(ALPHAS)) for done in range(len(ALPHAS) + 1)]


@pytest.mark.parametrize("head", HEADS)
def test_one_look_says_all(head: str) -> None:
    images, labels = photos()
    classifier = PhotoClassifier(head, random_state=0).fit(images, labels).calibrate(images, labels)
    classifier.temperature_ = 1.5
    assert np.array_equal(answers_of(classifier, images).none, classifier.fits_none(images))


def test_scikit_learn_pipelines_take_the_extractor() -> None:
    images, labels = photos()
    pipeline = make_pipeline(FeatureExtractor(), LogisticRegression(max_iter=1000)).fit(images, labels)
    assert pipeline.score(*photos(seed=1)) > 0.9


def test_what_is_no_photo_is_refused(tmp_path: Path) -> None:
    extractor = FeatureExtractor().fit()
    images, _ = photos(2)
    with pytest.raises(ShapeError, match=r"photos of shape \(2, 64, 64\): they must be \(N, H, W, 3\)"):
        extractor.transform(images[..., 0])
    with pytest.raises(ShapeError, match=r"at least 32 pixels a side"):
        extractor.transform(images[:, :8, :8])
    with pytest.raises(DTypeError, match=r"photos of float64: they must be uint8"):
        extractor.transform(images / 255)
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        extractor.transform([str(tmp_path / "gone.png")])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png: not a picture of a known format"):
        extractor.transform([tmp_path / "text.png"])


def test_a_backbone_without_weights_says_so() -> None:
    with pytest.raises(SettingError, match=r"backbone 'resnet18' comes without weights: name a file"):
        FeatureExtractor("resnet18").fit()
    with pytest.raises(SettingError, match=r"backbone 'vgg' is not one of efficientnet_lite0"):
        FeatureExtractor("vgg").fit()


def test_a_file_that_was_meddled_with_is_refused(tmp_path: Path) -> None:
    images, labels = photos(30)
    classifier = PhotoClassifier(alpha=0.1, random_state=0).fit(images, labels)
    path = tmp_path / "model.safetensors"
    for change, message in (
        (lambda header: header["head"].update(classifier="photo"), "its head is a 'photo'"),
        (lambda header: header["head"].update(classes=["a", "b", "c"]), "the classes of its head are others"),
        (lambda header: header["backbone"].update(layer="ReLU", fields=[]), "model is a ReLU"),
        (lambda header: widened(header["backbone"]), "a padding of 100,000,000 is too far for inputs"),
    ):
        header = classifier.header()
        change(header)
        container.write(path, classifier._arrays(), header)
        with pytest.raises(ModelFileError, match=message):
            nabi.load(path)


def widened(description) -> None:
    """A border around pictures that would fill the memory."""
    (conv,) = [layer for name, layer in description["fields"] if name == "conv1"]
    conv["fields"] = [[name, 100_000_000 if name == "padding" else value] for name, value in conv["fields"]]


# --- the command line ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images, labels = photos(60)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((120, 100)).save(tmp_path / "photos" / label / f"{number}.png")
    return tmp_path / "photos"


def test_train_looks_at_photos_with_a_backbone(folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert main(["train", str(folder), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "photos: efficientnet_lite0, trained on ImageNet, looks at them first; --backbone none does without" in said
    assert "test accuracy" in said
    assert "the weight decay is" in said
    assert "epoch 1" not in said
    model = nabi.load(out / "model.safetensors")
    assert isinstance(model, PhotoClassifier)
    assert (model.head, model.input_shape_) == ("linear", (64, 64, 3))
    assert main(["predict", str(out), str(folder / "cat"), "--top", "1"]) == 0
    answers = capsys.readouterr().out.splitlines()
    assert sum("cat" in line.split("  ")[1] for line in answers) > 0.8 * len(answers)
    # Who looks closer is told the same probabilities.
    photo, cooled = str(next((folder / "cat").iterdir())), str(tmp_path / "cooled.safetensors")
    model.temperature_ = 0.5
    model.save(cooled)
    assert main(["predict", cooled, photo, "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert main(["look", cooled, photo, "--json", "--out", str(tmp_path / "look.png")]) == 0
    (inside,) = json.loads(capsys.readouterr().out)["pictures"]
    says = {best["class"]: best["score"] for best in answer["predictions"]}
    assert {name: inside["probability"][name] for name in says} == pytest.approx(says, abs=2e-6)
    assert inside["softmax"] != pytest.approx(inside["probability"], abs=1e-4)
    assert main(["look", cooled, photo, "--out", str(tmp_path / "look.png")]) == 0
    shown = capsys.readouterr().out
    assert "probability: the softmax of the scores divided by 0.500, the temperature" in shown
    assert main(["evaluate", str(out), str(folder)]) == 0


def test_ctrl_c_while_photos_are_looked_at(folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    looked = FeatureExtractor.looked

    def pressed(self, X):
        yield Looked(0, len(X))
        signal.raise_signal(signal.SIGINT)
        return (yield from looked(self, X))

    monkeypatch.setattr(FeatureExtractor, "looked", pressed)
    assert main(["train", str(folder), "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "nabi: stopped"
    assert not (tmp_path / "run").exists()


@every_head
def test_train_takes_every_head(folder: Path, tmp_path: Path, head: str) -> None:
    assert main(["train", str(folder), "--model", head, "--out", str(tmp_path / head)]) == 0
    assert nabi.load(tmp_path / head).head == head


@pytest.mark.parametrize(
    ("options", "weighting"),
    [("", "balanced"), ("--model knn --no-balanced", None)],
)
def test_train_lets_rare_classes_count(
    folder: Path, tmp_path: Path, capsys, options: str, weighting: str | None
) -> None:
    for file in sorted((folder / "ship").iterdir())[2:]:
        file.rename(folder / "cat" / file.name)
    out = tmp_path / "run"
    assert main(["train", str(folder), *options.split(), "--out", str(out)]) == 0
    told = "train on: [12] of ship, .*; rare classes count as much as .*; --no-balanced"
    assert bool(re.search(told, capsys.readouterr().out)) == (weighting is not None)
    assert nabi.load(out).class_weight == weighting
    again = json.loads((out / "run.json").read_text())
    assert again.get("balanced", False) == (weighting is not None)
    assert ("--no-balanced" if "--no-balanced" in options else "--balanced") in _command(again)


@pytest.mark.parametrize("balanced", [True, None])
def test_a_run_goes_on_as_it_was_weighted(folder: Path, tmp_path: Path, balanced: bool | None) -> None:
    """What began before photos were balanced by themselves stays as it began."""
    for file in sorted((folder / "ship").iterdir())[2:]:
        file.rename(folder / "cat" / file.name)
    out = tmp_path / "run"
    out.mkdir()
    asked = {"data": str(folder), "seed": 0, "model": "linear", "backbone": "efficientnet_lite0"}
    (out / "run.json").write_text(json.dumps(asked | ({} if balanced is None else {"balanced": balanced})))
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert nabi.load(out).class_weight == ("balanced" if balanced else None)


def test_train_keeps_what_finetuning_made(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["train", str(folder), "--finetune", "--epochs", "2", "--out", str(out)]) == 0
    before, after = (nn.tensors(model) for model in (models.features(tiny()), nabi.load(out).extractor_.model_))
    assert before["conv2.weight"].numpy().tobytes() != after["conv2.weight"].numpy().tobytes()


def test_train_on_grey_photos(tmp_path: Path, capsys) -> None:
    images, labels = photos()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "scans" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("L").resize((100, 100)).save(tmp_path / "scans" / label / f"{number}.png")
    out = tmp_path / "run"
    assert main(["train", str(tmp_path / "scans"), "--out", str(out)]) == 0
    assert nabi.load(out).input_shape_ == (64, 64, 3)
    assert main(["evaluate", str(out), str(tmp_path / "scans")]) == 0
    assert capsys.readouterr().err == ""


def test_train_finds_a_learning_rate_for_the_head(folder: Path, tmp_path: Path, capsys) -> None:
    assert main(["train", str(folder), "--learning-rate", "find", "--out", str(tmp_path / "run")]) == 0
    assert "the learning rate that was found: " in capsys.readouterr().out
    assert (tmp_path / "run" / "learning-rate.svg").exists()


@pytest.mark.parametrize("seed", range(12))
def test_a_class_of_one_photo_may_be_kept_for_validation(seed: int) -> None:
    images, labels = photos(30)
    labels[0] = "dog"
    classifier = PhotoClassifier(random_state=seed, validation_fraction=0.3).fit(images, labels)
    assert "dog" in classifier.classes_
    weighted = PhotoClassifier(random_state=seed, validation_fraction=0.3, class_weight={"dog": 2.0})
    assert weighted.fit(images, labels).alpha_ is not None


def test_files_are_brought_to_the_size_that_was_learnt_from(tmp_path: Path) -> None:
    images, labels = photos()
    small = np.ascontiguousarray(images[:, ::2, ::2])
    classifier = PhotoClassifier(weights=Path("tiny"), random_state=0).fit(small, labels)
    classifier.save(tmp_path / "model.safetensors")
    again = nabi.load(tmp_path / "model.safetensors")
    assert again.weights == "tiny"
    assert again.predict(as_files(small[:5], tmp_path / "files")).tolist() == classifier.predict(small[:5]).tolist()
    again.calibrate(as_files(small[:9], tmp_path / "others"), labels[:9])


def test_train_without_a_backbone(folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert main(["train", str(folder), "--backbone", "none", "--size", "32", "--epochs", "1", "--out", str(out)]) == 0
    assert nabi.load(out).input_shape_ == (32, 32, 3)
    assert "looks at them first" not in capsys.readouterr().out


def test_train_says_what_to_install(folder: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(where):
        raise SettingError(f"{where}: not installed")

    monkeypatch.setattr("nabi.weights.find", missing)
    assert main(["train", str(folder), "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert "pip install 'nabi[pretrained]'" in capsys.readouterr().err
    assert not isinstance(nabi.load(tmp_path / "run"), PhotoClassifier)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "vgg"], "--backbone 'vgg' is not none, efficientnet_lite0, resnet18"),
        (
            ["--backbone", "efficientnet_lite0", "--model", "convnet"],
            "--model convnet takes pixels: with a backbone one",
        ),
        (["--backbone", "resnet18"], "--backbone resnet18 comes without weights: --backbone FILE, or hf:OWNER/REPO"),
        (["--finetune", "--epochs", "0"], "--epochs 0: --finetune takes 1 or more"),
        (
            ["--augment", "flip"],
            "--augment: with a backbone each photo is looked at once, as it is; but for --finetune",
        ),
        (["--backbone", "none", "--finetune"], "--finetune: there is no backbone to train further"),
        (["--finetune", "--learning-rate", "0.1"], "--learning-rate: --finetune has a way of its own"),
        (["--finetune", "--loss", "hinge"], "--loss: --finetune has a way of its own"),
        (["--weight-decay", "-1"], "--weight-decay is -1.0: it must be a number 0 or more"),
    ],
)
def test_train_refuses(folder: Path, tmp_path: Path, capsys, arguments: list[str], message: str) -> None:
    assert main(["train", str(folder), "--out", str(tmp_path / "run"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

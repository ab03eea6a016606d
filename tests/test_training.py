"""The fit loop: events, checkpoints that go on with the same bits, what is kept, and what made a loss infinite."""

import itertools
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nabi
from nabi import container, losses, models, nn, ops, optim, training, waiting
from nabi.data import augment
from nabi.engines.cpu import program
from nabi.errors import DataError, ModelFileError, NonFiniteError, SettingError
from nabi.training import EpochEnded, Examples, Finished, GradientDescent, Started, Stepped, checkpoint
from nabi.waiting import saying_that_code_is_made

EPOCHS, BATCH, N, K = 4, 16, 70, 3  # 70 pictures: five steps of 14


def pictures(seed: int = 0, n: int = N):
    """Noise that is brighter in another place for each class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, K, n)
    images = random.integers(0, 120, (n, 4, 4, 1))
    images[np.arange(n), labels] += 100
    return images.astype(np.uint8), labels


def made(seed: int = 0, rate: float = 0.01, kind=optim.AdamW):
    model = models.mlp((4, 4, 1), K, hidden=(8,), dropout=0.3, seed=seed)
    return model, kind(nn.parameters(model), rate)


DESCENT = ("clip_norm", "average")


def run(model, optimizer, **changes):
    arguments = {
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "schedule": optim.cosine(0.01, EPOCHS * 5),
        "seed": 5,
        "augment": "flip",
        "validation": pictures(1),
    } | changes
    descent = {name: arguments.pop(name) for name in DESCENT if name in arguments}
    learner = GradientDescent(model, optimizer, losses.softmax_cross_entropy, **descent)
    train = arguments.pop("train", None) or pictures()
    examples = Examples(*train, arguments.pop("weights", None), augment.parse(arguments.pop("augment")))
    return training.run(learner, losses.softmax_cross_entropy, examples, **arguments)


def weights(model):
    return {path: tensor.numpy() for path, tensor in nn.tensors(model).items()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[path], other[path]) for path in one)


def stopping(after: int):
    """A ``stop`` that says yes when it is asked for the time ``after``."""
    asked = iter(range(1, 10**6))
    return lambda: next(asked) == after


def timeless(history):
    return [{name: value for name, value in vars(row).items() if name != "seconds"} for row in history]


# --- events ---


def test_events_come_in_order_and_count_from_one() -> None:
    events = list(run(*made()))
    kinds = "".join(type(event).__name__[0] + type(event).__name__[1] for event in events)
    assert kinds == "St" + EPOCHS * ("St" * 5 + "Ep") + "Fi"
    assert events[0] == Started(EPOCHS, 0, 0, 5, ())
    steps = [(event.epoch, event.step) for event in events if isinstance(event, Stepped)]
    assert steps == [(epoch, step) for epoch in range(1, EPOCHS + 1) for step in range(1, 6)]
    rows = [event for event in events if isinstance(event, EpochEnded)]
    assert [row.epoch for row in rows] == list(range(1, EPOCHS + 1))
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.epochs, last.stopped, list(last.history)) == (EPOCHS, False, rows)


def test_learns_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    *_, finished = run(*made(), epochs=15, schedule=None)
    assert finished.history[-1].validation_accuracy > 0.9 > 0.6 > finished.history[0].train_accuracy
    assert finished.history[-1].train_loss < finished.history[0].train_loss
    assert capfd.readouterr() == ("", "")


def test_the_loss_of_an_epoch_is_the_mean_over_its_pictures() -> None:
    model, optimizer = made(rate=1e-12)  # as good as standing still
    *_, finished = run(model, optimizer, epochs=1, schedule=None, augment=None, validation=pictures(), batch_size=23)
    images, labels = pictures()
    scores = model(images, training=False)
    row = finished.history[0]
    assert row.validation_loss == pytest.approx(float(losses.softmax_cross_entropy(scores, labels)), abs=1e-5)
    assert row.validation_accuracy == np.mean(scores.numpy().argmax(axis=1) == labels)


def test_keeps_the_weights_of_the_epoch_that_was_best_on_validation() -> None:
    model, optimizer = made()
    after, best = {}, 0
    for event in run(model, optimizer, epochs=12, validation=pictures(2, 40), schedule=optim.constant(0.05)):
        if isinstance(event, EpochEnded):
            after[event.epoch] = weights(model)
        elif isinstance(event, Finished):
            best = event.best_epoch
            rows = event.history
    merits = [(row.validation_accuracy, -row.validation_loss) for row in rows]
    assert merits[best - 1] == max(merits)
    assert best == max(row.epoch for row in rows if row.best)
    assert best < 12  # so that the last weights are others
    assert same(weights(model), after[best])
    assert not same(after[best], after[12])


def test_without_validation_the_last_epoch_is_kept() -> None:
    model, optimizer = made()
    for event in run(model, optimizer, validation=None):
        if isinstance(event, EpochEnded):
            last = weights(model)
            assert event.validation_loss is event.validation_accuracy is None
    assert event.best_epoch == EPOCHS
    assert same(weights(model), last)


def test_the_schedule_is_followed_step_by_step() -> None:
    model, optimizer = made()
    seen = [float(optimizer.learning_rate) for event in run(model, optimizer) if isinstance(event, Stepped)]
    schedule = optim.cosine(0.01, EPOCHS * 5)
    assert seen == [schedule(step) for step in range(EPOCHS * 5)]


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="no pictures"):
        list(run(*made(), train=(np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, np.int64))))
    with pytest.raises(DataError, match="no pictures to validate on"):
        list(run(*made(), validation=(np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, np.int64))))


def test_what_is_done_to_the_model_after_the_end_stays() -> None:
    model, optimizer = made()
    for event in run(model, optimizer):
        if isinstance(event, Finished):
            for tensor in nn.parameters(model).values():
                tensor.assign(np.zeros(tensor.shape, np.float32))
    assert not any(tensor.numpy().any() for tensor in nn.parameters(model).values())


# --- batches ---


@given(st.integers(1, 500), st.integers(1, 600))
@settings(max_examples=200)
def test_batches_are_as_few_as_fit_and_nearly_equal(length: int, batch_size: int) -> None:
    bounds = training.batch_bounds(length, batch_size)
    sizes = np.diff(bounds)
    assert bounds[0] == 0
    assert bounds[-1] == length
    assert len(sizes) == -(-length // batch_size)
    assert sizes.max() <= batch_size
    assert sizes.max() - sizes.min() <= 1


@given(st.integers(0, 5000), st.integers(1, 1000))
@settings(max_examples=200)
def test_answers_are_asked_for_in_batches_of_few_sizes_of_which_little_is_filled_up(length: int, most: int) -> None:
    bounds = training.answer_bounds(length, most)
    assert (bounds[0], bounds[-1]) == (0, length)
    asked = 0
    for start, end in itertools.pairwise(bounds):
        batch = training.filled(np.arange(start, end), most)
        assert batch[: end - start].tolist() == list(range(start, end))
        assert set(batch[end - start :].tolist()) <= {end - 1}
        assert len(batch) == most or (len(batch) < most and len(batch).bit_count() == 1)
        asked += len(batch)
    assert 3 * asked <= 4 * max(length, 0)
    assert bounds[: length // most + 1] == list(range(0, length + 1, most))


def test_every_epoch_shows_each_picture_once_in_another_order() -> None:
    images = np.arange(50, dtype=np.float32).reshape(50, 1)
    seen = []

    class Watching(nn.Layer):
        def __init__(self) -> None:
            self.seen = nn.Linear(1, 2, key=np.array([0, 1], np.uint32))
            self.last = ops.zeros(shape=(10, 1))

        def forward(self, x, training):
            if training:
                self.last.assign(x)
            return self.seen(x)

    model = Watching()
    optimizer = optim.SGD(nn.parameters(model), 1e-6)
    labels = np.zeros(50, np.int64)
    for event in run(model, optimizer, train=(images, labels), validation=None, batch_size=10, epochs=3, augment=None):
        if isinstance(event, Stepped):
            seen += model.last.numpy().ravel().tolist()
    epochs = [seen[start : start + 50] for start in (0, 50, 100)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != sorted(epochs[2])


# --- seeds ---


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    runs = []
    for seed in (5, 5, 6):
        model, optimizer = made()
        *_, finished = run(model, optimizer, seed=seed)
        runs.append((weights(model), timeless(finished.history)))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert not same(runs[0][0], runs[2][0])


# --- going on ---


@pytest.mark.parametrize("after", [1, 5, 6, 7, 13])
def test_a_run_that_goes_on_ends_with_the_bits_of_one_never_stopped(tmp_path, after: int) -> None:
    model, optimizer = made()
    *_, whole = run(model, optimizer)

    path = tmp_path / "checkpoint"
    first, its_optimizer = made()
    *_, stopped = run(first, its_optimizer, checkpoint=path, stop=stopping(after))
    assert stopped.stopped
    second, its_optimizer = made(seed=1, rate=0.7)  # everything comes from the checkpoint
    started, *_, finished = run(second, its_optimizer, checkpoint=path)
    assert (started.epoch, started.step) == divmod(after, 5) if after < 5 else started.epoch >= 1
    assert same(weights(second), weights(model))
    assert timeless(finished.history) == timeless(whole.history)
    assert finished.best_epoch == whole.best_epoch


def test_a_run_may_be_stopped_at_every_step(tmp_path) -> None:
    model, optimizer = made()
    list(run(model, optimizer))
    path = tmp_path / "checkpoint"
    for seed in range(EPOCHS * 6):
        other, its_optimizer = made(seed)
        *_, last = run(other, its_optimizer, checkpoint=path, stop=lambda: True)
        if not last.stopped:
            break
    assert same(weights(other), weights(model))


def test_a_finished_run_goes_on_to_its_end_at_once(tmp_path) -> None:
    model, optimizer = made()
    *_, finished = run(model, optimizer, checkpoint=tmp_path / "checkpoint")
    other, its_optimizer = made(seed=3)
    started, again = run(other, its_optimizer, checkpoint=tmp_path / "checkpoint")
    assert started.epoch == EPOCHS
    assert again == finished
    assert same(weights(other), weights(model))


def test_a_checkpoint_is_written_after_every_step_if_wanted(tmp_path) -> None:
    path = tmp_path / "checkpoint"
    there = []
    for event in run(*made(), checkpoint=path, checkpoint_seconds=0):
        if isinstance(event, Stepped | EpochEnded) and path.exists():
            at = container.read(path)[1]["checkpoint"]
            there.append((at["epoch"], at["step"]))
    steps = [(epoch, step) for epoch in range(EPOCHS) for step in range(5)]
    assert sorted(set(there)) == [*steps[1:], (EPOCHS, 0)]


EVERYTHING = {
    "augment": "flip,mixup:0.4",
    "average": 0.9,
    "clip_norm": 0.5,
    "weights": np.linspace(0.5, 1.5, N, dtype=np.float32),
}


@pytest.mark.parametrize("after", [3, 5, 8])
def test_a_run_with_everything_goes_on_with_the_same_bits(tmp_path, after: int) -> None:
    model, optimizer = made()
    *_, whole = run(model, optimizer, **EVERYTHING)
    first, its_optimizer = made()
    list(run(first, its_optimizer, checkpoint=tmp_path / "checkpoint", stop=stopping(after), **EVERYTHING))
    second, its_optimizer = made(seed=1, rate=0.7)
    *_, finished = run(second, its_optimizer, checkpoint=tmp_path / "checkpoint", **EVERYTHING)
    assert same(weights(second), weights(model))
    assert timeless(finished.history) == timeless(whole.history)


@pytest.mark.parametrize(
    ("changes", "name"), [({"epochs": 5}, "epochs"), ({"seed": 6}, "seed"), ({"about": {"data": "b"}}, "data")]
)
def test_refuses_to_go_on_with_something_else(tmp_path, changes, name: str) -> None:
    path = tmp_path / "checkpoint"
    begun = {"about": {"data": "a"}, "checkpoint": path}
    list(run(*made(), **begun, stop=stopping(3)))
    model, optimizer = made()
    before = weights(model)
    with pytest.raises(SettingError, match=f"{path}: of a run with {name}="):
        list(run(model, optimizer, **(begun | changes)))
    assert same(weights(model), before)


def test_refuses_a_file_that_is_no_checkpoint(tmp_path) -> None:
    path = tmp_path / "checkpoint"
    container.write(path, {}, {"classifier": "mlp"})
    with pytest.raises(ModelFileError, match="not the checkpoint of a run"):
        list(run(*made(), checkpoint=path))
    list(run(*made(), checkpoint=tmp_path / "other"))
    other = models.linear((4, 4, 1), K)
    with pytest.raises(ModelFileError, match="of another model"):
        list(run(other, optim.AdamW(nn.parameters(other)), checkpoint=tmp_path / "other"))


@pytest.mark.parametrize("damage", ["shape", "version"])
def test_a_checkpoint_of_something_else_changes_nothing(tmp_path, damage: str) -> None:
    path = tmp_path / "checkpoint"
    list(run(*made(), checkpoint=path, stop=stopping(3)))
    arrays, header = container.read(path)
    if damage == "shape":
        name = max(name for name in arrays if name.startswith("now."))
        arrays = arrays | {name: np.zeros((3, *arrays[name].shape), arrays[name].dtype)}
    else:
        header = header | {"checkpoint": header["checkpoint"] | {"moon": 1}}
    container.write(path, arrays, header)
    model, optimizer = made()
    before = weights(model)
    with pytest.raises(ModelFileError, match=f"{path}: the checkpoint of another"):
        list(run(model, optimizer, checkpoint=path))
    assert same(weights(model), before)


@pytest.mark.parametrize("epochs", [0, 1, 50_000])
def test_a_history_of_any_length_goes_into_a_checkpoint(tmp_path, epochs: int) -> None:
    random = np.random.default_rng(0)
    history = [
        EpochEnded(epoch + 1, value, 0.5, value / 3 if epoch % 2 else None, None, 1e-3, 0.1 + epoch, bool(epoch % 3))
        for epoch, value in enumerate(random.random(epochs).tolist())
    ]
    progress = checkpoint.Progress(epochs, 2, 0.1 + 0.2, 7, 1.5, history, epochs)
    state = dict(zip(("model", "optimizer"), made(), strict=True))
    checkpoint.save(tmp_path / "checkpoint", state, {}, progress, {})
    again, _ = checkpoint.restore(tmp_path / "checkpoint", state, {})
    assert again == progress
    assert [list(map(type, vars(row).values())) for row in again.history[:2]] == [
        list(map(type, vars(row).values())) for row in history[:2]
    ]


def test_closing_the_generator_keeps_the_best() -> None:
    model, optimizer = made()
    events = run(model, optimizer)
    for event in events:
        if isinstance(event, EpochEnded):
            first = weights(model)
        if isinstance(event, Stepped) and event.epoch == 2:
            assert not same(weights(model), first)
            break
    events.close()
    assert same(weights(model), first)


# --- what is not finite ---


class Exploding(nn.Layer):
    """A model whose scores are not finite from the given step on."""

    label = "exploding"

    def __init__(self, step: int) -> None:
        self.body = models.linear((4, 4, 1), K)
        self.count = ops.zeros(shape=())
        self.step = step

    def forward(self, x, training):
        scores = self.body(x, training=training)
        if training:
            self.count.assign(self.count + 1)
            scores = scores + ops.log(self.step - self.count)
        return scores


def test_names_epoch_step_and_the_first_node_and_keeps_the_last_good_model() -> None:
    model = Exploding(8)
    optimizer = optim.SGD(nn.parameters(model), 0.01)
    good = []
    events = (good.append(weights(model)) for event in run(model, optimizer) if isinstance(event, EpochEnded))
    with pytest.raises(
        NonFiniteError,
        match=r"^epoch 2, step 3: the loss is .* of log in exploding: -inf; a lower learning rate may help$",
    ):
        list(events)
    assert len(good) == 1
    assert same(weights(model), good[0])


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_finds_the_update_that_went_too_far(rate: float) -> None:
    with pytest.raises(NonFiniteError, match=r"epoch 1, step \d+: .* the first value that is not finite is"):
        list(run(*made(rate=rate, kind=optim.SGD), schedule=None))


def test_an_infinite_weight_is_found_although_the_loss_is_finite() -> None:
    class Deaf(nn.Layer):
        """A model that does not look at one of its weights."""

        def __init__(self) -> None:
            self.body = models.linear((4, 4, 1), K)
            self.unused = ops.ones(shape=())

        def forward(self, x, training):
            if training:
                self.unused.assign(self.unused * 1e8)
            return self.body(x, training=training)

    model = Deaf()
    with pytest.raises(NonFiniteError, match=r"epoch 1, step 5: a weight is not finite; .* multiply"):
        list(run(model, optim.SGD(nn.parameters(model), 0.01)))


def test_pictures_that_are_not_finite_are_named() -> None:
    images = pictures()[0].astype(np.float32)
    images[33, 2, 2] = np.nan
    with pytest.raises(NonFiniteError, match="is in 'argument 0'"):
        list(run(*made(), train=(images, pictures()[1]), augment=None))


# --- how examples are shown, and how much they count ---


@pytest.mark.parametrize("shape", [(N, 16), (N, 4, 4)])
def test_what_is_no_picture_cannot_be_flipped(shape) -> None:
    images, labels = pictures()
    with pytest.raises(SettingError, match="flip"):
        list(run(*made(), train=(images.reshape(shape), labels)))


def test_a_weight_multiplies_a_loss() -> None:
    """One step on pictures of weights 2, 1 and 0 is one step on the first twice, the second once and no third."""
    images, labels = (part[:3] for part in pictures())
    moved = []
    for train, counts in [
        ((images, labels), np.float32([2, 1, 0])),
        ((images[[0, 0, 1]], labels[[0, 0, 1]]), None),
    ]:
        model = models.linear((4, 4, 1), K)
        changes = {"epochs": 1, "schedule": None, "augment": None, "validation": None, "batch_size": 3}
        list(run(model, optim.SGD(nn.parameters(model), 0.1), train=train, weights=counts, **changes))
        moved.append(weights(model))
    assert all(np.allclose(moved[0][path], moved[1][path], atol=1e-6) for path in moved[0])


def test_mixup_teaches_two_labels_by_their_shares() -> None:
    images, labels = pictures()
    batch = Examples(images, labels, None, augment.parse("mixup:0.5")).take(np.arange(N), np.uint32([1, 2]))
    assert [part.dtype.name for part in batch] == ["uint8", "int64", "float32", "int64", "float32"]
    np.testing.assert_allclose(batch[2] + batch[4], 1, atol=1e-6)
    model = models.linear((4, 4, 1), K)
    scores = model(batch[0], training=True)
    softmax = losses.softmax_cross_entropy
    wanted = np.mean(
        softmax(scores, batch[1], reduction="none").numpy() * batch[2]
        + softmax(scores, batch[3], reduction="none").numpy() * batch[4]
    )
    learner = GradientDescent(model, optim.SGD(nn.parameters(model), 0.1), softmax)
    assert float(learner.step(*batch)[0]) == pytest.approx(float(wanted), rel=1e-5)


def test_mixed_pictures_that_count_differently() -> None:
    images, labels = pictures()
    counts = np.linspace(0, 2, N, dtype=np.float32)
    batch = Examples(images, labels, counts, augment.parse("mixup:0.5")).take(np.arange(N), np.uint32([1, 2]))
    plain = Examples(images, labels, None, augment.parse("mixup:0.5")).take(np.arange(N), np.uint32([1, 2]))
    np.testing.assert_allclose(batch[2], plain[2] * counts, rtol=1e-6)
    assert not np.allclose(batch[4], plain[4])


def test_a_clipped_gradient_is_no_longer_than_asked() -> None:
    model = models.linear((4, 4, 1), K)
    before = weights(model)
    optimizer = optim.SGD(nn.parameters(model), 1.0)
    changes = {"epochs": 1, "schedule": None, "augment": None, "validation": None, "batch_size": N}
    list(run(model, optimizer, clip_norm=1e-3, **changes))
    change = np.concatenate([(weights(model)[path] - before[path]).ravel() for path in before])
    assert np.linalg.norm(change) == pytest.approx(1e-3, rel=1e-4)


def test_what_is_validated_and_kept_is_the_average() -> None:
    model, optimizer = made()
    on_the_way = []
    changes = {"epochs": 3, "augment": None, "batch_size": N}
    for event in run(model, optimizer, average=0.5, **changes):
        if isinstance(event, EpochEnded):
            on_the_way.append(weights(model)["linear1.weight"])
            rows = event
    start = made()[0].linear1.weight.numpy()
    mean = start.astype(np.float64)
    for step, value in enumerate(on_the_way, 1):
        mean += (1 - min(0.5, (1 + step) / (10 + step))) * (value - mean)
    assert rows.best
    np.testing.assert_allclose(weights(model)["linear1.weight"], mean, atol=1e-6)
    scores = model(pictures(1)[0], training=False)
    assert rows.validation_loss == pytest.approx(float(losses.softmax_cross_entropy(scores, pictures(1)[1])), abs=1e-5)


# --- how long it lasts ---


def test_patience_ends_a_run_that_gets_no_better(tmp_path) -> None:
    changes = {"epochs": 50, "patience": 3, "schedule": None, "checkpoint": tmp_path / "checkpoint"}
    model, optimizer = made(rate=0.05)
    *_, finished = run(model, optimizer, **changes)
    assert finished.epochs == finished.best_epoch + 3 < 50
    assert not finished.stopped
    other, its_optimizer = made(1)
    started, again = run(other, its_optimizer, **changes)
    assert (started.epoch, again) == (finished.epochs, finished)
    assert same(weights(other), weights(model))


def test_a_run_until_separated_ends_when_all_are_right() -> None:
    model, optimizer = made(rate=0.05)
    changes = {"epochs": 300, "schedule": None, "augment": None, "validation": None}
    *_, finished = run(model, optimizer, until_separated=True, **changes)
    accuracies = [row.train_accuracy for row in finished.history]
    assert accuracies.index(1.0) + 1 == len(accuracies) < 300


# --- finding a learning rate ---


def test_the_range_test_finds_a_rate_that_works_and_leaves_everything_as_it_was() -> None:
    model, optimizer = made(rate=0.123, kind=lambda p, rate: optim.SGD(p, rate, momentum=0.9))
    learner = GradientDescent(model, optimizer, losses.softmax_cross_entropy)
    before = weights(model)
    found = training.find_learning_rate(learner, Examples(*pictures()), batch_size=BATCH, seed=1)
    assert same(weights(model), before)
    assert learner.learning_rate == 0.123
    assert all(not moment.numpy().any() for moment in optimizer.moments["velocity"].values())
    assert 1e-4 < found.suggestion < 10
    assert len(found.losses) == len(found.learning_rates) <= 100
    again = training.find_learning_rate(learner, Examples(*pictures()), batch_size=BATCH, seed=1)
    assert again.suggestion == found.suggestion
    *_, finished = run(model, optimizer, schedule=optim.constant(found.suggestion), epochs=15)
    assert finished.history[-1].train_accuracy > 0.8


def test_a_loss_that_is_no_number_even_at_the_lowest_rate_is_said() -> None:
    model = Exploding(1)
    learner = GradientDescent(model, optim.SGD(nn.parameters(model), 0.01), losses.softmax_cross_entropy)
    with pytest.raises(NonFiniteError, match="even at the learning rate"):
        training.find_learning_rate(learner, Examples(*pictures()), batch_size=BATCH)


@pytest.mark.parametrize("instead", [None, object()])
def test_nobody_watches_where_there_is_no_terminal(instead: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", instead)
    with saying_that_code_is_made(verbose=False):
        waiting.tell(3, 150)


@pytest.mark.parametrize(("verbose", "watched"), [(True, True), (True, False), (False, True), (False, False)])
def test_making_machine_code_is_said_once(
    verbose: bool, watched: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)
    with saying_that_code_is_made(verbose):
        for done in (3, 4):
            waiting.tell(done, 150)
    waiting.tell(5, 150)
    line = "making machine code, once for this processor: 150 functions\n"
    assert capsys.readouterr() == (line * verbose, line * (watched and not verbose))
    assert waiting._shown == []


@pytest.mark.parametrize(("each", "says"), [(1.1, True), (1e-4, False)])
def test_whoever_waits_for_machine_code_is_told_so(
    each: float, says: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, after a second: on standard error, or of a `fit` that is to talk with what it says."""
    clock = itertools.count(0, each)
    monkeypatch.setattr(program, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    nabi.compile(lambda x: (nabi.ops.sum(x, axis=0), x @ x), engine="cpu")(np.ones((8, 8), np.float32))
    out, err = capsys.readouterr()
    assert (out, err.startswith("making machine code, once for this processor: ")) == ("", says)
    assert err.count("making") == says
    images, labels = np.zeros((20, 4, 4, 1), np.uint8), np.arange(20) % 2
    for verbose in (False, True):
        nabi.MLPClassifier((4,), max_iter=1, engine="cpu", verbose=verbose).fit(images, labels)
        out, err = capsys.readouterr()
        assert (out.count("making"), err.count("making")) == ((says, 0) if verbose else (0, says))

"""``nabi train``: from pictures to a model in a folder."""

import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from nabi import cache
from nabi.classifiers import Classifier, PhotoClassifier, registered
from nabi.cli import INTERRUPTED
from nabi.cli.backbone import NONE, with_backbone
from nabi.cli.characters import printable
from nabi.cli.check import set_leaks_aside
from nabi.cli.choices import KINDS, MODELS, SIZES, as_typed, chosen, flip_colours
from nabi.cli.pictures import held_out, labelled, loaded, refuse_inside, whole_path, with_channels
from nabi.cli.profiled import where_time_went
from nabi.cli.report import calibrate, log_in_mlflow, write_report
from nabi.cli.results import range_test, write_history, write_measures, write_model
from nabi.cli.run_folder import ASKED, CHECKPOINT, HAS_A_RUN, METRICS, MODEL, RUNS, RunFolder, new_folder
from nabi.cli.terminal import bar, console, interruptible, note
from nabi.data import Dataset, Split
from nabi.data.augment import AUGMENTATIONS
from nabi.data.named import NAMED
from nabi.engines.cpu.profile import profiling
from nabi.errors import DataError, NonFiniteError, SettingError
from nabi.listeners import Listener, events_for_tensorboard, lines, tensorboard_writers
from nabi.losses import LOSSES
from nabi.models import BACKBONES
from nabi.optim import OPTIMIZERS
from nabi.report import Measuring
from nabi.report.tracking import tracker
from nabi.training import EpochEnded, Event, Finished, Looked, Started, Stepped, Tried
from nabi.training.loop import CHECKPOINT_SECONDS
from nabi.waiting import while_compiling

DEFAULTS: dict[str, Any] = {"data": "digits", "seed": 0}
MODEL_OF_PIXELS = "mlp"
UNEVEN = 10
"""Where a class has so many times as many pictures as another it is said, and photos are balanced."""


def train(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            show_default="digits",
            help="digits, cifar10, cifar100, mnist, fashion-mnist, or a folder or archive of class folders.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(show_default="mlp; linear with a backbone", help=f"One of {', '.join(MODELS)}.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            show_default="chosen for photos",
            help="The trained network that looks at photos first: none, a name, or weights: a file, or hf:OWNER/REPO.",
        ),
    ] = None,
    finetune: Annotated[
        bool | None,
        typer.Option("--finetune", help="Train the last part of the backbone, too; --epochs says for how long (3)."),
    ] = None,
    loss: Annotated[str | None, typer.Option(help=f"One of {', '.join(LOSSES)}.")] = None,
    epochs: Annotated[int | None, typer.Option(help="How often to go through the training pictures.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step, at most.")] = None,
    learning_rate: Annotated[
        str | None, typer.Option(help="The highest of the run; find: try which is the best.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help=f"One of {', '.join(OPTIMIZERS)}.")] = None,
    hidden: Annotated[str | None, typer.Option(help="Units of the hidden layers, such as 512,256.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Share of hidden units left out at random.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="How strongly weights are pulled to zero.")] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            show_default="flip for colour pictures, for a convnet flip,crop",
            help=f"How pictures are varied, such as flip,crop:4. Of {', '.join(AUGMENTATIONS)}; or none.",
        ),
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share of the target given to all classes.")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="The longest a step's gradient may be.")] = None,
    average: Annotated[
        float | None, typer.Option(help="Keep a moving average of the weights, with this decay, such as 0.999.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            show_default="float32",
            help="bf16: multiply large matrices in bfloat16, which needs a processor that can; auto: where it can.",
        ),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="End after so many epochs that were no better on validation pictures.")
    ] = None,
    balanced: Annotated[
        bool | None,
        typer.Option(
            "--balanced/--no-balanced",
            show_default="balanced for photos, where one class has ten times as many as another",
            help="Let rare classes count as much as frequent ones.",
        ),
    ] = None,
    averaged: Annotated[
        bool | None, typer.Option("--averaged", help="perceptron: answer with the mean of all weights on the way.")
    ] = None,
    neighbors: Annotated[int | None, typer.Option(show_default="5", help="knn: how many have a vote.")] = None,
    metric: Annotated[str | None, typer.Option(show_default="l2", help="knn: l1 or l2.")] = None,
    seed: Annotated[int | None, typer.Option(show_default="0", help="The same seed gives the same bits.")] = None,
    size: Annotated[int | None, typer.Option(help="Height and width that pictures of folders are brought to.")] = None,
    out: Annotated[Path | None, typer.Option(show_default="runs/NAME-N", help="The folder of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop where a file is skipped; do not go on.")] = False,
    checkpoint_minutes: Annotated[
        float, typer.Option(help="How often to write down what --resume goes on from.")
    ] = CHECKPOINT_SECONDS / 60,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files for TensorBoard, too, into the run's folder.")
    ] = False,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Log the finished run in MLflow, which mlflow-skinny brings.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say at the end where the time of the steps went, kernel by kernel.")
    ] = False,
) -> None:
    """Train a classifier on pictures.

    Without arguments: a multilayer perceptron on 1,797 handwritten digits, in seconds. Ctrl-C stops and keeps the best
    model so far; --resume goes on, and ends with the same bits as if it had never been stopped.
    """
    given = locals()
    asked: dict[str, Any] = {name: given[name] for name in KINDS if given.get(name) is not None}
    if not checkpoint_minutes >= 0:
        raise SettingError(f"--checkpoint-minutes {checkpoint_minutes}: it must be 0 or more")
    if mlflow:
        tracker()
    if tensorboard:
        tensorboard_writers()
    if "data" in asked:
        asked["data"] = whole_path(asked["data"])
    if asked.get("backbone", NONE) not in (NONE, *BACKBONES):
        asked["backbone"] = whole_path(asked["backbone"])
    if resume and out is None:
        raise SettingError("--resume goes on with the run in a folder: name it with --out")
    with ExitStack() as held:
        folder = None if out is None else held.enter_context(RunFolder(out))
        began = folder is not None and folder.used()
        if folder is not None and began:
            asked = _as_it_began(folder, asked, resume)
            folder.hold()
            if (folder.path / METRICS).exists():
                (folder.path / CHECKPOINT).unlink(missing_ok=True)  # where it was killed in its last moment
                print(f"{printable(str(folder.path))}: this run is finished")
                return
        elif resume and "data" not in asked:
            raise SettingError(f"{out}: no run to go on with; to begin one there, name the data")
        where = console()
        asked = {"model": MODEL_OF_PIXELS} | with_backbone(DEFAULTS | asked, where)
        classifier = chosen(asked)
        if asked["model"] in SIZES and asked["data"] not in NAMED:
            asked.setdefault("size", SIZES[asked["model"]])
        refuse_inside(asked["data"], out or RUNS)
        if resume and (folder is None or not (folder.path / CHECKPOINT).exists()):
            where.print(f"{printable(str(out))}: nothing to go on from yet: this run begins with its first epoch")
        dataset = set_leaks_aside(loaded(asked, where, strict), asked["data"], where)
        if isinstance(classifier, PhotoClassifier) or asked["model"] in SIZES:
            dataset = with_channels(dataset, 3)  # of which grey photos have one
        if "augment" not in asked:
            flip_colours(classifier, dataset.train.images)
        if (
            not began
            and "balanced" not in asked
            and isinstance(classifier, PhotoClassifier)
            and _uneven(classifier, dataset)
        ):
            asked["balanced"], classifier.class_weight = True, "balanced"
        if folder is None:
            folder = held.enter_context(new_folder(dataset.name))
        listeners = [write_history(folder)] + ([events_for_tensorboard(folder.path)] if tensorboard else [])
        if asked.get("learning_rate") == "find":
            listeners.append(_say_learning_rate(classifier, where))
        process = held.enter_context(Measuring()) if isinstance(classifier, PhotoClassifier) else None
        stopped: typer.Exit | None = None
        with profiling() if profile else nullcontext() as noted:
            try:
                _run(classifier, dataset, folder, asked, where, listeners, checkpoint_minutes * 60, process)
            except typer.Exit as exit_:  # where its time went until then can be said all the same
                stopped = exit_
        if noted is not None:
            where.print("\n".join(where_time_went(noted)))
        if stopped is not None:
            raise stopped
        if mlflow:
            log_in_mlflow(folder, classifier, asked, where)


def _as_it_began(folder: RunFolder, asked: dict[str, Any], resume: bool) -> dict[str, Any]:
    """What the run in the folder was asked for; what is asked for now must agree with it."""
    began = folder.asked()
    for name, value in began.items():
        if not isinstance(value, KINDS.get(name, ())) or (isinstance(value, bool) and KINDS[name] is not bool):
            raise DataError(f"{folder.path / ASKED}: {name} is {value!r}: nabi train did not write that")
    if not resume:
        raise SettingError(HAS_A_RUN.format(folder.path))
    for name, value in asked.items():
        if began.get(name) != value:
            then = f"began with {began[name]!r}" if name in began else "began without it"
            typed = as_typed(name, value) if isinstance(value, bool) else f"{as_typed(name)} {value!r}"
            raise SettingError(f"{typed}: the run in {folder.path} {then}")
    return began


def _run(
    classifier: Classifier,
    dataset: Dataset,
    folder: RunFolder,
    asked: Mapping[str, Any],
    where: Console,
    listeners: Sequence[Listener],
    checkpoint_seconds: float,
    process: Measuring | None,
) -> None:
    """Train, and write down what comes out; of what has a process that measures its cost, a report, too."""
    images, labels = labelled(dataset, dataset.train)
    folder.start(asked)
    where.print(
        f"{printable(dataset.name)}: {len(dataset.train):,} pictures of {len(np.unique(labels))} classes to train on, "
        f"{len(dataset.validation or ()):,} for validation, {len(dataset.test or ()):,} for the test; "
        f"writing to {printable(str(folder.path))}"
    )
    if uneven := _uneven(classifier, dataset):
        if "balanced" not in asked:
            where.print(f"{uneven}; --balanced lets rare classes count as much as frequent ones")
        elif asked["balanced"] and isinstance(classifier, PhotoClassifier):
            where.print(f"{uneven}; rare classes count as much as frequent ones; --no-balanced lets photos count alike")
    if asked["data"] not in NAMED and "size" not in asked:
        height, width, channels = dataset.train.images.shape[1:]
        where.print(f"as pictures of {height}x{width}x{channels}; --size brings them to another")
    with interruptible() as interrupted:
        events = classifier.fit_events(
            images,
            labels,
            validation=held_out(dataset),
            checkpoint=folder.path / CHECKPOINT,
            checkpoint_seconds=checkpoint_seconds,
            about={"pictures": _fingerprint(dataset.train)},
            stop=interrupted,
        )
        try:
            head_only = isinstance(classifier, PhotoClassifier) and not classifier.finetune
            finished = _show(events, where, listeners, head_only, interrupted)
        except NonFiniteError as error:
            if not getattr(classifier, "best_epoch_", 0):
                folder.give_up()
                raise
            write_model(classifier, dataset, folder, asked)
            kept = f"{folder.path / MODEL} has the weights of epoch {classifier.best_epoch_}"  # type: ignore[attr-defined]
            raise NonFiniteError(f"{error}; {kept}") from None
        except BaseException:
            if not (folder.path / CHECKPOINT).exists():
                folder.give_up()
            raise
    calibrate(classifier, dataset)
    write_model(classifier, dataset, folder, asked)
    again = f"to go on: nabi train --resume --out {shlex.quote(str(folder.path))}"
    if finished.stopped:
        whose = f"the weights of epoch {finished.best_epoch}" if finished.best_epoch else "the weights as they were"
        note(f"stopped; {folder.path / MODEL} has {whose}; {again}")
        raise typer.Exit(INTERRUPTED)
    if finished.best_epoch:
        where.print(_kept(finished))
    if getattr(classifier, "tried_", None):
        where.print(_decay(classifier))
    try:
        with bar(where) as show:
            said = write_measures(classifier, dataset, folder, asked, show)
    except KeyboardInterrupt:
        note(f"stopped while it was tested; {again}")
        raise typer.Exit(INTERRUPTED) from None
    where.print(said)
    (folder.path / CHECKPOINT).unlink(missing_ok=True)
    if process is not None:
        with bar(where) as show:
            lines = write_report(classifier, dataset, folder, asked, asked["data"], show, process)
        where.print("\n".join(lines))


def _uneven(classifier: Classifier, dataset: Dataset) -> str:
    """How many pictures, where some classes have far fewer than others, and the classifier can make up for it."""
    learner = registered(classifier.head)() if isinstance(classifier, PhotoClassifier) else classifier
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    few, many = int(np.where(counts > 0, counts, counts.max() + 1).argmin()), int(counts.argmax())
    if "class_weight" not in learner.get_params() or counts[many] < UNEVEN * counts[few]:
        return ""
    few_of, many_of = (f"{counts[place]:,} of {printable(dataset.classes[place])}" for place in (few, many))
    return f"pictures to train on: {few_of}, {many_of}"


def _kept(finished: Finished) -> str:
    """Which epoch's weights were kept, and why."""
    row = finished.history[finished.best_epoch - 1]
    if row.validation_accuracy is None:
        return f"kept is epoch {finished.best_epoch}, the last: there were no validation pictures to choose by"
    return (
        f"kept is epoch {finished.best_epoch} of {finished.epochs}, the best on validation: "
        f"loss {row.validation_loss:.4f}, accuracy {row.validation_accuracy:.4f}"
    )


def _decay(classifier: Any) -> str:
    """Which weight decay was taken, and why."""
    tried = ", ".join(f"{alpha:g}: {accuracy:.4f}" for alpha, accuracy in classifier.tried_.items())
    return f"the weight decay is {classifier.alpha_:g}, by accuracy on validation ({tried})"


def _show(
    events: Iterator[Event], where: Console, listeners: Sequence[Listener], quick: bool, stop: Callable[[], bool]
) -> Finished:
    """Tell all who listen, until the last event; without a line for each epoch where these are ``quick``.

    While photos are looked at, ``stop`` ends the run at once: features found by then are in the cache.
    """
    with bar(where) as show, while_compiling(show):
        line = (lambda event: None) if quick else lines(where.print)
        for event in events:
            line(event)
            for listener in listeners:
                listener(event)
            match event:
                case Looked():
                    show("looking at photos", event.done, event.total)
                    if stop():
                        events.close()  # type: ignore[attr-defined]
                        raise KeyboardInterrupt
                case Tried():
                    show("choosing the weight decay", event.done, event.total)
                case Started():
                    epochs = event.epochs
                case Stepped():
                    show(f"epoch {event.epoch}/{epochs}", event.step, event.steps_per_epoch)
                case Finished():
                    return event
    raise AssertionError("a run ends with Finished")


def _say_learning_rate(classifier: Classifier, where: Console) -> Listener:
    """Say the learning rate that was found, as soon as it is learnt with."""
    said = False

    def listen(event: Event) -> None:
        nonlocal said
        if isinstance(event, Stepped | EpochEnded) and not said:
            found = range_test(classifier)
            where.print(f"the learning rate that was found: {found.suggestion:.2g}")
            said = True

    return listen


def _fingerprint(split: Split) -> str:
    """A digest of the labels and the pictures' keys, or of a thousand pictures: enough to see that data are others."""
    digest = hashlib.sha256(split.labels.tobytes())
    if split.keys is not None:
        digest.update(f"{split.images.shape}".encode() + split.keys.tobytes())
        return digest.hexdigest()
    for row in range(0, len(split), max(1, len(split) // 1000)):
        digest.update(np.ascontiguousarray(split.images[row]).data)
    cache.release(split.images)
    return digest.hexdigest()

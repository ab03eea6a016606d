"""``nabi train``: from pictures to a model in a folder."""

import hashlib
import inspect
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from nabi import data
from nabi.classifiers import NetworkClassifier, registered, registry
from nabi.cli.characters import is_text, printable
from nabi.cli.results import write_measures, write_model
from nabi.cli.run_folder import ASKED, CHECKPOINT, HAS_A_RUN, METRICS, MODEL, RUNS, RunFolder, new_folder
from nabi.cli.terminal import bar, console, note
from nabi.data import Dataset, Split
from nabi.data.named import NAMED
from nabi.errors import DataError, NonFiniteError, SettingError
from nabi.losses import LOSSES
from nabi.optim import OPTIMIZERS
from nabi.training import EpochEnded, Finished, Started, Stepped

INTERRUPTED = 130

DEFAULTS: dict[str, Any] = {"data": "digits", "model": "mlp", "seed": 0}

# What run.json may say.
KINDS: dict[str, type | tuple[type, ...]] = {
    "data": str,
    "model": str,
    "loss": str,
    "epochs": int,
    "batch_size": int,
    "learning_rate": (int, float),
    "optimizer": str,
    "hidden": str,
    "dropout": (int, float),
    "weight_decay": (int, float),
    "flip": bool,
    "seed": int,
    "size": int,
}

MOST_UNITS = 2**31  # of a hidden layer; beyond that even the shapes of weights overflow

# What an option is called in a classifier's constructor.
ARGUMENTS = {
    "loss": "loss",
    "epochs": "max_iter",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "optimizer": "optimizer",
    "hidden": "hidden_layer_sizes",
    "dropout": "dropout",
    "weight_decay": "alpha",
    "flip": "flip",
    "seed": "random_state",
}


def train(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            show_default="digits",
            help="digits, cifar10, cifar100, mnist, fashion-mnist, or a folder or archive of class folders.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(show_default="mlp", help=f"One of {', '.join(registry)}.")] = None,
    loss: Annotated[str | None, typer.Option(help=f"One of {', '.join(LOSSES)}.")] = None,
    epochs: Annotated[int | None, typer.Option(help="How often to go through the training pictures.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step, at most.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest of the run.")] = None,
    optimizer: Annotated[str | None, typer.Option(help=f"One of {', '.join(OPTIMIZERS)}.")] = None,
    hidden: Annotated[str | None, typer.Option(help="Units of the hidden layers, such as 512,256.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Share of hidden units left out at random.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="How strongly weights are pulled to zero.")] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", show_default="colour pictures only", help="Train on mirror images, too."),
    ] = None,
    seed: Annotated[int | None, typer.Option(show_default="0", help="The same seed gives the same bits.")] = None,
    size: Annotated[int | None, typer.Option(help="Height and width that pictures of folders are brought to.")] = None,
    out: Annotated[Path | None, typer.Option(show_default="runs/NAME-N", help="The folder of the run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop where a file is skipped; do not go on.")] = False,
) -> None:
    """Train a classifier on pictures.

    Without arguments: a multilayer perceptron on 1,797 handwritten digits, in seconds. Ctrl-C stops and keeps the best
    model so far; --resume goes on, and ends with the same bits as if it had never been stopped.
    """
    options: dict[str, Any] = {
        "data": source,
        "model": model,
        "loss": loss,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "hidden": hidden,
        "dropout": dropout,
        "weight_decay": weight_decay,
        "flip": flip,
        "seed": seed,
        "size": size,
    }
    asked = {name: value for name, value in options.items() if value is not None}
    if "data" in asked and asked["data"] not in NAMED and Path(asked["data"]).expanduser().exists():
        asked["data"] = str(Path(asked["data"]).expanduser().resolve())
    if resume and out is None:
        raise SettingError("--resume goes on with the run in a folder: name it with --out")
    with ExitStack() as held:
        folder = None if out is None else held.enter_context(RunFolder(out))
        if folder is not None and folder.used():
            asked = _as_it_began(folder, asked, resume)
            folder.hold()
            if (folder.path / METRICS).exists():
                (folder.path / CHECKPOINT).unlink(missing_ok=True)  # where it was killed in its last moment
                print(f"{folder.path}: this run is finished")
                return
        elif resume and "data" not in asked:
            raise SettingError(f"{out}: no run to go on with; to begin one there, name the data")
        asked = DEFAULTS | asked
        classifier = _classifier(asked)
        _refuse_inside(asked["data"], out or RUNS)
        where = console()
        dataset = _loaded(asked, where, strict)
        classifier.flip = asked.get("flip", dataset.train.images.shape[3] == 3)
        if folder is None:
            folder = held.enter_context(new_folder(dataset.name))
        _run(classifier, dataset, folder, asked, where)


def _refuse_inside(source: str, target: Path) -> None:
    """A run in the folder of its data would be a class of the next one."""
    if source not in NAMED and Path(source).is_dir() and target.resolve().is_relative_to(source):
        raise SettingError(f"{target}: inside of the data in {source}: choose a folder elsewhere with --out")


def _loaded(asked: Mapping[str, Any], where: Console, strict: bool) -> Dataset:
    """The data, with all three splits; on standard error, what is amiss with them."""
    if not is_text(asked["data"]):
        raise DataError(f"{asked['data']}: a name that is not UTF-8: rename it, or train from elsewhere")
    with bar(where) as show:
        dataset = data.load(
            asked["data"],
            size=asked.get("size"),
            progress=lambda done, total: show(f"reading {asked['data']}", done, total),
        )
    if strict and dataset.skipped:
        name, reason = dataset.skipped[0]
        raise DataError(f"{asked['data']}: of {len(dataset.skipped):,} files to skip the first is {name}: {reason}")
    for name, reason in dataset.skipped:
        note(f"skipped {name}: {reason}")
    for name in dataset.classes:
        if not is_text(name):
            raise DataError(f"{asked['data']}: the class {name} has a name that is not UTF-8: rename its folder")
    parts = [part.labels for part in (dataset.train, dataset.validation, dataset.test) if part is not None]
    counts = np.bincount(np.concatenate(parts), minlength=len(dataset.classes))
    if not counts.all():
        note(f"classes without pictures: {', '.join(dataset.classes[label] for label in np.flatnonzero(counts == 0))}")
    dataset = data.complete_splits(dataset)
    if len(np.unique(dataset.train.labels)) < 2:
        raise DataError(f"{asked['data']}: pictures of one class only: there is nothing to tell apart")
    return dataset


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
            raise SettingError(f"{_as_typed(name)} {value!r}: the run in {folder.path} {then}")
    return began


def _classifier(asked: Mapping[str, Any]) -> NetworkClassifier:
    kind = registered(asked["model"])
    arguments = {ARGUMENTS[name]: value for name, value in asked.items() if name in ARGUMENTS}
    if "hidden" in asked:
        try:
            arguments["hidden_layer_sizes"] = tuple(int(units) for units in asked["hidden"].split(","))
        except ValueError:
            raise SettingError(f"--hidden {asked['hidden']!r}: it must be whole numbers, such as 512,256") from None
        if max(arguments["hidden_layer_sizes"]) > MOST_UNITS:
            raise SettingError(f"--hidden {asked['hidden']}: a layer has {MOST_UNITS:,} units at most")
    if not 0 <= asked["seed"] < 2**63:
        raise SettingError(f"--seed {asked['seed']}: it must lie between 0 and 2**63 - 1")
    known = inspect.signature(kind).parameters
    for name in asked:
        if name in ARGUMENTS and ARGUMENTS[name] not in known:
            raise SettingError(f"{_as_typed(name)}: the model {asked['model']} has nothing of the kind")
    classifier = kind(**arguments)
    if not isinstance(classifier, NetworkClassifier):
        raise SettingError(f"the model {asked['model']} is not trained step by step")
    try:
        classifier.check_settings()
    except SettingError as error:
        argument, _, what = str(error).partition(" ")
        option = next((option for option, name in ARGUMENTS.items() if name == argument), argument)
        raise SettingError(f"{_as_typed(option)} {what}") from None
    return classifier


def _as_typed(option: str) -> str:
    return "--" + option.replace("_", "-")


def _run(
    classifier: NetworkClassifier, dataset: Dataset, folder: RunFolder, asked: Mapping[str, Any], where: Console
) -> None:
    """Train, and write down what comes out."""
    images, labels = _labelled(dataset, dataset.train)
    held_out = dataset.validation if dataset.validation is not None and len(dataset.validation) else None
    folder.start(asked)
    where.print(
        f"{printable(dataset.name)}: {len(dataset.train):,} pictures of {len(dataset.classes)} classes to train on, "
        f"{len(held_out or ()):,} for validation, {len(dataset.test or ()):,} for the test; writing to {folder.path}"
    )
    with _interruptible() as interrupted:
        events = classifier.fit_events(
            images,
            labels,
            validation=None if held_out is None else _labelled(dataset, held_out),
            checkpoint=folder.path / CHECKPOINT,
            about={"pictures": _fingerprint(dataset.train)},
            stop=interrupted,
        )
        try:
            finished = _show(events, where)
        except NonFiniteError as error:
            if not classifier.best_epoch_:
                folder.give_up()
                raise
            write_model(classifier, dataset, folder, asked)
            kept = f"{folder.path / MODEL} has the weights of epoch {classifier.best_epoch_}"
            raise NonFiniteError(f"{error}; {kept}") from None
        except BaseException:
            if not (folder.path / CHECKPOINT).exists():
                folder.give_up()
            raise
    write_model(classifier, dataset, folder, asked)
    if finished.stopped:
        again = f"nabi train --resume --out {shlex.quote(str(folder.path))}"
        whose = f"the weights of epoch {finished.best_epoch}" if finished.best_epoch else "the weights as they were"
        note(f"stopped; {folder.path / MODEL} has {whose}; to go on: {again}")
        raise typer.Exit(INTERRUPTED)
    where.print(write_measures(classifier, dataset, folder, asked))
    (folder.path / CHECKPOINT).unlink(missing_ok=True)


def _show(events: Iterator[Any], where: Console) -> Finished:
    """Show events as they come, until the last."""
    with bar(where) as show:
        for event in events:
            match event:
                case Started(epochs=epochs):
                    width = len(str(epochs))
                    if event.history or event.step:
                        where.print(f"going on after epoch {event.epoch}, step {event.step}")
                case Stepped():
                    show(f"epoch {event.epoch}/{epochs}", event.step, event.steps_per_epoch)
                case EpochEnded():
                    line = f"epoch {event.epoch:{width}}/{epochs}"
                    line += f"  loss {event.train_loss:.4f}  accuracy {event.train_accuracy:.4f}"
                    if event.validation_loss is not None:
                        line += f"  validation {event.validation_loss:.4f}  {event.validation_accuracy:.4f}"
                    where.print(f"{line}  {event.seconds:.1f} s")
                case Finished():
                    return event
    raise AssertionError("a run ends with Finished")


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; pressed again, it interrupts at once."""
    pressed = False

    def press(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, press)
    except ValueError:  # not in the main thread, where Ctrl-C does not arrive
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _labelled(dataset: Dataset, split: Split) -> tuple[Any, Any]:
    """Pictures, and their classes by name."""
    return split.images, np.array(dataset.classes)[split.labels]


def _fingerprint(split: Split) -> str:
    """A digest of the labels and of a thousand pictures: enough to see that a run goes on with other data."""
    digest = hashlib.sha256(split.labels.tobytes())
    digest.update(split.images[:: max(1, len(split) // 1000)].tobytes())
    return digest.hexdigest()

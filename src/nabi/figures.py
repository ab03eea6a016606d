"""Figures of a run, from plain arrays to ``.svg`` or ``.png``: curves, confusion, weights, pictures.

Drawn with Matplotlib's objects, without pyplot and without a display, in Matplotlib's own defaults and not the user's:
the same content gives the same bytes. Names of classes are shown as they are, in any script: SVG keeps text as text,
for PNG a font is looked for that has the letters, and where none is installed a □ stands for the letter.
"""

import contextlib
import functools
import os
import threading
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nabi.container import replace_file
from nabi.errors import SettingError, ShapeError

# Of Okabe and Ito's palette, whose colours stay apart in every common kind of colour blindness.
_TRAINING = "#D55E00"
_VALIDATION = "#0072B2"
_INK = "#222222"
_FAINT = "#DDDDDD"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nabi",
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # what a reader of the SVG may have
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.linewidth": 0.6,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.framealpha": 1,
    "legend.edgecolor": "white",
}

# Fonts with Hangul first, as Linux, macOS and Windows have them; then whatever else is installed.
_PREFERRED = ("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Apple SD Gothic Neo", "Malgun Gothic")
_MISSING = "□"

# Matplotlib's settings are the process's: one figure at a time.
_lock = threading.Lock()


def curves(history: Mapping[str, ArrayLike], path: str | os.PathLike[str]) -> None:
    """Draw how loss and accuracy went, epoch by epoch.

    Parameters
    ----------
    history : mapping of str to array_like of float, (epochs,)
        The columns ``epoch``, ``train_loss``, ``validation_loss``, ``train_accuracy``, ``validation_accuracy``.
        A column but the first may be missing, and a value that is not finite leaves a gap. ``best`` says of each
        epoch whether it was the best so far; without it, the first of the highest validation accuracy is marked.
    path : path-like
        A name that ends in ``.svg`` or ``.png``.

    Raises
    ------
    SettingError
        Another ending.
    OSError
        The file cannot be written.
    """
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in history.items()}
    epochs = columns["epoch"]
    best = _best(columns)
    with _figure(path, []) as page:
        for panel, quantity in enumerate(("loss", "accuracy")):
            axes = page.axes(4.6 * panel, 0, 3.9, 2.8)
            for part, colour in (("train", _TRAINING), ("validation", _VALIDATION)):
                values = columns.get(f"{part}_{quantity}")
                if values is None or not np.isfinite(values).any():
                    continue
                values = np.where(np.isfinite(values), values, np.nan)
                name = "training" if part == "train" else part
                marker = "o" if len(epochs) <= 25 else ""
                axes.plot(epochs, values, color=colour, label=name, marker=marker, markersize=3, linewidth=1.5)
                if part == "validation" and best is not None:
                    axes.plot(epochs[best], values[best], "o", markersize=9, fillstyle="none", color=_INK)
            axes.set_xlabel("epoch")
            axes.set_title(quantity)
            axes.grid(axis="y", color=_FAINT, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            if len(epochs):
                margin = max(0.5, 0.02 * (epochs.max() - epochs.min()))
                axes.set_xlim(epochs.min() - margin, epochs.max() + margin)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="best")
            if quantity == "accuracy" and best is not None and "validation_accuracy" in columns:
                value = columns["validation_accuracy"][best]
                axes.set_title(f"accuracy: best on validation {value:.3f}, epoch {epochs[best]:g}")


def range_test(learning_rates: ArrayLike, losses: ArrayLike, suggestion: float, path: str | os.PathLike[str]) -> None:
    """Draw how the loss went while the learning rate rose.

    Parameters
    ----------
    learning_rates, losses : array_like of float, (N,)
    suggestion : float
        The rate that is marked.
    path : path-like
        A name that ends in ``.svg`` or ``.png``.
    """
    values = np.asarray(losses, dtype=np.float64)
    with _figure(path, []) as page:
        axes = page.axes(0, 0, 5.2, 2.8)
        axes.plot(learning_rates, values, color=_TRAINING, linewidth=1.5)
        axes.axvline(suggestion, color=_INK, linewidth=0.8)
        axes.set_xscale("log")
        axes.set_ylim(min(0.0, values.min()), 2 * values[: max(1, len(values) // 3)].max())
        axes.set_xlabel("learning rate of the step")
        axes.set_title(f"loss; suggested is {suggestion:.2g}")
        axes.grid(axis="y", color=_FAINT, linewidth=0.6)


def confusion(matrix: ArrayLike, classes: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Draw a confusion matrix: a row for each true class, a column for each predicted one.

    The colour is the share of the row, on a scale of square roots, so that rare mistakes can be seen beside what is
    right; the number is the count, where there is room for it.

    Parameters
    ----------
    matrix : array_like of int, (K, K)
        As `nabi.metrics.confusion_matrix` gives it.
    classes : sequence of str, K names
    path : path-like
        A name that ends in ``.svg`` or ``.png``.

    Raises
    ------
    ShapeError
        Matrix and names do not go together.
    SettingError
        Another ending.
    OSError
        The file cannot be written.
    """
    counts = np.asarray(matrix)
    k = len(classes)
    if counts.shape != (k, k) or k == 0:
        raise ShapeError(f"confusion: a matrix {counts.shape} and {k} classes")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cell = float(np.clip(6 / k, 0.16, 0.5))  # inches
    side = min(max(cell * k, 1.5), 18)
    cell = side / k
    names = [_shortened(name, 32) for name in classes]
    with _figure(path, names) as page:
        from matplotlib.colors import PowerNorm

        axes = page.axes(0, 0, side, side)
        colours: dict[str, Any] = {"cmap": "Blues", "norm": PowerNorm(0.5, 0, 1)}
        if k <= 40:  # rectangles, with a hair of white between them: some viewers blur a small picture
            edges = np.arange(k + 1) - 0.5
            image = axes.pcolormesh(edges, edges, shares, edgecolors="white", linewidth=0.8, **colours)
            axes.set_ylim(k - 0.5, -0.5)
        else:
            image = axes.imshow(shares, interpolation="none", **colours)
        every = ceil(0.15 / cell)
        size = 9 if cell > 0.2 else 7
        # A name that cannot be shown is told by its number.
        labels = [
            name if (shown := page.text(name)) == name else f"{number}: {shown}" for number, name in enumerate(names)
        ]
        axes.set_xticks(range(0, k, every), labels[::every], fontsize=size, parse_math=False)
        axes.set_yticks(range(0, k, every), labels[::every], fontsize=size, parse_math=False)
        if k > 30:
            axes.tick_params(axis="x", rotation=90)
        elif max(map(_width, labels)) * 0.075 > cell:
            for label in axes.get_xticklabels():
                label.set(rotation=45, ha="right", va="top", rotation_mode="anchor")
        axes.tick_params(length=0)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_title(f"{int(counts.trace()):,} of {int(counts.sum()):,} right")
        axes.spines[:].set_color(_FAINT)
        if k <= 30 and len(f"{int(counts.max()):,}") * 0.065 < cell:
            for row, column in np.argwhere(counts):
                dark = shares[row, column] > 0.35
                axes.text(
                    column,
                    row,
                    f"{int(counts[row, column]):,}",
                    ha="center",
                    va="center",
                    fontsize=8 if cell > 0.3 else 7,
                    color="white" if dark else _INK,
                )
        tall = min(side, 2.5)
        bar = page.colorbar(image, side + 0.15, side - tall, 0.12, tall)
        bar.set_label("share of the true class")
        bar.set_ticks([0, 0.05, 0.25, 0.5, 1], labels=["0", "5%", "25%", "50%", "100%"])
        bar.outline.set_visible(False)


def weights(images: ArrayLike, path: str | os.PathLike[str], titles: Sequence[str] | None = None) -> None:
    """Draw weights as pictures: the filters of a first layer, or the templates of a linear classifier.

    Each is scaled by its own largest absolute value: zero is mid-grey, and brighter means more weight on brightness.

    Parameters
    ----------
    images : array_like of float, (K, H, W, C)
        With C = 1 (shown in grey) or 3.
    path : path-like
        A name that ends in ``.svg`` or ``.png``.
    titles : sequence of str, optional
        K names to stand above.

    Raises
    ------
    ShapeError
        Another shape, or another number of titles.
    SettingError
        Another ending.
    OSError
        The file cannot be written.
    """
    _gallery([_rgb(image) for image in visible(images)], titles, path, "weights", 1.0 if titles is not None else 0.6)


def comparison(
    names: Sequence[str],
    accuracies: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    notes: Sequence[str],
    path: str | os.PathLike[str],
    title: str = "",
) -> None:
    """Draw accuracies as bars, each with its interval.

    Parameters
    ----------
    names : sequence of str
        K models.
    accuracies : sequence of float
        From 0 to 1.
    intervals : sequence of (float, float)
        From where to where each may lie.
    notes : sequence of str
        What is written beside each bar.
    path : path-like
        A name that ends in ``.svg`` or ``.png``.
    title : str
    """
    heights = 0.36 * len(names)
    with _figure(path, [*names, *notes, title]) as page:
        axes = page.axes(1.6, 1.0, 6.0, heights)
        places = np.arange(len(names))[::-1]
        low, high = np.array(intervals, dtype=np.float64).reshape(-1, 2).T
        middle = np.asarray(accuracies, dtype=np.float64)
        axes.barh(places, middle, height=0.62, color="#8fb3d9")
        lengths = np.clip([middle - low, high - middle], 0, None)
        axes.errorbar(middle, places, xerr=lengths, fmt="none", ecolor="#1f3b57", capsize=3)
        for place, value, end, note in zip(places, middle, high, notes, strict=True):
            axes.text(end + 0.01, place, page.text(f"{value:.3f}, {note}"), va="center", fontsize=8)
        axes.set_yticks(places, [page.text(_shortened(name, 24)) for name in names])
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("accuracy on test pictures, with its 95% interval")
        if title:
            axes.set_title(page.text(_shortened(title, 60)), fontsize=10)


def visible(weights: ArrayLike) -> NDArray[np.float64]:
    """Weights as pictures with values in [0, 1], each scaled by its own largest absolute value: zero is mid-grey.

    Parameters
    ----------
    weights : array_like of float, (K, H, W, C)
        With C = 1 or 3.

    Examples
    --------
    >>> visible([[[[-2.0], [0.0], [1.0]]]]).ravel()
    array([0.  , 0.5 , 0.75])
    """
    values = np.asarray(weights, dtype=np.float64)
    if values.ndim != 4 or values.shape[3] not in (1, 3) or values.size == 0:
        raise ShapeError(f"weights: {values.shape}; they must be (K, H, W, 1) or (K, H, W, 3)")
    values = np.nan_to_num(values, nan=0, posinf=0, neginf=0)
    largest = np.abs(values).max(axis=(1, 2, 3), keepdims=True)
    scaled: NDArray[np.float64] = 0.5 + values / np.where(largest > 0, 2 * largest, 1)
    return scaled


def pictures(
    images: Iterable[ArrayLike],
    titles: Sequence[str] | None,
    path: str | os.PathLike[str],
    *,
    columns: int | None = None,
    width: float = 1.3,
) -> None:
    """Draw pictures side by side, each under its title.

    Parameters
    ----------
    images : iterable of array_like, (H, W), (H, W, 1) or (H, W, 3)
        uint8, or floats from 0 to 1; of any sizes, which are kept in proportion to each other.
    titles : sequence of str, or None
        Of up to three lines each.
    path : path-like
        A name that ends in ``.svg`` or ``.png``.
    columns : int, optional
        How many stand in a row; by default what makes the sheet a little wider than high.
    width : float
        Of the widest picture, in inches.

    Raises
    ------
    ShapeError
        Another shape, no picture at all, or another number of titles.
    SettingError
        Another ending.
    OSError
        The file cannot be written.
    """
    _gallery([_rgb(np.asarray(image)) for image in images], titles, path, "pictures", width, columns)


def scores(
    images: Sequence[ArrayLike],
    titles: Sequence[str],
    classes: Sequence[str],
    values: ArrayLike,
    path: str | os.PathLike[str],
    *,
    shares: ArrayLike | None = None,
    right: Sequence[int | None] | None = None,
    losses: Sequence[float | None] | None = None,
) -> None:
    """Draw the lecture's table of chapter 3.2: pictures in columns, classes in rows, and below each picture its loss.

    Parameters
    ----------
    images : sequence of array_like, N pictures, (H, W, 1) or (H, W, 3)
        uint8, or floats from 0 to 1, of one size.
    titles : sequence of str, N names
    classes : sequence of str, K names
    values : array_like of float, (N, K)
        The scores.
    path : path-like
        A name that ends in ``.svg`` or ``.png``.
    shares : array_like of float, (N, K), optional
        From 0 to 1: how dark a cell is.
    right : sequence of int or None, N places, optional
        Of each picture the right class, whose cell gets a frame; None where it is not known.
    losses : sequence of float or None, N losses, optional

    Raises
    ------
    ShapeError
        Numbers, pictures and names do not go together.
    SettingError
        Another ending.
    OSError
        The file cannot be written.
    """
    table = np.asarray(values, dtype=np.float64)
    depths = np.zeros(table.shape) if shares is None else np.asarray(shares, dtype=np.float64)
    rgb = [_rgb(np.asarray(image)) for image in images]
    if table.shape != (len(rgb), len(classes)) or len(titles) != len(rgb) or depths.shape != table.shape or not rgb:
        raise ShapeError(
            f"scores: {table.shape} of {len(rgb)} pictures, {len(titles)} titles and {len(classes)} classes"
        )
    places = [None] * len(rgb) if right is None else list(right)
    below = [None] * len(rgb) if losses is None else list(losses)
    per_block, cell, line = 8, 0.95, 0.24  # pictures; inches
    names = [_shortened(name, 24) for name in classes]
    heads = [_shortened(title, 13) for title in titles]
    left = 0.2 + 0.075 * max(map(_width, [*names, "hinge loss"]))
    thumb = 0.85
    high = thumb * max(image.shape[0] / image.shape[1] for image in rgb)
    foot = line if any(loss is not None for loss in below) else 0
    block = 0.3 + high + 0.12 + line * len(names) + foot + 0.3
    starts = range(0, len(rgb), per_block)
    with _figure(path, [*names, *heads]) as page:
        for number, start in enumerate(starts):
            top = -block * number
            columns = list(range(start, min(start + per_block, len(rgb))))
            for place, column in enumerate(columns):
                image = rgb[column]
                tall = thumb * image.shape[0] / image.shape[1]
                axes = page.axes(left + cell * place + (cell - thumb) / 2, top - 0.25 - tall, thumb, tall)
                page.show(axes, image, smooth=image.shape[1] >= 100)
                axes.set_axis_off()
                page.write(axes, heads[column], 0, 1, (0, 4), va="bottom", fontsize=7)
            bottom = top - 0.25 - high - 0.1 - line * len(names) - foot
            axes = page.axes(left, bottom, cell * len(columns), line * len(names) + foot)
            axes.set(xlim=(0, len(columns)), ylim=(len(names) + (1 if foot else 0), 0))
            axes.set_axis_off()
            for row, name in enumerate([*names, *(["hinge loss"] if foot else [])]):
                page.write(axes, name, -0.12, row + 0.5, data=True, ha="right", va="center")
            for place, column in enumerate(columns):
                for row in range(len(names)):
                    depth = float(np.clip(np.nan_to_num(depths[column, row]), 0, 1))
                    dark = depth > 0.6
                    axes.add_patch(page.rectangle(place, row, 1, 1, depth, framed=row == places[column]))
                    page.write(
                        axes,
                        f"{table[column, row]:z.2f}",
                        place + 0.8,
                        row + 0.5,
                        data=True,
                        ha="right",
                        va="center",
                        color="white" if dark else _INK,
                    )
                if foot:
                    loss = below[column]
                    said = "?" if loss is None else f"{loss:z.2f}"
                    page.write(axes, said, place + 0.8, len(names) + 0.5, data=True, ha="right", va="center")
            if foot:
                axes.axhline(len(names), color=_INK, linewidth=0.8)


def explanation(
    image: ArrayLike,
    title: str,
    heats: Mapping[str, ArrayLike],
    classes: Sequence[str],
    values: Sequence[float],
    layers: Sequence[tuple[str, ArrayLike]],
    path: str | os.PathLike[str],
) -> None:
    """Draw what a net makes of a picture: where it looked, the scores, and what came out of each layer.

    Parameters
    ----------
    image : array_like, (H, W, 1) or (H, W, 3)
        uint8, or floats from 0 to 1.
    title : str
    heats : mapping of str to array_like of float, (H, W)
        Maps laid over the picture, by their titles: what is above zero is drawn orange, what is below blue.
    classes : sequence of str
        Names for the bars.
    values : sequence of float
        The scores of these classes.
    layers : sequence of (str, array_like)
        A caption of up to two lines and the layer's output, (h, w, C) or (features,). Of many channels those that
        vary most are drawn, in their order. Layers without negative numbers run from black, 0, to white; others from
        blue through white, 0, to orange.
    path : path-like
        A name that ends in ``.svg`` or ``.png``.

    Raises
    ------
    ShapeError
        Arrays of other shapes.
    SettingError
        Another ending.
    OSError
        The file cannot be written.
    """
    picture = _rgb(np.asarray(image))
    panels = [(title, picture)]
    for name, heat in heats.items():
        values_of_pixels = np.asarray(heat, dtype=np.float64)
        if values_of_pixels.shape != picture.shape[:2]:
            raise ShapeError(f"explanation: {name} is {values_of_pixels.shape}, the picture {picture.shape[:2]}")
        panels.append((name, _laid_over(picture, values_of_pixels)))
    names = [_shortened(name, 18) for name in classes]
    lines = [_wrapped(name, 22) for name, _ in panels]
    captions = [_wrapped(caption, 30) for caption, _ in layers]
    side, gap = 1.5, 0.2
    high = side * picture.shape[0] / picture.shape[1]
    label, strip, row = 1.9, 6.0, 0.46
    with _figure(path, [*names, *(line for block in [*lines, *captions] for line in block)]) as page:
        for place, ((_, panel), block) in enumerate(zip(panels, lines, strict=True)):
            axes = page.axes((side + gap) * place, 0, side, high)
            page.show(axes, panel, smooth=panel.shape[1] >= 150)
            axes.set_axis_off()
            page.write(axes, "\n".join(block), 0, 1, (0, 4), va="bottom", fontsize=8, linespacing=1.1)
        wide = 0.1 + 0.075 * max(map(_width, names), default=0)
        tall = max(high, 0.16 * len(names))
        axes = page.axes((side + gap) * len(panels) + wide, high - tall, 1.5, tall)
        axes.barh(range(len(names)), np.nan_to_num(values, posinf=0, neginf=0), color=_VALIDATION, height=0.7)
        axes.set_yticks(range(len(names)), [page.text(name) for name in names], fontsize=8, parse_math=False)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.axvline(0, color=_INK, linewidth=0.6)
        axes.tick_params(length=0)
        axes.tick_params(axis="x", labelsize=7)
        axes.spines[:].set_visible(False)
        axes.grid(axis="x", color=_FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        page.write(axes, "scores", 0, 1, (0, 4), va="bottom", fontsize=8)
        top = min(0.0, high - tall) - 0.2
        for number, (caption, (_, output)) in enumerate(zip(captions, layers, strict=True)):
            bottom = top - (row + 0.12) * (number + 1)
            drawn = _strip(np.asarray(output), strip / row)
            axes = page.axes(label, bottom, min(strip, row * drawn.shape[1] / drawn.shape[0]), row)
            page.show(axes, drawn, smooth=False)
            axes.set_axis_off()
            page.write(axes, "\n".join(caption), 0, 0.5, (-72 * label, 0), va="center", fontsize=7.5, linespacing=1.25)


def _gallery(
    images: Sequence[NDArray[Any]],
    titles: Sequence[str] | None,
    path: str | os.PathLike[str],
    what: str,
    tile: float,
    columns: int | None = None,
) -> None:
    """Lay out RGB pictures in a grid of tiles `tile` inches wide, as one picture: fast for thousands."""
    if not images or (titles is not None and len(titles) != len(images)):
        raise ShapeError(f"{what}: {len(images)} pictures and {'no' if titles is None else len(titles)} titles")
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    # About half as wide again as high.
    columns = columns or min(len(images), max(1, ceil(sqrt(1.5 * len(images) * height / width))), 32)
    rows = ceil(len(images) / columns)
    inches = tile / width  # of a pixel
    gap = ceil(0.08 / inches)
    lines = [_wrapped(title, int(tile / 0.066)) for title in titles] if titles is not None else []
    above = ceil((0.14 * max(map(len, lines)) + 0.08) / inches) if lines else 0
    sheet = np.ones((rows * (height + above + gap) - gap, columns * (width + gap) - gap, 3), np.float32)
    corners = []
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        top, left = row * (height + above + gap) + above, column * (width + gap)
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
        corners.append((left, top))
    with _figure(path, [line for block in lines for line in block]) as page:
        axes = page.axes(0, 0, sheet.shape[1] * inches, sheet.shape[0] * inches)
        axes.set_axis_off()
        # Small pictures keep their pixels, large ones are smoothed when they are made smaller.
        page.show(axes, sheet, smooth=inches <= 1 / 100)
        for (left, top), block in zip(corners, lines, strict=False):  # no titles, or one each
            axes.text(
                left - 0.5,
                top - 0.5 - 0.06 / inches,
                page.text("\n".join(block)),
                fontsize=8,
                va="baseline",
                linespacing=1.1,
                parse_math=False,
            )


def _rgb(image: NDArray[Any]) -> NDArray[np.float32]:
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise ShapeError(f"pictures: one is {image.shape}; they must be (H, W), (H, W, 1) or (H, W, 3)")
    scaled = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
    return np.broadcast_to(np.clip(scaled, 0, 1), (*image.shape[:2], 3))


def _laid_over(picture: NDArray[np.float32], heat: NDArray[np.float64]) -> NDArray[np.float32]:
    """A map over a picture made grey and pale: orange above zero and blue below, stronger for more."""
    strength = _scaled(heat)[:, :, None]
    grey = 0.35 + 0.65 * picture.mean(axis=2, keepdims=True)
    colour = np.where(strength > 0, _colour(_TRAINING), _colour(_VALIDATION))
    share = 0.9 * np.abs(strength)
    laid: NDArray[np.float32] = ((1 - share) * grey + share * colour).astype(np.float32)
    return laid


def _strip(output: NDArray[Any], ratio: float) -> NDArray[np.float32]:
    """A layer's output as one picture, at most `ratio` times as wide as high."""
    values = np.nan_to_num(np.asarray(output, dtype=np.float64), posinf=0, neginf=0)
    if values.ndim == 3 and values.shape[:2] == (1, 1):
        values = values.ravel()
    if values.ndim == 1:
        rows = max(1, ceil(sqrt(len(values) / ratio)))
        padded = np.full(rows * ceil(len(values) / rows), np.nan)
        padded[: len(values)] = values
        # Cells with a hair of white between them, where there are few.
        cells = _coloured(values, padded.reshape(rows, -1))
        cell = 12 if padded.size <= 1000 else 1
        large = cells.repeat(cell, axis=0).repeat(cell, axis=1)
        if cell > 1:
            large[cell - 1 :: cell] = 1
            large[:, cell - 1 :: cell] = 1
        return large
    if values.ndim != 3:
        raise ShapeError(f"explanation: a layer's output is {values.shape}; it must be (h, w, C) or (features,)")
    height, width = values.shape[:2]
    gap = max(1, height // 12)
    most = max(1, int((height * ratio + gap) / (width + gap)))
    chosen = np.sort(np.argsort(-values.std(axis=(0, 1)), kind="stable")[:most])
    sheet = np.ones((height, len(chosen) * (width + gap) - gap, 3), np.float32)
    for place, channel in enumerate(chosen):
        left = place * (width + gap)
        sheet[:, left : left + width] = _coloured(values, values[:, :, channel])
    return sheet


def _coloured(layer: NDArray[np.float64], part: NDArray[np.float64]) -> NDArray[np.float32]:
    """A part of a layer's numbers as colours, on the scale of the whole layer; white where there is none."""
    largest = np.abs(layer).max(initial=0) or 1.0
    scaled = np.nan_to_num(part / largest, nan=0.0)[..., None]
    if layer.min(initial=0) < 0:
        share = np.abs(scaled)
        rgb = 1 - share + share * np.where(scaled > 0, _colour(_TRAINING), _colour(_VALIDATION))
    else:
        rgb = np.broadcast_to(0.94 * scaled, (*part.shape, 3))  # the largest can still be told from paper
    coloured: NDArray[np.float32] = np.where(np.isnan(part)[..., None], 1.0, rgb).astype(np.float32)
    return coloured


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between -1 and 1, by the largest absolute value."""
    finite = np.nan_to_num(values, nan=0, posinf=0, neginf=0)
    scaled: NDArray[np.float64] = finite / (np.abs(finite).max(initial=0) or 1.0)
    return scaled


def _colour(name: str) -> NDArray[np.float64]:
    return np.array([int(name[place : place + 2], 16) / 255 for place in (1, 3, 5)])


def _best(columns: Mapping[str, NDArray[np.float64]]) -> int | None:
    """The place of the epoch whose weights were kept."""
    if "best" in columns:
        kept = np.flatnonzero(columns["best"] == 1)
        return int(kept[-1]) if kept.size else None
    values = columns.get("validation_accuracy")
    if values is None or not np.isfinite(values).any():
        return None
    return int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))


class _Page:
    """A figure on which things are placed by inches, and cut to what is on it when it is written."""

    def __init__(self, figure: Any, replaced: Mapping[int, str], vector: bool) -> None:
        self._figure = figure
        self._replaced = replaced
        self._vector = vector

    def axes(self, left: float, bottom: float, width: float, height: float) -> Any:
        inch_wide, inch_high = self._figure.get_size_inches()
        return self._figure.add_axes((left / inch_wide, bottom / inch_high, width / inch_wide, height / inch_high))

    def colorbar(self, image: Any, left: float, bottom: float, width: float, height: float) -> Any:
        return self._figure.colorbar(image, cax=self.axes(left, bottom, width, height))

    def text(self, text: str) -> str:
        """The text as this file can show it."""
        return text.translate(self._replaced)

    def show(self, axes: Any, image: NDArray[Any], *, smooth: bool) -> None:
        """Fill axes with a picture, whose pixels keep their edges unless it is to be smoothed when made smaller.

        Whoever shows an SVG blurs a small picture: its pixels are repeated, until nobody sees that.
        """
        height, width = image.shape[:2]
        times = max(1, round(400 / max(height, width))) if self._vector and not smooth else 1
        large = image.repeat(times, axis=0).repeat(times, axis=1)
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axes.imshow(large, interpolation="auto" if smooth else "none", aspect="auto", extent=extent)

    def write(
        self,
        axes: Any,
        text: str,
        x: float,
        y: float,
        offset: tuple[float, float] = (0, 0),
        *,
        data: bool = False,
        **how: Any,
    ) -> None:
        """Write a text at a point of the axes (`data`: of their numbers), moved by so many points of the printer's."""
        axes.annotate(
            self.text(text),
            (x, y),
            offset,
            xycoords="data" if data else "axes fraction",
            textcoords="offset points",
            annotation_clip=False,
            parse_math=False,
            **how,
        )

    def rectangle(self, left: float, top: float, width: float, height: float, depth: float, *, framed: bool) -> Any:
        """A cell, from white to blue by its depth from 0 to 1; one with a frame stands before the others."""
        from matplotlib.patches import Rectangle

        colour = 1 - depth + depth * _colour(_VALIDATION)
        edge, line = (_TRAINING, 1.8) if framed else ("white", 0.8)
        return Rectangle(
            (left, top), width, height, facecolor=colour, edgecolor=edge, linewidth=line, zorder=2 if framed else 1
        )


@contextlib.contextmanager
def _figure(path: str | os.PathLike[str], texts: Iterable[str]) -> Iterator[_Page]:
    """Give a page to draw on, whose fonts have the letters of `texts`, and write it."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".svg", ".png"):
        raise SettingError(f"{path}: a figure is written as .svg or .png")
    import matplotlib
    from matplotlib.figure import Figure

    with _lock, matplotlib.rc_context():
        matplotlib.rcdefaults()
        families, missing = _families(frozenset(ord(letter) for text in texts for letter in text))
        matplotlib.rcParams.update(_STYLE | {"font.family": families})
        figure = Figure(figsize=(10, 10))
        yield _Page(figure, dict.fromkeys(missing, _MISSING) if suffix == ".png" else {}, suffix == ".svg")
        with warnings.catch_warnings(), replace_file(path) as file:
            if suffix == ".svg":  # whoever shows the file has the font; here it is only measured
                warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
            figure.savefig(
                file,
                format=suffix[1:],
                dpi=160,
                bbox_inches="tight",
                pad_inches=0.12,
                metadata={"Date": None, "Creator": "nabi"} if suffix == ".svg" else {"Software": "nabi"},
            )


@functools.lru_cache(maxsize=64)
def _families(letters: frozenset[int]) -> tuple[list[str], frozenset[int]]:
    """Font families that have these letters between them, and the letters that no installed font has."""
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    missing = letters - _letters(font_manager.findfont("DejaVu Sans"))
    if missing:
        regular = [
            font
            for font in font_manager.fontManager.ttflist
            if font.style == "normal" and font.weight in (400, "normal", "regular") and "Last Resort" not in font.name
        ]
        rank = {name: number for number, name in enumerate(_PREFERRED)}
        for font in sorted(regular, key=lambda font: (rank.get(font.name, len(rank)), font.name, font.fname)):
            has = missing & _letters(font.fname, getattr(font, "index", 0))
            if has:
                families.append(font.name)
                missing -= has
            if not missing:
                break
    return [*families, "sans-serif"], missing


def _letters(font: str, index: int = 0) -> frozenset[int]:
    """The letters that a font file has an outline for."""
    from matplotlib.ft2font import FT2Font

    try:
        face = FT2Font(font, face_index=index) if index else FT2Font(font)
    except (OSError, RuntimeError, TypeError):  # a damaged font, or a collection that this Matplotlib does not open
        return frozenset()
    return frozenset(face.get_charmap()) if face.scalable else frozenset()


def _shown(name: str) -> str:
    """A name on one line, composed (macOS decomposes file names), without what has no picture of its own."""
    composed = " ".join(unicodedata.normalize("NFC", str(name)).split())
    return "".join(letter for letter in composed if unicodedata.category(letter) not in ("Cc", "Cf", "Cs"))


def _width(text: str) -> int:
    """Width in letters, those of East Asia counting twice."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _shortened(name: str, width: int) -> str:
    """The name, its middle left out where it is too long: ends tell names apart as often as beginnings do."""
    name = _shown(name)
    if _width(name) <= width:
        return name
    head, tail = list(name[: len(name) // 2]), list(name[len(name) // 2 :])
    while _width("".join(head + tail)) > width - 1:
        if len(head) > len(tail):
            head.pop()
        else:
            tail.pop(0)
    return "".join([*head, "…", *tail])


def _wrapped(title: str, width: int) -> list[str]:
    """A title as up to three lines, at its own line breaks."""
    return [_shortened(line, width) for line in str(title).split("\n")[:3]]

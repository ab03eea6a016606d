"""Augmentations one after another: put together in code, or read from a text."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nabi import random
from nabi.data.augment import draws
from nabi.data.augment.blocks import in_blocks
from nabi.data.augment.declaration import AUGMENTATIONS, Augmentation, Change
from nabi.data.augment.draws import Keys, children
from nabi.data.augment.mixup import Mixup
from nabi.data.augment.pictures import Pictures, as_pictures, described
from nabi.errors import SettingError


@dataclass(frozen=True)
class Pipeline:
    """Augmentations one after another, in the order in which they are written.

    :func:`compose` and :func:`parse` make them. Called with images and keys it gives the changed images, new and of the
    same shape. Each part has keys of its own, which follow from the pictures' and its number. Mixing two pictures is
    not part of the call: :func:`batch` does that with ``mixup``, which is ``None`` where pictures are not mixed.
    """

    parts: tuple[Change, ...] = ()
    mixup: Mixup | None = None

    def __call__(self, images: Pictures, keys: Keys | None = None) -> Pictures:
        """Change each picture as its key says.

        Parameters
        ----------
        images : array of uint8, (N, H, W, C)
            C being 1 or 3.
        keys : array of uint32, (N, 2), optional
            By default those of pictures 0 to N - 1 under the seed 0, to see what the pipeline does.

        Returns
        -------
        array of uint8, (N, H, W, C)

        Examples
        --------
        >>> picture = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
        >>> parse("flip,crop:2")(np.repeat(picture, 6, axis=0)).shape  # the same picture, changed six times
        (6, 8, 8, 1)

        Raises
        ------
        SettingError
            If the images are something else, or one of the parts makes something else of them.
        ShapeError
            If there is not one key for each picture.
        """
        if keys is None:
            keys = draws.keys(random.key(0), np.arange(len(images)))
        images = as_pictures(images, keys, self)
        changed = np.empty_like(images)
        keys_of_parts = children(keys, range(len(self.parts)))

        def work(block: slice) -> None:
            before = images[block]
            for part, own in zip(self.parts, keys_of_parts, strict=True):
                after = np.asarray(part(before, own[block]))
                if after.shape != before.shape or after.dtype != np.uint8:
                    raise SettingError(
                        f"augment: {_name(part)} made {described(after)} of {described(before)}, and must not"
                    )
                before = after
            changed[block] = before

        in_blocks(work, len(images), images[:1].size)
        return changed

    def __str__(self) -> str:
        return ",".join([*map(_name, self.parts), *([str(self.mixup)] if self.mixup else [])]) or "none"


def compose(*parts: str | Change | Pipeline | Mixup | None) -> Pipeline:
    """A pipeline of augmentations (such or texts), other pipelines, and any function ``(images, keys) -> images``.

    What a pipeline is made of takes the pipeline's place, so that nesting makes no difference; ``None`` is left out.
    :class:`Mixup`, alone or in a pipeline, comes last: it mixes pictures that are changed already.

    Raises
    ------
    SettingError
        If something is none of these, a text names nothing or has impossible numbers, or something follows mixup.

    Examples
    --------
    >>> print(compose(parse("flip"), lambda images, keys: 255 - images, "crop:4", Mixup(0.2)))
    flip:0.5,<lambda>,crop:4,mixup:0.2
    """
    changes: list[Change] = []
    mixup: Mixup | None = None
    for part in (_part(given) for given in parts if given is not None):
        if mixup is not None:
            raise SettingError(f"augment: {_name(part)} follows mixup, which must be the last and stand once")
        if isinstance(part, Pipeline):
            changes += part.parts
            mixup = part.mixup
        elif isinstance(part, Mixup):
            mixup = part
        else:
            changes.append(part)
    return Pipeline(tuple(changes), mixup)


def parse(text: str | Sequence[str | Change | Mixup] | Change | None) -> Pipeline | None:
    """The pipeline that a text or a sequence describes: ``"flip,crop:4"`` or ``("flip", "crop:4")``.

    Parameters
    ----------
    text : str, sequence or None
        Names from :data:`AUGMENTATIONS`, each with its numbers after colons; those left out have their defaults. In a
        sequence there may also be augmentations as such, and one alone is taken too.

    Returns
    -------
    Pipeline or None
        ``None`` for ``None``, ``"none"`` and nothing at all.

    Raises
    ------
    SettingError
        If a name is unknown, a number is impossible, or something follows mixup.

    Examples
    --------
    >>> from nabi.data.augment import cutout
    >>> parse("crop:4,cutout") == parse(["crop:4", cutout()])
    True
    >>> parse("flop")
    Traceback (most recent call last):
    nabi.errors.SettingError: augment: no augmentation is named 'flop'; there are flip, crop, resized-crop, rotation, \
color-jitter, cutout, mixup
    """
    items: Sequence[Any]
    if text is None or (isinstance(text, str) and text.strip() in ("", "none")):
        items = ()
    elif isinstance(text, str):
        items = text.split(",")
    else:
        items = text if isinstance(text, Sequence) else (text,)
    return compose(*items) if items else None


def _part(item: Any) -> Any:
    if not isinstance(item, str):
        if callable(item) or isinstance(item, Mixup):
            return item
        raise SettingError(f"augment: {item!r} is no augmentation; there are {', '.join(AUGMENTATIONS)}")
    name, *numbers = (word.strip() for word in item.split(":"))
    if name not in AUGMENTATIONS:
        raise SettingError(f"augment: no augmentation is named {name!r}; there are {', '.join(AUGMENTATIONS)}")
    factory = AUGMENTATIONS[name]
    takes = inspect.signature(factory).parameters
    if len(numbers) > len(takes):
        raise SettingError(
            f"augment: {item.strip()!r} has {len(numbers)} numbers; {name} has at most {len(takes)}: {', '.join(takes)}"
        )
    return factory(*(_read(name, label, number) for label, number in zip(takes, numbers, strict=False)))


def _read(name: str, label: str, text: str) -> float:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    raise SettingError(f"augment: {name}'s {label} is {text!r}, which is not a number")


def _name(part: object) -> str:
    return str(part) if isinstance(part, Augmentation | Pipeline | Mixup) else getattr(part, "__name__", repr(part))

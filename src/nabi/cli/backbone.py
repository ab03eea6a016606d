"""Which trained network photos are looked at with, where pictures are photos."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from rich.console import Console

from nabi import weights
from nabi.classifiers.photo import HEADS
from nabi.cli.pictures import side_of
from nabi.cli.terminal import note
from nabi.data.files import expanded
from nabi.data.named import NAMED
from nabi.errors import SettingError
from nabi.models import BACKBONES

NONE = "none"
TIMM_LITE0 = "hf:timm/efficientnet_lite0"
"""Begins the address of timm's own weights, whose file cannot tell that they are of its own form."""
PHOTO_SIDE = 96
"""Pixels along the short side from which on a picture is taken for a photo."""


def with_backbone(asked: Mapping[str, Any], where: Console) -> dict[str, Any]:
    """What is asked for, with the backbone, the size and the model that this means.

    Without ``--backbone`` photos are looked at with the first of `nabi.models.BACKBONES` whose weights are installed.
    """
    asked = dict(asked)
    if "backbone" not in asked:
        asked["backbone"] = _installed(where) if _of_photos(asked) else NONE
    if asked["backbone"] != NONE:
        if asked["data"] in NAMED:
            raise SettingError(f"--backbone {asked['backbone']}: {asked['data']} has no photos: for folders of them")
        name, where_weights = parts(asked["backbone"])
        if where_weights is None and BACKBONES[name].packaged is None:
            raise SettingError(
                f"--backbone {name} comes without weights: --backbone FILE, or hf:OWNER/REPO, names some"
            )
        asked.setdefault("model", "linear")
        asked.setdefault("size", BACKBONES[name].size)
        if asked["model"] not in HEADS:
            raise SettingError(
                f"--model {asked['model']} takes pixels: with a backbone one of {', '.join(HEADS)}, or --backbone none"
            )
    return asked


@cache  # whoever needs the name for the size of pictures asks before whoever makes the classifier
def parts(backbone: str) -> tuple[str, str | None]:
    """The name of a backbone, and where its weights are, from what was typed: a name, a file or an address of one."""
    if backbone in BACKBONES:
        return backbone, None
    if not backbone.startswith(("hf:", "packaged:")) and not expanded(backbone).is_file():
        raise SettingError(f"--backbone {backbone!r} is not none, {', '.join(BACKBONES)}, nor weights in a file or hf:")
    names = set(weights.read(weights.find(backbone)))
    shares = {name: len(names & known.foreign_names()) for name, known in BACKBONES.items()}
    best = max(shares, key=lambda name: shares[name])
    if not shares[best]:
        raise SettingError(f"--backbone {backbone}: its arrays have the names of none of {', '.join(BACKBONES)}")
    if best == "efficientnet_lite0" and backbone.startswith(TIMM_LITE0):
        best = "efficientnet_lite0_timm"
    return best, backbone


def _of_photos(asked: Mapping[str, Any]) -> bool:
    """Whether features of photos are what is best learnt from, where nobody said."""
    if asked.get("model", "linear") not in HEADS or asked.get("size", PHOTO_SIDE) < PHOTO_SIDE:
        return False
    side = side_of(asked["data"])
    return side is not None and side >= PHOTO_SIDE


def _installed(where: Console) -> str:
    """The backbone whose weights are there."""
    for name, known in BACKBONES.items():
        if known.packaged is None:
            continue
        try:
            weights.find(known.packaged)
        except SettingError:
            continue
        where.print(f"photos: {name}, trained on ImageNet, looks at them first; --backbone none does without")
        return name
    note(
        "photos are learnt from far better with a network that has seen a million: pip install 'nabi[pretrained]', "
        "or --backbone FILE; going on without (--backbone none says so)"
    )
    return NONE

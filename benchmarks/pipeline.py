"""From a folder of photos to augmented batches: ``python -m benchmarks.pipeline [--photos N] [--json FILE]``.

What is measured is pictures a second, from a folder of JPEG files to the last of the epoch's shuffled batches, with
nothing done with them. The photos are those for training in ``clothing-photos.tar``, in the folder that NABI_DATA
names: 3,068, short side 256; or ``--photos N`` of them, at equal steps. They are in the system's file cache for both,
and each uses as many cores as there are threads.

nabi       ``data.load`` decodes every photo once, resizes it (bicubic, short side to fit, centre crop) and keeps it in
           its cache; an epoch is `Examples.epoch`: memory-mapped pictures, shuffled, cropped and mirrored on threads.
           What comes out is uint8 (N, H, W, C), as a model takes it, whose first step standardises. "standardised" does
           that here, in NumPy, to float32.
on demand  nabi where the cache has no room: the same batches, to the bit, but each epoch decodes the files anew.
the peer   ``torch.utils.data.DataLoader`` with a worker process for each thread, each of which opens a file with Pillow
           and does what torchvision's transforms do on Pillow pictures: ``RandomResizedCrop`` (bilinear, scale 0.08 to
           1, ratio 3/4 to 4/3), or ``Resize``, ``CenterCrop`` and ``RandomCrop`` with padding;
           ``RandomHorizontalFlip``; ``ToTensor``; ``Normalize``. What comes out is float32 (N, C, H, W). They are
           written out here, as torchvision writes them, since it need not be installed.

The first epoch begins with nothing decoded: ours includes ``data.load``, the peer's the start of its workers. Note what
is not alike: the peer crops the photo as it is, ours the photo at the size it was loaded at.

Both run in turn, A B A B; a ratio is the median over rounds of the peer's time divided by ours in the same round, so
above 1 ours is faster.

``--memory`` measures that instead, for 12,272 photos if ``--photos`` says nothing else (the same four times over, hard
links): decoded on demand, with as much address space as the process has when it begins and 512 MiB more, which is less
than 12,272 decoded pictures take (1.7 GiB); then from the cache. Of a memory map, what has been read counts as the
process's memory until the system wants it back, so the peak is given without it, too.
"""

import argparse
import contextlib
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from nabi import threads

BATCH = 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CASES = [("resized-crop,flip", 224), ("crop,flip", 224), ("resized-crop,flip", 32), ("crop,flip", 32)]
PHOTOS, MANY = 3_068, 12_272
"""How many there are; and how many, by hard links, are streamed."""
ROOM = 512 << 20  # bytes of address space beyond what the process has when it begins

Epoch = Callable[[int], int]
"""The number of an epoch to how many pictures it had."""


# --- ours


def loaded(folder: Path, size: int, cached: bool = True) -> Any:
    """The training pictures; not ``cached``, they are decoded on demand."""
    from nabi import cache, data
    from nabi.data import folders, gather

    with contextlib.ExitStack() as held:
        if not cached:  # nor is what the cache has already
            held.callback(os.environ.__setitem__, "NABI_CACHE", os.environ["NABI_CACHE"])
            os.environ["NABI_CACHE"] += "-of-nothing"
        for place, name in ((cache, "MAX_TOTAL"), (gather, "MAX_IN_MEMORY"), (folders, "MAX_UNCACHED")):
            if not cached:
                held.callback(setattr, place, name, getattr(place, name))
                setattr(place, name, 0)
        return data.load(folder, size=size).train


def epochs_of(
    split: Any, augmentations: str, standardised: bool = False, each: Callable[[], object] = lambda: None
) -> Epoch:
    """An epoch of nabi's; ``each`` is called after every batch."""
    from nabi.data import augment
    from nabi.training import Examples

    examples = Examples(split.images, split.labels, None, augment.parse(augmentations))
    _, height, width, channels = split.images.shape
    scale, shift = (np.tile(np.float32(values), width) for values in (1 / 255 / np.array(STD), np.divide(MEAN, STD)))

    def epoch(number: int) -> int:
        seen = 0
        for images, *_ in examples.epoch(0, number, BATCH):
            if standardised:
                standard = images.reshape(len(images), height, width * channels) * scale  # long rows are quick
                standard -= shift
            seen += len(images)
            each()
        return seen

    return epoch


# --- the peer


class Photos:
    """A data set as `torchvision.datasets.ImageFolder` is one, with its transforms."""

    def __init__(self, folder: Path, augmentations: str, size: int) -> None:
        classes = sorted(path.name for path in folder.iterdir())
        self.files = [(str(path), classes.index(path.parent.name)) for path in sorted(folder.glob("*/*.jpg"))]
        self.cropped = resized_crop if augmentations.startswith("resized-crop") else padded_crop
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        import torch
        from PIL import Image

        path, label = self.files[number]
        with Path(path).open("rb") as file:
            image = Image.open(file).convert("RGB")
        image = self.cropped(image, self.size)
        if torch.rand(1) < 0.5:  # RandomHorizontalFlip
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image, np.uint8, copy=True))  # ToTensor
        tensor = pixels.view(*pixels.shape[:2], 3).permute((2, 0, 1)).contiguous().to(torch.float32).div(255)
        mean, std = (torch.as_tensor(values).view(-1, 1, 1) for values in (MEAN, STD))  # Normalize
        return tensor.clone().sub_(mean).div_(std), label


def resized_crop(image: Any, size: int) -> Any:
    """`torchvision.transforms.RandomResizedCrop`: where to cut is drawn ten times at most."""
    import torch
    from PIL import Image

    width, height = image.size
    log_ratio = torch.log(torch.tensor((3 / 4, 4 / 3)))
    for _ in range(10):
        area = height * width * torch.empty(1).uniform_(0.08, 1).item()
        ratio = torch.exp(torch.empty(1).uniform_(log_ratio[0], log_ratio[1])).item()
        wide, tall = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < wide <= width and 0 < tall <= height:
            top = torch.randint(0, height - tall + 1, (1,)).item()
            left = torch.randint(0, width - wide + 1, (1,)).item()
            break
    else:  # it falls back on the centre
        wide, tall = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        top, left = (height - tall) // 2, (width - wide) // 2
    part = image.crop((left, top, left + wide, top + tall))
    return part.resize((size, size), Image.Resampling.BILINEAR)


def padded_crop(image: Any, size: int) -> Any:
    """`Resize`, `CenterCrop` and `RandomCrop` with an eighth of the side as padding."""
    import torch
    from PIL import Image, ImageOps

    width, height = image.size
    wide, tall = (size, size * height // width) if width <= height else (size * width // height, size)
    image = image.resize((wide, tall), Image.Resampling.BILINEAR)
    left, top = round((wide - size) / 2), round((tall - size) / 2)
    image = image.crop((left, top, left + size, top + size))
    padding = size // 8
    image = ImageOps.expand(image, border=padding, fill=0)
    top, left = (int(torch.randint(0, 2 * padding + 1, (1,)).item()) for _ in range(2))
    return image.crop((left, top, left + size, top + size))


def peer(folder: Path, augmentations: str, size: int) -> Epoch:
    """Its workers stay from one epoch to the next."""
    import torch.utils.data

    batches = torch.utils.data.DataLoader(
        Photos(folder, augmentations, size),
        batch_size=BATCH,
        shuffle=True,
        num_workers=threads.get_num_threads(),
        persistent_workers=True,
        generator=torch.Generator().manual_seed(0),
    )
    return lambda number: sum(len(images) for images, _ in batches)


# --- measuring


def lasts(work: Callable[[], int], pictures: int) -> float:
    """Seconds of an epoch, which must have had all pictures."""
    begun = time.perf_counter()
    seen = work()
    seconds = time.perf_counter() - begun
    assert seen == pictures, f"{seen} pictures of {pictures}"
    return seconds


def speed(folder: Path, augmentations: str, size: int, rounds: int) -> list[dict[str, Any]]:
    """Rows for the first epoch, for later ones, and for those that are decoded on demand."""
    from nabi import cache

    pictures = len(list(folder.glob("*/*.jpg")))
    first: dict[str, list[float]] = {"nabi": [], "peer": []}
    for _ in range(min(rounds, 3)):
        cache.clear()
        first["nabi"].append(lasts(lambda: epochs_of(loaded(folder, size), augmentations)(0), pictures))
        first["peer"].append(lasts(lambda: peer(folder, augmentations, size)(0), pictures))
    cached, on_demand = loaded(folder, size), loaded(folder, size, cached=False)
    contenders = {
        "nabi": epochs_of(cached, augmentations),
        "nabi, standardised": epochs_of(cached, augmentations, standardised=True),
        "nabi, on demand": epochs_of(on_demand, augmentations),
        "peer": peer(folder, augmentations, size),
    }
    later: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, epoch in contenders.items():
            seconds = lasts(lambda: epoch(number), pictures)  # noqa: B023
            if number:  # the first warms up
                later[name].append(seconds)
    rows = [compared("first epoch", "nabi", first, augmentations, size, pictures)]
    rows += [compared("later epochs", name, later, augmentations, size, pictures) for name in list(contenders)[:-1]]
    return rows


def compared(
    when: str, name: str, seconds: dict[str, list[float]], augmentations: str, size: int, pictures: int
) -> dict[str, Any]:
    pairs = zip(seconds["peer"], seconds[name], strict=True)
    return {
        "what": f"photos to batches, {augmentations} at {size}x{size}, {when}",
        "who": name,
        "unit": "pictures/s",
        "ours": pictures / median(seconds[name]),
        "peer": pictures / median(seconds["peer"]),
        "ratio": median(theirs / own for theirs, own in pairs),
        "rounds": len(seconds[name]),
        "seconds": {name: seconds[name], "peer": seconds["peer"]},
    }


def memory(folder: Path) -> list[dict[str, Any]]:
    """Rows of two processes: photos decoded on demand, with a limit, and photos from the cache."""
    rows = []
    for room, cached in ((ROOM, False), (0, True)):
        command = f"from benchmarks.pipeline import stream; stream({str(folder)!r}, {room}, {cached})"
        done = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        what, peak = found["what"], "peak without maps in the epoch MiB" if cached else "peak MiB"
        which = "peak memory in an epoch, without maps" if cached else "peak memory"
        rows.append({**found, "what": f"{what}, {which}", "ours": found[peak], "unit": "MiB"})
        rows.append({"what": f"{what}, an epoch", "ours": found["epoch pictures/s"], "unit": "pictures/s"})
        limit = f"at most {found['limit MiB']:,} MiB of address space" if room else "no limit"
        print(
            f"{what}, {limit}: {found['pictures']:,} pictures, decoded {found['decoded MiB']:,} MiB; peak "
            f"{found['peak MiB']:,} MiB ({found['peak before MiB']:,} before; without maps, in the epoch, "
            f"{found['peak without maps in the epoch MiB']:,}), {found['first look pictures/s']:,.0f} "
            f"pictures/s to find out what there is, {found['epoch pictures/s']:,.0f} in an epoch"
        )
    return rows


def stream(folder: str, room: int, cached: bool = False) -> None:
    """Load a set and go through an epoch, in a process of its own; prints what that took."""
    from nabi.data import augment

    list(threads.map_in_order(lambda _: time.sleep(0.01), range(8)))  # their stacks are address space
    augment.batch(augment.parse("flip"), np.zeros((1, 8, 8, 3), np.uint8), [0], np.zeros(2, np.uint32))
    space = status("VmSize")
    if room:
        resource.setrlimit(resource.RLIMIT_AS, (space + room, space + room))
    before = status("VmHWM")
    begun = time.perf_counter()
    split = loaded(Path(folder), 224, cached)
    known = time.perf_counter()
    own = [0]
    pictures = epochs_of(split, "resized-crop,flip", each=lambda: own.append(status("RssAnon")))(0)
    print(
        json.dumps(
            {
                "what": f"photos {'from the cache' if cached else 'decoded on demand'} at 224x224",
                "pictures": pictures,
                "decoded MiB": round(split.images.nbytes / 2**20),
                "limit MiB": round((space + room) / 2**20) if room else None,
                "peak MiB": round(status("VmHWM") / 2**20),
                "peak before MiB": round(before / 2**20),
                "peak without maps in the epoch MiB": round(max(own) / 2**20),
                "first look pictures/s": pictures / (known - begun),
                "epoch pictures/s": pictures / (time.perf_counter() - known),
            }
        )
    )


def status(name: str) -> int:
    """A figure in bytes from ``/proc/self/status``."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(f"{name}:"))


@contextlib.contextmanager
def photos(count: int = PHOTOS) -> Iterator[Path]:
    """Photos for training, unpacked into class folders, and a cache of their own: some, or all, again and again."""
    if "NABI_DATA" not in os.environ:
        sys.exit("NABI_DATA must name the folder that clothing-photos.tar is in")
    with (
        tempfile.TemporaryDirectory() as made,
        tarfile.open(Path(os.environ["NABI_DATA"]) / "clothing-photos.tar") as tar,
    ):
        os.environ["NABI_CACHE"] = f"{made}/cache"
        found = []
        for member in tar:
            parts = member.name.split("/")
            if member.isfile() and parts[0] == "train" and len(parts) == 3:
                content = tar.extractfile(member)
                assert content is not None
                found.append(Path(made, "all", *parts[1:]))
                found[-1].parent.mkdir(parents=True, exist_ok=True)
                found[-1].write_bytes(content.read())
        some = [found[place] for place in np.linspace(0, len(found) - 1, min(count, len(found))).astype(np.int64)]
        for copy, path in zip(range(count), itertools.cycle(some), strict=False):
            place = Path(made, "photos", path.parent.name, f"{copy // len(some)}-{path.name}")
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, place)
            except OSError:
                shutil.copy(path, place)
        yield Path(made, "photos")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--photos", type=int, metavar="N", help=f"how many (default {PHOTOS:,}; {MANY:,} of --memory)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured to this file")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of each case (default 5)")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with photos(given.photos or (MANY if given.memory else PHOTOS)) as folder:
        if given.memory:
            rows = memory(folder)
        else:
            print("| what | who | pictures/s | the peer's | ratio |\n| --- | --- | ---: | ---: | ---: |")
            for augmentations, size in CASES:
                for row in speed(folder, augmentations, size, given.rounds):
                    rows.append(row)
                    figures = f"{row['ours']:,.0f} | {row['peer']:,.0f} | {row['ratio']:.2f}"
                    print(f"| {row['what']} | {row['who']} | {figures} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Copies are found, whatever was done to them, and different photos are told apart; odd files get their reasons."""

import io
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from made_files import encoded, pixels, tar, write_tree, zipped
from nabi import data, threads
from nabi.check import Report, examine, leaks, page, without_leaks
from nabi.check.copies import Looked, copies, to_look_for
from nabi.check.crops import cropped_pairs
from nabi.check.fingerprints import SIDE, fingerprints, mirror, thumbnail
from nabi.check.oddities import ODD, UNREADABLE, oddities
from nabi.check.pairs import near_pairs
from nabi.check.survey import SPLITS, survey
from nabi.data import Dataset, Split
from nabi.errors import DataError, PictureError, SettingError

# --- pictures, and what is done to them


def scene(seed: int, height: int = 150, width: int = 200) -> Image.Image:
    """Something like a photo: patches of colour at every scale, the larger the stronger."""
    random = np.random.default_rng(seed)
    found = np.zeros((height, width, 3))
    for cells in (2, 3, 5, 8, 13, 21, 34):
        patch = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
        found += np.asarray(patch.resize((width, height), Image.Resampling.BICUBIC), float) / cells
    return Image.fromarray(np.uint8(255 * (found - found.min()) / np.ptp(found)))


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    return encoded(image, "JPEG", quality=quality)


def resized(image: Image.Image, random: np.random.Generator) -> bytes:
    scale = random.uniform(0.25, 2)
    kind = [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS][random.integers(3)]
    return jpeg(image.resize((round(image.width * scale), round(image.height * scale)), kind))


def recompressed(image: Image.Image, random: np.random.Generator) -> bytes:
    return jpeg(image, int(random.integers(10, 70)))


def flipped(image: Image.Image, random: np.random.Generator) -> bytes:
    return jpeg(ImageOps.mirror(image), int(random.integers(60, 95)))


def cropped(image: Image.Image, random: np.random.Generator) -> bytes:
    """Of both sides the same share, 80 to 97%, anywhere."""
    share = random.uniform(0.8, 0.97)
    width, height = int(image.width * share), int(image.height * share)
    left, top = random.integers(0, image.width - width + 1), random.integers(0, image.height - height + 1)
    return jpeg(image.crop((left, top, left + width, top + height)))


DONE: dict[str, Callable[[Image.Image, np.random.Generator], bytes]] = {
    "resized": resized,
    "recompressed": recompressed,
    "flipped": flipped,
    "cropped": cropped,
}


def planted(photos: dict[str, bytes], each: int, seed: int = 0) -> tuple[dict[str, bytes], dict[str, str]]:
    """Photos, with copies of each kind of some that are trained on put among the test's; and what each is a copy of."""
    random = np.random.default_rng(seed)
    training = sorted(name for name in photos if name.startswith("train/"))
    tree, origin = dict(photos), {}
    for kind, change in DONE.items():
        for name in random.choice(training, each, replace=False):
            copy = f"test/{name.split('/')[1]}/{kind}-{name.split('/')[2]}"
            tree[copy] = change(Image.open(io.BytesIO(photos[name])).convert("RGB"), random)
            origin[copy] = str(name)
    return tree, origin


def found(report: Report, origin: dict[str, str]) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """The share of the copies of each kind that stand in a group with what they are copies of; and all other pairs."""
    shares, others = dict.fromkeys(DONE, 0.0), []
    files = report.survey.files
    for group in report.groups:
        names = {files[copy.row] for copy in group.copies}
        for name in names & set(origin):
            kind = name.split("/")[2].split("-")[0]
            shares[kind] += (origin[name] in names) * len(DONE) / len(origin)
        for copy in group.copies:
            pair = (files[copy.row], files[copy.of])
            if copy.how and len({origin.get(name, name) for name in pair}) > 1:
                others.append(pair)
    return shares, others


@pytest.fixture(scope="session")
def photos(real_data: Path) -> dict[str, bytes]:
    path = real_data / "clothing-photos.tar"
    if not path.exists():
        pytest.skip("real data: no clothing-photos.tar in the folder that NABI_DATA names")
    with tarfile.open(path) as archive:
        files = [member for member in archive if member.name.endswith(".jpg")]
        return {member.name: archive.extractfile(member).read() for member in files}


# What two people, who looked, called the same: the one picture under two classes, and one dress taken twice.
REALLY_THERE = [("6075b4a5", "637a56e4"), ("b59e4d4a", "e6a8b33f")]


def is_really_there(pair: tuple[str, str]) -> bool:
    return any(all(any(part in name for name in pair) for part in known) for known in REALLY_THERE)


def assert_found(tree: dict[str, bytes], origin: dict[str, str], path: Path) -> tuple[dict[str, float], list]:
    path.write_bytes(tar(tree))
    report = examine(path)
    shares, others = found(report, origin)
    false = [pair for pair in others if not is_really_there(pair)]
    assert shares["resized"] >= 0.95
    assert shares["recompressed"] >= 0.95
    assert shares["flipped"] >= 0.8
    assert shares["cropped"] >= 0.8
    assert len(false) < 0.001 * len(tree), false
    return shares, false


def test_planted_copies_of_photos_are_found(photos: dict[str, bytes], tmp_path: Path) -> None:
    some = dict(sorted(photos.items())[::4])
    tree, origin = planted(some, 40)
    assert_found(tree, origin, tmp_path / "photos.tar")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_planted_copies_among_all_photos_are_found(photos: dict[str, bytes], tmp_path: Path, seed: int) -> None:
    """The figures in docs/check.md: ``pytest --long -s -k among_all tests/test_check.py``."""
    tree, origin = planted(photos, 500, seed)
    shares, false = assert_found(tree, origin, tmp_path / "photos.tar")
    print(f"\nseed {seed}, {len(tree)} pictures:", {kind: round(share, 4) for kind, share in shares.items()})
    print(f"false pairs: {len(false)}", *false, sep="\n  ")


def test_planted_copies_of_scenes_are_found(tmp_path: Path) -> None:
    scenes = {f"{'train' if n % 4 else 'test'}/{'ab'[n % 2]}/{n}.jpg": jpeg(scene(n)) for n in range(80)}
    tree, origin = planted(scenes, 15)
    shares, false = assert_found(tree, origin, tmp_path / "scenes.tar")
    assert min(shares.values()) == pytest.approx(1)
    assert not false


def test_among_all_photos_two_pairs_are_copies(photos: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "photos.tar"
    path.write_bytes(tar(photos))
    report = examine(path)
    names = [tuple(report.survey.files[copy.row] for copy in group.copies) for group in report.groups]
    assert len(names) == 2
    assert all(map(is_really_there, names))
    assert report.must_be_seen_to  # one of them is under two classes
    assert [group.across_classes for group in report.groups] == [True, False]


# --- fingerprints and pairs


def prints_of(*images: Image.Image) -> np.ndarray:
    return fingerprints(np.stack([thumbnail(np.asarray(image)) for image in images]))


def test_a_fingerprint_is_of_length_1_and_a_plain_picture_has_none() -> None:
    prints = prints_of(scene(1), Image.new("RGB", (90, 90), "navy"))
    np.testing.assert_allclose(np.linalg.norm(prints, axis=1), [1, 0], atol=1e-6)
    grey = np.full((2, SIDE, SIDE), 200, np.uint8)
    assert near_pairs(fingerprints(grey)) == []


def test_the_mirrored_fingerprint_is_had_without_mirroring() -> None:
    one, other = prints_of(scene(1), ImageOps.mirror(scene(1)))
    np.testing.assert_allclose(one * mirror(), other, atol=2e-2)


@pytest.mark.parametrize("count", [1, 2, 300, 700])
def test_pairs_are_those_that_comparing_all_gives(count: int) -> None:
    """In blocks, on threads and by the lowest frequencies first: the same pairs as one product of everything."""
    random = np.random.default_rng(count)
    scenes = np.stack([thumbnail(np.asarray(scene(seed, 64, 64))) for seed in range(30)])[np.arange(count) % 30]
    noisy = np.clip(scenes + random.normal(0, 12, scenes.shape), 0, 255).astype(np.uint8)
    noisy[::3] = noisy[::3, :, ::-1]
    prints = fingerprints(noisy)
    products = np.maximum(prints @ prints.T, (prints * mirror()) @ prints.T)
    expected = set(zip(*np.nonzero(np.triu(products >= 0.95, 1)), strict=True))
    pairs = near_pairs(prints, least=0.95)
    assert {(pair.first, pair.second) for pair in pairs} == expected
    assert len(pairs) == len(expected)
    assert all(pair.mirrored == ((pair.first % 3 == 0) != (pair.second % 3 == 0)) for pair in pairs)
    half = count // 2
    across = near_pairs(prints[:half], prints[half:], least=0.95)
    assert {(p.first, p.second + half) for p in across} == {pair for pair in expected if pair[0] < half <= pair[1]}


def test_pairs_do_not_depend_on_the_number_of_threads() -> None:
    prints = fingerprints(np.stack([thumbnail(np.asarray(scene(seed % 50, 64, 64))) for seed in range(600)]))
    try:
        threads.set_num_threads(1)
        one = near_pairs(prints)
        threads.set_num_threads(3)
        assert near_pairs(prints) == one
    finally:
        threads.set_num_threads(None)
    assert len(one) == 50 * 12 * 11 // 2


def test_the_whole_is_first_in_a_pair_and_its_part_second() -> None:
    whole = scene(5)
    part = ImageOps.mirror(whole.crop((30, 10, 190, 130)))
    thumbnails = np.stack([thumbnail(np.asarray(image)) for image in (scene(6), part, whole)])
    (pair,) = cropped_pairs(thumbnails)
    assert (pair.first, pair.second, pair.mirrored) == (2, 1, True)
    assert cropped_pairs(thumbnails[:1]) == []


def test_a_pair_of_other_brightness_and_contrast_is_the_same() -> None:
    image = np.asarray(scene(2), float)
    darker = Image.fromarray(np.uint8(image * 0.6 + 20))
    assert len(near_pairs(prints_of(scene(2), darker, scene(3)))) == 1


# --- groups


def test_groups_say_what_each_is_a_copy_of_and_the_closest_way() -> None:
    one, other = scene(1), scene(2)
    images = [one, one, one, ImageOps.mirror(one), other, other.resize((100, 75))]
    thumbnails = np.stack([thumbnail(np.asarray(image)) for image in images])
    keys = np.array([1, 1, 1, 2, 3, 4], np.uint64)
    digests = np.array([1, 1, 9, 2, 3, 4], np.uint64)
    first, second = copies(digests, keys, thumbnails, Looked(0.94, True))
    assert [(copy.row, copy.of, copy.how) for copy in first] == [
        (0, -1, ""), (1, 0, "bytes"), (2, 0, "pixels"), (3, 0, "mirrored"),
    ]  # fmt: skip
    assert [(copy.row, copy.of, copy.how) for copy in second] == [(4, -1, ""), (5, 4, "near")]
    exact = copies(digests, keys, thumbnails, Looked(None, False))
    assert [[copy.row for copy in group] for group in exact] == [[0, 1, 2]]


def test_what_is_looked_for_depends_on_how_large_pictures_are() -> None:
    look = lambda side, near=None, count=10: to_look_for(
        np.full((count, 2), side), np.arange(count, dtype=np.uint64), near
    )
    assert look(28) == Looked(None, False)
    assert look(28, 0.97) == Looked(0.97, False)
    assert look(32) == Looked(0.94, False)
    assert look(64) == Looked(0.94, True)
    assert look(64, count=20_000) == Looked(0.94, False)


# --- files that cannot be read, and odd ones

PHOTO = scene(0)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


PNG = encoded(PHOTO)
NO_WIDTH = (
    PNG[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 9, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
)
SCRATCHED = PNG[:60] + bytes(200) + PNG[260:]

BROKEN = {
    "nothing.jpg": (b"", "empty", "an empty file"),
    "notes.jpg": (b"buy milk", "not-an-image", "not a picture of a known format"),
    "page.jpg": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "not-an-image", "not a picture but a web page"),
    "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0", "not-an-image", "not a picture but HEIC"),
    "drawing.png": (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "not-an-image", "SVG"),
    "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\noid", "not-an-image", "git lfs pull"),
    "half.jpg": (jpeg(PHOTO)[:3000], "truncated", "begins as a JPEG, but its end is missing"),
    "start.jpg": (jpeg(PHOTO)[:20], "truncated", "begins as a JPEG"),
    "half.png": (PNG[:3000], "truncated", "begins as a PNG, but its end is missing"),
    "half.gif": (encoded(PHOTO.convert("P"), "GIF")[:2000], "truncated", "begins as a GIF"),
    "half.webp": (encoded(PHOTO, "WEBP")[:1000], "truncated", "begins as a WEBP"),
    "half.bmp": (encoded(PHOTO, "BMP")[:1000], "truncated", "begins as a BMP"),
    "scratched.png": (SCRATCHED, "damaged", ""),
    "no-width.png": (NO_WIDTH, "zero-area", "a PNG without pixels"),
    "no-width.gif": (b"GIF89a\0\0\x05\0\0\0\0;", "zero-area", "a GIF without pixels"),
    "no-height.bmp": (b"BM" + bytes(16) + struct.pack("<ii", 5, 0) + bytes(28), "zero-area", "a BMP without pixels"),
    "no-height.ppm": (b"P6\n# a comment\n5 0\n255\n", "zero-area", "a PPM without pixels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_read_says_why(name: str, tmp_path: Path) -> None:
    content, kind, words = BROKEN[name]
    tree = {"a/1.png": PNG, "b/2.png": encoded(scene(3)), f"b/{name}": content}
    report = examine(write_tree(tmp_path / "data", tree))
    ((file, oddity),) = report.survey.unreadable
    assert (file, oddity.kind) == (f"b/{name}", kind)
    assert words in oddity.words
    assert "\n" not in oddity.words
    assert kind in UNREADABLE
    assert report.must_be_seen_to


def test_a_file_that_may_not_be_opened_says_why(tmp_path: Path) -> None:
    home = write_tree(tmp_path / "data", {"a/1.png": PNG, "b/2.png": encoded(scene(3))})
    (tmp_path / "elsewhere.png").write_bytes(PNG)
    (home / "a" / "out.png").symlink_to(tmp_path / "elsewhere.png")
    (home / "a" / "gone.png").symlink_to(home / "a" / "nowhere.png")
    found = dict(survey(home).unreadable)
    assert {name: oddity.kind for name, oddity in found.items()} == {"a/out.png": "refused", "a/gone.png": "refused"}
    assert found["a/out.png"].words == "a link that leads outside the folder"


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[274] = orientation
    return made


def with_hole() -> Image.Image:
    alpha = Image.new("L", PHOTO.size, 255)
    alpha.paste(0, (0, 0, PHOTO.width // 2, PHOTO.height))
    image = PHOTO.copy()
    image.putalpha(alpha)
    return image


SIXTEEN = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (64, 64), np.uint16))

QUEER = {
    "really.png": (jpeg(PHOTO), "extension", "a JPEG, whatever .png says"),
    "moving.gif": (
        encoded(PHOTO.convert("P"), "GIF", save_all=True, append_images=[scene(8).convert("P"), scene(9).convert("P")]),
        "animated", "3 frames",
    ),
    "print.jpg": (jpeg(PHOTO.convert("CMYK")), "cmyk", "CMYK, converted to RGB"),
    "deep.png": (encoded(SIXTEEN), "sixteen-bit", "16 bits"),
    "hole.png": (encoded(with_hole()), "transparent", "50.0% of its pixels transparent"),
    "strip.png": (encoded(scene(1, 40, 400)), "aspect", "400x40"),
    "blue.png": (encoded(Image.new("RGB", (64, 64), "navy")), "flat", "a single flat colour, #000080"),
    "small.png": (encoded(scene(1, 20, 24)), "tiny", "24x20"),
}  # fmt: skip


@pytest.mark.parametrize("name", QUEER)
def test_an_odd_file_says_what_is_odd(name: str, tmp_path: Path) -> None:
    content, kind, words = QUEER[name]
    tree = {f"a/{number}.png": encoded(scene(number)) for number in range(10, 13)} | {f"b/{name}": content}
    report = examine(write_tree(tmp_path / "data", tree))
    ((file, oddity),) = report.odd
    assert (file, oddity.kind) == (f"b/{name}", kind)
    assert words in oddity.words
    assert kind in ODD
    assert not report.survey.unreadable


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("photo.JPG", jpeg(PHOTO)),
        ("photo.jpeg", jpeg(PHOTO)),
        ("photo", jpeg(PHOTO)),
        ("opaque.png", encoded(PHOTO.convert("RGBA"))),
        ("grey.png", encoded(PHOTO.convert("L"))),
        ("palette.gif", encoded(PHOTO.convert("P"), "GIF")),
        ("still.webp", encoded(PHOTO, "WEBP")),
    ],
)
def test_an_ordinary_file_is_not_odd(name: str, content: bytes) -> None:
    assert oddities(content, name, data.decode.decode(content, name)) == ([], 1)


def test_the_orientation_is_counted_and_applied(tmp_path: Path) -> None:
    turned = encoded(PHOTO.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif(6), quality=95)
    tree = {"a/1.jpg": jpeg(scene(4)), "b/2.jpg": turned, "b/3.jpg": jpeg(PHOTO, 95)}
    report = examine(write_tree(tmp_path / "data", tree))
    assert report.as_dict()["orientations"] == {"1": 2, "6": 1}
    (group,) = report.groups  # the same picture, though one file has it lying
    assert {report.survey.files[copy.row] for copy in group.copies} == {"b/2.jpg", "b/3.jpg"}
    assert report.survey.sizes[group.copies[0].row].tolist() == [150, 200]


def test_every_mutation_of_a_file_is_a_picture_or_has_a_reason() -> None:
    random = np.random.default_rng(0)
    contents = [
        PNG,
        jpeg(PHOTO),
        *(content for content, *_ in BROKEN.values()),
        *(content for content, *_ in QUEER.values()),
    ]
    refused = []
    for number in range(300):
        content = bytearray(contents[number % len(contents)])
        for _ in range(random.integers(1, 4)):
            if content:
                content[random.integers(0, min(len(content), 200))] = random.integers(0, 256)
        content = bytes(content[: random.integers(0, len(content) + 1)] if number % 3 == 0 else content)
        try:
            picture = data.decode.decode(content, "file.png")
        except PictureError as error:
            refused.append((error.kind, str(error).removeprefix("file.png: ")))
        else:
            assert all(one.kind in ODD for one in oddities(content, "file.png", picture)[0])
    assert refused
    assert all(kind in UNREADABLE and words for kind, words in refused)


# --- sources


def sides() -> dict[str, bytes]:
    """Given splits; a test picture that is trained on, small; one picture under two classes; Korean names."""
    tree = {
        f"train/{label}/{n}.png": encoded(scene(n + 10 * place))
        for place, label in enumerate(("고양이", "개"))
        for n in range(4)
    }
    tree["test/고양이/새것.png"] = encoded(scene(50))
    tree["test/개/작은 것.jpg"] = jpeg(scene(10).resize((120, 90)))
    tree["train/개/고양이일까.png"] = tree["train/고양이/2.png"]
    return tree


def names(report: Report) -> list[set[str]]:
    return [{report.survey.files[copy.row] for copy in group.copies} for group in report.groups]


def as_folder(tree: dict[str, bytes], home: Path) -> Path:
    return write_tree(home / "sides", tree)


def as_file(name: str, pack: Callable[[dict[str, bytes]], bytes]) -> Callable[[dict[str, bytes], Path], Path]:
    def write(tree: dict[str, bytes], home: Path) -> Path:
        path = home / name
        path.write_bytes(pack(tree))
        return path

    return write


FORMS = {
    "folder": as_folder,
    "tar": as_file("sides.tar", tar),
    "tar.gz": as_file("sides.tar.gz", lambda tree: tar(tree, "w:gz")),
    "zip": as_file("sides.zip", zipped),
}


@pytest.mark.parametrize("form", FORMS)
def test_folders_and_archives_give_the_same(form: str, tmp_path: Path) -> None:
    path = FORMS[form](sides(), tmp_path)
    for _ in range(2):  # the second time from the cache
        report = examine(path)
        assert report.survey.name == "sides"
        assert names(report) == [
            {"train/개/0.png", "test/개/작은 것.jpg"},
            {"train/개/고양이일까.png", "train/고양이/2.png"},
        ]
        first, second = report.groups
        assert (first.across_splits, first.across_classes) == (True, False)
        assert (second.across_splits, second.across_classes) == (False, True)
        assert report.as_dict()["leaked"] == {"validation": 0, "test": 1}
        assert "작은 것.jpg" in page(report)


def test_the_second_look_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_folder(sides(), tmp_path)
    before = examine(path).as_dict()
    monkeypatch.setattr("nabi.check.survey.decode", lambda *_: pytest.fail("decoded again"))
    assert examine(path).as_dict() == before


def test_a_changed_file_is_looked_at_again(tmp_path: Path) -> None:
    path = as_folder(sides(), tmp_path)
    assert len(examine(path).groups) == 2
    (path / "train/개/고양이일까.png").write_bytes(encoded(scene(77)))
    assert len(examine(path).groups) == 1


def test_splits_are_made_as_training_makes_them(tmp_path: Path) -> None:
    tree = {f"{label}/{n}.png": encoded(scene(n + 100 * place)) for place, label in enumerate("ab") for n in range(20)}
    path = as_folder(tree, tmp_path)
    found, made = survey(path), data.complete_splits(data.load(path, size=8))
    assert found.made == ("validation", "test")
    for number, split in enumerate(SPLITS):
        there = [found.files[row] for row in np.flatnonzero(found.splits == number)]
        assert there == list(getattr(made, split).names)


def test_a_made_test_split_may_hold_near_copies_of_what_is_trained_on(tmp_path: Path) -> None:
    tree = {}
    for n in range(20):
        tree[f"a/{n}.png"], tree[f"a/{n}-again.jpg"] = encoded(scene(n)), jpeg(scene(n))
        tree[f"b/{n}.png"] = encoded(scene(100 + n))
    path = as_folder(tree, tmp_path)
    report = examine(path)
    assert len(report.groups) == 20
    assert report.as_dict()["leaked"]["test"] > 0
    assert report.must_be_seen_to
    dataset = data.complete_splits(data.load(path, size=64))
    kept, leaked = without_leaks(dataset)
    assert leaked.near
    seen = {name.split(".")[0].removesuffix("-again") for name in dataset.train.names}
    seen |= {name.split(".")[0].removesuffix("-again") for name in dataset.validation.names}
    expected = [n for n in dataset.test.names if n.split(".")[0].removesuffix("-again") not in seen]
    assert list(kept.test.names) == expected
    assert len(expected) + len(leaked.test) == len(dataset.test)
    assert kept.train is dataset.train


def test_sets_that_are_no_files_are_looked_at_too() -> None:
    report = examine("digits")
    assert len(report.survey.files) == 1797
    assert report.survey.files[0] == "train/0"
    assert report.looked == Looked(None, False)
    assert not report.must_be_seen_to
    assert "1,797 pictures" in page(report)
    assert examine("digits", near=0.99).looked.near == 0.99


def test_what_stands_in_an_archive_twice_is_the_last(tmp_path: Path) -> None:
    path = tmp_path / "twice.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in (("a/1.png", PNG), ("b/2.png", encoded(scene(3))), ("a/1.png", encoded(scene(4)))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    found = survey(path)
    assert found.files == ["a/1.png", "b/2.png"]
    np.testing.assert_array_equal(found.thumbnails[0], thumbnail(np.asarray(scene(4))))


def test_classes_that_need_attention_are_named(tmp_path: Path) -> None:
    tree = {f"train/many/{n}.png": encoded(pixels(n)) for n in range(30)}
    tree |= {"train/few/1.png": encoded(pixels(50)), "train/none/": b"", "test/late/1.png": encoded(pixels(51))}
    report = examine(as_folder(tree, tmp_path))
    assert (report.untrained, report.few, report.empty) == (["late"], ["few"], ["none"])
    assert report.imbalance > 10
    assert report.must_be_seen_to


def test_what_is_no_data_set_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    write_tree(tmp_path / "flat", {"1.png": PNG})
    write_tree(tmp_path / "words", {"a/notes.txt": b"hello"})
    for path in (tmp_path / "nowhere", tmp_path / "text", tmp_path / "flat", tmp_path / "words"):
        with pytest.raises(DataError, match=str(path)) as error:
            examine(path)
        assert "\n" not in str(error.value)
    with pytest.raises(SettingError, match=r"from 0\.8 to 1"):
        examine("digits", near=90)


# --- the page


def test_the_page_asks_no_other_address_and_escapes_names(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>&'\".png".replace("/", "∕")
    tree = {
        f"train/<b>bold</b>/{hostile}".replace("</b>", "<∕b>"): PNG,
        "train/other/2.png": PNG,
        "train/other/strip.png": encoded(scene(1, 40, 400)),
        "train/other/<img src=x onerror=alert(1)>.jpg": b"no picture",
    }
    text = page(examine(as_folder(tree, tmp_path)))
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "<b>bold" not in text
    assert "&lt;script&gt;" in text
    assert "http:" not in text
    assert "https:" not in text
    sources = [part.split('"')[0] for part in text.split('src="')[1:]]
    assert len(sources) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "@import" not in text
    assert "url(" not in text


# --- leaks


def photos_of(seeds: Iterator[int] | list[int]) -> np.ndarray:
    return np.stack([np.asarray(scene(seed, 80, 80)) for seed in seeds])


def dataset_of(train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> Dataset:
    split = lambda images: Split(images, np.arange(len(images)) % 2)
    return Dataset("made", ("a", "b"), split(train), split(test), split(validation))


def test_leaks_are_what_training_has_seen() -> None:
    train, validation, test = photos_of(range(10)), photos_of(range(20, 24)), photos_of(range(30, 36))
    validation[1] = train[3]
    test[0] = train[5][:, ::-1]  # mirrored
    test[2] = np.clip(train[7] * 0.8 + 10, 0, 255).astype(np.uint8)  # darker
    test[4] = validation[0]
    found = leaks(dataset_of(train, validation, test))
    assert found.validation.tolist() == [1]
    assert found.test.tolist() == [0, 2, 4]
    assert len(found) == 4
    kept, _ = without_leaks(dataset_of(train, validation, test))
    assert (len(kept.train), len(kept.validation), len(kept.test)) == (10, 3, 3)


def test_small_pictures_leak_only_where_they_are_equal() -> None:
    train = pixels(0, 20 * 32, 32, 3).reshape(20, 32, 32, 3)
    test = train[:4].copy()
    test[1:, 0, 0] ^= 1
    found = leaks(dataset_of(train, train[:0], test))
    assert (found.near, found.test.tolist()) == (False, [0])


def test_photos_made_small_are_compared_as_photos(tmp_path: Path) -> None:
    tree = sides()
    dataset = data.complete_splits(data.load(as_folder(tree, tmp_path), size=32))
    found = leaks(dataset)
    assert found.near
    assert [dataset.test.names[row] for row in found.test] == ["test/개/작은 것.jpg"]


def test_pictures_on_demand_are_compared_and_then_kept() -> None:
    train, test = photos_of(range(10)), photos_of(range(8, 14))
    asked = []

    def fetch(images: np.ndarray) -> data.OnDemand:
        def some(positions: np.ndarray) -> np.ndarray:
            asked.append(len(positions))
            return images[positions]

        return data.OnDemand(some, images.shape)

    dataset = dataset_of(train, train[:0], test)
    on_demand = replace(
        dataset,
        train=Split(fetch(train), dataset.train.labels, None, data.content_keys(train)),
        test=Split(fetch(test), dataset.test.labels, None, data.content_keys(test)),
    )
    assert leaks(on_demand).test.tolist() == leaks(dataset).test.tolist() == [0, 1]
    asked.clear()
    assert leaks(on_demand).test.tolist() == [0, 1]
    assert asked == []


def test_a_set_without_a_test_split_has_no_leaks() -> None:
    images = photos_of(range(4))
    dataset = Dataset("made", ("a", "b"), Split(images, np.arange(4) % 2))
    kept, found = without_leaks(dataset)
    assert len(found) == 0
    assert kept.test is None

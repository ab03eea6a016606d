"""``nabi check`` from the outside: what is printed and written, exit codes, and what ``nabi train`` makes of leaks."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from made_files import encoded, tar, write_tree
from nabi.cli import main
from test_check import jpeg, scene

QUICK = ["--hidden", "8", "--epochs", "1", "--learning-rate", "0.1", "--model", "mlp", "--size", "8"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NABI_DATA", raising=False)


def clean() -> dict[str, bytes]:
    """Two classes in given splits, with nothing to complain of but that they are small."""
    splits = ["train"] * 12 + ["validation"] * 3 + ["test"] * 3
    return {
        f"{split}/{label}/{number}.png": encoded(scene(100 * place + number, 80, 80))
        for place, label in enumerate(("개", "고양이"))
        for number, split in enumerate(splits)
    }


def leaky() -> dict[str, bytes]:
    """A test picture that is trained on, made smaller; and one that is under two classes."""
    tree = clean()
    tree["test/개/작은.jpg"] = jpeg(scene(3, 80, 80).resize((70, 70)))
    tree["train/고양이/또.png"] = tree["train/개/5.png"]
    return tree


def test_where_nothing_must_be_seen_to_the_code_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(Path("photos"), clean())
    assert main(["check", "photos"]) == 0
    assert capsys.readouterr().out == (
        "photos: 36 pictures of 2 classes; train 24, validation 6, test 6\n"
        "balance: 개 has 18 pictures, 고양이 18\n"
        "sizes: short side 80 to 80 pixels (median 80), long side 80 to 80; none turned by its EXIF orientation\n"
        "looked for: near copies (correlation 0.94 or more), parts of pictures\n"
    )


def test_where_something_must_be_seen_to_the_code_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    tree = leaky() | {"train/개/broken.jpg": jpeg(scene(9))[:1000], "train/개/twice.png": clean()["train/개/1.png"]}
    write_tree(Path("photos"), tree)
    assert main(["check", "photos"]) == 1
    out = capsys.readouterr().out
    must, worth = out.split("worth a look:")
    assert "must be seen to:\n" in must
    assert "  files that are cut short: 1\n    train/개/broken.jpg: cut short" in must
    assert "  pictures that are in several splits: 1\n    train/개/3.png (train, 개)\n" in must
    assert "  = test/개/작은.jpg (test, 개; near 0.9" in must
    assert "  pictures that are in several classes: 1\n" in must
    assert "  = train/고양이/또.png (train, 고양이; same file)\n" in must
    assert "  = train/개/twice.png (train, 개; same file)\n" in worth


@pytest.mark.parametrize(
    "tree",
    [
        clean() | {"test/개/again.jpg": jpeg(scene(0, 80, 80))},
        clean() | {"train/고양이/again.png": clean()["train/개/0.png"]},
        clean() | {"train/개/empty.jpg": b""},
        clean() | {"test/새/1.png": encoded(scene(500))},
    ],
    ids=["across splits", "across classes", "unreadable", "untrained"],
)
def test_each_of_these_must_be_seen_to(tree: dict[str, bytes]) -> None:
    Path("photos.tar").write_bytes(tar(tree))
    assert main(["check", "photos.tar"]) == 1


@pytest.mark.parametrize(
    "tree",
    [
        clean() | {"train/개/again.png": clean()["train/개/0.png"]},
        clean() | {"train/개/strip.png": encoded(scene(900, 40, 400))},
        clean() | {"notes.txt": b"hello"},
        clean() | {"train/없음/": b""},
    ],
    ids=["twice in a class", "odd", "a text beside the classes", "an empty class"],
)
def test_none_of_these_must_be_seen_to(tree: dict[str, bytes]) -> None:
    write_tree(Path("photos"), tree)
    assert main(["check", "photos"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check"], "Missing argument"),
        (["check", "nowhere"], "nowhere: no such file or directory"),
        (["check", "digits", "--near", "64"], "near is 64.0: it must be from 0.8 to 1"),
        (["check", "digits", "--html", "nowhere/page.html"], "nowhere"),
        (["check", "photos", "--html", "photos/page.html"], "inside of the data"),
        (["check", "damaged.tar"], "damaged.tar: damaged or cut short"),
    ],
)
def test_bad_use_is_one_line_and_code_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(Path("photos"), {"a/1.png": encoded(scene(1)), "b/2.png": encoded(scene(2))})
    Path("damaged.tar").write_bytes(tar(clean())[:20_000])
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nabi: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err


def test_an_animation_that_is_cut_behind_its_first_picture(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.BytesIO()
    first, second = (scene(seed).convert("P") for seed in (1, 2))
    first.save(file, "GIF", save_all=True, append_images=[second])
    whole = file.getvalue()
    second_begins = whole.index(b"\x2c", whole.index(b"\x2c") + len(whole) // 3)
    write_tree(Path("photos"), {"a/1.gif": whole[: second_begins + 4], "b/2.png": encoded(scene(2))})
    assert main(["check", "photos"]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


def shape(content: object) -> object:
    """What JSON is made of: names and types, without what was found."""
    if isinstance(content, dict):
        return {name: shape(value) for name, value in content.items()}
    if isinstance(content, list):
        return [shape(content[0])] if content else []
    return type(content).__name__


def test_json_has_a_shape_that_scripts_can_rely_on(capsys: pytest.CaptureFixture[str]) -> None:
    tree = leaky() | {
        "train/개/empty.jpg": b"",
        "train/개/strip.png": encoded(scene(900, 40, 400)),
        "out.png": encoded(scene(2)),
    }
    write_tree(Path("photos"), tree)
    assert main(["check", "photos", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    split, copied = {"pictures": "int", "made": "bool"}, dict.fromkeys(("file", "split", "class"), "str")
    assert shape(found) == {
        "format": "int",
        "data": "str",
        "must_be_seen_to": "bool",
        "pictures": "int",
        "splits": {"train": split, "validation": split, "test": split},
        "classes": {name: dict.fromkeys(("train", "validation", "test"), "int") for name in ("개", "고양이")},
        "classes_without_training": [],
        "classes_with_few": [],
        "classes_empty": [],
        "imbalance": "float",
        "unreadable": [{"file": "str", "kind": "str", "reason": "str"}],
        "odd": [{"file": "str", "kind": "str", "reason": "str"}],
        "outside": ["str"],
        "near": "float",
        "parts": "bool",
        "copies": [
            {
                "must_be_seen_to": "bool",
                "across_splits": "bool",
                "across_classes": "bool",
                "files": [copied | {"copy_of": "NoneType", "how": "NoneType", "similarity": "float"}],
            }
        ],
        "leaked": {"validation": "int", "test": "int"},
        "sizes": {
            "short_side": {"least": "int", "median": "float", "most": "int"},
            "long_side": {"least": "int", "median": "float", "most": "int"},
            "different": "int",
        },
        "orientations": {"1": "int"},
        "page": "NoneType",
    }
    assert found["format"] == 1
    assert found["leaked"] == {"validation": 0, "test": 1}
    assert found["outside"] == ["out.png"]
    assert [len(group["files"]) for group in found["copies"]] == [2, 2]
    assert found["copies"][1]["files"][1] == {
        "file": "train/고양이/또.png", "split": "train", "class": "고양이",
        "copy_of": "train/개/5.png", "how": "bytes", "similarity": 1.0,
    }  # fmt: skip


def test_the_page_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(Path("photos"), leaky())
    assert main(["check", "photos", "--html", "page.html"]) == 1
    assert capsys.readouterr().out.endswith("page: page.html\n")
    text = Path("page.html").read_text(encoding="utf-8")
    assert text.count("<img ") == 4
    assert "고양이" in text
    assert "작은.jpg" in text


def test_names_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    tree = clean() | {"train/개/red \x1b[31m.png": clean()["train/개/0.png"], "train/개/new\nline.jpg": b""}
    write_tree(Path("photos"), tree)
    assert main(["check", "photos"]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"red \x1b[31m.png" in out
    assert r"new\nline.jpg: an empty file" in out


def test_a_name_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    home = write_tree(tmp_path / "photos", clean())
    try:
        (home / "train" / "개" / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has no names that are not UTF-8")
    for more in ([], ["--json"], ["--html", str(tmp_path / "page.html")]):
        done = subprocess.run(
            [sys.executable, "-m", "nabi", "check", str(home), *more], capture_output=True, check=False
        )
        assert done.returncode == 1, done.stderr
        shown = (tmp_path / "page.html").read_bytes() if "--html" in more else done.stdout
        assert rb"\udcff" in shown


# --- what training makes of it


def run(*arguments: str) -> dict:
    assert main(["train", "photos", *QUICK, "--out", "run", *arguments]) == 0
    return json.loads(Path("run/metrics.json").read_text())


def test_training_does_not_count_leaked_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    tree = leaky() | {"validation/고양이/again.png": clean()["train/고양이/1.png"]}
    write_tree(Path("photos"), tree)
    assert run()["test_total"] == 6
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "copies" in line]
    assert line == (
        "1 of 7 test pictures and 1 of 7 validation pictures are copies of pictures seen in training, "
        f"and are not counted; to see them: nabi check {Path('photos').resolve()}"
    )


def test_training_says_nothing_where_nothing_leaks(capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(Path("photos"), clean())
    assert run()["test_total"] == 6
    assert "copies" not in capsys.readouterr().out


def test_training_where_every_test_picture_leaks_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tree = {name: content for name, content in clean().items() if not name.startswith("test/")}
    tree["test/개/again.png"] = tree["train/개/0.png"]
    write_tree(Path("photos"), tree)
    assert run()["test_accuracy"] is None
    assert "1 of 1 test pictures are copies" in capsys.readouterr().out


def test_published_sets_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("nabi.cli.check.without_leaks", lambda *_, **__: pytest.fail("looked for leaks"))
    assert main(["train", "digits", "--hidden", "8", "--epochs", "1", "--out", "run"]) == 0

"""What the documents quote is what comes out: their commands and their Python sessions are run here."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import nabi
from nabi.graph.operation import registry

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"(?:<!-- (?P<note>[^>]*) -->\n)?```(?P<kind>console|python)\n(?P<body>.*?)```", re.DOTALL)

# Numbers that differ from machine to machine are quoted as they were measured, and compared by their form only.
VARIES = re.compile(r"\d+(?:\.\d+)? ?(?:ms|s|seconds|minutes|MB|MiB|images/s|pictures/s|steps/s)\b")


def blocks(path: Path, kind: str) -> list[tuple[str, str]]:
    text = path.read_text(encoding="utf-8")
    return [(m["body"], m["note"] or "") for m in BLOCK.finditer(text) if m["kind"] == kind]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_python_sessions(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One session a document: later blocks see the names of earlier ones."""
    monkeypatch.chdir(tmp_path)
    source = "\n".join(body for body, _ in blocks(path, "python") if ">>>" in body)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    test = doctest.DocTestParser().get_doctest(source, {}, path.name, str(path), 0)
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=flags).run(test, out=report.append)
    assert result.failed == 0, "".join(report)


def test_the_operation_that_contributing_adds() -> None:
    """The ten lines work as they stand, and the gradient in them is right."""
    (source,) = [body for body, _ in blocks(ROOT / "CONTRIBUTING.md", "python")]
    try:
        exec(source, {})
        assert nabi.check_gradients(nabi.ops.rsqrt, [0.5, 2.0]).error < 1e-6
    finally:
        registry.pop("rsqrt", None)


def transcript(body: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with what is quoted of its output."""
    entries: list[tuple[str, str]] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            entries.append((line[2:], ""))
        elif entries:
            entries[-1] = (entries[-1][0], entries[-1][1] + line + "\n")
    return entries


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_commands(path: Path, tmp_path: Path) -> None:
    """Commands run in one folder, in order. A block noted "not run" is quoted from a longer run, with its figures."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NABI_CACHE": str(tmp_path / "cache"),
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    for body, note in blocks(path, "console"):
        if note.startswith(("not run", "ci:")):
            continue
        for command, quoted in transcript(body):
            assert shlex.split(command)[0] in ("nabi", "python", "ls", "cat", "head"), (
                f"not a command to run: {command}"
            )
            done = subprocess.run(
                command,
                shell=True,
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            output = done.stdout + done.stderr
            expected = 2 if quoted.startswith("nabi: ") else 0  # an error is quoted as one
            assert done.returncode == expected, f"{path.name}: {command}\n{output}"
            assert matches(quoted, output), f"{path.name}: {command}\nquoted:\n{quoted}\ngot:\n{output}"


def matches(quoted: str, output: str) -> bool:
    """Whether output is as quoted, where "..." stands for anything and measured figures for any others."""
    form = lambda text: VARIES.sub("#", "\n".join(line.rstrip() for line in text.strip().splitlines()))
    pieces = [re.escape(piece) for piece in form(quoted).split("...")]
    return re.fullmatch(".*".join(pieces), form(output), re.DOTALL) is not None


def test_matching_is_strict() -> None:
    assert matches("accuracy 0.97 in 1.2 s\n", "accuracy 0.97 in 3.4 s\n")
    assert not matches("accuracy 0.97 in 1.2 s\n", "accuracy 0.96 in 1.2 s\n")
    assert matches("first\n...\nlast\n", "first\nmiddle\nlast\n")
    assert not matches("first\n...\nlast\n", "first\nmiddle\nlast one\n")


def test_names_of_weights() -> None:
    """Each row of the tables in docs/weights.md, of each network that a heading names."""
    text = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    told = 0
    for section in text.split("\n## ")[1:]:
        heading, *lines = section.splitlines()
        header, _, *rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
        for backbone in heading.split(", "):
            known = nabi.models.BACKBONES[backbone]
            assert header[1:] == [*known.namings]
            model = known.build()
            tables = [dict(naming(model)) for naming in known.namings.values()]
            assert [row for row in rows if [table.get(row[0]) for table in tables] != row[1:]] == []
            told += len(rows)
    assert told > 30

"""The house: which file may import which, and what the public face shows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nabi

SOURCE = Path(nabi.__file__).parent

# From the ground up. A file imports only from lines above its own (that is, from floors below it); the files inside a
# folder may import each other as long as that makes no circle, and siblings on one line do not import each other.
FLOORS = [
    ["errors"],
    ["random", "threads", "container", "metrics", "waiting"],
    ["cache"],
    ["machine"],
    ["graph", "data", "figures", "pages"],
    ["ops", "_watch", "weights"],
    ["_tensor"],
    ["autodiff", "engines"],
    ["gradient_check", "_compile", "expressions", "nearest"],
    ["nn", "losses", "optim"],
    ["models"],
    ["training"],
    ["listeners", "look", "check", "onnx"],
    ["classifiers"],
    ["report"],
    ["cli"],
    ["__main__"],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room(path: Path) -> str:
    """The file or folder directly below ``nabi`` that a path lies in."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    name = ".".join(("nabi", *path.relative_to(SOURCE).with_suffix("").parts))
    return name.removesuffix(".__init__")


MODULES = {module(path) for path in FILES} | {"nabi"}


def imports(path: Path) -> list[tuple[str, bool, int]]:
    """The nabi modules that a file imports, each with whether the import stands inside a function, and its line."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            base = node.module or ""
            names = [f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names]
        else:
            continue
        found += [(name, id(node) not in top, node.lineno) for name in names if name.split(".")[0] == "nabi"]
    return found


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_file_imports_only_from_floors_below_its_own(path: Path) -> None:
    own = room(path)
    assert own in FLOOR, f"{own} has no floor yet: add it to FLOORS"
    for name, deferred, line in imports(path):
        where = f"{module(path)}, line {line}: imports {name}"
        if name == "nabi":
            continue  # checked below: only the public names of the lazy face, and only in the doors
        other = name.split(".")[1]
        assert other == own or FLOOR[other] < FLOOR[own], f"{where}, which is not below it"
        # Each command imports what it runs, so that `nabi --help` is quick; nobody else hides an import.
        assert not deferred or own == "cli", f"{where} inside a function"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_no_file_imports_the_public_face(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert "nabi" not in [a.name for a in node.names], f"{module(path)}:{node.lineno} imports nabi itself"
        if isinstance(node, ast.ImportFrom) and node.module == "nabi":
            for alias in node.names:
                allowed = f"nabi.{alias.name}" in MODULES or alias.name == "__version__"
                assert allowed, f"{module(path)}:{node.lineno} takes {alias.name} from the lazy face"
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            raise AssertionError(f"{module(path)}:{node.lineno}: an import for type checking only hides a circle")


def test_files_inside_a_folder_make_no_circle() -> None:
    edges = {module(path): {name for name, deferred, _ in imports(path) if not deferred} for path in FILES}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle: {' -> '.join([*above[above.index(name) :], name])}"
        if name in done:
            return
        for other in edges.get(name, ()):
            if other != "nabi" and not (name.startswith(f"{other}.") or other == name):
                visit(other, (*above, name))
        done.add(name)

    for name in edges:
        visit(name, ())


def test_no_room_is_a_drawer_for_everything() -> None:
    for path in FILES:
        assert not {"utils", "helpers", "common", "misc", "util", "helper"} & set(Path(module(path)).name.split("."))


def test_importing_nabi_imports_little() -> None:
    """Heavy libraries are imported where they are used."""
    source = (
        "import sys, nabi; nabi.tensor([1.0]).sum(); "
        "heavy = {'sklearn', 'scipy', 'PIL', 'matplotlib', 'pooch', 'requests', 'rich', 'typer', 'torch', 'jax'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_public_face() -> None:
    for name in nabi.__all__:
        assert getattr(nabi, name) is not None
        assert name in dir(nabi)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nabi.nothing


def test_the_face_for_type_checkers_shows_the_same() -> None:
    tree = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8"))
    shown = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert shown == set(nabi.__all__)


def test_every_public_function_has_an_example_or_says_what_it_raises() -> None:
    for name in nabi.__all__:
        thing = getattr(nabi, name)
        doc = thing.__doc__
        assert doc, f"nabi.{name} has no docstring"
        assert doc.strip().splitlines()[0].rstrip().endswith((".", ":")), f"nabi.{name}: {doc.splitlines()[0]}"

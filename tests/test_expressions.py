"""Formulas that people type: they agree with Python's own arithmetic, and anything else is refused in one line."""

import json
import math
import os
import subprocess
import sys

import pytest
import typer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from nabi.cli.look import look
from nabi.errors import NabiError, SettingError
from nabi.expressions import LONGEST, functions, parse

VALUES = {"x": -2.0, "y": 0.75, "값": 3.0}
PYTHON = {"exp": math.exp, "tanh": math.tanh, "abs": abs, "max": max, "min": min, "sin": math.sin}


def expressions() -> st.SearchStrategy[str]:
    numbers = st.floats(0.0, 8.0, allow_subnormal=False).map(lambda v: repr(round(v, 3)))
    atoms = st.one_of(st.sampled_from(list(VALUES)), numbers, st.integers(0, 9).map(str))

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pairs = st.tuples(inner, st.sampled_from(["+", "-", "*", "/", " + ", " * "]), inner)
        return st.one_of(
            pairs.map("".join),
            inner.map("({})".format),
            inner.map("-{}".format),
            inner.map("({})**2".format),
            st.tuples(st.sampled_from(["exp", "tanh", "abs", "sin"]), inner).map(lambda p: f"{p[0]}({p[1]})"),
            st.tuples(st.sampled_from(["max", "min"]), inner, inner).map(lambda p: f"{p[0]}({p[1]}, {p[2]})"),
        )

    return st.recursive(atoms, larger, max_leaves=12)


@settings(max_examples=300, deadline=None)
@given(expressions())
@example("2**-x**2 - -3/y")
@example("2 - 3 - 값 / 4 / y * -x")
def test_an_expression_is_what_python_makes_of_it(text: str) -> None:
    text += " + 0*(x + y + 값)"
    try:
        wanted = eval(text, {**PYTHON, **VALUES})
    except (OverflowError, ZeroDivisionError):
        return
    got = parse(text, VALUES).item()
    assert got == pytest.approx(wanted, rel=1e-12, abs=1e-12, nan_ok=True)


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.text(max_size=40),
        st.text("xy+-*/()., 0123456789e^:[]{}'\"\\#@=!<>~&|lambdafor", max_size=60),
        expressions().flatmap(lambda t: st.integers(0, len(t)).map(lambda i: t[:i] + "§"[: i % 2] + t[i + 1 :])),
    )
)
@example("x" * (LONGEST + 1))
@example("(" * 1000 + "x" + ")" * 999)
@example("-" * 1999 + "x")
@example("x\0")
@example("\ud800")
@example("9" * 1999)
@example("x" + "**9" * 600)
@example("[x for x in y]")
@example("().__class__")
@example("__import__('os').system('true')")
@example("(lambda: x)()")
@example("x if y else x")
@example("f'{x}'")
@example("exp(*x)")
@example("exp(**x)")
@example("x := 2")
@example("max(x)")
def test_whatever_is_typed_gives_a_number_or_one_line(text: str) -> None:
    told = ""
    try:
        assert parse(text, {"x": 1.5}).shape == ()
    except SettingError as error:
        told = str(error)
    assert "\n" not in told
    assert len(told) < 1200


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x^2", "column 3 of 'x^2': the operator before it is not known here: a power is written **"),
        ("  x + w", "column 7 of '  x + w': w has no number: give it one, as in w=2"),
        ("값 + w", "column 5 of '값 + w': w has no number"),
        ("exp(x, base=2)", "column 13 of 'exp(x, base=2)': functions take numbers alone here, no settings"),
        ("relu(x, x)", "column 1 of 'relu(x, x)': relu takes 1 numbers, not 2"),
        ("x + eval(x)", "column 5 of 'x + eval(x)': eval is not a function here; there are "),
        ("x + True", "column 5 of 'x + True': only decimal numbers can stand here"),
        ("x + 2j", "column 5 of 'x + 2j': only decimal numbers can stand here"),
        ("x if x else x", "column 1 of 'x if x else x': only numbers, names"),
        ("  (x", "column 3 of '  (x': '(' was never closed"),
        ("", "the expression is empty"),
        ("1 + 2", "x is given a number, but does not stand in '1 + 2'"),
    ],
)
def test_what_is_wrong_is_said_with_its_column(text: str, told: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse(text, {"x": 1.0, "값": 2.0} if "값" in text else {"x": 1.0})
    assert str(caught.value).startswith(told)


def test_a_formula_needs_a_name() -> None:
    with pytest.raises(SettingError, match="nothing to differentiate by"):
        parse("1 + 2", {})


def test_every_function_is_an_elementwise_operation_of_numbers_alone() -> None:
    for name in functions():
        few = [text for text in (f"{name}(x)", f"{name}(x, y)") if _parses(text)]
        assert few, name


def _parses(text: str) -> bool:
    told = ""
    try:
        parse(text, {"x": 0.5, "y": 0.25} if "(x, y)" in text else {"x": 0.5})
    except SettingError as error:
        told = str(error)
    assert not told or " takes " in told
    return not told


def test_a_long_sum_is_not_too_deep() -> None:
    assert parse("+".join(["x"] * 1000), {"x": 1.0}).item() == 1000


def test_names_mean_the_same_composed_and_decomposed() -> None:
    assert parse("\u1100\u1161*2", {"\uac00": 4.0}).item() == 8.0


# --- nabi look --graph ---


def run(*arguments: str) -> str:
    application = typer.Typer()
    application.command()(look)
    result = CliRunner().invoke(application, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_look_prints_the_steps_and_writes_the_picture(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = run("--graph", "(x+y)*z", "x=-2", "y=5", "z=-4")
    assert told.startswith("f = (x+y)*z = -12   at x = -2, y = 5, z = -4\n")
    assert "∂f/∂q = z = -4        df/dq = 1·(-4) = -4\n" in told
    assert told.endswith("gradient: df/dx = -4, df/dy = -4, df/dz = 3\npicture: graph.svg\n")
    assert "\x1b" not in told
    assert (tmp_path / "graph.svg").read_text(encoding="utf-8").startswith("<svg")


def test_look_as_json(tmp_path) -> None:
    path = tmp_path / "f.dot"
    found = json.loads(run("--graph", "x/y*x", "x=3", "y=0", "--json", "--out", str(path)))
    assert found["value"] == "inf"
    assert found["variables"]["x"]["gradient"] == "inf"
    assert [step["operation"] for step in found["steps"]] == ["multiply", "divide"]
    assert found["picture"] == str(path)
    assert path.read_text(encoding="utf-8").startswith("digraph")


def test_look_calls_the_result_otherwise_where_a_variable_is_called_f(tmp_path) -> None:
    told = run("--graph", "f*2", "f=3", "--out", str(tmp_path / "g.svg"))
    assert told.startswith("L = f*2 = 6   at f = 3\n")
    assert "gradient: dL/df = 2" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name what to look at"),
        (["--graph", "x", "x"], "'x': write NAME=NUMBER"),
        (["--graph", "x", "1=2"], "'1=2': write NAME=NUMBER"),
        (["--graph", "x", "x=two"], "'x=two': 'two' is not a number"),
        (["--graph", "x", "x=1", "x=2"], "'x=2': x is given twice"),
        (["--graph", "x", "x=inf"], "'x=inf': the number must be finite"),
        (["--graph", "x*2", "x=1", "--out", "graph.png"], "graph.png must end in .svg or .dot"),
    ],
)
def test_look_refuses_in_one_line(arguments: list[str], told: str) -> None:
    with pytest.raises(NabiError) as caught:
        run(*arguments)
    assert told in str(caught.value)


def test_look_from_a_shell_respects_no_color_and_pipes(tmp_path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import sys; from nabi.cli import main; sys.exit(main())", "look", "--graph", "x^2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert told.returncode == 2
    assert told.stderr == "nabi: column 3 of 'x^2': the operator before it is not known here: a power is written **\n"
    assert list(tmp_path.iterdir()) == []

"""Sizes: modules, functions, parameters and the words at the top of a module."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from house.tree import PACKAGE, parsed, shown, sources, suite

MODULE_LINES_MAX: Final = 400
FUNCTION_LINES_MAX: Final = 60
PARAMETERS_MAX: Final = 5
DOCSTRING_LINES_MAX: Final = 5
DRAWN: Final = {PACKAGE / "errors.py"}  # the error tree is drawn at its top

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(parsed(path)) if isinstance(node, Function))


def _parameters(function: Function) -> list[str]:
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _is_command(function: Function) -> bool:
    """A Typer command: each of its parameters is a flag, so their number is the command's, not the design's."""
    return any("command" in ast.unparse(d) or "callback" in ast.unparse(d) for d in function.decorator_list)


@pytest.mark.parametrize("path", [*sources(), *suite()], ids=shown)
def test_modules_and_functions_stay_small(path: Path) -> None:
    """A module fits in a head, a function on a screen."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES_MAX
    for function in _functions(path):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        assert lines <= FUNCTION_LINES_MAX, f"{function.name}: {lines} lines"


@pytest.mark.parametrize("path", sources(), ids=shown)
def test_functions_take_few_parameters(path: Path) -> None:
    """Five at most, then a frozen options class."""
    for function in _functions(path):
        if path.is_relative_to(PACKAGE / "cli") and _is_command(function):
            continue
        assert len(_parameters(function)) <= PARAMETERS_MAX, function.name


@pytest.mark.parametrize("path", [*sources(), *suite()], ids=shown)
def test_modules_open_with_what_lives_there(path: Path) -> None:
    """One to five lines at the top; a package's empty `__init__` is explained by the map."""
    if path.name == "__init__.py" and not path.read_text(encoding="utf-8").strip():
        return
    docstring = ast.get_docstring(parsed(path))
    assert docstring, "no module docstring"
    assert path in DRAWN or len(docstring.splitlines()) <= DOCSTRING_LINES_MAX

"""What the house tests look at: the tracked files, the modules as syntax trees, the registered commands."""

import ast
import importlib
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import click
import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = ROOT / "src/agentrun_stream"
GENERATED: Final = {PACKAGE / "model/types.py"}


@cache
def tracked() -> tuple[Path, ...]:
    """Files that are in git, or would be after `git add .`."""
    asked = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split("\0")
    return tuple(sorted(path for path in {ROOT / name for name in names if name} if path.is_file()))


def sources() -> tuple[Path, ...]:
    """Python files of the package, without generated ones."""
    return tuple(p for p in tracked() if p.suffix == ".py" and p.is_relative_to(PACKAGE) and p not in GENERATED)


def suite() -> tuple[Path, ...]:
    """Python files of the tests."""
    return tuple(p for p in tracked() if p.suffix == ".py" and p.is_relative_to(ROOT / "tests"))


@cache
def parsed(path: Path) -> ast.Module:
    """A file as its syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def shown(path: Path) -> str:
    """A path as the repository knows it."""
    return path.relative_to(ROOT).as_posix()


def tables() -> dict[str, str]:
    """Tables and views that the migrations create, and which of the two each is."""
    found: dict[str, str] = {}
    for path in sorted((PACKAGE / "store/migrations").glob("*.sql")):
        text = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
        pattern = (
            r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:MATERIALIZED\s+)?(TABLE|VIEW)\s+(?:IF\s+NOT\s+EXISTS\s+)?([\w.{}`]+)"
        )
        for kind, name in re.findall(pattern, text, re.IGNORECASE):
            found[name.replace("`", "").rpartition(".")[2]] = kind.lower()
    return found


def command_line() -> click.Group:
    """The registered commands."""
    try:
        app = importlib.import_module("agentrun_stream.cli.app").app
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("agentrun_stream"):
            raise
        pytest.skip("the command line is not there yet")
    typer: Any = importlib.import_module("typer")
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    return group  # type: ignore[no-any-return]


def commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    """Every command by the words that call it, such as `topics apply`."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        group_of_others = hasattr(command, "commands")
        if group_of_others:
            found |= commands(command, f"{prefix}{name} ")  # type: ignore[arg-type]
        if not command.hidden and (not group_of_others or getattr(command, "invoke_without_command", False)):
            found[prefix + name] = command
    return found

"""Is the simulation mean enough? Bugs written into a copy of the product's text must show within a few hundred seeds.

Must not live here: the bugs (bugs.py).
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import agentrun_stream
from agentrun_stream.codec.schemas import schema_folder
from mutation.bugs import BUGS
from mutation.tally import Tally

pytestmark = pytest.mark.slow

SEEDS = 600
SOURCE = Path(agentrun_stream.__file__).parent
TESTS = Path(__file__).parents[1]


def hunt(source: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": f"{source.parent}{os.pathsep}{TESTS}"}
    arguments = [sys.executable, "-m", "mutation.hunt", str(SEEDS)]
    return subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package that is imported instead of the installed one."""
    shutil.copytree(schema_folder(), tmp_path / "schemas")
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(SOURCE, tmp_path / "src" / SOURCE.name, ignore=ignored)


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_in_the_text_is_noticed(name: str, copy: Path, tally: Tally) -> None:
    bug = BUGS[name]
    text = (copy / bug.file).read_text()
    assert text.count(bug.right) == 1, f"{bug.file} has changed: write this bug anew"
    (copy / bug.file).write_text(text.replace(bug.right, bug.wrong))
    found = hunt(copy)
    said = re.fullmatch(r"seed (\d+): (.*)", found.stdout.strip(), re.DOTALL)
    assert said, f"{name}: {SEEDS} seeds noticed nothing {found.stderr[-500:]}"
    tally("bug in the text", name, int(said[1]), said[2])

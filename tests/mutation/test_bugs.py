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
from mutation.bugs import BUGS, STORE_BUGS, Bug
from mutation.tally import Tally

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_000)]

SEEDS = 600
SOURCE = Path(agentrun_stream.__file__).parent
TESTS = Path(__file__).parents[1]


def hunt(source: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": f"{source.parent}{os.pathsep}{TESTS}"}
    arguments = [sys.executable, "-m", "mutation.hunt", str(SEEDS)]
    return subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package that is imported instead of the installed one."""
    shutil.copytree(schema_folder(), tmp_path / "schemas")
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(SOURCE, tmp_path / "src" / SOURCE.name, ignore=ignored)


def patch(copy: Path, bug: Bug) -> None:
    text = (copy / bug.file).read_text()
    assert text.count(bug.right) == 1, f"{bug.file} has changed: write this bug anew"
    (copy / bug.file).write_text(text.replace(bug.right, bug.wrong))


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_in_the_text_is_noticed(name: str, copy: Path, tally: Tally) -> None:
    patch(copy, BUGS[name])
    found = hunt(copy)
    said = re.fullmatch(r"seed (\d+): (.*)", found.stdout.strip(), re.DOTALL)
    assert said, f"{name}: {SEEDS} seeds noticed nothing {found.stderr[-500:]}"
    tally("bug in the text", name, int(said[1]), said[2])


@pytest.mark.stack
@pytest.mark.parametrize("name", STORE_BUGS)
def test_a_bug_at_the_store_is_noticed(name: str, copy: Path) -> None:
    """By a test on the real store, which passes without it."""
    bug, test = STORE_BUGS[name]
    arguments = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / test)]
    paths = ["-o", f"pythonpath={copy.parent} {TESTS}"]
    codes = []
    for patched in (False, True):
        if patched:
            patch(copy, bug)
        done = subprocess.run([*arguments, *paths], capture_output=True, text=True, timeout=900, check=False)
        codes.append(done.returncode)
    assert codes == [0, 1], done.stdout[-2_000:]

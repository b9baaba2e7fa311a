"""ruff and mypy, so that a green test run means that they are green too."""

import subprocess
import sys

import pytest

from house.tree import ROOT


@pytest.mark.parametrize(
    "arguments",
    [("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)],
    ids=("ruff-check", "ruff-format", "mypy"),
)
def test_the_linters_have_nothing_to_say(arguments: tuple[str, ...]) -> None:
    """All rules on; each exception carries its reason in pyproject.toml."""
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

"""Tracked files carry no trace of the machine they were made on, and no lock file."""

import re
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from house.tree import ROOT, shown, suite, tracked

LOCK_FILES: Final = {"uv", "poetry", "pdm", "pixi", "cargo", "package-lock", "pnpm-lock", "yarn", "pipfile"}
# Put together from pieces, so that this file is clean itself.
TRACES: Final = (
    str(ROOT.parent) + "/" if len(ROOT.parent.parts) > 2 else "",
    str(Path.home()) + "/" if len(Path.home().parts) > 2 else "",
    "/wo" + "rk/",
    "/ro" + "ot/",
    "/Us" + "ers/",
    "pypi" + ".org/simple",
    "python" + "hosted.org",
    "registry." + "npmjs",
    "--index" + "-url",
    "--extra-index" + "-url",
    "PIP_INDEX" + "_URL",
    "artifact" + "ory",
)
# A folder under /home that belongs to somebody; the image's own user is nobody in particular.
SOMEBODY: Final = re.compile("/ho" + r"me/(?!agentrun\b)\w+/")


@pytest.mark.parametrize("path", tracked(), ids=shown)
def test_a_file_has_no_trace_of_its_machine(path: Path) -> None:
    """What was true on one machine only is wrong on every other."""
    text = path.read_bytes().decode("utf-8", "replace")
    assert not [trace for trace in TRACES if trace and trace in text]
    assert not SOMEBODY.search(text)


def test_no_lock_file_is_kept() -> None:
    """Versions are ranges in pyproject.toml; a lock would name a registry."""
    names = {path.name.lower() for path in tracked()}
    assert not [name for name in names if name.endswith(".lock") or name.rpartition(".")[0] in LOCK_FILES]


def test_no_two_tests_share_a_lane() -> None:
    """All tests of one process share a stack, so a second lane of a name would find the first one's events."""
    text = "\n".join(path.read_text() for path in suite())
    names = re.findall(r'\blane\([^()"]*, f?"([^"]+)"', text)
    assert len(names) > 50
    assert [name for name, n in Counter(names).items() if n > 1] == []

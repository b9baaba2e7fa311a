"""The places of the bugs stand in the product's text, so that the slow hunts are never the first to hear of a change.

Must not live here: the bugs (bugs.py), the hunts (test_bugs.py).
"""

from pathlib import Path

import pytest

import agentrun_stream
from mutation.bugs import BUGS, STORE_BUGS, Bug

SOURCE = Path(agentrun_stream.__file__).parent
EVERY = BUGS | {name: bug for name, (bug, _test) in STORE_BUGS.items()}


@pytest.mark.parametrize("bug", EVERY.values(), ids=EVERY)
def test_the_place_of_a_bug_stands_once_in_the_text(bug: Bug) -> None:
    assert (SOURCE / bug.file).read_text().count(bug.right) == 1, f"{bug.file} has changed: write this bug anew"

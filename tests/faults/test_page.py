"""The page of faults in the package is about the faults that there are, and says that all went well."""

import pytest

from agentrun_stream.testing.chaos.faults import BY_NAME, FAULTS
from house.tree import PACKAGE

PAGE = PACKAGE / "docs/faults.md"
NAMES = ("fault", "what", "times", "seen", "residual")


def rows_of_page() -> dict[str, dict[str, str]]:
    """The rows of the page by fault."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [dict(zip(NAMES, line.strip("| ").split(" | "), strict=True)) for line in lines[2:]]
    return {row["fault"]: row for row in rows}


def test_the_page_lists_exactly_the_faults_of_the_code() -> None:
    """Made by the slow suite; a fault that is new or changed wants another run."""
    rows = rows_of_page()
    assert [(row["fault"], row["what"]) for row in rows.values()] == [(fault.name, fault.what) for fault in FAULTS]
    assert len(BY_NAME) == len(FAULTS)


@pytest.mark.parametrize("name", BY_NAME)
def test_every_fault_was_injected_and_left_nothing(name: str) -> None:
    """At least once, residual 0."""
    row = rows_of_page()[name]
    assert int(row["times"]) >= 1
    assert row["residual"] == "0"
    assert row["seen"]

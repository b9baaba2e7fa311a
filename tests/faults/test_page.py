"""The page of faults in the package is about the faults that there are, and says that all went well."""

import pytest

from agentrun_stream.testing.chaos.faults import BY_NAME, FAULTS
from agentrun_stream.testing.chaos.outcomes import rows_of_page
from house.tree import PACKAGE

PAGE = PACKAGE / "docs/faults.md"
KILLS_MIN = 50


def test_the_page_lists_exactly_the_faults_of_the_code() -> None:
    """Made by the slow suite; a fault that is new or changed wants another run."""
    rows = rows_of_page(PAGE.read_text(encoding="utf-8"))
    assert [(row["fault"], row["what"]) for row in rows.values()] == [(fault.name, fault.what) for fault in FAULTS]
    assert len(BY_NAME) == len(FAULTS)


@pytest.mark.parametrize("name", BY_NAME)
def test_every_fault_was_injected_and_left_nothing(name: str) -> None:
    """At least once, residual 0."""
    row = rows_of_page(PAGE.read_text(encoding="utf-8"))[name]
    assert int(row["times"]) >= 1
    assert row["residual"] == "0"
    assert row["seen"]

"""Collects what was noticed, and prints it as a table when everything is over; it travels with the tests' reports."""

from collections.abc import Callable

import pytest

from mutation.tally import Tally, table

_PROPERTY = "noticed"


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    return lambda kind, name, seed, said: record_property(_PROPERTY, [kind, name, seed, said])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.stats.get("passed", [])
    if rows := [told for report in reports for name, told in report.user_properties if name == _PROPERTY]:
        terminalreporter.write_line(table(rows))

"""Collects what was noticed, and prints it as a table when everything is over."""

import pytest

from mutation.tally import Tally, table

_NOTICED = pytest.StashKey[list[tuple[str, str, int, str]]]()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    rows = request.config.stash.setdefault(_NOTICED, [])
    return lambda kind, name, seed, said: rows.append((kind, name, seed, said))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if rows := config.stash.get(_NOTICED, []):
        terminalreporter.write_line(table(rows))

"""Collects what was noticed, and prints it when the tests of this folder are over."""

from collections.abc import Iterator

import pytest

from mutation.tally import Tally, table


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    rows: list[tuple[str, str, int, str]] = []
    yield lambda kind, name, seed, said: rows.append((kind, name, seed, said))
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(table(rows))

"""What all tests know: the seed that the simulation replays; and that no example of a property is timed."""

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a timing belongs in a benchmark, and machines are shared
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="The one seed that tests/simulation replays by itself.")

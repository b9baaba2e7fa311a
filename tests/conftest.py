"""What all tests know: the seed that the simulation replays."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="The one seed that tests/simulation replays by itself.")

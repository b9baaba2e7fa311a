"""The pytest plugin: the fixture `agentrun_stack`, a broker, a store and workers for your own tests.

Loaded in every pytest session of whoever has the package, so it imports nothing but pytest before it is asked for.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from agentrun_stream.testing.stack import Stack


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the fixture."""
    group = parser.getgroup("agentrun", "agentrun-stream")
    group.addoption(
        "--agentrun-stack",
        choices=("embedded", "containers"),
        default="embedded",
        help="what agentrun_stack runs on: the embedded broker and store, or containers (needs Docker)",
    )
    group.addoption("--agentrun-workers", type=int, default=1, help="how many workers agentrun_stack starts")


@pytest.fixture(scope="session")
def agentrun_stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Stack"]:
    """A running stack with topics, tables and workers, on free ports, in a temporary folder; one for the session."""
    from agentrun_stream.errors import AgentrunError  # noqa: PLC0415 - see the module's first lines
    from agentrun_stream.testing import stack  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("agentrun-stack")
    kind, workers = request.config.getoption("--agentrun-stack"), request.config.getoption("--agentrun-workers")
    reason = stack.missing(kind)
    if reason:
        pytest.skip(reason)
    try:
        running = stack.start(kind, folder, workers)
    except AgentrunError as error:
        pytest.fail(f"The stack did not start: {error.message} {error.next_step}", pytrace=False)
    try:
        yield running
    finally:
        running.stop()

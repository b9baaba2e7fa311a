"""The real side of the contract suites: one embedded broker and one embedded store for the whole session."""

from collections.abc import Iterator

import pytest

from agentrun_stream.broker.embedded import EmbeddedBroker
from agentrun_stream.store.client import StoreAddress
from agentrun_stream.store.embedded import EmbeddedStore
from agentrun_stream.store.migrate import migrate


@pytest.fixture(scope="session")
def store_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreAddress]:
    with EmbeddedStore(tmp_path_factory.mktemp("contract-store")) as running:
        address = StoreAddress(running.url)
        migrate(address)
        yield address


@pytest.fixture(scope="session")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedBroker(tmp_path_factory.mktemp("contract-broker")) as running:
        yield running.bootstrap

"""What tests of the embedded store share: one store of their own, plain HTTP to it, and an empty table for each test."""

from collections.abc import Iterator

import pytest

from agentrun_stream.store.embedded import EmbeddedStore
from integration.store_http import Http


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def web(store: EmbeddedStore) -> Http:
    return Http(int(store.url.rsplit(":", 1)[1]))


@pytest.fixture
def table(web: Http, request: pytest.FixtureRequest) -> str:
    name = "t_" + "".join(char if char.isalnum() else "_" for char in request.node.name)
    web.send(f"DROP TABLE IF EXISTS {name}")
    made = web.send(f"CREATE TABLE {name} (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
    assert made.status == 200, made.text
    return name

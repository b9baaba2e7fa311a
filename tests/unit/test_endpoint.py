"""The endpoint: its three paths, what it refuses, and its errors."""

import http.client
import json
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from agentrun_stream.errors import ConfigError
from agentrun_stream.telemetry.endpoint import Endpoint
from agentrun_stream.telemetry.metrics import Metrics


class _Ready:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.broken = False

    def __call__(self) -> list[str]:
        if self.broken:
            raise RuntimeError("canary-value")
        return self.reasons


@pytest.fixture(name="ready")
def _ready() -> _Ready:
    return _Ready()


@pytest.fixture(name="port")
def _port(ready: _Ready) -> Iterator[int]:
    registry = CollectorRegistry()
    Metrics(registry)
    endpoint = Endpoint(registry, ready)
    url = endpoint.start()
    yield int(url.rpartition(":")[2])
    endpoint.stop()
    endpoint.stop()


def _ask(port: int, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path)
    response = connection.getresponse()
    answer = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return answer


def test_metrics_are_served_as_text(port: int) -> None:
    """What Prometheus scrapes, with or without a query."""
    for path in ("/metrics", "/metrics?x=1"):
        status, headers, body = _ask(port, "GET", path)
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain")
        assert b"agentrun_build_info" in body


def test_health_is_alive_and_ready_says_why_not(port: int, ready: _Ready) -> None:
    """A process that waits for its store is healthy, and not ready, and says so."""
    assert json.loads(_ask(port, "GET", "/readyz")[2]) == {"ready": True, "reasons": []}
    ready.reasons = ["the store does not answer"]
    status, _, body = _ask(port, "GET", "/readyz")
    assert (status, json.loads(body)) == (503, {"ready": False, "reasons": ["the store does not answer"]})
    assert _ask(port, "GET", "/healthz")[0] == 200


def test_other_paths_and_methods_are_refused(port: int) -> None:
    """GET and HEAD of three paths; nothing else, and no echo of what was asked."""
    status, _, body = _ask(port, "GET", "/canary<script>")
    assert (status, b"canary" in body) == (404, False)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CANARY"):
        status, headers, body = _ask(port, method, "/metrics")
        assert (status, headers["Allow"], b"CANARY" in body) == (405, "GET, HEAD", False)


def test_head_has_no_body(port: int) -> None:
    """A HEAD answers with the headers alone."""
    status, headers, body = _ask(port, "HEAD", "/healthz")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


def test_a_failure_inside_is_a_500_without_its_text(port: int, ready: _Ready) -> None:
    """An error text may hold a payload; it is not for this page."""
    ready.broken = True
    status, _, body = _ask(port, "GET", "/readyz")
    assert (status, b"canary" in body) == (500, False)
    assert _ask(port, "GET", "/healthz")[0] == 200


def test_a_busy_port_is_named_with_the_next_step(port: int) -> None:
    """The operator reads which port, and which setting moves it."""
    with pytest.raises(ConfigError, match=str(port)) as caught:
        Endpoint(CollectorRegistry(), list, "127.0.0.1", port).start()
    assert "AGENTRUN_WORKER__METRICS_PORT" in caught.value.next_step


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70_000), ("203.0.113.1", 0)])
def test_an_address_that_can_not_be_taken_is_a_clear_error(host: str, port: int) -> None:
    """No traceback for a wrong host."""
    with pytest.raises(ConfigError, match=r"can't listen"):
        Endpoint(CollectorRegistry(), list, host, port).start()


def test_the_port_is_free_again_after_stop() -> None:
    """A restarted worker gets its port back."""
    first = Endpoint(CollectorRegistry(), list)
    port = int(first.start().rpartition(":")[2])
    first.stop()
    second = Endpoint(CollectorRegistry(), list, "127.0.0.1", port)
    second.start()
    second.stop()

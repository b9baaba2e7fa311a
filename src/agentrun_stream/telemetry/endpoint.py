"""The HTTP endpoint of a process: `/metrics`, `/healthz`, `/readyz`. Small on purpose, from the standard library.

Must not live here: what a metric means, or what makes a process ready (a callable is handed in).
"""

import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from agentrun_stream.errors import ConfigError

REQUEST_TIMEOUT_S: Final = 5.0
JSON_TYPE: Final = "application/json; charset=utf-8"

Answer = tuple[HTTPStatus, str, bytes]


class Endpoint:
    """Serves a registry and a readiness verdict from threads of its own.

    `ready` is called per request and MUST NOT block: it returns the reasons why the process is not ready.
    """

    def __init__(
        self, registry: CollectorRegistry, ready: Callable[[], list[str]], host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._registry = registry
        self._ready = ready
        self._address = (host, port)
        self._server: _Server | None = None

    def start(self) -> str:
        """Listen, and return the base URL. Raises ConfigError when the address can't be taken."""
        host, port = self._address
        try:
            self._server = _Server(self._address, self._answer)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(
                f"The metrics endpoint can't listen on {host} port {port}: {reason}.",
                "Set AGENTRUN_WORKER__METRICS_PORT to another port, or to 0 for a free one.",
            ) from None
        threading.Thread(target=self._server.serve_forever, name="metrics-endpoint", daemon=True).start()
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._server.server_address[1]}"

    def stop(self) -> None:
        """Close the socket. Stopping twice, or before a start, does nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def _answer(self, path: str, accept: str) -> Answer:
        if path == "/metrics":
            encode, content_type = choose_encoder(accept)
            return HTTPStatus.OK, content_type, encode(self._registry)
        if path == "/healthz":
            return HTTPStatus.OK, JSON_TYPE, b'{"status":"ok"}\n'
        if path == "/readyz":
            reasons = self._ready()
            body = json.dumps({"ready": not reasons, "reasons": reasons}).encode() + b"\n"
            return (HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK), JSON_TYPE, body
        return HTTPStatus.NOT_FOUND, JSON_TYPE, b'{"error":"paths are /metrics, /healthz, /readyz"}\n'


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], answer: Callable[[str, str], Answer]) -> None:
        self.answer = answer
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without the reverse name look-up of the base class, which may hang where there is no resolver."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nobody's news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_TIMEOUT_S
    protocol_version = "HTTP/1.1"
    server_version = "agentrun"
    sys_version = ""

    def do_GET(self) -> None:
        self._send(with_body=True)

    def do_HEAD(self) -> None:
        self._send(with_body=False)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Everything the base class refuses, methods among it, in few words and without an echo of the request."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self.close_connection = True
        self._write((status, JSON_TYPE, json.dumps({"error": status.phrase}).encode() + b"\n"), with_body=True)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Scrapes are not logged."""

    def _send(self, *, with_body: bool) -> None:
        try:
            answer = self.server.answer(self.path.partition("?")[0], self.headers.get("Accept", ""))
        except Exception:  # noqa: BLE001 - the reason may hold a payload, and the process itself goes on
            answer = (HTTPStatus.INTERNAL_SERVER_ERROR, JSON_TYPE, b'{"error":"Internal Server Error"}\n')
        self._write(answer, with_body=with_body)

    def _write(self, answer: Answer, *, with_body: bool) -> None:
        status, content_type, body = answer
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

"""A TCP proxy between the workers and the store that can cut an answer off, or tell when an insert is under way.

Must not live here: which fault it is part of, or more of HTTP than the first line of a request.
"""

import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Final

from agentrun_stream.childproc import LOOPBACK

_CHUNK_BYTES: Final = 256 * 1024
_HEAD_BYTES: Final = 4096
_CONNECT_S: Final = 10.0


class CutProxy:
    """Forwards every connection to `port` on this machine until `close`."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._lock = threading.Lock()
        self._to_cut = 0
        self._on_insert: Callable[[], None] | None = None
        self._server = socket.create_server((LOOPBACK, 0))
        self.url = f"http://{LOOPBACK}:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    @property
    def to_cut(self) -> int:
        """How many answers are still to be cut."""
        return self._to_cut

    def cut_answers(self, number: int) -> None:
        """Let the next inserts reach the store, and drop what it answers: the worker can't know that they arrived."""
        with self._lock:
            self._to_cut = number

    def on_insert(self, call: Callable[[], None]) -> None:
        """Call this once, when the next insert has been handed to the store."""
        with self._lock:
            self._on_insert = call

    def close(self) -> None:
        """Take no more connections; those that are open end with their peers."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with closing(client):
            try:
                upstream = socket.create_connection((LOOPBACK, self._upstream), timeout=_CONNECT_S)
            except OSError:
                return
            upstream.settimeout(None)
            with closing(upstream):
                _Exchange(self, client, upstream).run()

    def _insert_sent(self) -> None:
        with self._lock:
            call, self._on_insert = self._on_insert, None
        if call is not None:
            call()

    def _cuts(self) -> bool:
        with self._lock:
            if self._to_cut <= 0:
                return False
            self._to_cut -= 1
            return True


class _Exchange:
    """One connection, in both directions."""

    def __init__(self, proxy: CutProxy, client: socket.socket, upstream: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._upstream = upstream
        self._inserting = False

    def run(self) -> None:
        back = threading.Thread(target=self._answers, daemon=True)
        back.start()
        self._requests()
        back.join()

    def _requests(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(_CHUNK_BYTES):
                if data.startswith(b"POST"):
                    self._inserting = b"INSERT" in data[:_HEAD_BYTES]
                self._upstream.sendall(data)
                if self._inserting:
                    self._proxy._insert_sent()  # noqa: SLF001 - two halves of one thing
        self._end()

    def _answers(self) -> None:
        with suppress(OSError):
            while data := self._upstream.recv(_CHUNK_BYTES):
                if self._inserting and self._proxy._cuts():  # noqa: SLF001
                    break
                self._inserting = False
                self._client.sendall(data)
        self._end()

    def _end(self) -> None:
        for end in (self._client, self._upstream):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

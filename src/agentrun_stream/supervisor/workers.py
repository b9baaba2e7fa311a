"""Worker processes as direct children: started, asked if they are ready, started again, stopped.

Must not live here: what a worker does, or when one is started again (stack.py).
"""

import http.client
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from agentrun_stream.childproc import LOOPBACK, Child, ChildOptions, free_port, require_free_port, write_private
from agentrun_stream.errors import EmbeddedError

ASK_AGAIN_S: Final = 0.1
READY_S_MAX: Final = 60.0
WORKER_STOP_S: Final = 30.0
# A user's settings for clusters of their own must not lead a local worker away from the local stack.
_LOCAL: Final = {
    "AGENTRUN_KAFKA__SECURITY_PROTOCOL": "PLAINTEXT",
    "AGENTRUN_KAFKA__USERNAME": "",
    "AGENTRUN_KAFKA__PASSWORD": "",
    "AGENTRUN_KAFKA__PASSWORD_FILE": "",
    "AGENTRUN_CLICKHOUSE__USER": "",
    "AGENTRUN_CLICKHOUSE__PASSWORD": "",
    "AGENTRUN_CLICKHOUSE__PASSWORD_FILE": "",
}


class Workers:
    """Worker processes on one broker and store, each a direct child with a metrics port of its own.

    `environment` is added to what the workers inherit.
    """

    def __init__(self, folder: Path, count: int, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._ports = self._remembered_ports(count)
        self.children: list[Child | None] = [None] * count

    @property
    def urls(self) -> list[str]:
        """Where each worker's metrics are."""
        return [f"http://{LOOPBACK}:{port}" for port in self._ports]

    def start(self) -> None:
        """Start all of them; they are ready after `wait_ready`."""
        for index in range(len(self.children)):
            self.start_one(index)

    def start_one(self, index: int, more: Mapping[str, str] | None = None) -> None:
        """Start one, or start it again, with `more` in its environment. The log of the one before is kept beside."""
        log_file = self._folder / f"worker-{index}.log"
        with suppress(FileNotFoundError):
            log_file.rename(log_file.with_suffix(".log.1"))
        # A static member: one that is started again after a kill has its place at once, not after a time-out.
        environment = {"AGENTRUN_WORKER__INSTANCE_ID": f"local-{index}", **self._environment, **(more or {})}
        settings = [f"{name}={value}" for name, value in environment.items()]
        # `env` sets them and becomes the worker: the environment itself is the settings' business alone.
        argv = [shutil.which("env") or "/usr/bin/env", *settings, *_command(), "work"]
        argv += ["--data", str(self._folder), "--metrics-port", str(self._ports[index])]
        # A worker that is killed loses nothing; one that outlives its broker would only wait for it.
        self.children[index] = Child(f"worker {index}", argv, ChildOptions(log_file, death_signal=signal.SIGKILL))

    def wait_ready(self, timeout_s: float = READY_S_MAX) -> None:
        """Return when every worker is a member of its group and has nothing to complain about."""
        for index, child in enumerate(self.children):
            if child is not None:
                child.wait_until(lambda index=index: self._is_ready(index), timeout_s)  # type: ignore[misc]

    def stop(self, timeout_s: float = WORKER_STOP_S) -> None:
        """Let each finish the batch at hand, side by side; then end them."""
        running = [child for child in self.children if child is not None]
        self.children = [None] * len(self.children)
        with ThreadPoolExecutor(max(1, len(running)), thread_name_prefix="stop") as pool:
            list(pool.map(lambda child: child.stop(timeout_s), running))

    def _is_ready(self, index: int) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self._ports[index], timeout=2)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return True
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(ASK_AGAIN_S)  # it has better things to do while it starts than to be asked
        return False

    def _remembered_ports(self, count: int) -> list[int]:
        """The ports of the last time where they are still free, so that a Prometheus finds its targets again."""
        file = self._folder / "workers.ports"
        try:
            known = [int(port) for port in file.read_text().split()]
        except (OSError, ValueError):
            known = []
        ports = [_usable(port) for port in known[:count]]
        ports += [free_port() for _ in range(count - len(ports))]
        write_private(file, " ".join(map(str, ports)) + "\n")
        return ports


def local_environment(kafka: str, clickhouse: str, more: Mapping[str, str]) -> dict[str, str]:
    """What a worker's environment must say for this broker and store."""
    return {**_LOCAL, "AGENTRUN_KAFKA__BOOTSTRAP": kafka, "AGENTRUN_CLICKHOUSE__URL": clickhouse, **more}


def _command() -> list[str]:
    """How `agentrun` is called; the words `agentrun work` stand in a worker's command line either way."""
    script = Path(sys.executable).with_name("agentrun")
    if script.exists():
        return [sys.executable, str(script)]
    return [sys.executable, "-c", "from agentrun_stream.cli import main; main()  # agentrun work"]


def _usable(port: int) -> int:
    try:
        require_free_port(port, "worker")
    except (EmbeddedError, OverflowError):
        return free_port()
    return port

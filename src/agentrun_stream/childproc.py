"""Child processes for the embedded broker and store: they die with their parent, as a group, and own their folder.

Only processes, ports and folder locks live here; what runs in the child is the caller's business.
"""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentrun_stream.errors import EmbeddedError

LOOPBACK: Final = "127.0.0.1"
LOG_TAIL_BYTES_MAX: Final = 4096
POLL_INTERVAL_S: Final = 0.02
KILL_WAIT_S: Final = 10.0

_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

# The kernel sends a parent-death signal when the *thread* that forked ends. One thread that
# lives as long as this process does all the forking, so a caller's short-lived thread kills nothing.
_spawner: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawn")


def private_folder(folder: Path) -> Path:
    """Make the folder and keep others out of it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise EmbeddedError(
            f"The folder {folder} can't be used: {error.strerror}.", "Choose a folder you own, on a disk with room."
        ) from error
    return folder


def user_cache_folder() -> Path:
    """`$XDG_CACHE_HOME` or `~/.cache`, and the package's name: what is fetched once for all folders."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentrun-stream"


def write_private(path: Path, text: str) -> None:
    """Write a small file that only its owner reads."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:  # noqa: PTH123
        file.write(text)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with closing(socket.socket()) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def require_free_port(port: int, what: str, host: str = LOOPBACK) -> None:
    """Raise, naming the port, if somebody already listens on it."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EmbeddedError(
                f"Port {port} for the embedded {what} can't be used: {error.strerror}.",
                f"Stop the program that listens on port {port}, or choose another port.",
            ) from error


class FolderLock:
    """An exclusive lock on a folder, held as long as any process has `fd` open."""

    def __init__(self, folder: Path, what: str) -> None:
        path = folder / "lock"
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self.fd)
            raise EmbeddedError(
                f"An embedded {what} already runs on {folder}.", "Stop it, use it, or choose another folder."
            ) from error

    def release(self) -> None:
        """Let go of this process's hold; a child that inherited the lock keeps its own."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(frozen=True, slots=True)
class ChildOptions:
    """How to run a child. `death_signal` is what it gets when this process ends, however it ends."""

    log_file: Path
    death_signal: int = signal.SIGKILL
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    pass_fds: tuple[int, ...] = field(default=())


def _die_with(parent: int, death_signal: int) -> Callable[[], None]:
    def prepare() -> None:
        os.umask(0o077)
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
            if os.getppid() != parent:  # it ended between fork and prctl
                os._exit(1)

    return prepare


class Child:
    """A running child process in a session of its own, so that it is signalled with all its children."""

    def __init__(self, name: str, argv: Sequence[str], options: ChildOptions) -> None:
        self.name = name
        self.log_file = options.log_file
        self._process = _spawner.submit(_spawn, argv, options).result()

    @property
    def pid(self) -> int:
        """The process id, which is its group's too."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How the process ended; None while it runs."""
        return self._process.poll()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.exit_code is None

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Return when `ready` says so; raise if the child ends first or the time is up."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.alive:
                raise EmbeddedError(
                    f"The embedded {self.name} ended while starting (exit code {self.exit_code}). {self.log_tail()}",
                    f"Read {self.log_file}.",
                )
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"The embedded {self.name} was not ready after {timeout_s:.0f} s. {self.log_tail()}",
                    f"Read {self.log_file}; a slow disk may need a longer time-out.",
                )
            time.sleep(POLL_INTERVAL_S)

    def log_tail(self) -> str:
        """The last lines of the child's log, for an error message."""
        with suppress(OSError):
            lines = self.log_file.read_bytes()[-LOG_TAIL_BYTES_MAX:].decode("utf-8", "replace").strip().splitlines()
            return "Its last words: " + " | ".join(line.strip() for line in lines[-3:]) if lines else ""
        return ""

    def stop(self, timeout_s: float) -> int:
        """Ask the group to end, wait, then make it. Returns the exit code."""
        if self.alive:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self._signal(signal.SIGKILL)  # whatever is left of the group
        return self._process.wait(KILL_WAIT_S)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _spawn(argv: Sequence[str], options: ChildOptions) -> "subprocess.Popen[bytes]":
    fd = os.open(options.log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603 - argv is built by us, no shell
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=subprocess.STDOUT,
            env=options.env,
            cwd=options.cwd,
            pass_fds=options.pass_fds,
            start_new_session=True,
            preexec_fn=_die_with(os.getpid(), options.death_signal),  # noqa: PLW1509 - only prctl and umask run there
        )
    except OSError as error:
        raise EmbeddedError(f"{argv[0]} can't be started: {error.strerror}.", "Reinstall the package.") from error
    finally:
        os.close(fd)

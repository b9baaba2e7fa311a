"""`agentrun up` as a process: starts whole, mends what dies, leaves nothing behind, keeps its data."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentrun_stream.broker.jars import KAFKA_VERSION, default_cache_dir
from agentrun_stream.childproc import free_port
from agentrun_stream.testing.events import run_event

pytestmark = pytest.mark.stack

START_S = 60


def agentrun(data: Path, *words: str, stdin: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "agentrun_stream.cli", *words]
    env = {k: v for k, v in os.environ.items() if not k.startswith("AGENTRUN_")} | {"AGENTRUN_DATA": str(data)}
    return subprocess.run(command, env=env, input=stdin, capture_output=True, check=False, timeout=120)


class Up:
    """A running `agentrun up`."""

    def __init__(self, data: Path, *words: str) -> None:
        self.data = data
        self.said = data.with_suffix(".said")
        self.file = self.said.open("wb")
        command = [sys.executable, "-m", "agentrun_stream.cli", "up", "--data", str(data), *words]
        env = {k: v for k, v in os.environ.items() if not k.startswith("AGENTRUN_")}
        self.process = subprocess.Popen(command, stdout=self.file, stderr=subprocess.STDOUT, env=env)
        self.children: list[psutil.Process] = []

    def endpoints(self) -> dict[str, Any]:
        """Wait for the endpoints, and note the children."""
        deadline = time.monotonic() + START_S
        while not (self.data / "endpoints.json").exists():
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < deadline, self.said.read_text()
            time.sleep(0.05)
        self.note_children()
        found: dict[str, Any] = json.loads((self.data / "endpoints.json").read_text())
        return found

    def workers(self) -> list[psutil.Process]:
        """The workers among the children."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # it just died
                if "agentrun work" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def note_children(self) -> None:
        """Remember what runs now."""
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def gone(self, within_s: float = 30) -> None:
        """Nothing that was started is left."""
        _, alive = psutil.wait_procs(self.children, within_s)
        assert not alive

    def close(self) -> None:
        """End everything, whatever a test left."""
        for process in [*self.children, self.process]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        self.process.wait(30)
        self.file.close()


@contextmanager
def up(data: Path, *words: str) -> Iterator[Up]:
    running = Up(data, *words)
    try:
        yield running
    finally:
        running.close()


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def count_runs(data: Path) -> int:
    done = agentrun(data, "query", "SELECT count() AS n FROM runs_latest", "-o", "json")
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)[0]["n"])


def until(true: Callable[[], bool], running: Up) -> None:
    """Wait for something that comes within a minute."""
    deadline = time.monotonic() + START_S
    while not true():
        assert time.monotonic() < deadline, running.said.read_text()
        time.sleep(0.1)


def test_a_stack_from_its_first_start_to_its_last(tmp_path: Path) -> None:
    """One story, as each start costs seconds."""
    data = tmp_path / "stack"
    with up(data, "--workers", "2") as running:
        found = running.endpoints()
        a_start_is_whole_when_it_is_told(running, found)
        a_second_start_is_refused(data)
        assert agentrun(data, "publish", "-", stdin=b"\n".join(run_event(f"r{i}") for i in range(50))).returncode == 0
        assert agentrun(data, "wait", "--timeout", "60").returncode == 0
        assert count_runs(data) == 50
        a_killed_worker_is_started_again(running, found["metrics"])

        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0
        running.gone(1)
        assert not (data / "endpoints.json").exists()
        assert "Traceback" not in running.said.read_text()

    begun = time.monotonic()
    with up(data) as running:
        running.endpoints()
        assert time.monotonic() - begun < 20, "a warm start takes ten seconds at most on an idle machine"
        assert count_runs(data) == 50, "its data is kept"
        a_killed_store_is_started_again(running)
        assert count_runs(data) == 50
        running.process.kill()  # nobody is left to stop anything
        running.process.wait(30)
        running.gone()
    assert agentrun(data, "runs").returncode == 4, "a file whose process is gone is no stack"


def a_start_is_whole_when_it_is_told(running: Up, found: dict[str, Any]) -> None:
    assert all(ready(url) for url in found["metrics"]), "it says that it is ready before it is"
    assert set(found) >= {"kafka", "clickhouse", "metrics", "pid"}
    assert found["pid"] == running.process.pid
    assert len(found["metrics"]) == len(running.workers()) == 2
    assert (running.data / "endpoints.json").stat().st_mode & 0o777 == 0o600


def a_second_start_is_refused(data: Path) -> None:
    second = agentrun(data, "up")
    assert second.returncode == 6
    assert b"already runs" in second.stderr
    assert b"Traceback" not in second.stderr
    assert (data / "endpoints.json").exists(), "a second start took the first one's endpoints away"


def a_killed_worker_is_started_again(running: Up, metrics: list[str]) -> None:
    victim = running.workers()[0]
    victim.kill()
    until(lambda: "runs again" in running.said.read_text(), running)
    until(lambda: all(ready(url) for url in metrics), running)
    assert victim.pid not in {worker.pid for worker in running.workers()}
    assert len(running.workers()) == 2
    running.note_children()


def a_killed_store_is_started_again(running: Up) -> None:
    store = next(c for c in running.children if "store.embedded" in " ".join(c.cmdline()))
    store.kill()
    until(lambda: "store answers again" in running.said.read_text(), running)
    running.note_children()


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    with up(tmp_path / "stack") as running:
        deadline = time.monotonic() + START_S
        while not running.children:
            assert time.monotonic() < deadline
            running.note_children()
            time.sleep(0.05)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60) == 130
        running.gone(5)
        assert "Traceback" not in running.said.read_text()


def test_a_busy_port_and_a_bad_folder_are_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for flag in ("--kafka-port", "--clickhouse-port"):
            done = agentrun(tmp_path / "busy", "up", flag, port)
            assert done.returncode == 6, done.stderr
            assert port.encode() in done.stderr
            assert b"Traceback" not in done.stderr
            assert not (tmp_path / "busy" / "endpoints.json").exists()
    file = tmp_path / "file"
    file.write_text("")
    done = agentrun(file / "below", "up")
    assert done.returncode == 6
    assert b"Traceback" not in done.stderr


def test_a_broken_cache_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    """A jar that was cut short is never run."""
    cache = tmp_path / "cache" / f"kafka-{KAFKA_VERSION}"
    cache.parent.mkdir()
    if not default_cache_dir().is_dir():
        pytest.skip("no jars were fetched yet")
    cache.mkdir()
    for jar in default_cache_dir().iterdir():
        (cache / jar.name).symlink_to(jar)
    victim = min(cache.glob("*.jar"))
    content = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(content[: len(content) // 2])
    command = [sys.executable, "-m", "agentrun_stream.cli", "up", "--data", str(tmp_path / "data")]
    env = {k: v for k, v in os.environ.items() if not k.startswith("AGENTRUN_")}
    env["AGENTRUN_CACHE"] = str(cache.parent)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 6, done.stderr
    assert victim.name in done.stderr
    assert "Traceback" not in done.stderr
    assert free_port()


def test_the_demo_shows_a_fleet_and_leaves_nothing(tmp_path: Path) -> None:
    """Exit code 0 says that the audit found nothing and that the tables hold the fleet's own totals and verdicts."""
    done = agentrun(tmp_path / "unused", "demo", "--runs", "120", "--exit", "-o", "json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["problems"] == []
    assert shown["audit_residual"] == 0
    assert shown["totals"]["runs"] == 120
    words = {row["verdict"]: row["expected"] for row in shown["runs_by_verdict"]}
    assert {row["verdict"]: row["found"] for row in shown["runs_by_verdict"]} == words
    assert sum(words.values()) == 120
    assert words["verified"] > 60
    assert words.keys() >= {"rejected", "mismatch", "unverifiable"}
    assert shown["records_per_second"] > 0
    assert {
        "runs_by_status",
        "runs_by_verdict",
        "cost_by_agent",
        "refused",
        "slowest_tools",
        "freshness",
    } <= shown.keys()
    assert b"Traceback" not in done.stderr
    assert not (tmp_path / "unused").exists(), "a demo that ends uses a folder of its own"

"""`agentrun chaos` and the crash points, from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentrun_stream.runtime.crash import POINTS
from agentrun_stream.testing.chaos.faults import BY_NAME
from agentrun_stream.testing.stack import Stack

ELSEWHERE = {
    "AGENTRUN_KAFKA__BOOTSTRAP": "kafka.example.com:9092",
    "AGENTRUN_CLICKHOUSE__URL": "http://clickhouse.example.com:8123",
    "AGENTRUN_EVENTS_TOPICS": '["somebody.elses"]',
    "AGENTRUN_WORKER__GROUP": "production",
}


def agentrun(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AGENTRUN_")}
    command = [sys.executable, "-m", "agentrun_stream.cli", *words]
    return subprocess.run(
        command, env={**kept, **environment}, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.stack
def test_chaos_ends_with_a_verdict_whatever_clusters_are_configured(tmp_path: Path) -> None:
    """On a stack of its own in the folder: faults, then residual 0, the topic equal to the store, exit code 0."""
    done = agentrun("chaos", "--minutes", "0.1", "--seed", "9", "-o", "json", "--folder", str(tmp_path), **ELSEWHERE)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["exact"] is True
    assert (said["residual"], said["published_residual"], said["differences"]) == (0, 0, [])
    assert said["faults"]
    assert {row["fault"] for row in said["faults"]} <= set(BY_NAME)
    assert {row["residual"] for row in said["faults"]} == {0}
    assert said["records"] > 500
    assert said["runs_published"] > 20
    assert "example.com" not in done.stderr


def test_chaos_leaves_a_folder_with_data_alone(tmp_path: Path) -> None:
    """It is for throw-away stacks."""
    (tmp_path / "precious").write_text("data")
    done = agentrun("chaos", "--folder", str(tmp_path))
    assert done.returncode == 2
    assert "not an empty folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.stack
def test_a_crash_point_that_does_not_exist_is_refused(agentrun_stack: Stack) -> None:
    """A worker that would never die there must not look as if it had survived."""
    done = agentrun("work", **agentrun_stack.environment, AGENTRUN_TEST_CRASH_POINT="before-lunch:2")
    assert done.returncode == 3
    assert "before-lunch:2 is no crash point" in done.stderr
    assert all(point in done.stderr for point in POINTS)

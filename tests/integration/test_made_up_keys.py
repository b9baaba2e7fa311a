"""The made-up keys of `demo` and `bench`: they lead to the verdicts that were promised, and into nobody's own registry."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentrun_stream.childproc import FolderLock
from agentrun_stream.trust import manage
from agentrun_stream.trust.folder import registry_path

pytestmark = pytest.mark.stack


def agentrun(*words: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "agentrun_stream.cli", *words]
    env = {k: v for k, v in os.environ.items() if not k.startswith("AGENTRUN_")} | environment
    return subprocess.run(command, env=env, capture_output=True, check=False, timeout=120)


def own_registry(folder: Path) -> bytes:
    """A registry of somebody's own, and its bytes."""
    manage.add(folder, "default", manage.public_of_seed(bytes(range(32))), manage.Scope())
    return registry_path(folder, "default").read_bytes()


def test_a_demo_leaves_a_folder_with_keys_of_its_own_alone(tmp_path: Path) -> None:
    """Whoever trusts a registry must not come to trust keys that anyone can work out."""
    before = own_registry(tmp_path / "trust")
    done = agentrun("demo", "--runs", "10", "--exit", "--data", str(tmp_path))
    assert (done.returncode, b"not made up" in done.stderr) == (2, True), done.stderr
    assert registry_path(tmp_path / "trust", "default").read_bytes() == before


def test_a_demo_beside_a_running_stack_changes_nothing_that_it_trusts(tmp_path: Path) -> None:
    """Its folder is another's, so it ends before it writes a key."""
    lock = FolderLock(tmp_path, "stack")
    try:
        done = agentrun("demo", "--runs", "10", "--exit", "--data", str(tmp_path))
    finally:
        lock.release()
    assert done.returncode == 6, done.stderr
    assert not (tmp_path / "trust").exists()


def test_a_signed_load_is_drained_to_the_verdicts_that_it_was_made_for(tmp_path: Path) -> None:
    """Beside the same load unsigned, with late, repeated and bad records; a registry that the environment names stays out."""
    before = own_registry(tmp_path / "trust")
    odd = ("--late", "0.05", "--repeated", "0.05", "--bad", "0.01", "--tampered", "0.1")
    words = ("bench", "drain", "--signed", "--steps", "3000", "--open-runs", "50", *odd, "-o", "json")
    done = agentrun(*words, AGENTRUN_TRUST__DIR=str(tmp_path / "trust"))
    figures = json.loads(done.stdout)
    assert (done.returncode, figures["audit_residual"], figures["verdicts_differ"]) == (0, 0, 0), figures
    found = {
        name: figures[f"signed_runs_{name}_found"] for name in ("verified", "rejected", "mismatch", "unverifiable")
    }
    assert all(found[name] == figures[f"signed_runs_{name}_generated"] > 0 for name in found)
    assert figures["unsigned_runs_unverifiable_found"] == sum(found.values())
    assert figures["signed_steps"] == figures["unsigned_steps"] == 3_000
    assert figures["signed_records"] == figures["unsigned_records"]
    assert figures["signed_of_unsigned"] > 0
    assert registry_path(tmp_path / "trust", "default").read_bytes() == before

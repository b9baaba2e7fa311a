"""The command that the protocol documents works as it stands, with npm's `ajv-cli` and no more flags."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"
COMMAND = "npx ajv validate -s schemas/agent-run.json -r 'schemas/*.json' -d my-run.json"
QUICK_START: dict[str, Any] = {
    "id": "run-1",
    "agent_id": "my-agent",
    "status": "completed",
    "started_at": "2026-01-01T00:00:00Z",
    "steps": [],
    "cost": {"input_tokens": 1000, "output_tokens": 200, "cost_usd": 0.006},
    "provenance": {"run_hash": "..."},
}
GOOD: dict[str, dict[str, Any]] = {
    "quick start": QUICK_START,
    "null and unknown members": QUICK_START | {"eval": None, "model": None, "workspace_id": None, "x": {"y": 1}},
    "everything embedded": QUICK_START
    | {
        "workspace_id": 7,
        "steps": [{"type": "tool_call", "tool_name": "t", "duration_ms": 3, "metadata": {"a": 1}}],
        "eval": {"pass": True, "score": 99.5},
    },
}
BAD: dict[str, dict[str, Any]] = {
    "no agent": {k: v for k, v in QUICK_START.items() if k != "agent_id"},
    "unknown status": QUICK_START | {"status": "done"},
    "time without offset": QUICK_START | {"started_at": "2026-01-01T00:00:00"},
    "bad step": QUICK_START | {"steps": [{"type": "thought"}]},
    "negative cost": QUICK_START | {"cost": {"cost_usd": -1}},
    "bad lineage": QUICK_START | {"provenance": {"lineage": [1]}},
    "eval without score": QUICK_START | {"eval": {"pass": True}},
    "fractional workspace": QUICK_START | {"workspace_id": 1.5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a reader would have it: `ajv-cli` installed, the schemas beside it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("npx") is None:
        _not_here("npm and npx are not installed")
    place = tmp_path_factory.mktemp("ajv")
    (place / "package.json").write_text('{"private": true}')
    command = [str(npm), "install", "--no-audit", "--no-fund", "ajv-cli@5"]
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        _not_here("npm did not install ajv-cli within two minutes")
    if done.returncode != 0:
        _not_here("npm could not install ajv-cli")
    shutil.copytree(SCHEMAS, place / "schemas")
    return place


def _not_here(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def validate(folder: Path, run: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run the documented command, literally."""
    (folder / "my-run.json").write_text(json.dumps(run))
    return subprocess.run(COMMAND, shell=True, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", GOOD)
def test_the_documented_command_accepts_good_runs_without_a_murmur(folder: Path, name: str) -> None:
    done = validate(folder, GOOD[name])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "my-run.json valid\n"
    assert "strict mode" not in done.stderr


@pytest.mark.parametrize("name", BAD)
def test_the_documented_command_refuses_bad_runs(folder: Path, name: str) -> None:
    done = validate(folder, BAD[name])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "my-run.json invalid" in done.stdout + done.stderr
    assert "strict mode" not in done.stderr

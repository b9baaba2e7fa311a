"""The fingerprint of a configuration is what the protocol's JavaScript rule gives, to the last escape."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agentrun_stream.codec.canonical import canonical_json, run_hash, utf16_order

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors" / "run_hash.json"


def load_vectors() -> list[Any]:
    """Return the cases; none where they are not at hand, which CI does not forgive."""
    if VECTORS.is_file() or os.environ.get("CI") == "true":
        cases: list[Any] = json.loads(VECTORS.read_text("utf-8"))
        return cases
    return []


CASES = load_vectors()


@pytest.mark.skipif(not CASES, reason="no vectors here")
def test_all_vectors_are_there() -> None:
    assert len(CASES) == 45


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_hash_is_that_of_the_vector(case: Any) -> None:
    assert run_hash(case["run"]) == case["run_hash"]


def test_the_run_is_not_changed() -> None:
    run = {"agent_id": "a", "tools_available": ["b", "a"]}
    run_hash(run)
    assert run == {"agent_id": "a", "tools_available": ["b", "a"]}


def test_order_is_by_utf_16_code_units() -> None:
    assert sorted(["\ue000", "\U0001f600", "a", ""], key=utf16_order) == ["", "a", "\U0001f600", "\ue000"]


def test_canonical_json_does_not_depend_on_the_order_of_members() -> None:
    assert canonical_json({"b": 1, "a": {"d": [1, 2], "c": None}}) == b'{"a":{"c":null,"d":[1,2]},"b":1}'
    assert canonical_json({"a": {"c": None, "d": [1, 2]}, "b": 1}) == canonical_json(
        {"b": 1, "a": {"d": [1, 2], "c": None}}
    )

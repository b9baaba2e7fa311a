"""Signed runs: nobody without the key changes what is covered, and arrival never changes a verdict."""

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrun_stream import verify_run
from agentrun_stream.codec.arsig import genesis_of
from agentrun_stream.model.facts import Parent
from agentrun_stream.sdk.signing import RunSigner, SignedUnder, SigningKey
from agentrun_stream.trust.manage import Scope, entry_of

KEY = SigningKey(bytes(range(32)))
REGISTRY = {"version": 3, "keys": [entry_of(KEY.public, Scope(agents=("team/*",)))]}
TEXT = st.text(max_size=10)
OPEN_MAP = st.dictionaries(
    TEXT, TEXT | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False), max_size=3
)
STEP = st.fixed_dictionaries(
    {"id": st.uuids().map(str), "type": st.sampled_from(["message", "tool_call"])},
    optional={
        "output_preview": TEXT,
        "error": st.none() | TEXT,
        "tokens_used": st.integers(0, 9),
        "metadata": OPEN_MAP,
    },
)
RUN = st.fixed_dictionaries(
    {
        "id": st.uuids().map(str),
        "agent_id": st.just("team/a"),
        "status": st.sampled_from(["completed", "failed", "cancelled", "timeout"]),
        "started_at": st.just("2026-05-01T10:00:00Z"),
        "steps": st.lists(STEP, max_size=2),
        "cost": st.fixed_dictionaries(
            {}, optional={"input_tokens": st.integers(0, 10**9), "cost_usd": st.floats(0, 100)}
        ),
        "provenance": st.fixed_dictionaries({}, optional={"config_hash": TEXT, "created_at": st.none()}),
    },
    optional={
        "model": TEXT,
        "tools_available": st.lists(TEXT, max_size=3),
        "tags": st.lists(TEXT, max_size=2),
        "error": st.none() | TEXT,
        "metadata": OPEN_MAP,
        "x-new": OPEN_MAP,
    },
)


def signed(run: dict[str, Any], steps: list[dict[str, Any]]) -> tuple[dict[str, Any], list[bytes]]:
    signer = RunSigner(KEY, run, SignedUnder("acme"))
    chained = [orjson.dumps(signer.chain(step)) for step in steps]
    return signer.sign(run), chained


def verify(run: dict[str, Any] | bytes, steps: list[bytes], **told: Any) -> Any:
    raw = run if isinstance(run, bytes) else orjson.dumps(run)
    return verify_run(raw, steps=steps, registry=REGISTRY, workspace="acme", **told)


def leaves(obj: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = obj.items() if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, list) else ()
    found = False
    for name, value in items:
        found = True
        yield from leaves(value, (*path, name))
    if not found and path and not isinstance(obj, dict | list):
        yield path


def flipped(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return 1 if value != 1 else 2
    return f"{value}x" if isinstance(value, str) else "was null"


def changed(run: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    copy = deepcopy(run)
    node: Any = copy
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = flipped(node[path[-1]])
    return copy


@settings(max_examples=60)
@given(RUN, st.lists(STEP, max_size=4))
def test_what_was_signed_is_verified_in_any_layout(run: dict[str, Any], steps: list[dict[str, Any]]) -> None:
    good, chained = signed(run, steps)
    turned = json.dumps(dict(reversed(good.items())), indent=2).encode()
    for raw in (
        orjson.dumps(good),
        turned,
        orjson.dumps(good | {"eval": {"pass": True}, "workspace_id": 7, "task_id": None}),
    ):
        verdict = verify(raw, chained)
        assert (verdict.headline, verdict.signature, verdict.hash) == ("verified", "trusted", "match")
        assert verdict.chain == ("intact" if steps else "absent")
        assert verdict.kid == KEY.kid


@settings(max_examples=40)
@given(RUN, st.lists(STEP, max_size=3), st.randoms(use_true_random=False))
def test_a_changed_leaf_is_never_verified(
    run: dict[str, Any], steps: list[dict[str, Any]], dice: random.Random
) -> None:
    good, chained = signed(run, steps)
    paths = list(leaves(good))
    for path in dice.sample(paths, min(12, len(paths))):
        assert verify(changed(good, path), chained).headline != "verified", path
    for name in set(good) - {"workspace_id", "eval"}:
        if good[name] not in (None, []):
            assert verify({k: v for k, v in good.items() if k != name}, chained).headline != "verified", name
    assert verify(good | {"x-added": 1}, chained).headline == "rejected"
    for at, raw in enumerate(chained):
        step = json.loads(raw)
        for path in leaves(step):
            worse = orjson.dumps(changed(step, path))
            assert verify(good, [*chained[:at], worse, *chained[at + 1 :]]).headline != "verified", path
            assert verify(good, [*chained, worse]).headline != "verified", path


@settings(max_examples=60)
@given(RUN, st.lists(STEP, min_size=1, max_size=5), st.data())
def test_the_verdict_is_a_function_of_what_arrived(
    run: dict[str, Any], steps: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Any part of the steps, with foreign ones, in any order and with repeats, gives one verdict."""
    good, chained = signed(run, steps)
    _, foreign = signed(run | {"id": "another"}, steps)
    arrived = data.draw(
        st.lists(st.sampled_from([*chained, *foreign, b'{"id":"x","type":"message"}', b"{"]), max_size=8)
    )
    first = verify(good, arrived)
    again = data.draw(st.permutations(arrived)) + data.draw(
        st.lists(st.sampled_from(arrived), max_size=3) if arrived else st.just([])
    )
    second = verify(good, again)
    assert (first.chain, first.headline, first.reasons) == (second.chain, second.headline, second.reasons)
    assert (first.chain == "intact") == (set(arrived) - {b"{"} == set(chained))


@settings(max_examples=30)
@given(RUN, st.lists(STEP, min_size=2, max_size=6), st.data())
def test_a_missing_step_shows_as_what_it_is(
    run: dict[str, Any], steps: list[dict[str, Any]], data: st.DataObject
) -> None:
    good, chained = signed(run, steps)
    at = data.draw(st.integers(0, len(steps) - 1))
    verdict = verify(good, chained[:at] + chained[at + 1 :])
    assert verdict.chain == ("truncated" if at == len(steps) - 1 else "gap")
    assert verdict.headline == "mismatch"
    assert any(f"step {at}" in detail for detail in verdict.details)
    assert verify(good, chained[:at]).chain == "truncated"


def plain_run(**members: Any) -> dict[str, Any]:
    run = {"id": "r", "agent_id": "team/a", "status": "completed", "started_at": "2026-05-01T10:00:00Z"}
    return {**run, "steps": [], "cost": {}, "provenance": {}, **members}


@pytest.mark.parametrize(
    ("members", "steps", "headline"),
    [
        ({}, [], "verified"),
        ({}, [b'{"id":"s","type":"message"}'], "unverifiable"),
        ({"parent_run_id": "p"}, [], "pending"),
        ({"provenance": {"parent_run_hash": "0" * 64}}, [], "mismatch"),
        ({"provenance": {"lineage": ["0" * 64]}}, [], "mismatch"),
        ({"provenance": {"run_hash": "0" * 64}}, [], "mismatch"),
    ],
)
def test_headlines_of_signed_runs(members: dict[str, Any], steps: list[bytes], headline: str) -> None:
    assert verify(signed(plain_run(**members), [])[0], steps).headline == headline


@pytest.mark.parametrize(
    ("run", "headline"),
    [
        (plain_run(), "unverifiable"),
        (plain_run(status="running"), "pending"),
        (plain_run(tools_available="search"), "rejected"),
        (plain_run(status=["completed"]), "rejected"),
        (plain_run(steps=[1]), "rejected"),
        (plain_run(steps=[{"metadata": []}]), "rejected"),
        (plain_run(provenance={"lineage": [1]}), "rejected"),
        (plain_run(steps=[{}] * 10_001), "rejected"),
        (plain_run(provenance={"lineage": ["a"] * 257}), "rejected"),
        ({}, "pending"),
    ],
)
def test_headlines_of_unsigned_runs(run: dict[str, Any], headline: str) -> None:
    assert verify(run, []).headline == headline


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | TEXT,
        lambda i: st.lists(i, max_size=2) | st.dictionaries(TEXT, i, max_size=2),
        max_leaves=4,
    ),
    st.data(),
)
def test_no_shape_makes_the_verifier_stumble(value: Any, data: st.DataObject) -> None:
    """Whatever a hostile producer puts where, the answer is a verdict."""
    good, chained = signed(plain_run(), [{"id": "s", "type": "message"}])
    paths = [(name,) for name in good] + list(leaves(good)) + [("metadata", "arsig"), ("metadata", "arsig", "parents")]
    paths += [("metadata", "arsig", "steps"), ("provenance", "lineage"), ("parent_run_id",), ("tags",), ("x",)]
    path = data.draw(st.sampled_from(paths))
    node = bad = deepcopy(good)
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    verdict = verify(bad, chained)
    # What is verified is what was signed, but for nulls and empty lists where they say nothing.
    assert verdict.headline != "verified" or verdict.run_digest == verify(good, chained).run_digest
    assert verify(bad, [*chained, orjson.dumps({"metadata": value})]).headline != "verified"


def test_parents_are_part_of_the_identity() -> None:
    run = plain_run(parent_run_id="b")
    parents = (Parent("b", "0" * 64), Parent("a", "f" * 64))
    signer = RunSigner(KEY, run, SignedUnder("acme", parents))
    verdict = verify(signer.sign(run), [])
    assert (verdict.signature, verdict.lineage, verdict.genesis) == ("trusted", "pending", signer.genesis)
    assert signer.genesis != RunSigner(KEY, run, SignedUnder("acme")).genesis
    stated = verify(signer.sign(run), [])
    assert stated.genesis == genesis_of(run, signer.sign(run)["provenance"]["run_hash"], "acme", parents)

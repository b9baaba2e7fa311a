"""Lineage on the real stack: children and parents on other partitions, in any order, corrected, missing, in circles."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream.codec.canonical import run_hash
from agentrun_stream.model.facts import Parent
from agentrun_stream.sdk.signing import RunSigner, SignedUnder, SigningKey
from agentrun_stream.testing.events import cloud_event, run_event
from agentrun_stream.testing.stack import Stack
from agentrun_stream.trust.manage import Scope, entry_of
from integration.harness import Lane, lane, last_published, run_on, soon

pytestmark = pytest.mark.stack

QUICK = {"AGENTRUN_LEASES__SWEEP_EVERY_S": "0.2"}
HASH = run_hash({"agent_id": "agent-1"})
KEY = SigningKey(bytes(range(32)))


def born(run_id: str, parent: str | None, depth: int = 0, **members: Any) -> bytes:
    """A run of an agent that starts itself: every hash is the same. `depth` is how many ancestors it states."""
    provenance: dict[str, object] = {"run_hash": HASH}
    if depth:
        provenance |= {"parent_run_hash": HASH, "lineage": [HASH] * depth}
    return run_event(run_id, **{"parent_run_id": parent, "provenance": provenance} | members)


def axes(made: Lane, *runs: str) -> list[str]:
    found = {row["id"]: row["verdict_lineage"] for row in made.rows("SELECT id, verdict_lineage FROM runs_latest")}
    return [found.get(name, "none") for name in runs]


def until(made: Lane, expected: dict[str, str], timeout_s: float = 30.0) -> None:
    """Until the axes are these; the topic says the same."""
    soon(lambda: axes(made, *expected) == list(expected.values()), timeout_s, what=f"{expected}")
    for name, axis in expected.items():
        assert published(made, name)["lineage"] == axis


def published(made: Lane, name: str) -> dict[str, Any]:
    """The verdict as the compacted topic has it; its order pair is that of the row."""

    def same() -> dict[str, Any] | None:
        row = made.run_row(name)
        found = last_published(made.stack, f"default/{name}")
        assert found is not None
        pair = (found[0]["revision"], found[0]["projection"])
        return found[0] if pair == (row["revision"], row["projection"]) else None

    found = soon(same, what=f"{name} on the topic")
    assert found is not None
    verdict: dict[str, Any] = found["verdict"]
    return verdict


def test_a_child_before_its_parent_on_another_partition(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Pending at once, linked when the parent has come, wrong when it is corrected, linked again when that is undone."""
    child, parent = run_on(0, "lineage-child"), run_on(3, "lineage-parent")
    with lane(agentrun_stack, tmp_path, "lineage_late", **QUICK) as made:
        made.start()
        made.produce([born(child, parent, 1)])
        made.wait()
        until(made, {child: "pending"})
        made.produce([born(parent, None, status="running", provenance={})])
        made.wait()
        until(made, {child: "pending"})
        made.produce([born(parent, None)])
        until(made, {child: "linked", parent: "root"})
        first = made.run_row(child)
        made.produce([born(parent, None, provenance={"run_hash": "0" * 64})])
        until(made, {child: "mismatch"})
        row = made.run_row(child)
        assert row["verdict_reasons"] == ["lineage_mismatch", "parent_hash_mismatch"]
        assert row["verdict"] == "mismatch"
        assert (row["revision"], row["projection"] > first["projection"]) == (first["revision"], True)
        assert row["parents"] == [parent]
        assert row["parents_seen"] != first["parents_seen"]
        made.produce([born(parent, None)])
        until(made, {child: "linked"})
        assert made.run_row(child)["parents_seen"] == first["parents_seen"], "what was looked at, not when"
        made.assert_exact()


def test_a_chain_is_linked_up_to_256_ancestors(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Youngest first, on all partitions, every hash the same; the 257th has too many, and says so by ids alone as well."""
    names = [f"chain-{i}" for i in range(258)]
    with lane(agentrun_stack, tmp_path, "lineage_chain", **QUICK) as made:
        made.start()
        events = [born(name, names[i - 1] if i else None, i) for i, name in enumerate(names)]
        events[257] = born(names[257], names[256])
        made.produce(reversed(events))
        made.wait()
        expected = ["root", *["linked"] * 256, "too_deep"]
        soon(lambda: axes(made, *names) == expected, 120, what="the chain")
        assert made.run_row(names[257])["verdict_reasons"] == ["lineage_too_deep"]
        made.assert_exact()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_circle_is_rejected_all_around(agentrun_stack: Stack, tmp_path: Path, size: int) -> None:
    """Also where it was closed by a correction when all the others were linked."""
    names = [run_on(i % 4, f"circle-{size}-{i}") for i in range(size)]
    with lane(agentrun_stack, tmp_path, f"lineage_circle_{size}", **QUICK) as made:
        made.start()
        made.produce([born(name, names[i - 1] if i else None) for i, name in enumerate(names)])
        made.wait()
        until(made, {name: "linked" if i else "root" for i, name in enumerate(names)})
        made.produce([born(names[0], names[-1])])
        until(made, dict.fromkeys(names, "cycle"), 60)
        assert {made.run_row(name)["verdict"] for name in names} == {"rejected"}
        made.assert_exact()


def test_a_parent_that_never_comes_makes_an_orphan(agentrun_stack: Stack, tmp_path: Path) -> None:
    """After `orphan_after`, also across a restart; and no longer when it comes after all."""
    child, parent, unnamed = run_on(1, "orphan"), run_on(2, "orphan-parent"), run_on(1, "unnamed")
    settings = {**QUICK, "AGENTRUN_TRUST__ORPHAN_AFTER_S": "6"}
    with lane(agentrun_stack, tmp_path, "lineage_orphan", **settings) as made:
        made.start()
        made.produce([born(child, parent, 1), born(unnamed, None, 1)])
        made.wait()
        until(made, {child: "pending", unnamed: "mismatch"})
        made.kill()
        made.restart()
        until(made, {child: "orphaned"}, 60)
        assert made.run_row(child)["verdict_reasons"].count("parent_unknown") == 1
        made.produce([born(parent, None)])
        until(made, {child: "linked"}, 60)
        made.assert_exact()


def test_what_was_corrected_while_nobody_was_there_is_found(agentrun_stack: Stack, tmp_path: Path) -> None:
    """kill -9 right after the parent's correction is stored: whoever comes next looks at the child again."""
    child, parent = run_on(0, "left-child"), run_on(3, "left-parent")
    with lane(agentrun_stack, tmp_path, "lineage_left", **QUICK) as made:
        made.start()
        made.produce([born(parent, None), born(child, parent, 1)])
        made.wait()
        until(made, {child: "linked"})
        made.produce([born(parent, None, provenance={"run_hash": "0" * 64})])
        made.wait()
        made.kill()
        made.restart()
        until(made, {child: "mismatch"}, 60)
        made.assert_exact()


def test_signed_children_are_held_against_the_claims_of_their_parents(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Verified only when every parent's claim has the genesis that the child signed; one is enough to make it wrong."""
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    registry = {"version": 1, "keys": [entry_of(KEY.public, Scope())]}
    (folder / "default.jwks.json").write_bytes(orjson.dumps(registry))
    base: dict[str, Any] = {
        "agent_id": "agent-1",
        "status": "completed",
        "started_at": "2026-01-01T12:00:00Z",
        "steps": [],
        "cost": {},
    }
    one, two = (base | {"id": run_on(i, f"signed-{i}")} for i in (0, 1))
    signers = [RunSigner(KEY, run) for run in (one, two)]
    parents = [Parent(run["id"], signer.genesis) for run, signer in zip((one, two), signers, strict=True)]
    true = base | {"id": run_on(2, "signed-true"), "parent_run_id": one["id"]}
    false = base | {"id": run_on(2, "signed-false"), "parent_run_id": one["id"]}
    lies = [parents[0], parents[1]._replace(genesis="0" * 64)]
    with lane(agentrun_stack, tmp_path, "lineage_signed", AGENTRUN_TRUST__DIR=str(folder), **QUICK) as made:
        made.start()
        for run, named in ((true, parents), (false, lies)):
            signed = RunSigner(KEY, run, SignedUnder(parents=named)).sign(run)
            made.produce([cloud_event("run", run["id"], "run/completed", signed)])
        made.produce([cloud_event("run", one["id"], "run/completed", signers[0].sign(one))])
        made.wait()
        until(made, {true["id"]: "pending", false["id"]: "pending"})
        made.produce([cloud_event("run", two["id"], "run/completed", signers[1].sign(two))])
        until(made, {true["id"]: "linked", false["id"]: "mismatch"})
        assert made.run_row(true["id"])["verdict"] == "verified"
        assert made.run_row(true["id"])["parents"] == [one["id"], two["id"]]
        assert made.run_row(false["id"])["verdict_reasons"] == ["parent_genesis_mismatch"]
        made.assert_exact()

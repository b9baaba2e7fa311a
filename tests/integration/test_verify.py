"""`agentrun verify RUN` on the real stack: a stored run is judged from its bytes, and whatever somebody changed is named."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream.codec.canonical import run_hash
from agentrun_stream.model.facts import Parent
from agentrun_stream.sdk.signing import RunSigner, SignedUnder, SigningKey
from agentrun_stream.testing.events import cloud_event, eval_event, run_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, Sent, Told, lane, soon

pytestmark = pytest.mark.stack

QUICK = {"AGENTRUN_LEASES__SWEEP_EVERY_S": "0.2"}
ACME = {"workspaceid": "acme"}
RUN = "checked"
WHOLE = "checked-whole"  # its steps travel inside
GAP = "checked-gap"
UNSIGNED = "checked-unsigned"
LATE = "checked-late"  # an unsigned correction follows
CHILD = "checked-child"
STRANGER = "checked-stranger"  # names a parent that is not as it says
BODY: dict[str, Any] = {
    "agent_id": "team/a",
    "agent_name": "Ada",
    "started_at": "2026-01-01T12:00:00.25Z",
    "ended_at": "2026-01-01T12:00:01Z",
    "tags": ["b", "a"],
    "cost": {"cost_usd": 0.25, "input_tokens": 7},
    "metadata": {"note": 1.5, "arsig": None},
    "workspace_id": "acme",
}


def step(name: str, number: int) -> dict[str, Any]:
    return {
        "id": f"{name}{number}",
        "type": "tool_call",
        "tool_name": "search",
        "success": True,
        "output_preview": "found",
        "started_at": "2026-01-01T12:00:00.123456Z",
        "duration_ms": 12,
        "tokens_used": 3,
        "metadata": {"usage": {"model": "m", "input_tokens": 1}},
        "kept": {"x": 1.0},
    }


def signed(
    key: SigningKey, run_id: str, *, inside: bool = False, lost: int | None = None, parent: str | None = None
) -> list[bytes]:
    """The events of a signed run with three chained steps; `parent` is the run_hash of RUN, as the child states it."""
    run = {"id": run_id, "status": "completed", "provenance": {}, "steps": [], **BODY}
    parents = [Parent(RUN, RunSigner(key, run | {"id": RUN}, SignedUnder("acme")).genesis)] if parent else []
    if parent is not None:
        run |= {"parent_run_id": RUN, "provenance": {"parent_run_hash": parent, "lineage": [parent]}}
    signer = RunSigner(key, run, SignedUnder("acme", parents))
    steps = [signer.chain(step("s", n)) for n in range(3)]
    end = signer.sign(run | {"steps": steps if inside else []})
    streamed = [] if inside else [s for n, s in enumerate(steps) if n != lost]
    return [
        *(cloud_event("step", run_id, s["id"], s, ACME) for s in streamed),
        cloud_event("run", run_id, "end", end, ACME),
    ]


@dataclass
class Signed:
    """A lane that holds signed runs and no worker any more, and the folder of its registry and key."""

    lane: Lane
    folder: Path
    kid: str

    def verify(self, run: str, *words: str, code: int = 0) -> dict[str, Any]:
        """What `agentrun verify -o json` says."""
        told = self.lane.agentrun("verify", run, *words, "-o", "json")
        assert told.code == code, told
        found: dict[str, Any] = orjson.loads(told.out)
        return found

    def found(self, run: str) -> set[tuple[str, str]]:
        """(finding, what it is about) of a run that is not as it should be."""
        return {(f["code"], f["where"]) for f in self.verify(run, code=1)["findings"]}


@pytest.fixture(scope="module")
def held(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    folder = tmp_path_factory.mktemp("verify")
    with lane(agentrun_stack, folder, "verified", AGENTRUN_TRUST__DIR=str(folder / "trust"), **QUICK) as made:
        made.start()
        words = ("keys", "new", "--out", str(folder / "key.pem"), "--agent", "team/*", "-w", "acme", "-o", "json")
        kid = orjson.loads(made.agentrun(*words).out)["kid"]
        soon(lambda: made.metric("trust_version", workspace="acme") == 1, what="the registry")
        key = SigningKey.load(folder / "key.pem")
        correction = {"agent_id": "team/a", "error": "forged", "cost": {"cost_usd": 9}}
        records: list[Sent | bytes] = [
            *signed(key, RUN),
            eval_event(RUN, envelope=ACME | {"source": "/judge"}),
            *signed(key, WHOLE, inside=True),
            *signed(key, GAP, lost=1),
            run_event(UNSIGNED, envelope=ACME),
            *signed(key, LATE),
            run_event(LATE, envelope=ACME | {"source": "/forger"}, **correction),
        ]
        records += signed(key, CHILD, parent=run_hash(BODY)) + signed(key, STRANGER, parent="0" * 64)
        made.produce(records)
        made.wait()
        assert made.letters() == []
        soon(lambda: made.run_row(CHILD)["verdict_lineage"] == "linked", what="the child's parent")
        soon(lambda: made.run_row(STRANGER)["verdict_lineage"] == "mismatch", what="the stranger's parent")
        made.stop()
        yield Signed(made, folder, kid)


@pytest.mark.parametrize("run", [RUN, WHOLE, LATE, CHILD])
def test_a_signed_run_is_verified_from_what_is_stored(held: Signed, run: str) -> None:
    """Against the registry in force, with the steps as they stand; nothing differs from what the worker stored."""
    found = held.verify(run)
    assert (found["headline"], found["findings"], found["good"]) == ("verified", [], True)
    assert (found["chain"], found["signature"], found["kid"]) == ("intact", "trusted", held.kid)
    assert found["stored"]["verdict"] == "verified"
    assert (found["registry_version"], found["registry"]) == (1, "in force in the store")
    assert found["checked"] == {"signed_records": 1, "steps": 3, "chained_steps": 3}


def test_the_screen_says_what_was_checked_and_what_is_not_covered(held: Signed) -> None:
    told = held.lane.agentrun("verify", RUN, "--workspace", "acme")
    assert told.code == 0, told
    for words in (
        "VERIFIED",
        RUN,
        "team/a",
        held.kid,
        "team/*",
        "active",
        "version 1, in force in the store",
        "signed_records: 1, steps: 3, chained_steps: 3",
        "/judge",
        "workspace_id acme",
        "does not show that they are true",
    ):
        assert words in told.out
    assert len(told.out.splitlines()) < 40


def test_what_others_said_of_a_verified_run_is_told_apart(held: Signed) -> None:
    """An unsigned correction changes nothing that is shown, and is named with its members."""
    found = held.verify(LATE)
    assert {"error", "cost.cost_usd"} <= set(found["claims_differ"])
    assert {"what": "workspace_id acme", "said_by": "/forger"} in found["not_covered"]
    assert held.lane.run_row(LATE)["error"] is None


def test_a_missing_step_and_an_unsigned_run_are_not_verified(held: Signed) -> None:
    """With the place of the step, and the reason in words; nothing in the store differs."""
    gap = held.verify(GAP, code=1)
    assert (gap["headline"], gap["missing_steps"], gap["findings"]) == ("mismatch", [1], [])
    assert gap["reasons_mean"]["seq_missing"].endswith("is missing.")
    bare = held.verify(UNSIGNED, code=1)
    assert (bare["headline"], bare["signature"], bare["findings"]) == ("unverifiable", "unsigned", [])
    assert {"what": "every member", "said_by": "/testing"} in bare["not_covered"]


ALTERED = [
    pytest.param("runs", "agent_name = 'Eve'", RUN, ("row_differs", "agent_name"), id="member"),
    pytest.param("runs", "cost_reported = 9", RUN, ("row_differs", "cost_reported"), id="cost"),
    pytest.param("runs", "started_at = started_at - 1", RUN, ("row_differs", "started_at"), id="time"),
    pytest.param("runs", "tags = ['a']", RUN, ("row_differs", "tags"), id="tags"),
    pytest.param("runs", "steps = 4", RUN, ("row_differs", "steps"), id="count"),
    pytest.param("runs", "verdict = 'rejected'", RUN, ("verdict_differs", "verdict"), id="worse verdict"),
    pytest.param(
        "runs", "verdict = 'verified', verdict_chain = 'intact'", GAP, ("verdict_differs", "verdict"), id="better"
    ),
    pytest.param("runs", "verdict = 'verified', trust_version = 7", GAP, ("judged_otherwise", "verdict"), id="version"),
    pytest.param(
        "runs",
        "verdict = 'verified', verdict_lineage = 'linked', verdict_reasons = []",
        STRANGER,
        ("verdict_differs", "verdict_lineage"),
        id="better lineage",
    ),
    pytest.param("runs", "parents = []", CHILD, ("row_differs", "parents"), id="parents"),
    pytest.param("runs", "genesis = 'ab'", RUN, ("verdict_differs", "genesis"), id="genesis"),
    pytest.param(
        "run_objects", "output_preview = 'nothing'", RUN, ("step_bytes_differ", "step s1"), id="step's column"
    ),
    pytest.param("run_objects", "success = false", WHOLE, ("step_columns_differ", "step s1"), id="step inside"),
    pytest.param("run_objects", "metadata = '{}'", RUN, ("step_bytes_differ", "step s1"), id="step's metadata"),
    pytest.param("run_objects", "extra = NULL", RUN, ("step_bytes_differ", "step s1"), id="step's unknown member"),
    pytest.param("run_objects", "started_at = 0", RUN, ("step_columns_differ", "step s1"), id="step's time"),
    pytest.param(
        "run_objects", "chain = replace(chain, 'times', 'time')", RUN, ("step_bytes_missing", "step s1"), id="no times"
    ),
    pytest.param("run_objects", "chain = NULL", RUN, ("step_bytes_missing", "step s1"), id="no place"),
]


@pytest.mark.parametrize(("table", "change", "run", "finding"), ALTERED)
def test_whatever_somebody_changed_is_named(
    held: Signed, table: str, change: str, run: str, finding: tuple[str, str]
) -> None:
    """A column of the run, of a step, the bytes of a step, or the verdict: exit code 1, and the name of what differs."""
    with held.lane.kept(table):
        which = f"run_id = '{run}'" + (" AND object_id = 's1'" if table == "run_objects" else "")
        held.lane.execute(f"ALTER TABLE {table} UPDATE {change} WHERE {which}")
        assert finding in held.found(run)
    assert held.verify(run, code=int(run in {GAP, STRANGER}))["findings"] == []


def test_changed_evidence_does_not_verify(held: Signed) -> None:
    """A covered member, and the time at which a signature arrived."""
    with held.lane.kept("evidence"):
        held.lane.execute(f"ALTER TABLE evidence UPDATE raw = replace(raw, 'Ada', 'Eve') WHERE run_id = '{RUN}'")
        found = held.verify(RUN, code=1)
        assert found["headline"] != "verified"
        assert ("evidence_missing", f"claim {held.kid}.1") in held.found(RUN)
    with held.lane.kept("evidence"):
        held.lane.execute(f"ALTER TABLE evidence UPDATE appended_at = appended_at - 60 WHERE run_id = '{RUN}'")
        assert {("append_time_differs", f"claim {held.kid}.1"), ("verdict_differs", "judged_at")} <= held.found(RUN)


def test_evidence_that_is_gone_or_of_another_run_is_named(held: Signed) -> None:
    with held.lane.kept("evidence"):
        held.lane.execute(f"DELETE FROM evidence WHERE run_id = '{RUN}'")
        assert ("evidence_missing", f"claim {held.kid}.1") in held.found(RUN)
        held.lane.execute(
            f"INSERT INTO evidence SELECT * REPLACE ('{RUN}' AS run_id) "
            f"FROM (SELECT * FROM evidence WHERE run_id = '{WHOLE}')"
        )
        assert "evidence_of_another_run" in {code for code, _ in held.found(RUN)}


def test_a_step_that_is_gone_or_slipped_in_is_named(held: Signed) -> None:
    """One that is gone is missing from the chain; one that pretends to have been signed is not in what was signed."""
    with held.lane.kept("run_objects"):
        held.lane.execute(f"DELETE FROM run_objects WHERE run_id = '{RUN}' AND object_id = 's2'")
        found = held.verify(RUN, code=1)
        assert (found["chain"], found["missing_steps"]) == ("truncated", [2])
    with held.lane.kept("run_objects"):
        chain = f'{{"seq":null,"prev":null,"digest":null,"origin":"{held.kid}.1"}}'
        held.lane.execute(
            f"INSERT INTO run_objects SELECT * REPLACE ('s9' AS object_id, '{chain}' AS chain, NULL AS doc) "
            f"FROM (SELECT * FROM run_objects WHERE run_id = '{WHOLE}' AND object_id = 's1')"
        )
        found = held.verify(WHOLE, code=1)
        assert (found["headline"], found["chain"]) == ("rejected", "fork")
        assert ("step_not_signed", "step s9") in held.found(WHOLE)


def test_a_row_that_is_gone_is_named(held: Signed) -> None:
    with held.lane.kept("runs"):
        held.lane.execute(f"DELETE FROM runs WHERE run_id = '{RUN}'")
        assert ("row_missing", "run") in held.found(RUN)


def test_a_changed_parent_is_a_reason_to_look_again(held: Signed, tmp_path: Path) -> None:
    """The child is not what the store says of it any more; a bundle brings what its ancestors showed."""
    path = str(tmp_path / "child.json")
    assert held.verify(CHILD, "--bundle", path)["lineage"] == "linked"
    with held.lane.kept("runs"):
        held.lane.execute(f"ALTER TABLE runs UPDATE run_hash = 'ab' WHERE run_id = '{RUN}'")
        assert ("judged_otherwise", "verdict_lineage") in held.found(CHILD)
        assert held.verify(path)["lineage"] == "linked"


def test_a_run_past_retention_says_that_its_evidence_is_gone(held: Signed) -> None:
    with held.lane.kept("run_objects"):
        held.lane.execute(
            "INSERT INTO run_objects SELECT * REPLACE ('expired' AS kind, '' AS object_id) "
            f"FROM (SELECT * FROM run_objects WHERE run_id = '{RUN}' AND kind = 'run')"
        )
        told = held.lane.agentrun("verify", RUN)
        assert (told.code, "past retention" in told.err) == (1, True)


def test_a_missing_run_says_what_to_do(held: Signed) -> None:
    for words in (("nobody",), (RUN, "--workspace", "other")):
        told: Told = held.lane.agentrun("verify", *words)
        assert (told.code, "agentrun runs" in told.err) == (2, True)


def test_a_run_of_two_workspaces_is_asked_about(held: Signed) -> None:
    with held.lane.kept("runs"):
        held.lane.execute(
            f"INSERT INTO runs SELECT * REPLACE ('other' AS workspace) FROM runs WHERE run_id = '{UNSIGNED}'"
        )
        told = held.lane.agentrun("verify", UNSIGNED)
        assert (told.code, "--workspace" in told.err) == (2, True)


def test_another_registry_is_another_opinion(held: Signed, tmp_path: Path) -> None:
    """A key that it does not know is not trusted, and that the stored verdict is another one is said."""
    other = tmp_path / "other.jwks.json"
    other.write_text('{"version":1,"keys":[]}')
    found = held.verify(RUN, "--registry", str(other), code=1)
    assert (found["signature"], found["registry"]) == ("valid_untrusted", str(other))
    assert "judged_otherwise" in {f["code"] for f in found["findings"]}


def test_a_bundle_verifies_without_the_stack(held: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a changed one does not; its keys are named as its own unless somebody brings others."""
    path, statement = tmp_path / "run.json", tmp_path / "dsse.json"
    stored = held.verify(RUN, "--bundle", str(path), "--export-dsse", str(statement))
    assert orjson.loads(statement.read_bytes())["signatures"][0]["keyid"] == held.kid
    monkeypatch.setattr(held.lane.stack, "clickhouse", "http://127.0.0.1:1")
    monkeypatch.setattr(held.lane.stack, "kafka", "127.0.0.1:1")
    alone = held.verify(str(path))
    assert {**alone, "registry": ""} == {**stored, "registry": ""}
    assert "came with the bundle" in alone["registry"]
    mine = str(held.folder / "trust" / "acme.jwks.json")
    assert held.verify(str(path), "--registry", mine)["registry"] == mine
    path.write_bytes(path.read_bytes().replace(b'\\"cost_usd\\":0.25', b'\\"cost_usd\\":0.01'))
    assert held.verify(str(path), code=1)["headline"] != "verified"

"""Retention on the real stack: old runs expire by an event, their objects go, no sum changes, and nothing comes back."""

import asyncio
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from agentrun_stream.sdk.signing import SigningKey
from agentrun_stream.testing.events import eval_event, run_event, step_event
from agentrun_stream.testing.stack import Stack
from agentrun_stream.trust.manage import Scope, entry_of
from integration.harness import Lane, lane, last_published, read_all, run_on, soon, with_admin
from integration.past import appended_long_ago
from integration.signing_kit import FOREIGN, SECOND, TRUSTED, Honest, altered, finished

pytestmark = pytest.mark.stack

DAY_S = 86_400
USAGE = {
    "usage": {
        "provider": "anthropic",
        "model": "claude-sonnet-4-5-20250929",
        "input_tokens": 3,
        "output_tokens": 4,
        "cache_read_tokens": 1,
        "cache_write_tokens": 5,
    },
    "cache_write_1h_tokens": 2,
    "token_convention": "exclusive",
}
PRICED = (
    *("cost_computed", "cost_lo", "cost_hi", "cost_effective", "effective_source", "price_status", "price_basis"),
    *("token_convention", "convention_evidence", "price_book", "price_as_of", "diff_abs", "diff_rel", "diff_class"),
    *("input_uncached", "cache_read", "cache_write_5m", "cache_write_1h", "output"),
)
COST = {"cost_usd": 0.5, "total_tokens": 9, "model": "m"}
RETAINED = {
    "AGENTRUN_RETENTION__HORIZON_DAYS": "30",
    "AGENTRUN_RETENTION__WORKSPACES": orjson.dumps({"short": 2}).decode(),
    "AGENTRUN_RETENTION__REMOVE_AFTER_S": "0",
    "AGENTRUN_LEASES__SWEEP_EVERY_S": "0.2",
}
SUMS = """
SELECT ledger, minute, workspace, agent_id, sum(runs) AS runs, sum(steps) AS steps, sum(tool_calls) AS calls,
    sum(input_tokens) AS input, sum(output_tokens) AS output, sum(total_tokens) AS total, sum(cost_reported) AS cost,
    sum(cost_computed) AS computed, sum(cost_effective) AS effective
FROM cost_by_minute GROUP BY ALL ORDER BY ALL
"""


def story(name: str, workspace: str | None = None) -> list[bytes]:
    """A run with everything that a run may have."""
    envelope = None if workspace is None else {"workspaceid": workspace}
    more: dict[str, Any] = {
        "error": "a text",
        "tags": ["t"],
        "metadata": {"k": "v"},
        "eval": {"pass": True, "score": 1},
    }
    return [
        step_event(name, "s1", metadata=USAGE, input_preview="a preview", envelope=envelope),
        step_event(name, "s2", success=False, envelope=envelope),
        eval_event(name, envelope=envelope),
        run_event(name, cost=COST, outcome="success", envelope=envelope, **more),
    ]


def kinds(made: Lane, name: str) -> list[str]:
    found = made.rows(f"SELECT toString(kind) AS name FROM run_objects FINAL WHERE run_id = '{name}' ORDER BY name")
    return [row["name"] for row in found]


def row_of(made: Lane, name: str, workspace: str) -> dict[str, Any]:
    return made.one(f"SELECT * FROM runs_latest WHERE id = '{name}' AND workspace = '{workspace}'")


def expiries(made: Lane) -> list[str]:
    events = [orjson.loads(r.value) for r in asyncio.run(read_all(made.stack.kafka, made.topic))]
    return [e["subject"] for e in events if e["type"] == "agentrun.expire.v1"]


KEPT = (
    *("agent_id", "status", "outcome", "started_at", "ended_at", "total_tokens", "cost_reported", "closed_by"),
    *("steps", "tool_calls", "failed_tool_calls", "failed_steps", "step_input_tokens", "step_output_tokens"),
    *("evals", "evals_passed", "first_event_at", "last_event_at", *PRICED),
)


def test_old_runs_are_reduced_to_their_sums(agentrun_stack: Stack, tmp_path: Path) -> None:
    """By workspace and in general; open and younger runs stay whole; later events are refused; the audit stays at 0."""
    gone, kept, still_open = (run_on(i, f"retention-{n}") for i, n in enumerate(("gone", "kept", "open")))
    with lane(agentrun_stack, tmp_path, "retention", AGENTRUN_LEASES__MAX_AGE_S="31536000") as made:
        old = [*story(gone), *story(gone, "short"), *story(kept)]
        idle = {"AGENTRUN_LEASES__IDLE_TIMEOUT_S": "31536000"}
        appended_long_ago(
            made, 10 * DAY_S, [*old, run_event(still_open, status="running", envelope={"workspaceid": "short"})]
        )
        made.start(1, **idle)
        made.wait()
        before, sums = row_of(made, gone, "short"), made.rows(SUMS)
        published = last_published(made.stack, f"short/{gone}")
        assert published is not None
        made.stop()
        made.start(1, **idle, **RETAINED)
        soon(lambda: made.metric("runs_removed_total") == 1, what="the removal")
        made.wait()
        assert kinds(made, kept) == ["eval", "eval", "run", "step", "step"]
        assert kinds(made, gone) == ["eval", "eval", "expired", "run", "step", "step"]  # of both workspaces
        assert kinds(made, still_open) == ["run"]
        assert (
            made.one(f"SELECT count() AS n FROM steps_latest WHERE run_id = '{gone}' AND workspace = 'short'")["n"] == 0
        )
        assert expiries(made) == [gone]
        row = row_of(made, gone, "short")
        assert (before["price_status"], before["cache_write_1h"]) == ("ok", 2)
        assert {name: row[name] for name in KEPT} == {name: before[name] for name in KEPT}
        assert (row["error"], row["metadata"], row["tags"], row["eval"], row["extra"]) == (None, None, [], None, None)
        assert row["expired_at"] is not None
        assert made.rows(SUMS) == sums
        told = last_published(made.stack, f"short/{gone}")
        assert told is not None
        assert (told[0]["revision"], told[0]["counts"]) == (row["revision"], published[0]["counts"])
        assert row["revision"] > before["revision"]
        assert b"a text" not in orjson.dumps(told[0])
        made.assert_exact()
        (late,) = made.produce([step_event(gone, "s3", envelope={"workspaceid": "short"})])
        made.produce([step_event(gone, "s3")])
        made.wait()
        assert made.letter_of(late).said["reason"] == "expired"
        mine = [row for row in sums if row["workspace"] == "short"]
        assert [row for row in made.rows(SUMS) if row["workspace"] == "short"] == mine
        made.assert_exact()
        replayed = made.agentrun("replay", "--into", "retention_replayed", "-o", "json")
        assert (replayed.code, orjson.loads(replayed.out)["equal"]) == (0, True), replayed.out + replayed.err


def test_what_an_expired_run_was_booked_with_must_stay(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Sums never change: a row of the ledger that goes missing after the expiry is a difference, named by its offset."""
    with lane(agentrun_stack, tmp_path, "booked") as made:
        first, *_ = appended_long_ago(made, 40 * DAY_S, story("old"))
        made.start(1, **RETAINED)
        soon(lambda: made.metric("runs_removed_total") == 1, what="the removal")
        made.wait()
        made.assert_exact()
        made.stop()
        made.execute("DELETE FROM accruals WHERE run_id = 'old' AND object_id = 's1'")
        code, found = made.audit()
        assert (code, found["checks"]["accruals"]) == (1, 1), found
        (named,) = (d for d in found["differences"] if d["check"] == "accruals")
        assert (named["run"], named["offset"], named["found"]) == ("old", first.offset, "no row")


JUDGED = (
    *("verdict", "verdict_hash", "verdict_chain", "verdict_signature", "verdict_lineage", "verdict_log"),
    *("verdict_reasons", "run_digest", "genesis", "kid", "signed_rev", "raw_sha256", "judged_at"),
    *("claims", "parents", "flag", "verifier"),
)


def signed_stories() -> dict[str, list[bytes]]:
    """Runs with different verdicts, one of them with a correction that nobody signed."""
    good, talked, bad, cut, later = (Honest(f"kept-{n}") for n in ("good", "talked", "bad", "cut", "later"))
    correction = finished(talked.begin) | {"outcome": "failed", "error": "a text", "cost": {"cost_usd": 3}}
    stolen = Honest(later.run_id, SECOND)
    return {
        good.run_id: good.events(),
        talked.run_id: [
            *talked.events(),
            talked.signed_by(FOREIGN, rev=3, outcome="failed"),
            talked.run(correction, time="2026-01-02T00:00:00Z"),
        ],
        bad.run_id: bad.events(end=altered(bad.end, "outcome", to="failed")),
        cut.run_id: cut.events(cut.steps[:2]),
        later.run_id: stolen.events(),
    }


def test_the_verdict_of_an_expired_run_stays(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Axes, key and digests stay, though steps, payload and evidence are gone; a key that is revoked later still counts."""
    path = tmp_path / "default.jwks.json"

    def register(version: int, *keys: SigningKey, **members: object) -> None:
        entries = [entry_of(by.public, Scope()) | (members if by is SECOND else {}) for by in keys]
        path.write_text(orjson.dumps({"version": version, "keys": entries}).decode())

    register(1, TRUSTED, SECOND)
    stories = signed_stories()
    settings = {"AGENTRUN_TRUST__DIR": str(tmp_path), "AGENTRUN_CLICKHOUSE__INSERT_TIMEOUT_S": "2"}
    with lane(agentrun_stack, tmp_path, "verdicts", AGENTRUN_TRUST__POLICY="warn", **settings) as made:
        appended_long_ago(made, 20 * DAY_S, [event for events in stories.values() for event in events])
        made.start()
        made.wait()
        before = {name: row_of(made, name, "default") for name in stories}
        words = [row["verdict"] for row in before.values()]
        assert words == ["verified", "verified", "rejected", "mismatch", "verified"]
        assert before["kept-talked"]["claims_differ"] != []
        made.stop()
        made.start(1, **RETAINED | {"AGENTRUN_RETENTION__HORIZON_DAYS": "10"})
        soon(lambda: made.metric("runs_removed_total") == len(stories), what="the removal")
        made.wait()
        assert made.one("SELECT count() AS n FROM evidence FINAL")["n"] == 0
        for name, old in before.items():
            row = row_of(made, name, "default")
            assert row["expired_at"] is not None
            assert set(row["claims_differ"]) <= set(old["claims_differ"]), "of members that are kept"
            assert ("outcome" in row["claims_differ"]) == ("outcome" in old["claims_differ"])
            assert {c: row[c] for c in (*JUDGED, *KEPT)} == {c: old[c] for c in (*JUDGED, *KEPT)}, name
        made.assert_exact("--deep")
        register(2, TRUSTED, SECOND, status="revoked")
        soon(lambda: row_of(made, "kept-later", "default")["verdict"] == "revoked", 60, what="the revocation")
        assert row_of(made, "kept-good", "default")["verdict"] == "verified"
        made.wait_judged()
        made.assert_exact("--deep")


def test_what_the_log_lost_of_an_expired_run_is_no_difference(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Runs are kept longer than the log: of one that expired then, the log holds the expiry alone."""
    old = run_on(0, "lost")
    with lane(agentrun_stack, tmp_path, "retention_lost") as made:
        events = [*story(old), *Honest(old).events()]
        appended_long_ago(made, 20 * DAY_S, events)
        made.start(1, **RETAINED | {"AGENTRUN_RETENTION__HORIZON_DAYS": "10"})
        soon(lambda: made.metric("runs_removed_total") == 1, what="the removal")
        made.wait()
        made.stop()

        async def trim(client: AIOKafkaAdminClient) -> None:
            await client.delete_records({TopicPartition(made.topic, 0): RecordsToDelete(before_offset=len(events))})

        asyncio.run(with_admin(made.stack.kafka, trim))
        made.assert_exact("--deep")
        replayed = made.agentrun("replay", "--into", "lost_replayed", "-o", "json")
        found = orjson.loads(replayed.out)
        assert (replayed.code, found["equal"], found["left_out"]) == (0, True, 1), replayed.out + replayed.err


@pytest.mark.slow
def test_a_removal_that_is_killed_is_done_again(agentrun_stack: Stack, tmp_path: Path) -> None:
    """kill -9 while runs expire and are removed, three times: in the end all are gone, once each, and nothing is wrong."""
    names = [f"old-{n}" for n in range(300)]
    with lane(agentrun_stack, tmp_path, "removal", AGENTRUN_WORKER__BATCH_RECORDS_MAX="50") as made:
        appended_long_ago(made, 20 * DAY_S, [event for name in names for event in story(name)])
        made.start()
        made.wait()
        sums = made.rows(SUMS)
        made.stop()
        made.launch(1, **RETAINED | {"AGENTRUN_RETENTION__HORIZON_DAYS": "10"})
        for pause in (1.2, 1.6, 2.0):
            time.sleep(pause)
            made.kill()
            made.restart()
        left = "SELECT countIf(kind != 'expired') AS objects, countIf(kind = 'expired') AS sums FROM run_objects FINAL"
        soon(lambda: made.one(left) == {"objects": 0, "sums": len(names)}, 60, what="the removal")
        made.wait()
        assert made.rows(SUMS) == sums
        found = made.one(
            "SELECT count() AS n, countIf(expired_at IS NOT NULL) AS expired, sum(steps) AS steps FROM runs_latest"
        )
        assert found == {"n": len(names), "expired": len(names), "steps": 2 * len(names)}
        made.assert_exact()

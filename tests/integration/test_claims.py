"""Signed claims on the real stack: which one is shown, when its key is judged, and that no order of arrival changes a verdict."""

import json
import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from agentrun_stream.sdk.signing import RunSigner, SigningKey
from agentrun_stream.testing.stack import Stack
from agentrun_stream.trust.manage import Scope, entry_of
from integration import attacks, signing_kit
from integration.harness import Lane, lane, soon
from integration.signing_kit import FOREIGN, NOW, SECOND, TRUSTED, Honest, Json, altered, key, rfc, step

pytestmark = pytest.mark.stack

LATE, STOLEN, SHORT = key(40), key(41), key(42)
SHORT_S: Final = 4
VERDICT: Final = (
    *("verdict", "verdict_hash", "verdict_chain", "verdict_signature", "verdict_lineage", "verdict_log"),
    *("verdict_reasons", "kid", "signed_rev", "claims", "claims_differ", "parents", "flag"),
)


class Registry:
    """The keys of the workspace, as a file that changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.version = 0
        self.entries: dict[str, Json] = {}

    def put(self, by: SigningKey, scope: Scope | None = None, **members: object) -> None:
        """Add a key, or change its entry."""
        self.version += 1
        self.entries[by.kid] = entry_of(by.public, scope or Scope()) | members
        content = {"version": self.version, "keys": list(self.entries.values())}
        (self.folder / "default.jwks.json").write_text(json.dumps(content))

    def revoke(self, by: SigningKey, since: datetime) -> None:
        self.put(by, status="revoked", compromised_since=rfc(since))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    made = Registry(tmp_path_factory.mktemp("trust"))
    for by in (TRUSTED, SECOND, STOLEN):
        made.put(by)
    return made


@pytest.fixture(scope="module")
def made(agentrun_stack: Stack, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    folder = tmp_path_factory.mktemp("claims")
    quick = {"AGENTRUN_LEASES__SWEEP_EVERY_S": "0.2", "AGENTRUN_CLICKHOUSE__INSERT_TIMEOUT_S": "2"}
    with lane(agentrun_stack, folder, "claims", AGENTRUN_TRUST__DIR=str(registry.folder), **quick) as made:
        made.start()
        yield made


def tell(made: Lane, *events: bytes) -> None:
    made.produce(events)
    made.wait()


def in_force(made: Lane, registry: Registry) -> None:
    soon(lambda: made.metric("trust_version", workspace="default") == registry.version, what="the registry")


def now() -> datetime:
    """A moment after all that was acknowledged, and before all that is produced from now on."""
    time.sleep(0.1)
    moment = datetime.now(UTC)
    time.sleep(0.1)
    return moment


# ---- which claim is shown


def test_a_runtime_that_signs_only_its_end(made: Lane) -> None:
    """Alone, or after an unsigned beginning, that is enough; steps that it streamed without a commitment are not covered."""
    alone, begun, streamed = (Honest(f"claims-{name}") for name in ("alone", "begun", "streamed"))
    ends = {h.run_id: RunSigner(TRUSTED, h.begin).sign(signing_kit.finished(h.begin)) for h in (alone, begun, streamed)}
    tell(
        made,
        *(alone.run(ends[alone.run_id]),),
        *(begun.run(begun.begin), begun.run(ends[begun.run_id])),
        *(streamed.run(streamed.begin), streamed.step(step(0)), streamed.run(ends[streamed.run_id])),
    )
    rows = [made.run_row(h.run_id) for h in (alone, begun, streamed)]
    assert [row["verdict"] for row in rows] == ["verified", "verified", "unverifiable"]
    assert {(row["verdict_signature"], row["verdict_chain"]) for row in rows} == {("trusted", "absent")}
    assert rows[2]["verdict_reasons"] == ["steps_uncovered"]


def test_a_key_that_is_registered_after_its_runs(made: Lane, registry: Registry) -> None:
    """What was signed becomes what is shown, and verified, though an unsigned correction came in between."""
    honest = Honest("claims-late-key", LATE)
    correction = signing_kit.finished(honest.begin) | {"outcome": "failed"}
    tell(made, *honest.events(), honest.run(correction, time=rfc(NOW)))
    before = made.run_row("claims-late-key")
    assert (before["verdict"], before["outcome"], before["signed_rev"]) == ("unverifiable", "failed", None)
    registry.put(LATE)
    soon(lambda: made.run_row("claims-late-key")["verdict"] == "verified", what="the verdict")
    row = made.run_row("claims-late-key")
    assert (row["outcome"], row["kid"], row["signed_rev"]) == ("success", LATE.kid, 1)
    assert (row["revision"], row["projection"]) == (before["revision"], 1)
    assert row["trust_version"] == registry.version
    assert "outcome" in row["claims_differ"]


def test_a_stolen_key_that_signs_a_higher_revision(made: Lane, registry: Registry) -> None:
    """What it signed before the theft stays verified and is shown again; what it signs later is revoked."""
    honest, after = Honest("claims-stolen", STOLEN), Honest("claims-stolen-later", STOLEN)
    tell(made, *honest.events())
    stolen_at = now()
    tell(made, honest.signed_by(STOLEN, rev=9, outcome="failed"), *after.events())
    row = made.run_row("claims-stolen")
    assert (row["verdict"], row["signed_rev"], row["outcome"]) == ("verified", 9, "failed")
    registry.revoke(STOLEN, stolen_at)
    soon(lambda: made.run_row("claims-stolen")["signed_rev"] == 1, what="the first revision")
    row = made.run_row("claims-stolen")
    assert (row["verdict"], row["outcome"], row["claims"]) == ("verified", "success", 2)
    soon(lambda: made.run_row("claims-stolen-later")["verdict"] == "revoked", what="the revocation")
    assert made.run_row("claims-stolen-later")["verdict_reasons"] == ["key_compromised"]


def test_seventeen_throw_away_keys_first(made: Lane) -> None:
    """More claims than are kept whole come before the true one, which is shown whole all the same, also after a restart."""
    tell(made, *attacks.seventeen_foreigners("claims-throw-away"))
    made.stop()
    made.start()
    tell(made, Honest("claims-throw-away").step(step(0), time=rfc(signing_kit.PAST)))
    row = made.run_row("claims-throw-away")
    assert (row["verdict"], "step_unchained" in row["verdict_reasons"]) == ("rejected", True)
    assert (row["kid"], row["claims"], row["outcome"], row["tags"]) == (TRUSTED.kid, 18, "success", ["nightly"])
    assert (row["cost_reported"], row["metadata"] is not None) == (0.25, True)


def test_of_two_trusted_keys_the_first_is_shown_by_its_highest_revision(made: Lane) -> None:
    """Whatever the other one signs; and an earlier revision that comes late changes nothing."""
    honest = Honest("claims-two", SECOND)
    tell(
        made,
        *honest.events(),
        honest.signed_by(TRUSTED, rev=7, outcome="failed"),
        honest.signed_by(SECOND, rev=3, outcome="partial"),
        honest.signed_by(SECOND, rev=2, outcome="failed"),
    )
    row = made.run_row("claims-two")
    assert (row["verdict"], row["kid"], row["signed_rev"], row["outcome"]) == ("verified", SECOND.kid, 3, "partial")
    assert row["claims"] == 4


def test_a_claim_that_is_told_again_after_its_key_expired(made: Lane, registry: Registry) -> None:
    """It is judged by when it was told first; what is new by that key is not trusted, and not shown."""
    honest = Honest("claims-expired", SHORT)
    registry.put(SHORT, Scope(exp=datetime.now(UTC) + timedelta(seconds=SHORT_S)))
    in_force(made, registry)
    tell(made, *honest.events())
    first = made.run_row("claims-expired")
    assert first["verdict"] == "verified"
    time.sleep(SHORT_S + 1)
    tell(made, honest.events()[-1], honest.run(honest.end, id="told-again", time=rfc(NOW)))
    row = made.run_row("claims-expired")
    assert {name: row[name] for name in (*VERDICT, "judged_at")} == {
        name: first[name] for name in (*VERDICT, "judged_at")
    }
    tell(made, honest.signed_by(SHORT, rev=2, outcome="failed"))
    row = made.run_row("claims-expired")
    assert (row["verdict"], row["signed_rev"], row["outcome"], row["claims"]) == ("verified", 1, "success", 2)
    other = Honest("claims-expired-later", SHORT)
    tell(made, *other.events())
    assert made.run_row("claims-expired-later")["verdict_signature"] == "key_expired"


def test_the_audit_finds_nothing(made: Lane) -> None:
    made.wait_judged()
    made.assert_exact("--deep")


# ---- orders of arrival


def honest_run(run_id: str) -> list[bytes]:
    return Honest(run_id).events()


def forked(run_id: str) -> list[bytes]:
    honest = Honest(run_id)
    return [*honest.events(), honest.step(altered(honest.steps[1], "output_preview", to="another"), time=rfc(NOW))]


def with_a_gap(run_id: str) -> list[bytes]:
    honest = Honest(run_id)
    return honest.events([honest.steps[0], honest.steps[2]])


def talked_about(run_id: str) -> list[bytes]:
    """Others sign it, correct it, and repeat what was said; the owner corrects it."""
    honest = Honest(run_id)
    events = honest.events()
    correction = signing_kit.finished(honest.begin) | {"outcome": "failed", "cost": {"cost_usd": 0}}
    return [
        *events,
        honest.signed_by(FOREIGN, rev=5, outcome="failed"),
        honest.run(correction, time=rfc(NOW)),
        honest.signed_by(TRUSTED, rev=2, outcome="partial"),
        events[-1],
        events[1],
    ]


def unsigned_step_inside(run_id: str) -> list[bytes]:
    honest = Honest(run_id)
    return [*honest.events(), *attacks.unsigned_with_step(honest)]


STORIES: Final = {
    "verified": (honest_run, "verified", "intact"),
    "forked": (forked, "rejected", "fork"),
    "gap": (with_a_gap, "mismatch", "gap"),
    "talked-about": (talked_about, "verified", "intact"),
    "step-inside": (unsigned_step_inside, "rejected", "fork"),
}
ORDERS: Final = 8


def shuffled(events: Sequence[bytes], number: int) -> list[bytes]:
    """An order of arrival: the first is the true one, the second the reverse."""
    if number < 2:
        return list(events[:: -1 if number else 1])
    found = list(events)
    random.Random(number).shuffle(found)
    return found


def verdicts(made: Lane) -> dict[str, dict[str, Any]]:
    rows = made.rows(f"SELECT id, {', '.join(VERDICT)} FROM runs_latest WHERE startsWith(id, 'order-')")
    return {row.pop("id"): row for row in rows}


def test_no_order_of_arrival_and_no_crash_changes_a_verdict(
    agentrun_stack: Stack, registry: Registry, tmp_path: Path
) -> None:
    """The events of five runs in eight orders, interleaved; the worker is killed again and again in between."""
    runs = {
        (story, number): shuffled(events(f"order-{story}-{number}"), number)
        for story, (events, _, _) in STORIES.items()
        for number in range(ORDERS)
    }
    slices = [[e[i] for e in runs.values() if i < len(e)] for i in range(max(map(len, runs.values())))]
    with lane(agentrun_stack, tmp_path, "orders", AGENTRUN_TRUST__DIR=str(registry.folder)) as made:
        made.start()
        for number, events in enumerate(slices):
            made.produce(events)
            if number % 3 == 1:
                time.sleep(0.15 * number)
                made.kill()
                made.restart()
        made.wait()
        found = verdicts(made)
        assert len(found) == len(runs)
        for story, (_, verdict, chain) in STORIES.items():
            rows = [found[f"order-{story}-{number}"] for number in range(ORDERS)]
            assert (rows[0]["verdict"], rows[0]["verdict_chain"]) == (verdict, chain), rows[0]
            for number, row in enumerate(rows):
                assert row == rows[0], (story, number)
        made.assert_exact("--deep")

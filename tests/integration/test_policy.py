"""Policies on the real stack: what `off`, `warn` and `enforce` do to a run, also when its verdict or the policy changes."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from agentrun_stream import topics
from agentrun_stream.sdk.signing import RunSigner, SignedUnder, SigningKey
from agentrun_stream.testing.events import cloud_event
from agentrun_stream.testing.stack import Stack
from agentrun_stream.trust.manage import Scope, entry_of
from integration import signing_kit
from integration.harness import PARTITIONS, Lane, lane, read_all, soon
from integration.signing_kit import NOW, TRUSTED, Honest, altered, key, rfc, step

pytestmark = pytest.mark.stack

ENFORCED: Final = {"AGENTRUN_TRUST__POLICY": "enforce"}
QUICK: Final = {"AGENTRUN_LEASES__SWEEP_EVERY_S": "0.2", "AGENTRUN_CLICKHOUSE__INSERT_TIMEOUT_S": "2"}
FLIPPED: Final = 2_000
Pair = tuple[int, int]
Told = tuple[Any, Pair]  # the value, None for a tombstone, and the order pair of its headers


def registry(*keys: SigningKey, version: int = 1) -> str:
    return json.dumps({"version": version, "keys": [entry_of(one.public, Scope()) for one in keys]})


def trust(folder: Path, content: str, workspace: str = "default") -> dict[str, str]:
    """A folder with the registry of a workspace; the setting that names it."""
    where = folder / "trust"
    where.mkdir(exist_ok=True)
    (where / f"{workspace}.jwks.json").write_text(content)
    return {"AGENTRUN_TRUST__DIR": str(where)}


def told(made: Lane, topic: str) -> dict[str, list[Told]]:
    """Per run everything that a reader of committed records finds of it, in order."""
    found: dict[str, list[Told]] = {}
    for record in asyncio.run(read_all(made.stack.kafka, topic)):
        said = dict(record.headers)
        pair = int(said["revision"]), int(said["projection"])
        value = None if record.value is None else orjson.loads(record.value)
        found.setdefault(record.key.decode(), []).append((value, pair))
    return found


def pair_of(row: dict[str, Any]) -> Pair:
    return row["revision"], row["projection"]


def assert_topics(made: Lane) -> dict[str, int]:
    """What the topics keep of every closed run: its newest record on one, at most a tombstone on the other. Counts by flag."""
    runs, quarantine = told(made, topics.RUNS), told(made, topics.QUARANTINE)
    counts: dict[str, int] = {}
    rows = made.rows(
        "SELECT workspace, id, revision, projection, flag, verdict FROM runs_latest WHERE closed_by IS NOT NULL"
    )
    for row in rows:
        name = f"{row['workspace']}/{row['id']}"
        here, there = runs.get(name, []), quarantine.get(name, [])
        if row["flag"] == "quarantined":
            here, there = there, here
            assert there, f"no tombstone of {name}"
        value, pair = here[-1]
        assert value is not None, name
        assert pair == (value["revision"], value["projection"]) == pair_of(row)
        assert (value["verdict"]["headline"], value["verdict"].get("flag", "")) == (row["verdict"], row["flag"])
        assert [x[1] for x in here] == sorted(x[1] for x in here)
        if there:
            assert there[-1][0] is None, f"{name} stays on the other topic"
            assert there[-1][1] <= pair
        counts[row["flag"]] = counts.get(row["flag"], 0) + 1
    return counts


def tampered(run_id: str, **envelope: object) -> list[bytes]:
    """A run whose end is not what was signed."""
    honest = Honest(run_id)
    return [honest.run(honest.begin, **envelope), honest.run(altered(honest.end, "error", to="x"), **envelope)]


def replaced(honest: Honest) -> bytes:
    """A step that somebody else puts in the place of a signed one."""
    return honest.step(step(1) | {"output_preview": "another"}, time=rfc(NOW))


def row_of(made: Lane, run_id: str, workspace: str = "default") -> dict[str, Any]:
    return made.one(f"SELECT * FROM runs_latest WHERE id = '{run_id}' AND workspace = '{workspace}'")


@pytest.fixture(scope="module")
def enforced(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    """A lane where bad runs are kept from the runs topic."""
    folder = tmp_path_factory.mktemp("enforced")
    settings = trust(folder, json.dumps(signing_kit.registry())) | ENFORCED | QUICK
    with lane(agentrun_stack, folder, "policy_enforced", **settings) as made:
        made.start()
        yield made


def test_a_rejected_run_is_quarantined(enforced: Lane) -> None:
    """Its record is on the quarantine topic, on the runs topic only a tombstone of the same order pair; a good one beside it."""
    enforced.produce([*tampered("policy-bad"), *Honest("policy-good").events()])
    enforced.wait()
    row, good = row_of(enforced, "policy-bad"), row_of(enforced, "policy-good")
    assert (row["verdict"], row["flag"], good["verdict"], good["flag"]) == ("rejected", "quarantined", "verified", "")
    runs, quarantine = told(enforced, topics.RUNS), told(enforced, topics.QUARANTINE)
    assert runs["default/policy-bad"] == [(None, pair_of(row))]
    ((value, pair),) = quarantine["default/policy-bad"]
    assert (pair, value["verdict"]["flag"]) == (pair_of(row), "quarantined")
    assert [pair for _, pair in runs["default/policy-good"]] == [pair_of(good)]
    assert "default/policy-good" not in quarantine


def test_a_run_that_is_rejected_later_leaves_a_tombstone(enforced: Lane) -> None:
    """A step is replaced after the end: the good record that was told is taken back, under a higher pair."""
    honest = Honest("policy-late")
    enforced.produce(honest.events())
    enforced.wait()
    before = pair_of(row_of(enforced, "policy-late"))
    enforced.produce([replaced(honest)])
    enforced.wait()
    row = row_of(enforced, "policy-late")
    assert (row["verdict"], row["verdict_chain"], row["flag"]) == ("rejected", "fork", "quarantined")
    told_of = told(enforced, topics.RUNS)["default/policy-late"]
    assert [pair for value, pair in told_of if value is not None] == [before]
    assert told_of[-1] == (None, pair_of(row))
    assert pair_of(row) > before


def test_a_revoked_key_takes_back_what_it_signed(enforced: Lane) -> None:
    """No event came: the same revision, with a higher counter."""
    enforced.produce(Honest("policy-stolen", signing_kit.SECOND).events())
    enforced.wait()
    before = row_of(enforced, "policy-stolen")
    assert (before["verdict"], before["flag"]) == ("verified", "")
    path = Path(enforced.settings["AGENTRUN_TRUST__DIR"]) / "default.jwks.json"
    path.write_text(
        json.dumps(signing_kit.revoked_later(signing_kit.registry(), signing_kit.SECOND.kid, signing_kit.PAST))
    )
    soon(lambda: row_of(enforced, "policy-stolen")["flag"] == "quarantined", what="the flag")
    row = row_of(enforced, "policy-stolen")
    assert (row["verdict"], row["revision"], row["projection"]) == ("revoked", before["revision"], 1)
    soon(lambda: told(enforced, topics.RUNS)["default/policy-stolen"][-1] == (None, pair_of(row)), what="the tombstone")


def test_what_the_topics_keep_is_what_the_tables_say(enforced: Lane) -> None:
    """Of all runs above; the audit agrees, also value by value."""
    assert assert_topics(enforced) == {"": 1, "quarantined": 3}
    enforced.assert_exact("--deep")


def test_record_and_tombstone_come_in_one_transaction(agentrun_stack: Stack, tmp_path: Path) -> None:
    """A worker that dies between producing and committing them leaves neither; the next one tells both."""
    with lane(agentrun_stack, tmp_path, "policy_transaction", **ENFORCED) as made:
        made.launch(AGENTRUN_TEST_CRASH_POINT="in-transaction")
        made.produce(tampered("policy-cut"))
        child = made.child()
        soon(lambda: not child.alive, what="the death")
        name = "default/policy-cut"
        assert (name in told(made, topics.RUNS), name in told(made, topics.QUARANTINE)) == (False, False)
        made.stop()
        made.start()
        made.wait()
        assert [value for value, _ in told(made, topics.RUNS)[name]] == [None]
        assert assert_topics(made) == {"quarantined": 1}
        made.assert_exact()


def test_each_workspace_has_its_own_policy(agentrun_stack: Stack, tmp_path: Path) -> None:
    """The same bad run in four: nothing, a flag, quarantine, and what holds for all others."""
    modes = {"AGENTRUN_TRUST__POLICIES": json.dumps({"lax": "off", "watched": "warn", "strict": "enforce"})}
    with lane(agentrun_stack, tmp_path, "policy_workspaces", AGENTRUN_TRUST__POLICY="warn", **modes) as made:
        made.start()
        for workspace in ("lax", "watched", "strict", "another"):
            made.produce(tampered("policy-same", workspaceid=workspace))
        made.wait()
        flags = {row["workspace"]: row["flag"] for row in made.rows("SELECT workspace, flag FROM runs_latest")}
        assert flags == {"lax": "", "watched": "warned", "strict": "quarantined", "another": "warned"}
        assert {row["verdict"] for row in made.rows("SELECT verdict FROM runs_latest")} == {"rejected"}
        assert assert_topics(made) == {"": 1, "warned": 2, "quarantined": 1}
        quarantine = told(made, topics.QUARANTINE)
        assert [name for name in quarantine if name.endswith("/policy-same")] == ["strict/policy-same"]
        made.assert_exact("--deep")


# ---- a key that is registered after its runs


def signed_end(run_id: str, by: SigningKey, under: SignedUnder | None = None, **envelope: object) -> bytes:
    begin = Honest(run_id).begin
    return cloud_event(
        "run", run_id, "run/completed", RunSigner(by, begin, under).sign(signing_kit.finished(begin)), envelope
    )


@pytest.mark.slow
def test_runs_that_are_judged_good_again_return(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Unsigned runs are bad where signatures are required, and so are thousands of a key that nobody knows yet.

    Once it is registered all of these come back with a higher pair, and leave a tombstone where they were.
    """
    late = key(30)
    settings = trust(tmp_path, registry(TRUSTED)) | ENFORCED | QUICK | {"AGENTRUN_TRUST__REQUIRE_SIGNED": "true"}
    with lane(agentrun_stack, tmp_path, "policy_flipped", **settings) as made:
        made.start()
        unsigned = Honest("policy-unsigned")
        made.produce(
            [
                unsigned.run(signing_kit.finished(unsigned.begin)),
                signed_end("policy-known", TRUSTED),
                *(signed_end(f"policy-flip-{n}", late) for n in range(FLIPPED)),
            ]
        )
        made.wait()
        assert assert_topics(made) == {"": 1, "quarantined": FLIPPED + 1}
        before = row_of(made, "policy-flip-7")
        trust(tmp_path, registry(TRUSTED, late, version=2))
        verified = "SELECT countIf(verdict = 'verified' AND flag = '') AS n FROM runs_latest"
        soon(lambda: made.one(verified)["n"] == FLIPPED + 1, 60, what="the new verdicts")
        soon(lambda: made.rows("SELECT DISTINCT partition FROM trust_progress WHERE version = 2")[PARTITIONS - 1 :], 60)
        made.wait_judged()
        row = row_of(made, "policy-flip-7")
        assert (row["revision"], row["projection"], row["kid"]) == (before["revision"], 1, late.kid)
        assert assert_topics(made) == {"": FLIPPED + 1, "quarantined": 1}
        made.assert_exact("--deep")
        replayed = made.agentrun("replay", "--into", "policy_replayed", "-o", "json")
        assert (replayed.code, orjson.loads(replayed.out)["equal"]) == (0, True), replayed.out + replayed.err


# ---- a policy that changes


def start_under(made: Lane, mode: str) -> None:
    """Stop all workers, put a policy in force, start again."""
    made.stop()
    made.settings = {**made.settings, "AGENTRUN_TRUST__POLICY": mode}
    assert made.agentrun("config", "apply").code == 0
    made.start()


@pytest.mark.slow
def test_a_changed_policy_is_followed_by_what_is_stored(agentrun_stack: Stack, tmp_path: Path) -> None:
    """From `enforce` to `warn` and back: flags, topics and order pairs; what is good is left as it is."""
    settings = trust(tmp_path, registry(TRUSTED)) | ENFORCED | QUICK
    bad = [f"policy-changed-{n}" for n in range(20)]
    with lane(agentrun_stack, tmp_path, "policy_changed", **settings) as made:
        made.start()
        made.produce([*(x for name in bad for x in tampered(name)), *Honest("policy-unchanged").events()])
        made.wait()
        untouched = row_of(made, "policy-unchanged")
        for number, (mode, flag) in enumerate((("warn", "warned"), ("enforce", "quarantined"))):
            start_under(made, mode)
            flagged = f"SELECT count() AS n FROM runs_latest WHERE verdict = 'rejected' AND flag = '{flag}'"
            soon(lambda sql=flagged: made.one(sql)["n"] == len(bad), 60, what=f"the flags under {mode}")  # type: ignore[misc]
            made.wait_judged()
            assert assert_topics(made) == {flag: len(bad), "": 1}
            assert {row_of(made, name)["projection"] for name in bad} == {number + 1}
        assert row_of(made, "policy-unchanged") == untouched
        followed = "SELECT count() AS n FROM policy_progress FINAL WHERE ordinal = 3 AND startsWith(policy, 'enforce')"
        soon(lambda: made.one(followed)["n"] == PARTITIONS, 60, what="the notes")
        assert made.metric("policy_again_total") == len(bad)
        made.assert_exact("--deep")


@pytest.mark.parametrize(
    "changed",
    [
        {"AGENTRUN_TRUST__POLICY": "warn"},
        {"AGENTRUN_TRUST__POLICIES": '{"acme": "enforce"}'},
        {"AGENTRUN_TRUST__QUARANTINE_ON": '["rejected"]'},
        {"AGENTRUN_TRUST__REQUIRE_SIGNED": "true"},
    ],
    ids=["mode", "workspace", "headlines", "require-signed"],
)
def test_two_workers_with_two_policies_do_not_both_start(stored_policy: Lane, changed: dict[str, str]) -> None:
    """The second says which setting it is, and how to put it in force."""
    stored_policy.settings, before = {**stored_policy.settings, **changed}, stored_policy.settings
    try:
        refused = stored_policy.agentrun("work")
    finally:
        stored_policy.settings = before
    assert refused.code == 3
    assert "differ from those in force (number 1): policy" in refused.err
    assert "agentrun config apply" in refused.err


@pytest.fixture(scope="module")
def stored_policy(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    """A store that a worker with the default policy was started on."""
    with lane(agentrun_stack, tmp_path_factory.mktemp("stored"), "policy_stored") as made:
        made.start()
        made.stop()
        yield made

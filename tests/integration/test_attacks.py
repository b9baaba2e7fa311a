"""Every attack on signed runs, through Kafka and the worker: each is caught where it must be, none of the untouched is flagged.

The table of attacks is printed at the end of the module.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream.codec.arsig import step_digest
from agentrun_stream.testing.events import eval_event, key_of
from agentrun_stream.testing.stack import Stack
from integration import attacks, signing_kit
from integration.attacks import ATTACKS, Attack
from integration.harness import Lane, Sent, lane, soon
from integration.signing_kit import TRUSTED, Honest

pytestmark = pytest.mark.stack

UNTOUCHED = 10_000
VERDICT = "SELECT verdict, verdict_hash, verdict_chain, verdict_signature, verdict_reasons, kid, claims, claims_differ"


@pytest.fixture(scope="module")
def attacked(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    """A lane on which every attack was tried, and all untouched runs were published."""
    folder = tmp_path_factory.mktemp("attacks")
    trust = folder / "trust"
    trust.mkdir()
    (trust / "default.jwks.json").write_text(json.dumps(signing_kit.registry()))
    with lane(agentrun_stack, folder, "attacks", AGENTRUN_TRUST__DIR=str(trust)) as made:
        made.start()
        made.produce(
            Sent(value, run_of(attack).encode()) for attack in ATTACKS for value in attack.make(run_of(attack))
        )
        made.produce(Sent(v, key_of(v)) for events in attacks.untouched(UNTOUCHED) for v in events.values)
        made.wait(180)
        yield made


ALTERED = (
    ("evidence", "DELETE FROM evidence WHERE run_id = 'altered'", "signatures"),
    ("evidence", "ALTER TABLE evidence UPDATE raw = concat(raw, ' ') WHERE run_id = 'altered'", "signatures"),
    (
        "run_objects",
        "ALTER TABLE run_objects UPDATE output_preview = 'another' WHERE run_id = 'altered' AND kind = 'step'",
        "digests",
    ),
)


def test_the_audit_names_altered_proof(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Bytes that are gone or changed, and steps that do not give the digest in their chain any more."""
    with lane(agentrun_stack, tmp_path, "altered_proof") as made:
        made.start()
        made.produce([*Honest("altered").events(), *Honest("as-it-was").events()])
        made.wait()
        made.assert_exact()
        for table, change, check in ALTERED:
            with made.kept(table):
                made.execute(change)
                code, told = made.audit()
                assert code == 1, change
                assert {(x["check"], x["run"]) for x in told["differences"]} == {(check, "altered")}


def run_of(attack: Attack) -> str:
    return "attack-" + "".join(c if c.isalnum() else "-" for c in attack.name)


def found(made: Lane, run_id: str) -> dict[str, Any]:
    return made.one(f"{VERDICT} FROM runs_latest WHERE id = '{run_id}'")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_shows_where_it_must(attacked: Lane, attack: Attack) -> None:
    row = found(attacked, run_of(attack))
    if attack.headline == "dead letter":
        letters = [x for x in attacked.letters() if x.key == run_of(attack).encode()]
        assert [x.said["reason"] for x in letters] == ["malformed"]
        assert row["verdict"] == "pending", "its end never counted"
        return
    assert row["verdict"] == attack.headline, row
    good = {"hash": "match", "chain": "intact", "signature": "trusted"}
    if attack.axis:
        assert row[f"verdict_{attack.axis}"] != good[attack.axis], row
        assert row["verdict_reasons"], "and it says why"
    else:
        assert {axis: row[f"verdict_{axis}"] for axis in good} == good


def test_what_a_verified_run_shows_is_what_was_signed(attacked: Lane) -> None:
    """Whatever others said before and after."""
    for attack in ATTACKS:
        if attack.headline != "verified" or attack.name == "an old revision again":
            continue
        row = attacked.run_row(run_of(attack))
        shown = (row["outcome"], row["cost_reported"], row["status"], row["task_id"], row["error"], row["tags"])
        assert shown == ("success", 0.25, "completed", None, None, ["nightly"]), attack.name
        assert row["kid"] == TRUSTED.kid
    assert attacked.run_row("attack-an-old-revision-again")["outcome"] == "partial"
    differ = found(attacked, "attack-an-unsigned-correction-afterwards")["claims_differ"]
    assert "outcome" in differ
    assert "provenance.signature" in differ


def test_none_of_the_untouched_is_flagged(attacked: Lane) -> None:
    rows = attacked.rows(
        "SELECT verdict, count() AS n FROM runs_latest WHERE startsWith(id, 'untouched-') GROUP BY verdict"
    )
    assert rows == [{"verdict": "verified", "n": UNTOUCHED}]
    assert attacked.metric("verification_results_total", axis="headline", result="verified") >= UNTOUCHED


def test_what_is_said_about_a_run_by_others_is_not_covered(attacked: Lane) -> None:
    """An eval, and what names the workspace, change no verdict."""
    honest = Honest("evaluated")
    attacked.produce([*honest.events(), eval_event("evaluated", passed=False)])
    attacked.wait()
    assert attacked.run_row("evaluated")["evals"] == 1
    assert found(attacked, "evaluated")["verdict"] == "verified"


def test_the_evidence_is_what_arrived(attacked: Lane) -> None:
    honest = Honest("kept")
    end = honest.events()[-1]
    attacked.produce([*honest.events(), end])
    attacked.wait()
    rows = attacked.rows("SELECT raw FROM evidence FINAL WHERE run_id = 'kept'")
    assert [row["raw"].encode() for row in rows] == [end], "once, however often it is told"
    steps = attacked.rows("SELECT id, digest FROM steps_latest WHERE run_id = 'kept' ORDER BY id")
    assert [row["digest"] for row in steps] == [step_digest(one) for one in honest.steps]


def test_verifying_again_from_what_is_stored_says_the_same(attacked: Lane) -> None:
    """`agentrun verify RUN` makes each verdict again from the kept bytes, and finds nothing in the store that differs."""
    for run_id in [*map(run_of, ATTACKS), *(f"untouched-{number}" for number in range(0, UNTOUCHED, 500))]:
        row = found(attacked, run_id)
        told = attacked.agentrun("verify", run_id, "-o", "json")
        said = orjson.loads(told.out)
        assert (said["headline"], said["findings"]) == (row["verdict"], []), run_id
        assert said["reasons"] == row["verdict_reasons"]
        assert told.code == int(row["verdict"] != "verified")


def test_a_key_that_turns_out_to_be_stolen_changes_stored_verdicts(attacked: Lane) -> None:
    """The runs of that key that are stored already are judged again, told again, and nothing else is."""
    honest = Honest("stolen-later", signing_kit.SECOND)
    attacked.produce(honest.events())
    attacked.wait()
    assert found(attacked, "stolen-later")["verdict"] == "verified"
    path = Path(attacked.settings["AGENTRUN_TRUST__DIR"]) / "default.jwks.json"
    path.write_text(
        json.dumps(signing_kit.revoked_later(signing_kit.registry(), signing_kit.SECOND.kid, signing_kit.PAST))
    )
    soon(lambda: found(attacked, "stolen-later")["verdict"] == "revoked", 60)
    row = attacked.run_row("stolen-later")
    assert (row["projection"], row["trust_version"], row["verdict_reasons"]) == (1, 2, ["key_compromised"])
    assert found(attacked, "untouched-0")["verdict"] == "verified"


def test_the_audit_finds_nothing(attacked: Lane) -> None:
    attacked.assert_exact()


def test_the_table(attacked: Lane, capsys: pytest.CaptureFixture[str]) -> None:
    """For people: what was tried, where it showed, what came of it."""
    lines = [f"{'attack':<56}{'axis':<28}verdict"]
    for attack in ATTACKS:
        row = found(attacked, run_of(attack))
        axis = f"{attack.axis} {row[f'verdict_{attack.axis}']}" if attack.axis else ""
        lines.append(f"{attack.name:<56}{axis:<28}{attack.headline}")
    lines.append(f"{f'{UNTOUCHED:,} untouched runs':<84}verified")
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")

"""The signatures of the seeded loads: what was done to a run is what the verifier says of it."""

import collections
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream import verify_run
from agentrun_stream.codec.jwks import registry_of
from agentrun_stream.errors import UsageError
from agentrun_stream.model.verdict import Verdict
from agentrun_stream.testing.fleet import FleetShares, FleetTotals, Record, demo_fleet
from agentrun_stream.testing.fleet_signing import TAMPERS, fleet_registry
from agentrun_stream.testing.keys import register
from agentrun_stream.testing.load import Load, bench_load
from agentrun_stream.testing.load_signing import TAMPERS as LOAD_TAMPERS
from agentrun_stream.testing.load_signing import bench_registry
from agentrun_stream.trust import manage
from agentrun_stream.trust.folder import load_registry, registry_path

NOW = datetime(2026, 11, 22, 16, tzinfo=UTC)
SHARES = FleetShares(tampered=0.4, corrected=0.1, unfinished=0.1, children=0.3, late=0.2)


def fleet(runs: int, seed: int, shares: FleetShares | None = None) -> tuple[list[Record], FleetTotals]:
    totals = FleetTotals(verdicts={})
    return list(demo_fleet(runs, seed, NOW, totals, shares)), totals


class Told:
    """What arrived of one run: its snapshots in their order, and its steps, repeats among them."""

    def __init__(self) -> None:
        self.runs: list[tuple[bytes, dict[str, Any]]] = []
        self.steps: list[bytes] = []

    def shown(self) -> tuple[bytes, dict[str, Any]]:
        """The signed end with the highest revision; the last end where none is signed; else the last snapshot."""
        ends = [(raw, run) for raw, run in self.runs if run["status"] != "running"]
        signed = [(raw, run) for raw, run in ends if is_signed(run)]
        signed.sort(key=lambda end: end[1]["metadata"]["arsig"]["rev"])
        return (signed or ends or self.runs)[-1]

    def verdict(self, jwks: dict[str, Any]) -> Verdict:
        """What the verifier says of it, parents aside."""
        return verify_run(self.shown()[0], steps=self.steps, registry=jwks, judged_at=NOW)


def is_signed(run: dict[str, Any]) -> bool:
    return bool(run["provenance"].get("signature"))


def parents_of(run: dict[str, Any]) -> list[dict[str, str]]:
    parents: list[dict[str, str]] = run.get("metadata", {}).get("arsig", {}).get("parents", [])
    return parents


def told(records: list[Record]) -> dict[str, Told]:
    """The records by run, without those that are refused."""
    found: dict[str, Told] = collections.defaultdict(Told)
    for record in records:
        try:
            event = orjson.loads(record.value)
        except orjson.JSONDecodeError:
            continue
        if "/bad/" in event["id"]:
            continue
        if event["type"] == "agentrun.run.v1":
            found[event["subject"]].runs.append((record.value, event["data"]))
        elif event["type"] == "agentrun.step.v1":
            found[event["subject"]].steps.append(record.value)
    return found


def with_lineage(run_id: str, verdicts: dict[str, Verdict], runs: dict[str, Told]) -> str:
    """The headline of a run after its parent was looked up: it is pending while its parent shows no genesis."""
    verdict, run = verdicts[run_id], runs[run_id].shown()[1]
    if (verdict.headline, verdict.lineage, verdict.signature) != ("pending", "pending", "trusted"):
        return verdict.headline
    signed_by_trusted = verdicts[run["parent_run_id"]].signature == "trusted"
    return "verified" if signed_by_trusted or not parents_of(run) else "pending"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_verifier_says_of_each_run_what_was_done_to_it(seed: int) -> None:
    """Run by run, with children and without, tampered with or not, in every way there is."""
    records, totals = fleet(400, seed, SHARES)
    jwks = fleet_registry(seed)
    runs = told(records)
    verdicts = {run_id: run.verdict(jwks) for run_id, run in runs.items()}
    assert totals.verdicts is not None
    assert {run_id: with_lineage(run_id, verdicts, runs) for run_id in runs} == totals.verdicts
    assert collections.Counter(totals.verdicts.values()) == totals.runs_by_verdict
    roots = [run_id for run_id, verdict in verdicts.items() if verdict.lineage == "root"]
    assert all(verdicts[run_id].headline == totals.verdicts[run_id] for run_id in roots)
    assert set(totals.runs_by_tamper) == set(TAMPERS)
    assert set(totals.runs_by_verdict) == {"verified", "rejected", "mismatch", "revoked", "pending", "unverifiable"}


def test_children_name_the_genesis_of_a_parent_that_signs() -> None:
    runs = told(fleet(400, 5, SHARES)[0])
    geneses = {run_id: run.verdict(fleet_registry(5)).genesis for run_id, run in runs.items()}
    linked = 0
    for run in (run.shown()[1] for run in runs.values()):
        for parent in parents_of(run):
            assert parent["run_id"] == run["parent_run_id"] != run["id"]
            if geneses[parent["run_id"]] is not None:  # known of a parent that ended
                assert parent["genesis"] == geneses[parent["run_id"]]
                linked += 1
    assert linked > 10


def test_most_runs_are_signed_and_few_tampered_with() -> None:
    records, totals = fleet(2_000, 1)
    shown = [run.shown()[1] for run in told(records).values()]
    ended = [run for run in shown if run["status"] != "running"]
    assert 0.72 < sum(map(is_signed, ended)) / len(ended) < 0.88
    assert 0.01 < totals.runs_by_tamper.total() / totals.runs < 0.03
    assert totals.runs_by_verdict["verified"] > 0.6 * totals.runs
    assert "triage" not in {run["agent_id"] for run in filter(is_signed, ended)}


def test_without_its_registry_nothing_of_a_fleet_is_verified() -> None:
    """The keys of one seed say nothing of another's."""
    runs = told(fleet(100, 1)[0])
    assert all(run.verdict(fleet_registry(2)).headline != "verified" for run in runs.values())


def test_the_fleet_registry_holds_nothing_that_counts_as_not_there() -> None:
    registry = registry_of(fleet_registry(1))
    assert not registry.refused
    assert not registry.warnings
    assert all("never trust" in (key.reason or "") for key in registry.keys.values())
    assert fleet_registry(1) == fleet_registry(1)
    assert not registry.keys.keys() & registry_of(fleet_registry(2)).keys.keys()


def test_made_up_keys_are_registered_beside_made_up_keys_alone(tmp_path: Path) -> None:
    """An earlier fleet's keys stay; a registry of somebody's own is left as it is."""
    register(tmp_path, fleet_registry(1))
    register(tmp_path, fleet_registry(2))
    kept = load_registry(registry_path(tmp_path, "default"))
    both = registry_of(fleet_registry(1)).keys | registry_of(fleet_registry(2)).keys
    assert (kept.version, kept.keys) == (2, both)
    own = tmp_path / "own"
    manage.add(own, "default", manage.public_of_seed(bytes(range(32))), manage.Scope())
    before = registry_path(own, "default").read_bytes()
    with pytest.raises(UsageError, match="not made up"):
        register(own, fleet_registry(1))
    assert registry_path(own, "default").read_bytes() == before


def load(**members: Any) -> tuple[list[Record], collections.Counter[str]]:
    verdicts: collections.Counter[str] = collections.Counter()
    chosen = {"steps": 6_000, "open_runs": 100, "seed": 3, "now": NOW, "signed": True, **members}
    return list(bench_load(Load(**chosen), verdicts)), verdicts


@pytest.mark.parametrize(
    "odd", [{}, {"bad": 0.02, "repeated": 0.05, "late": 0.1}, {"steps_per_run": 1}, {"steps_per_run": 2, "late": 0.5}]
)
def test_the_verifier_says_of_a_signed_load_what_it_was_made_to_be(odd: dict[str, Any]) -> None:
    """Bad, repeated and late records change no headline; every way to tamper is there."""
    records, expected = load(tampered=0.2, **odd)
    runs = told(records).values()
    found = collections.Counter(run.verdict(bench_registry(3)).headline for run in runs)
    assert found == expected
    assert set(found) == {"verified", *LOAD_TAMPERS.values()}
    assert 0.19 < 1 - found["verified"] / len(runs) < 0.21


def test_an_unsigned_load_is_unverifiable_as_a_whole() -> None:
    records, expected = load(signed=False)
    found = collections.Counter(run.verdict(bench_registry(3)).headline for run in told(records).values())
    assert found == expected == {"unverifiable": found.total()}


def test_a_signed_load_says_the_same_as_an_unsigned_one() -> None:
    """But for the members of the suite: the same steps of the same runs, in the same order."""
    pairs = zip(load()[0], load(signed=False)[0], strict=True)
    for signed, plain in ((orjson.loads(one.value), orjson.loads(other.value)) for one, other in pairs):
        signed["data"].get("metadata", {}).pop("arsig", None)
        if not signed["data"].get("metadata", True):
            del signed["data"]["metadata"]
        signed["data"].get("provenance", {}).clear()
        assert signed == plain


def test_a_signed_load_is_compact_and_little_longer_than_an_unsigned_one() -> None:
    sizes = []
    for signed in (True, False):
        records = load(signed=signed)[0]
        assert all(orjson.dumps(orjson.loads(record.value)) == record.value for record in records)
        steps = [len(record.value) for record in records if b"agentrun.step.v1" in record.value]
        sizes.append(sum(steps) / len(steps))
    assert 80 < sizes[0] - sizes[1] < 120


def test_a_load_without_tampering_is_verified_as_a_whole() -> None:
    assert set(load()[1]) == {"verified"}

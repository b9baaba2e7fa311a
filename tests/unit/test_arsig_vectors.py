"""The suite `arsig1`: every case of the shared vectors gets its axes, reasons and digests."""

from datetime import datetime
from typing import Any

import pytest

from agentrun_stream import verify_run
from shared_vectors import load, needed, raw_of

CASES: list[dict[str, Any]] = load("arsig1.json")


@needed
def test_all_vectors_are_there() -> None:
    assert len(CASES) == 145
    assert len({case["name"] for case in CASES}) == 145


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_verdict_is_that_of_the_vector(case: dict[str, Any]) -> None:
    verdict = verify_run(
        raw_of(case),
        steps=[step.encode() for step in case["steps"]],
        registry=case["registry"],
        workspace=case["workspace"],
        judged_at=datetime.fromisoformat(case["judged_at"]),
    )
    found = {name: getattr(verdict, name) for name in case["expect"]}
    assert found == case["expect"] | {"reasons": tuple(case["expect"]["reasons"])}


@pytest.mark.parametrize("case", [c for c in CASES if len(c["steps"]) > 1], ids=lambda case: case["name"])
def test_the_order_of_arrival_and_repeats_change_nothing(case: dict[str, Any]) -> None:
    steps = [step.encode() for step in case["steps"]]
    for arrived in (steps[::-1], steps[1:] + steps[:1], steps + steps, steps[::2] + steps[1::2]):
        verdict = verify_run(raw_of(case), steps=arrived, registry=case["registry"], workspace=case["workspace"])
        assert verdict.chain == case["expect"]["chain"]


@pytest.mark.parametrize("case", [c for c in CASES if c["expect"]["signature"] == "trusted"], ids=lambda c: c["name"])
def test_an_envelope_around_a_good_run_changes_nothing(case: dict[str, Any]) -> None:
    """A gateway puts the body into an envelope as it is."""
    raw = b'{"specversion":"1.0","id":"e","source":"s","type":"agentrun.run.v1","data":' + raw_of(case) + b"}"
    verdict = verify_run(
        raw, registry=case["registry"], workspace=case["workspace"], judged_at=datetime.fromisoformat(case["judged_at"])
    )
    assert (verdict.signature, verdict.run_digest) == ("trusted", case["expect"]["run_digest"])
    assert verify_run(raw[:-1] + b',"id":"e"}', registry=case["registry"]).reasons == ("duplicate_member",)

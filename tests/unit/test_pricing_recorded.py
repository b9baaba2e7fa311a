"""Recorded runs priced, against published prices multiplied by hand with what was counted from the original data."""

import json
import os
from collections import defaultdict
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from agentrun_stream.model.usage import Bill, Call, bill_of, step_call
from agentrun_stream.pricing.price import explain
from agentrun_stream.pricing.sheet import Unpriced
from pricing_calls import book, explained

DATA: Final = Path(__file__).resolve().parents[3] / "shared" / "data"
MISSING: Final = not DATA.is_dir() and os.environ.get("CI") != "true"
pytestmark = pytest.mark.skipif(MISSING, reason="the recorded runs are not beside the checkout (../shared/data)")

# Dollars per million: input, cache read, cache write for 5 minutes, for an hour, output. From the providers' pages.
PUBLISHED: Final = {
    "claude-opus-4-6": ("5", "0.50", "6.25", "10", "25"),
    "claude-sonnet-4-5-20250929": ("3", "0.30", "3.75", "6", "15"),
    "claude-haiku-4-5-20251001": ("1", "0.10", "1.25", "2", "5"),
    "gpt-4o-mini-2024-07-18": ("0.15", "0.075", "0.15", "0.15", "0.60"),
    "gpt-4o-2024-08-06": ("2.5", "1.25", "2.5", "2.5", "10"),
}


@cache
def expected() -> dict[str, Any]:
    if MISSING:
        return {}
    found: dict[str, Any] = json.loads((DATA / "expected.json").read_bytes())["files"]
    return found


@cache
def bills(name: str) -> dict[str, Bill]:
    """The bill of each run of a file, as its last snapshot and its steps state it."""
    docs: dict[str, tuple[dict[str, Any], float]] = {}
    steps: dict[str, list[Call]] = defaultdict(list)
    for line in (DATA / name).read_text("utf-8").splitlines():
        event = json.loads(line)
        at_s = datetime.fromisoformat(event["time"]).timestamp()
        data = event["data"]
        if event["type"] == "agentrun.run.v1":
            docs[event["subject"]] = data, at_s
        elif event["type"] == "agentrun.step.v1":
            call = step_call(data.get("metadata"), data.get("tokens_used"), at_s)
            steps[event["subject"]] += [] if call is None else [call]
    return {run: bill_of(doc, steps[run], at_s) for run, (doc, at_s) in docs.items()}


def longer_lives(name: str) -> dict[str, int]:
    """Cache writes with a one-hour life, by model, straight from the file."""
    found: dict[str, int] = defaultdict(int)
    for line in (DATA / name).read_text("utf-8").splitlines():
        metadata = json.loads(line)["data"].get("metadata") or {}
        if "usage" in metadata:
            found[metadata["usage"]["model"]] += metadata.get("cache_write_1h_tokens", 0)
    return found


@pytest.mark.parametrize("name", [n for n, told in expected().items() if told["usage_by_model"]])
def test_recorded_runs_cost_what_published_prices_say(name: str) -> None:
    """By file and model, to the last digit; each run's lines add up to it."""
    cost: dict[str, Decimal] = defaultdict(Decimal)
    for bill in bills(name).values():
        told = explained(bill)
        assert told.priced.price_status == "ok"
        assert told.priced.price_basis == "steps"
        assert told.priced.token_convention in {"exclusive", "either"}
        assert told.priced.cost_lo == told.priced.cost_computed == told.priced.cost_hi
        for line in told.lines:
            cost[line.model] += line.amount
    by_hand: dict[str, Decimal] = {}
    for model, used in expected()[name]["usage_by_model"].items():
        write, hour = used.get("cache_write_tokens") or 0, longer_lives(name)[model]
        counts = (used["input_tokens"], used.get("cache_read_tokens") or 0, write - hour, hour, used["output_tokens"])
        prices = [Decimal(price) for price in PUBLISHED[model]]
        by_hand[model] = sum(
            (price * count for price, count in zip(prices, counts, strict=True)), Decimal(0)
        ) / Decimal(10**6)
    assert sorted(cost.values()) == sorted(by_hand.values())


def test_a_session_with_two_models_is_priced_by_step() -> None:
    """Pricing its total by its main model would be wrong by the other's share; the lines name both."""
    name = "claude-code/ae4a77f8-aedd-4bc1-888f-c94edc91af04.events.jsonl"
    told = {run: explain(bill, book()) for run, bill in bills(name).items()}
    both = [one for one in told.values() if len({line.model for line in one.lines}) > 1]
    assert both
    for run, one in told.items():
        whole = explain(bills(name)[run]._replace(steps=()), book()).priced
        assert whole.price_basis == "run_aggregate"
        assert (whole.cost_computed == one.priced.cost_computed) == (one not in both)


def test_runs_without_usage_are_listed_and_not_priced_at_zero() -> None:
    """None of the airline runs recorded a token: unpriced, all of them."""
    found = [explain(bill, book()).priced for bill in bills("tau-airline/airline.events.jsonl").values()]
    assert len(found) == 200
    assert {(one.price_status, one.cost_computed, one.cost_lo, one.cost_effective) for one in found} == {
        ("no_usage", None, None, None)
    }


def test_a_model_that_no_book_knows_is_named() -> None:
    """Take one model of a recorded session away: its calls are listed with their tokens, the rest is the known part."""
    name = "claude-code/258c7280-ae70-4798-800f-63464d01a85d.events.jsonl"
    lost = "claude-sonnet-4-5-20250929"
    calls: list[Unpriced] = []
    for bill in bills(name).values():
        steps = [c._replace(model="house-model") if c.model == lost else c for c in bill.steps]
        told = explained(bill._replace(steps=steps))
        calls += told.unpriced
        assert (told.priced.cost_computed is None) == bool(told.unpriced)
    used = expected()[name]["usage_by_model"][lost]
    assert {call.model for call in calls} == {"house-model"}
    assert len(calls) == used["model_calls"]
    assert sum(call.counts.cache_read for call in calls if call.counts) == used["cache_read_tokens"]

"""`cost export --focus` on the real stack: a fleet, recorded runs, awkward ones; each row exact, the sums those of the runs."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream.testing.events import run_event, step_event
from agentrun_stream.testing.fleet import demo_fleet
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, Sent, lane

pytestmark = pytest.mark.stack

DATA = Path(__file__).resolve().parents[3] / "shared/data"
FLEET_RUNS = 150
SONNET: dict[str, Any] = {"provider": "anthropic", "model": "claude-sonnet-4-5-20250929"}
HAIKU = {"provider": "anthropic", "model": "claude-haiku-4-5-20251001"}
PRICES = """
[[price]]
model = "fraction"
provider = "anthropic"
input = 0.0000015
output = 0.0000007
[[discount]]
model = "*"
provider = "openai"
percent = 12.5
"""
# Each run's amounts, under the names it gives itself and the day it settled on.
RUNS = """
SELECT r.workspace AS workspace, ifNull(r.provider, '') AS provider, ifNull(r.model, '') AS model,
    toString(toDate(s.minute)) AS day, count() AS n, countIf(r.cost_effective IS NULL) AS unpriced,
    countIf(r.cost_computed IS NULL) AS uncomputed, sum(r.cost_computed) AS cost_computed,
    sum(r.cost_effective) AS cost_effective
FROM runs_latest AS r INNER JOIN (SELECT * FROM settlements FINAL WHERE runs > 0) AS s
    ON s.workspace = r.workspace AND s.run_id = r.id
GROUP BY workspace, provider, model, day
"""


def usage(**members: object) -> dict[str, Any]:
    return {"metadata": {"usage": {**SONNET, "input_tokens": 1_000, "output_tokens": 7} | members}, "type": "message"}


def awkward() -> list[bytes]:
    """Runs that are priced in part or not at all, that report another amount than they come to, that cost fractions."""
    cost = {"input_tokens": 1_000_000, "output_tokens": 0}
    return [
        step_event("partly", "a", **usage()),
        step_event("partly", "b", **usage(model="house-model", provider="house")),
        run_event("partly", agent_id="=cmd"),
        run_event("unknown", provider="house", model="house-model", cost=cost),
        run_event("silent"),
        run_event("says-so", cost={"cost_usd": 0.25}),
        run_event("says-more", cost=cost | {"cost_usd": 4.5}, **SONNET),
        step_event("two", "a", **usage()),
        step_event("two", "b", **usage(**HAIKU)),
        run_event("two", **SONNET),
        step_event("tier", "a", **usage(provider="google", model="gemini-2.5-pro", input_tokens=200_001)),
        run_event("tier"),
        *(
            event
            for n in range(9)
            for event in (
                step_event(
                    f"tiny{n}", "a", **usage(provider="openai", model="gpt-4o-mini", input_tokens=n, output_tokens=1)
                ),
                run_event(f"tiny{n}"),
            )
        ),
        *(
            event
            for n in range(1, 6)
            for event in (
                step_event(f"fraction{n}", "a", **usage(model="fraction", input_tokens=n, output_tokens=n * n)),
                run_event(f"fraction{n}"),
            )
        ),
        run_event("open", status="running", cost=cost, **SONNET),
    ]


@pytest.fixture(scope="module")
def charged(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    if not DATA.is_dir():
        reason = "the recorded runs are not beside the checkout (../shared/data)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("focus")
    (folder / "prices.toml").write_text(PRICES)
    with lane(agentrun_stack, folder, "focus_export") as made:
        made.start(AGENTRUN_PRICES__FILE=str(folder / "prices.toml"))
        fleet = demo_fleet(FLEET_RUNS, 5, datetime.now(UTC))
        made.produce([Sent(r.value, r.key, r.headers) for r in fleet])
        files = sorted([*DATA.glob("claude-code/*.events.jsonl"), *DATA.glob("inspect/*.events.jsonl")])
        assert made.agentrun("publish", *map(str, files), "--topic", made.topic).code == 0
        made.produce(awkward())
        made.wait()
        yield made


@pytest.fixture(scope="module")
def rows(charged: Lane, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Everything, exported once."""
    return export(charged, tmp_path_factory.mktemp("focus") / "focus.csv")


def export(made: Lane, file: Path, *flags: str) -> list[dict[str, str]]:
    told = made.agentrun("cost", "export", "--focus", "--to", str(file), *flags)
    assert told.code == 0, told
    with file.open(newline="") as source:
        return list(csv.DictReader(source))


def total(rows: list[dict[str, str]], name: str) -> Decimal | None:
    known = [Decimal(row[name]) for row in rows if row[name]]
    return sum(known, Decimal(0)) if known else None


def of_run_names(rows: list[dict[str, str]]) -> dict[tuple[str, ...], list[dict[str, str]]]:
    found: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        names = (row["SubAccountId"], row["x_RunProvider"], row["x_RunModel"], row["ChargePeriodStart"][:10])
        found[names].append(row)
    return found


def test_an_export_keeps_the_rules_of_focus(charged: Lane, tmp_path: Path) -> None:
    """The product's check finds nothing; and by hand: quantity x unit price is the cost in each row, to the last digit."""
    rows = export(charged, tmp_path / "focus.csv")
    told = charged.agentrun("cost", "check", str(tmp_path / "focus.csv"), "-o", "json")
    assert told.code == 0, told.out
    said = orjson.loads(told.out)
    assert (said["ok"], said["rows"]) == (True, len(rows))
    assert said["rows_without_cost"] == sum(not row["BilledCost"] for row in rows) > 0
    for row in rows:
        for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
            if row[cost]:
                assert Decimal(row[price]) * Decimal(row["PricingQuantity"]) == Decimal(row[cost]), row
            else:
                assert row["x_PriceStatus"], row
        assert row["BilledCost"] in {"", row["ContractedCost"]}
        assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
        assert row["x_Estimated"] == "true"
    assert len({tuple(row.values()) for row in rows}) == len(rows)
    assert "rounding" in {row["SkuMeter"] for row in rows}
    assert "changed" not in {row["SkuMeter"] for row in rows}  # each run is explained by its lines


def test_the_sums_are_those_of_the_runs(charged: Lane, rows: list[dict[str, str]]) -> None:
    """Per workspace, provider, model and day: billed cost is what was computed, effective cost what counts, each run counted."""
    by_name = of_run_names(rows)
    stored = charged.rows(RUNS)
    assert len(stored) > 5
    assert {(r["workspace"], r["provider"], r["model"], r["day"]) for r in stored} == by_name.keys()
    for run in stored:
        mine = by_name[run["workspace"], run["provider"], run["model"], run["day"]]
        assert total(mine, "BilledCost") == run["cost_computed"], run
        assert total(mine, "EffectiveCost") == run["cost_effective"], run
        counts = {name: sum(int(row[f"x_{name}Runs"]) for row in mine) for name in ("", "Unpriced", "Uncomputed")}
        assert counts == {"": run["n"], "Unpriced": run["unpriced"], "Uncomputed": run["uncomputed"]}, run


def test_what_has_no_price_is_there_and_has_no_cost(rows: list[dict[str, str]]) -> None:
    """Unknown models show their tokens and why; no cost of them is 0; a priced part shows its list cost and no billed cost."""
    house = [row for row in rows if row["SkuMeter"] == "unpriced" and "house-model" in row["SkuId"]]
    assert {(r["x_PriceStatus"], r["PricingQuantity"], r["BilledCost"], r["EffectiveCost"]) for r in house} == {
        ("unknown_provider", "1007", "", ""),
        ("unknown_provider", "1000000", "", ""),
    }
    partly = [row for row in rows if row["x_AgentId"] == "'=cmd"]  # no spreadsheet runs it
    assert [(row["SkuMeter"], row["ListCost"] != "", row["BilledCost"]) for row in partly] == [
        ("input_uncached", True, ""),
        ("output", True, ""),
        ("unpriced", False, ""),
    ]
    assert {row["x_PriceStatus"] for row in rows if not row["ProviderName"]} >= {"no_usage"}
    tier = [row for row in rows if row["x_AboveInputTokens"]]
    assert {row["SkuPriceId"].rpartition("/")[2] for row in tier} == {"above-200000"}
    discounted = [row for row in rows if row["ProviderName"] == "openai" and row["SkuMeter"] == "output"]
    assert all(Decimal(r["ContractedCost"]) * 8 == Decimal(r["ListCost"]) * 7 for r in discounted)
    assert discounted
    mine = [row for row in rows if row["x_AgentId"] == "agent-1" and row["ChargePeriodStart"].startswith("2026-01-01")]
    reported = {row["x_RunModel"]: row for row in mine if row["SkuMeter"] == "reported_difference"}
    assert reported[SONNET["model"]]["EffectiveCost"] == "1.5"
    assert reported[SONNET["model"]]["BilledCost"] == "0"
    assert (reported[""]["EffectiveCost"], reported[""]["BilledCost"]) == ("0.25", "")


def test_spans_and_hours_are_parts_of_the_whole(charged: Lane, tmp_path: Path) -> None:
    """Days of two exports add up to one of both; an hourly one has the same sums; one workspace is a part; stdout is the same."""
    whole = export(charged, tmp_path / "whole.csv")
    assert charged.agentrun("cost", "export", "--focus").out == (tmp_path / "whole.csv").read_text()
    cut = "2026-06-01"
    parts = export(charged, tmp_path / "a.csv", "--until", cut) + export(charged, tmp_path / "b.csv", "--since", cut)
    assert parts == whole
    hours = export(charged, tmp_path / "h.csv", "--hourly")
    assert len(hours) >= len(whole)
    assert charged.agentrun("cost", "check", str(tmp_path / "h.csv")).code == 0
    assert (total(hours, "BilledCost"), total(hours, "EffectiveCost")) == (
        total(whole, "BilledCost"),
        total(whole, "EffectiveCost"),
    )
    january = export(charged, tmp_path / "m.csv", "--month", "2026-01", "--workspace", "default")
    wanted = [r for r in whole if r["ChargePeriodStart"].startswith("2026-01") and r["SubAccountId"] == "default"]
    assert january == wanted != []
    assert list(tmp_path.glob("*.partial")) == []
    refused = charged.agentrun("cost", "export", "--focus", "--month", "2026-13")
    assert (refused.code, "2026-01" in refused.err) == (2, True)


@pytest.mark.parametrize(
    "change",
    [
        ("BilledCost", "", "is null"),
        ("BilledCost", "1,5", "is no decimal number"),
        ("ListCost", "0.1", "is not ListUnitPrice x PricingQuantity"),
        ("ListUnitPrice", "-1", "is no decimal number from 0 on"),
        ("ChargePeriodStart", "2026-01-01", "is no time"),
        ("ChargePeriodEnd", "2031-01-01T00:00:00Z", "is after the billing period"),
        ("ChargePeriodEnd", "2019-01-01T00:00:00Z", "is not after ChargePeriodStart"),
        ("ChargeCategory", "Use", "is none of"),
        ("BillingCurrency", "dollars", "is no currency code"),
        ("PricingUnit", "", "and PricingQuantity are not null together"),
        ("SkuPriceId", "", "is null in a charge for usage"),
        ("Tags", "[1]", "is no JSON object"),
        ("ServiceCategory", "", "is null"),
    ],
)
def test_a_broken_file_is_told_by_line_and_column(
    charged: Lane, rows: list[dict[str, str]], tmp_path: Path, change: tuple[str, str, str]
) -> None:
    """One cell of a priced row is changed: exit code 3, and the line, the column and the rule are named."""
    file, (column, value, said) = tmp_path / "focus.csv", change
    number = next(n for n, row in enumerate(rows) if row["BilledCost"] and row["SkuMeter"] == "output")
    broken = [row | {column: value} if n == number else row for n, row in enumerate(rows)]
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0].keys())
        writer.writeheader()
        writer.writerows(broken)
    told = charged.agentrun("cost", "check", str(file), "-o", "json")
    assert told.code == 3
    problems = orjson.loads(told.out)["first_problems"]
    assert (number + 2, column, True) in {(p["line"], p["column"], said in p["text"]) for p in problems}, problems
    assert {p["line"] for p in problems} == {number + 2}

"""`cost reconcile` on the real stack: an invoice beside our runs, what explains a difference, and what an import changes."""

import csv
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream.testing.events import run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane

pytestmark = pytest.mark.stack

SONNET: dict[str, Any] = {"provider": "anthropic", "model": "claude-sonnet-4-5-20250929"}
NAME = "claude-sonnet-4-5"
MILLION: dict[str, Any] = {"input_tokens": 1_000_000, "output_tokens": 0}
HEADER = "provider,day,model,amount,currency,tokens"


def run(name: str, at: str, cost: object, **members: object) -> bytes:
    told: dict[str, Any] = {"started_at": f"2026-{at}Z", "ended_at": f"2026-{at}Z", "cost": cost, **SONNET}
    return run_event(name, **told | members)


def work() -> list[bytes]:
    """By day: as invoiced; late at night and the day after; half of what is reported; without a price; not invoiced."""
    usage = {"provider": "house", "model": "house-model", "input_tokens": 1_000_000, "output_tokens": 0}
    return [
        run("plain", "02-01T12:00:00", MILLION),
        run("evening", "02-02T12:00:00", MILLION),
        run("night", "02-02T23:30:00", MILLION),
        run("batch", "02-04T12:00:00", MILLION | {"cost_usd": 1.5}),
        step_event("some", "a", type="message", metadata={"usage": {**SONNET, **MILLION, "input_tokens": 100_000}}),
        step_event("some", "b", type="message", metadata={"usage": usage}),
        run("some", "02-05T12:00:00", {}),
        run("more", "02-05T12:00:00", MILLION),
        run("alone", "02-06T12:00:00", MILLION),
        run("other", "02-06T12:00:00", MILLION, provider="openai", model="gpt-4o-2024-08-06"),
        run("house", "02-06T12:00:00", MILLION, provider="house", model="house-model"),
    ]


LINES = [
    f"anthropic,2026-02-01,{SONNET['model']},3.00,USD,1000000",
    f"anthropic,2026-02-02,{SONNET['model']},3.00,USD,1000000",
    f"anthropic,2026-02-03,{SONNET['model']},3,USD,1000000",
    f"anthropic,2026-02-04,{SONNET['model']},1.5,usd,1000000",
    f"anthropic,2026-02-05,{SONNET['model']},2.5,USD,",
    f"anthropic,2026-02-05,{SONNET['model']},0.8,USD,",
    "anthropic,2026-02-05,claude-of-tomorrow,7,,",
    "house,2026-02-06,house-model,4,USD,1000000",
]


@pytest.fixture(scope="module")
def made(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    with lane(agentrun_stack, tmp_path_factory.mktemp("reconcile"), "reconcile") as made:
        made.start()
        made.produce(work())
        made.wait()
        yield made


def invoice(folder: Path, lines: list[str], header: str = HEADER, name: str = "feb-2026.csv") -> str:
    file = folder / name
    file.write_text("\n".join([header, *lines]) + "\n")
    return str(file)


def known(amount: str | None) -> Decimal | None:
    return None if amount is None else Decimal(amount)


def compared(made: Lane, *words: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    told = made.agentrun("cost", "reconcile", *words, "-o", "json")
    assert told.code == 0, told
    return {(r["provider"], r["model"], r["day"][8:]): r for r in orjson.loads(told.out)["rows"]}


def test_an_invoice_beside_our_runs(made: Lane, tmp_path: Path) -> None:
    """Per provider, day and model: both amounts, the difference, and how much of it has a reason; both sides named."""
    rows = compared(made, invoice(tmp_path, LINES))
    told = {
        key: (r["side"], known(r["invoiced"]), known(r["ours"]), r["unpriced"], Decimal(r["difference"]), r["share"])
        for key, r in rows.items()
    }
    zero, three, six, anthropic = Decimal(0), Decimal(3), Decimal(6), "anthropic"
    assert told == {
        (anthropic, NAME, "01"): ("both", three, three, 0, zero, None),
        (anthropic, NAME, "02"): ("both", three, six, 0, -three, "1.0000"),
        (anthropic, NAME, "03"): ("only_invoiced", three, None, 0, three, "1.0000"),
        (anthropic, NAME, "04"): ("both", Decimal("1.5"), three, 0, Decimal("-1.5"), "1.0000"),
        (anthropic, NAME, "05"): ("both", Decimal("3.3"), Decimal("3.3"), 0, zero, None),
        (anthropic, "claude-of-tomorrow", "05"): ("only_invoiced", Decimal(7), None, 0, Decimal(7), "0.0000"),
        (anthropic, NAME, "06"): ("only_ours", None, three, 0, -three, "0.0000"),
        ("house", "house-model", "05"): ("only_ours", None, None, 1, zero, None),
        ("house", "house-model", "06"): ("both", Decimal(4), None, 1, Decimal(4), "1.0000"),
    }
    reasons = {key: [(x["reason"], x["amount"]) for x in r["reasons"]] for key, r in rows.items()}
    assert [name for name, _ in reasons[anthropic, NAME, "02"]] == ["time_zone"]
    assert reasons[anthropic, NAME, "04"] == [("reported:batch_or_flex_half", "-1.500000000000")]
    assert reasons["house", "house-model", "06"] == [("unpriced", "4.000000000000")]
    table = made.agentrun("cost", "reconcile", invoice(tmp_path, LINES)).out
    assert "total: invoiced $24.80" in table
    said = list(
        csv.DictReader(made.agentrun("cost", "reconcile", invoice(tmp_path, LINES), "-o", "csv").out.splitlines())
    )
    assert [row["ours"] for row in said if row["model"] == "house-model"] == ["", ""]


def test_mistakes_are_told_by_line_and_nothing_is_compared(made: Lane, tmp_path: Path) -> None:
    """Every wrong line with its number and reason; a missing column with what the file has."""
    lines = [LINES[0], "anthropic,9999-12-31,m,1,USD,", "anthropic,2026-02-01,m,$1,USD,", ",2026-02-01,m,1,EUR,-1"]
    told = made.agentrun("cost", "reconcile", invoice(tmp_path, lines), "--import")
    assert told.code == 2
    for words in (
        "line 3: '9999-12-31'",
        "line 4: '$1'",
        "line 5: the provider",
        "line 5: the amount is in 'EUR'",
        "5 mistakes",
    ):
        assert words in told.err, told.err
    assert made.rows("SELECT * FROM invoices") == []
    told = made.agentrun("cost", "reconcile", invoice(tmp_path, ["a,b"], "vendor,amount"))
    assert (told.code, "no column for: provider, day, model" in told.err, "vendor, amount" in told.err) == (
        2,
        True,
        True,
    )
    short = made.agentrun("cost", "reconcile", invoice(tmp_path, [LINES[0], "anthropic,2026-02-01"]))
    assert (short.code, "Line 3 has 2 cells" in short.err) == (2, True)


def exported(made: Lane) -> dict[tuple[str, str], tuple[str, str]]:
    """(model, day) -> (estimated, invoice) of what is exported."""
    told = made.agentrun("cost", "export", "--focus", "--month", "2026-02")
    rows = csv.DictReader(told.out.splitlines())
    found: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for row in rows:
        key = (row["x_Model"], row["ChargePeriodStart"][8:10])
        found.setdefault(key, set()).add((row["x_Estimated"], row["InvoiceId"]))
    assert all(len(values) == 1 for values in found.values())
    return {key: next(iter(values)) for key, values in found.items()}


def test_an_import_makes_charges_final_once(made: Lane, tmp_path: Path) -> None:
    """Covered days are no estimates any more; the same file again changes nothing; a corrected one replaces the old one whole."""
    assert {estimated for estimated, _ in exported(made).values()} == {"true"}
    renamed = HEADER.replace("model", "sku").replace("amount", "net")
    words = ("--column", "model=sku", "--column", "amount=net", "--invoice", "inv-1", "--import")
    file = invoice(tmp_path, LINES[:2], renamed)
    assert made.agentrun("cost", "reconcile", file).code == 2  # it is not guessed which column is which
    compared(made, file, *words)
    found = exported(made)
    assert (found[NAME, "01"], found[NAME, "02"]) == (("false", "inv-1"), ("false", "inv-1"))
    assert found[NAME, "04"] == ("true", "")
    before = made.rows("SELECT * FROM invoices ORDER BY line")
    compared(made, file, *words)
    assert made.rows("SELECT * FROM invoices ORDER BY line") == before
    compared(made, invoice(tmp_path, [LINES[3]]), "--invoice", "inv-1", "--import")
    found = exported(made)
    assert (found[NAME, "01"], found[NAME, "04"]) == (("true", ""), ("false", "inv-1"))
    assert made.one("SELECT count() AS n, sum(amount) AS amount FROM invoices_latest") == {
        "n": 1,
        "amount": Decimal("1.5"),
    }


def test_a_focus_file_is_an_invoice(made: Lane, tmp_path: Path) -> None:
    """What is exported, held against the same runs, differs by nothing."""
    told = made.agentrun("cost", "export", "--focus", "--month", "2026-02")
    rows = [row for row in csv.DictReader(told.out.splitlines()) if row["BilledCost"]]
    file = tmp_path / "provider.csv"
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    found = compared(made, str(file))
    assert {key for key, row in found.items() if row["side"] == "both"} >= {
        ("openai", "gpt-4o", "06"),
        ("anthropic", NAME, "05"),
    }
    # What a run in part without a price cost is not billed, and yet ours.
    assert {key: Decimal(row["difference"]) for key, row in found.items() if Decimal(row["difference"])} == {
        ("anthropic", NAME, "05"): Decimal("-0.3")
    }

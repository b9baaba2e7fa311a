"""Charges come out one period after another; FOCUS's rules on headers; amounts as CSV cells."""

from collections.abc import Iterator
from decimal import Decimal

import pytest

from agentrun_stream.cli.output import csv_line
from agentrun_stream.model.opinions import Opinions
from agentrun_stream.pricing import focus as rules
from agentrun_stream.runtime import focus
from agentrun_stream.runtime.charges import CHANGED, DAY_S, Books, charged
from agentrun_stream.store.charges import Page, Settled

DAYS = 5
RUNS = 7


def settled(day: int, number: int) -> Settled:
    amount = Decimal(number).scaleb(-12)
    return Settled(day * DAY_S + 60 * number, "w", f"{day}-{number}", "a", "p", "m", amount, amount, "ok", "", "")


def test_only_one_period_is_held() -> None:
    """A day is given out as soon as a run of the next one is read, whatever comes after; its sums are those of its runs."""
    read: list[int] = []

    def pages() -> Iterator[Page]:
        for day in range(1, DAYS + 1):
            for number in range(RUNS):
                read.append(day)
                yield Page([settled(day, number)], {})

    found = charged(pages(), Books({}), Opinions())
    for day in range(1, DAYS + 1):
        ((key, sums),) = next(found).items()
        assert len(read) == min(day * RUNS + 1, DAYS * RUNS)
        assert (key.start_s, key.meter, key.billed) == (day * DAY_S, CHANGED, True)
        assert (sums.runs, sums.quantity) == (RUNS, Decimal(sum(range(RUNS))).scaleb(-12))
    assert next(found, None) is None


@pytest.mark.parametrize(
    ("change", "column", "said"),
    [
        (lambda header: header[1:], "BilledCost", "is missing"),
        (lambda header: [*header, "BilledCost"], "BilledCost", "stands twice"),
        (lambda header: [*header, "my column"], "my column", "is no column name"),
        (lambda header: [*header, "x_Mine"], None, ""),
    ],
)
def test_a_header_is_checked(change: object, column: str | None, said: str) -> None:
    """FOCUS's mandatory columns are there, each once; a column of one's own begins with x_."""
    assert callable(change)
    found = list(rules.check(change(list(focus.HEADER)), []))
    assert [(p.line, p.column) for p in found] == ([] if column is None else [(1, column)])
    assert all(said in p.text for p in found)


def test_one_price_is_of_one_sku() -> None:
    """A SkuPriceId that stands for two SkuIds is told where the second one comes."""
    rows = [(2, {"SkuPriceId": "x", "SkuId": "a"}), (3, {"SkuPriceId": "x", "SkuId": "b"})]
    wrong = [p for p in rules.check(["SkuPriceId", "SkuId"], rows) if p.line > 1]
    assert [(p.line, p.column) for p in wrong] == [(3, "SkuPriceId")]


def test_a_number_in_csv_stays_a_number_and_a_formula_becomes_text() -> None:
    """A negative amount is no formula, however it comes; what a spreadsheet would run is quoted."""
    assert csv_line(["-0.000000000003", Decimal(-1), "+2E-3", "-1+1", "=1", None]) == (
        "-0.000000000003,-1,+2E-3,'-1+1,'=1,\n"
    )

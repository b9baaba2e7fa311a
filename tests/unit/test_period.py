"""Periods of reports: bounds in somebody's zone, and what stands before them."""

from datetime import UTC, datetime

import pytest

from agentrun_stream.cli.cost_report import rounded
from agentrun_stream.cli.period import Period, Words, period_of, previous
from agentrun_stream.errors import UsageError

NOW = datetime(2026, 11, 15, 9, 30, 59, tzinfo=UTC)
ZURICH = "Europe/Zurich"


def iso(period: Period) -> tuple[str | None, ...]:
    """The bounds as they are told, to the minute."""
    bounds = (period.since, period.until)
    return tuple(None if at is None else at.isoformat(timespec="minutes") for at in bounds)


@pytest.mark.parametrize(
    ("words", "bounds"),
    [
        (Words(), (None, None)),
        (Words(month="2026-10", tz=ZURICH), ("2026-10-01T00:00+02:00", "2026-11-01T00:00+01:00")),
        (Words(month="2026-12"), ("2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00")),
        (Words("2026-03-29", "2026-03-30", tz=ZURICH), ("2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00")),
        (Words("2026-03-29T00:00:59Z", tz=ZURICH), ("2026-03-29T01:00+01:00", None)),
        (Words("2h", tz="Asia/Kolkata"), ("2026-11-15T13:00+05:30", None)),
        (Words(until="1d"), (None, "2026-11-14T09:30+00:00")),
    ],
    ids=str,
)
def test_bounds_are_minutes_of_the_zone(words: Words, bounds: tuple[str | None, ...]) -> None:
    """A day or a month begins where the reader is; a time with an offset is what it says."""
    assert iso(period_of(words, NOW)) == bounds


@pytest.mark.parametrize(
    ("words", "now", "before"),
    [
        (
            Words(month="2026-03", tz=ZURICH),
            ("2026-03-01T00:00+01:00", "2026-04-01T00:00+02:00"),
            ("2026-02-01T00:00+01:00", "2026-03-01T00:00+01:00"),
        ),
        (
            Words(month="2026-01"),
            ("2026-01-01T00:00+00:00", "2026-02-01T00:00+00:00"),
            ("2025-12-01T00:00+00:00", "2026-01-01T00:00+00:00"),
        ),
        (
            Words("2026-10-26", "2026-11-02", tz=ZURICH),
            ("2026-10-26T00:00+01:00", "2026-11-02T00:00+01:00"),
            ("2026-10-19T00:00+02:00", "2026-10-26T00:00+01:00"),
        ),
        (
            Words("7d"),
            ("2026-11-08T09:30+00:00", "2026-11-15T09:30+00:00"),
            ("2026-11-01T09:30+00:00", "2026-11-08T09:30+00:00"),
        ),
    ],
    ids=str,
)
def test_what_stands_before_is_as_long_by_the_clock(
    words: Words, now: tuple[str, ...], before: tuple[str, ...]
) -> None:
    """A month before a month; a week before a week, from midnight to midnight, whatever the clock did in between."""
    found = previous(words, period_of(words, NOW), NOW)
    assert tuple(map(iso, found)) == (now, before)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (Words(month="2026-00"), "no month"),
        (Words(month="0001-01"), "no month"),
        (Words(month="November"), "no month"),
        (Words(tz="Europe"), "no time zone"),
        (Words(tz="../etc/passwd"), "no time zone"),
        (Words(tz=""), "no time zone"),
        (Words("yesterday"), "not a time"),
        (Words("2026-12-01"), "Nothing is between"),
        (Words("0001-01-01T00:00:00+10:00", tz="America/New_York"), "no such time"),
    ],
    ids=str,
)
def test_what_is_no_period_is_told(words: Words, says: str) -> None:
    """With the next step, and without a traceback."""
    with pytest.raises(UsageError, match=says) as told:
        period_of(words, NOW)
    assert told.value.next_step


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0.0000005", "$0.00"),
        ("0.0000015", "$0.000002"),
        ("-0.3", "-$0.30"),
        ("39.0821706", "$39.082171"),
        ("1e3", "$1000.00"),
    ],
)
def test_tables_round_half_to_even(amount: str, shown: str) -> None:
    """To a millionth of a dollar, and at least two decimals."""
    assert rounded(amount) == shown

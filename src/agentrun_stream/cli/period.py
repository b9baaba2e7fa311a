"""What a person means by --since, --until, --month and --tz. Must not live here: what is done with it."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from agentrun_stream.cli.common import printable, since
from agentrun_stream.errors import UsageError

_MONTH: Final = re.compile(r"(\d{4})-(\d{2})\Z")
_MONTHS: Final = 12


@dataclass(frozen=True, slots=True)
class Words:
    """The flags as they were given."""

    since: str | None = None
    until: str | None = None
    month: str | None = None
    tz: str = "UTC"


@dataclass(frozen=True, slots=True)
class Period:
    """From a minute to before another one; None is without bound."""

    since: datetime | None
    until: datetime | None

    def __str__(self) -> str:
        begin = "the beginning" if self.since is None else self.since.isoformat(timespec="minutes")
        return f"{begin} and {'now' if self.until is None else self.until.isoformat(timespec='minutes')}"


def zone_of(name: str) -> ZoneInfo:
    """The zone of this name. Raises UsageError."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise UsageError(
            f"There is no time zone {printable(name)!r}.", "Give a name such as Europe/Zurich, America/New_York or UTC."
        ) from None


def period_of(words: Words, now: datetime) -> Period:
    """The period that is meant, cut at minutes. Raises UsageError."""
    zone = zone_of(words.tz)
    if words.month is not None:
        if words.since is not None or words.until is not None:
            raise UsageError("A month has its own bounds.", "Leave out --month, or --since and --until.")
        return Period(_month(words.month, zone), _month(words.month, zone, 1))
    begin, end = (_cut(since(text, now, zone), zone) for text in (words.since, words.until))
    if begin is not None and begin >= (end or now):
        raise UsageError(f"Nothing is between {Period(begin, end)}.", "Give a --since that is before --until.")
    return Period(begin, end)


def previous(words: Words, found: Period, now: datetime) -> tuple[Period, Period]:
    """The period with an end, and the one of the same length before it; of a month the month before. Raises UsageError."""
    if words.month is not None:
        return found, Period(_month(words.month, zone_of(words.tz), -1), found.since)
    if found.since is None:
        raise UsageError("A period without a beginning has none before it.", "Add --since or --month to --compare.")
    end = found.until or now.astimezone(found.since.tzinfo).replace(second=0, microsecond=0)
    # By the clock on the wall of the zone: a week before a week, also where the clock was changed in one of them.
    return Period(found.since, end), Period(found.since - (end - found.since), found.since)


def _month(text: str, zone: ZoneInfo, later: int = 0) -> datetime:
    parts = _MONTH.match(text)
    if not parts or not 1 <= int(parts[2]) <= _MONTHS or not 1 < int(parts[1]) < 9999:  # noqa: PLR2004 - years of datetime
        raise UsageError(f"{printable(text)!r} is no month.", "Write it as 2026-11.")
    count = int(parts[1]) * _MONTHS + int(parts[2]) - 1 + later
    return datetime(count // _MONTHS, count % _MONTHS + 1, 1, tzinfo=zone)


def _cut(at: datetime | None, zone: ZoneInfo) -> datetime | None:
    if at is None:
        return None
    try:
        return at.astimezone(zone).replace(second=0, microsecond=0)
    except (OverflowError, ValueError):
        raise UsageError("There is no such time in this zone.", "Give one that is nearer.") from None

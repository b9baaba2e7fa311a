"""Keeps `cost_windows` and `cost_hours`: a pass finds minutes with new rows, sums them and their hours anew, notes it.

All work is SQL that the store runs. Why no order of events, and no second refresher, can leave a wrong sum: see `_sum`.
Must not live here: when a pass is due (runtime/refresh.py), the sums themselves (migrations/0003_windows.sql, 0009, 0015).
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from clickhouse_connect.driver.client import Client

from agentrun_stream.store.client import StoreAddress, connect, execute
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.sql import INSERT_SETTINGS, literal

LEDGERS: Final = {"accruals": "accrued", "settlements": "settled"}
NEW_ROWS_MAX: Final = 5_000_000
MINUTES_MAX: Final = 720
PROGRESS_ROWS_MAX: Final = 64
# A version is the epoch above, and how many block numbers were closed below.
CLOSED_BITS: Final = 40
# That of an hour is the epoch above, and the versions of its minutes below, added up.
MINUTES_BITS: Final = 64
_HOUR_S: Final = 3_600

_DIMENSIONS: Final = "workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis"
_SUMS: Final = (
    "runs, unpriced, timeouts, steps, tool_calls, failed_tool_calls, corrections, duration_ms, input_tokens, "
    "output_tokens, cache_read_tokens, cache_write_tokens, total_tokens, cost_reported, cost_computed, "
    "cost_effective, rows"
)

# The one query of an idle pass. `settled` is the same delay as in the view window_seen.
_BOOK: Final = """
SELECT 'part' AS kind, 0 AS epoch, table AS source, partition_id, toUInt64(min_block_number) AS first,
    toUInt64(max_block_number) AS last, rows, 0 AS settled
FROM system.parts WHERE active AND database = currentDatabase() AND table IN ('accruals', 'settlements')
UNION ALL
SELECT 'seen', epoch, source, partition_id, first, last, 0, refreshed_at < now64(3) - INTERVAL 10 SECOND
FROM window_progress
"""
_BEGIN: Final = """
INSERT INTO window_progress (epoch, source, partition_id, first, last, refreshed_at)
SELECT greatest({least}, (SELECT max(intDiv(_version, {unit})) FROM cost_windows) + 1,
    (SELECT toUInt64(bitShiftRight(max(_version), {above})) FROM cost_hours) + 1), '', '', 0, 0, now64(3)
"""
_TOUCHED: Final = """
SELECT DISTINCT toUnixTimestamp(minute) AS at FROM {source}
WHERE _partition_id = {partition}
    AND toUInt64(splitByChar('_', _part)[3]) >= {low} AND toUInt64(splitByChar('_', _part)[2]) <= {high}
    AND arrayExists(i -> _block_number BETWEEN i.1 AND i.2, {blocks})
ORDER BY at
"""
_SUM: Final = f"""
INSERT INTO cost_windows (ledger, minute, {_DIMENSIONS}, {_SUMS}, refreshed_at, _version)
SELECT ledger, minute, {_DIMENSIONS}, {_SUMS}, now64(3), {{version}}
FROM window_sums_{{ledger}} WHERE minute IN ({{minutes}})
UNION ALL
SELECT '{{ledger}}', toDateTime(arrayJoin([{{minutes}}]), 'UTC'), '', '', '', '', '', '', '', '', '',
    0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, now64(3), {{version}}
"""
_VOID: Final = f"""
INSERT INTO cost_windows (ledger, minute, {_DIMENSIONS}, refreshed_at, _version)
SELECT ledger, minute, {_DIMENSIONS}, now64(3), newest
FROM
(
    SELECT ledger, minute, {_DIMENSIONS}, rows, _version, max(_version) OVER (PARTITION BY ledger, minute) AS newest
    FROM cost_windows FINAL WHERE ledger = '{{ledger}}' AND minute IN ({{minutes}})
)
WHERE _version < newest AND rows > 0
"""
# One look at the table, so that sums and version are of one moment. The row that every summed minute has without a workspace
# gives the version, and adds up to the hour's own.
_ADD: Final = """
INSERT INTO cost_hours (ledger, hour, {dimensions}, {sums}, refreshed_at, _version)
SELECT ledger, hour, {dimensions}, {added}, now64(3), bitShiftLeft(toUInt128({{epoch}}), {above}) + any(version)
FROM
(
    SELECT *, sum(if(workspace = '', toUInt128(_version), 0)) OVER (PARTITION BY hour) AS version
    FROM
    (
        SELECT *, toStartOfHour(minute) AS hour, max(_version) OVER (PARTITION BY minute) AS newest
        FROM cost_windows FINAL
        WHERE ledger = '{{ledger}}'
            AND minute IN (SELECT toDateTime(arrayJoin([{{hours}}]) + 60 * number, 'UTC') FROM numbers(60))
    )
    WHERE _version = newest
) AS m
GROUP BY ledger, hour, {dimensions}
HAVING rows > 0 OR workspace = ''
""".format(
    dimensions=_DIMENSIONS,
    sums=_SUMS,
    added=", ".join(f"sum(m.{name}) AS {name}" for name in _SUMS.split(", ")),
    above=MINUTES_BITS,
)
_RECORD: Final = (
    "INSERT INTO window_progress (epoch, source, partition_id, first, last, refreshed_at) "
    "SELECT {epoch}, {source}, {partition}, block.1, block.2, now64(3) - INTERVAL {age} SECOND "
    "FROM (SELECT arrayJoin({blocks}) AS block)"
)
_WRITTEN: Final = """
SELECT count() FROM cost_windows WHERE ledger = '{ledger}' AND minute IN ({minutes}) AND _version = {version}
"""
_FORGET: Final = """
ALTER TABLE window_progress DELETE
WHERE epoch < {epoch} OR (epoch = {epoch} AND (source, partition_id, first, last) IN ({gone}))
"""


class Interval(NamedTuple):
    """Block numbers, both ends included."""

    first: int
    last: int


class Place(NamedTuple):
    """One ClickHouse partition of a ledger. On a replicated table block numbers run per partition."""

    source: str
    partition: str


class Parts(NamedTuple):
    """An active part: its block numbers and rows."""

    blocks: Interval
    rows: int


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a pass did: windows (minutes of a ledger) summed, rows of cost_windows written, whether work is left."""

    windows: int = 0
    rows: int = 0
    seconds: float = 0.0
    more: bool = False


@dataclass(slots=True)
class Book:
    """What the store holds and what the sums hold, at one moment."""

    epoch: int = 0
    parts: dict[Place, list[Parts]] = field(default_factory=dict)
    seen: dict[Place, list[Interval]] = field(default_factory=dict)
    old: dict[Place, list[Interval]] = field(default_factory=dict)

    def went_back(self) -> bool:
        """Whether a ledger's numbering is below what was read of it: then its numbers mean other rows now."""
        held = dict.fromkeys(LEDGERS, 0)
        for place, parts in self.parts.items():
            held[place.source] = max(held[place.source], *(part.blocks.last for part in parts))
        return any(max(i.last for i in seen) > held[place.source] for place, seen in self.seen.items())

    def closed(self, place: Place) -> int:
        """How many block numbers of a partition can bring no row any more that is not visible now."""
        held = [p.blocks for p in self.parts.get(place, ())]
        return sum(i.last - i.first + 1 for i in joined([*held, *self.seen.get(place, ())]))

    def new(self, rows_max: int) -> tuple[dict[Place, list[Interval]], bool]:
        """What to read in this pass, oldest first and at least one part: (block numbers, whether some are left)."""
        found = sorted(
            (part.blocks, place, part.rows)
            for place, parts in self.parts.items()
            for part in parts
            if minus([part.blocks], joined(self.seen.get(place, ())))
        )
        taken: dict[Place, list[Interval]] = {}
        for blocks, place, rows in found:
            if rows > rows_max and taken:
                return taken, True
            rows_max -= rows
            taken.setdefault(place, []).append(blocks)
        return taken, False


def joined(intervals: Iterable[Interval]) -> list[Interval]:
    """The same numbers in as few intervals as there can be."""
    found: list[Interval] = []
    for first, last in sorted(intervals):
        if found and first <= found[-1].last + 1:
            found[-1] = Interval(found[-1].first, max(last, found[-1].last))
        else:
            found.append(Interval(first, last))
    return found


def minus(intervals: Iterable[Interval], less: Sequence[Interval]) -> list[Interval]:
    """The numbers of `intervals` that are not in `less`, which is joined."""
    found = []
    for interval in intervals:
        first, last = interval
        for gone in less:
            if gone.last < first or gone.first > last:
                continue
            if gone.first > first:
                found.append(Interval(first, gone.first - 1))
            first = gone.last + 1
        if first <= last:
            found.append(Interval(first, last))
    return found


def refresh(client: Client, rows_max: int = NEW_ROWS_MAX) -> Refreshed:
    """One pass. Safe at any time, by any number at once, and after a crash of another one at any point."""
    started = time.monotonic()
    book = _read(client)
    if not book.epoch or (book.went_back() and _read(client).went_back()):
        _begin(client, book)
        book = _read(client)
    taken, more = book.new(rows_max)
    windows = rows = 0
    for place, blocks in taken.items():
        for minutes in _touched(client, place, minus(blocks, joined(book.seen.get(place, ())))):
            rows += _sum(client, place, minutes, (book.epoch << CLOSED_BITS) + book.closed(place))
            _add(client, place, minutes, book.epoch)
            windows += len(minutes)
        _record(client, book.epoch, place, joined(blocks))
    if sum(len(old) - len(joined(old)) for old in book.old.values()) > PROGRESS_ROWS_MAX:
        _compact(client, book)
    return Refreshed(windows, rows, time.monotonic() - started, more)


def refresh_all(client: Client) -> None:
    """As many passes as it takes until no work is left."""
    while refresh(client).more:
        pass


def start_over(client: Client) -> None:
    """Let no sum count any more: all are made anew. Safe beside a refresher, whose records are of an older epoch."""
    _begin(client, _read(client))


def _begin(client: Client, book: Book) -> None:
    begin = _BEGIN.format(least=book.epoch + 1, unit=1 << CLOSED_BITS, above=MINUTES_BITS)
    execute(client, begin, INSERT_SETTINGS)


def _read(client: Client) -> Book:
    book = Book()
    rows = list(rows_of(client, _BOOK))
    book.epoch = max((row[1] for row in rows), default=0)
    for kind, epoch, source, partition, first, last, count, settled in rows:
        place, blocks = Place(source, partition), Interval(first, last)
        if kind == "part":
            book.parts.setdefault(place, []).append(Parts(blocks, count))
        elif epoch == book.epoch and source:
            book.seen.setdefault(place, []).append(blocks)
            if settled:
                book.old.setdefault(place, []).append(blocks)
    return book


def _touched(client: Client, place: Place, blocks: Sequence[Interval]) -> Iterator[list[int]]:
    """The minutes with rows under these block numbers, some at a time, oldest first.

    Parts are found by number and not by name: a merge renames them, and keeps the numbers of the rows.
    """
    sql = _TOUCHED.format(
        source=place.source,
        partition=literal(place.partition),
        low=min(i.first for i in blocks),
        high=max(i.last for i in blocks),
        blocks=_array(blocks),
    )
    minutes = [row[0] for row in rows_of(client, sql)]
    for start in range(0, len(minutes), MINUTES_MAX):
        yield minutes[start : start + MINUTES_MAX]


def _sum(client: Client, place: Place, minutes: Sequence[int], version: int) -> int:
    """Sum these minutes anew; return how many rows that took.

    The version is the number of closed block numbers of the partition, read before the sums are taken. A set of closed
    numbers only ever grows: a number belongs to it once its part is visible, or once a merge has passed over it; and
    what was read stays in it though its part be dropped. So of two such sets one holds the other, the larger count
    tells which, and sums of the higher version hold every row that a pass of a lower or equal version noted as read.
    Whatever they lack is noted by nobody, and touches the minute again. (The highest number would not do: an insert
    that took a lower one may become visible later, and two different sets would carry the same version.)

    The partition is enough of a scope, as a minute lies in one. The epoch above the count begins anew, higher, where
    progress was emptied (a restore) or a numbering went back, so that no version of before can win.

    A late pass can still write a combination of dimensions that the winner does not have. Therefore only rows of a
    minute's highest version count, and every pass writes a row without a workspace, for the case that nothing is left;
    then whoever is last voids what is below, so that a plain reader of the table is right too.
    """
    given = {"ledger": LEDGERS[place.source], "minutes": ", ".join(map(str, minutes)), "version": version}
    execute(client, _SUM.format(**given), INSERT_SETTINGS)
    execute(client, _VOID.format(**given), INSERT_SETTINGS)
    return next((int(row[0]) for row in rows_of(client, _WRITTEN.format(**given))), 0)


def _add(client: Client, place: Place, minutes: Sequence[int], epoch: int) -> None:
    """Add up the hours of these minutes anew.

    Versions of minutes only grow, and a look at the table sees all of them at one moment. So of two looks the later one saw
    no version lower and, where anything differs, one higher: their sum tells which. Whoever noted a minute as read added its
    hour up after that minute was written, and so no hour that counts lacks it.
    """
    hours = sorted({at // _HOUR_S * _HOUR_S for at in minutes})
    given = {"ledger": LEDGERS[place.source], "hours": ", ".join(map(str, hours)), "epoch": epoch}
    execute(client, _ADD.format(**given), INSERT_SETTINGS)


def _record(client: Client, epoch: int, place: Place, blocks: Sequence[Interval], age: int = 0) -> None:
    source, partition = literal(place.source), literal(place.partition)
    sql = _RECORD.format(epoch=epoch, source=source, partition=partition, blocks=_array(blocks), age=age)
    execute(client, sql, INSERT_SETTINGS)


def _compact(client: Client, book: Book) -> None:
    """Join neighbours and forget older epochs. Only what readers count already is joined: they go on counting it."""
    gone = []
    for place, old in book.old.items():
        kept = joined(old)
        if longer := [i for i in kept if i not in old]:
            _record(client, book.epoch, place, longer, age=60)
        covered = sorted(set(old).difference(kept))
        gone += [f"({literal(place.source)}, {literal(place.partition)}, {i.first}, {i.last})" for i in covered]
    sql = _FORGET.format(epoch=book.epoch, gone=", ".join(gone))
    execute(client, sql, {"mutations_sync": 1})


def _array(intervals: Sequence[Interval]) -> str:
    return f"CAST([{', '.join(f'({i.first}, {i.last})' for i in intervals)}] AS Array(Tuple(UInt64, UInt64)))"


class ClickHouseWindows:
    """`runtime.refresh.Windows`. Connects at the first use."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._client: Client | None = None

    async def refresh(self) -> Refreshed:
        """One pass, in a thread."""
        return await asyncio.to_thread(self._refresh)

    def _refresh(self) -> Refreshed:
        if self._client is None:
            self._client = connect(self._address)
        return refresh(self._client)

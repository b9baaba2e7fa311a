"""Keeps `closings`: the closed runs of each agent in append order, brought up to date from rows new to `settlements`.

What counts as order, and why it needs no watermark: see `History`.
Must not live here: e-values (processors/signals/), when a pass is due (runtime/).
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from clickhouse_connect.driver.client import Client

from agentrun_stream.store.client import execute
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.sql import INSERT_SETTINGS, literal
from agentrun_stream.store.windows import CLOSED_BITS, Book, Interval, Parts, Place, joined, minus

SOURCE: Final = "settlements"
BLOCKS_MAX: Final = 500  # inserts into settlements that one statement takes in
PROGRESS_ROWS_MAX: Final = 64
RECENT_RUNS: Final = 20
AGENTS_MAX: Final = 100  # of a query

_BOOK: Final = f"""
SELECT 'part', 0, table, partition_id, toUInt64(min_block_number), toUInt64(max_block_number), rows
FROM system.parts WHERE active AND database = currentDatabase() AND table = '{SOURCE}'
UNION ALL
SELECT 'seen', epoch, source, partition_id, first, last, 0 FROM signal_progress
"""
_BEGIN: Final = """
INSERT INTO signal_progress (epoch, source, partition_id, first, last, refreshed_at)
SELECT greatest({least}, (SELECT max(intDiv(_version, {unit})) FROM signals WHERE signal = 'failures') + 1), '', '', 0, 0,
    now64(3)
"""
_RECORD: Final = """
INSERT INTO signal_progress (epoch, source, partition_id, first, last, refreshed_at)
SELECT {epoch}, {source}, {partition}, block.1, block.2, now64(3) FROM (SELECT arrayJoin({blocks}) AS block)
"""
_FORGET: Final = "ALTER TABLE signal_progress DELETE WHERE epoch < {epoch} OR (epoch = {epoch} AND ({gone}))"
_NEW: Final = f"""
SELECT workspace, run_id FROM {SOURCE}
WHERE _partition_id = {{partition}}
    AND toUInt64(splitByChar('_', _part)[3]) >= {{low}} AND toUInt64(splitByChar('_', _part)[2]) <= {{high}}
    AND arrayExists(i -> _block_number BETWEEN i.1 AND i.2, {{blocks}})
"""
_COLUMNS: Final = (
    "workspace, agent_id, run_id, git_commit, config_hash, status, appended_at, topic, partition, offset, _version"
)
# Older versions of an object may come along: they lose in closings too. A run that expired has no such object any more: what
# stands of it in closings stays.
_TAKE_IN: Final = f"""
INSERT INTO closings ({_COLUMNS})
SELECT workspace, JSONExtractString(doc, 'agent_id'), run_id, JSONExtractString(doc, 'git_commit'),
    JSONExtractString(doc, 'provenance', 'config_hash'),
    multiIf(closed_by = '', '', closed_by = 'lease', 'timeout', JSONExtractString(doc, 'status')),
    _appended_at, _topic, _partition, _offset, _version
FROM
(
    SELECT workspace, run_id, ifNull(o.doc, '') AS doc, JSONExtractString(ifNull(o.extra, ''), 'closed_by') AS closed_by,
        _appended_at, _topic, _partition, _offset, _version
    FROM run_objects AS o WHERE kind = 'run' AND (workspace, run_id) IN ({{new}})
)
"""
# Twice, as the index over run ids serves the first alone.
_RUNS: Final = "run_id IN (SELECT run_id FROM ({new})) AND (workspace, run_id) IN ({new})"
# A run that names another agent now leaves a void row with the former, as settlements do with minutes.
_VOID: Final = f"""
INSERT INTO closings ({_COLUMNS})
SELECT workspace, agent_id, run_id, '', '', '', toDateTime64(0, 3, 'UTC'), '', 0, 0, newest
FROM
(
    SELECT workspace, run_id, agent_id, max(_version) AS held, max(held) OVER (PARTITION BY workspace, run_id) AS newest
    FROM closings WHERE {_RUNS} GROUP BY workspace, run_id, agent_id
)
WHERE held < newest
"""
_TOUCHED: Final = f"SELECT DISTINCT workspace, agent_id FROM closings WHERE {_RUNS}"
# What is sorted is arrays of an agent's version and not the rows of all: a third of the time of window functions (measured).
_PLACE: Final = "(toUnixTimestamp64Milli(appended_at), toString(topic), partition, offset)"
_OF_AGENTS: Final = "FROM closings FINAL WHERE (workspace, agent_id) IN ({agents}) AND status NOT IN ('', 'cancelled')"
_PROCESSES: Final = f"""
SELECT workspace, agent_id, toString(git_commit), toString(config_hash), intDiv(length(runs) - 1, {{stretch}}) AS complete,
    arrayMap(run -> run.2, arraySlice(runs, complete * {{stretch}} + 1)), arrayMap(run -> run.1, arraySlice(runs, -{RECENT_RUNS}))
FROM
(
    SELECT workspace, agent_id, git_commit, config_hash, arraySort(groupArray(({_PLACE}, toString(status)))) AS runs
    {_OF_AGENTS}
    GROUP BY workspace, agent_id, git_commit, config_hash
)
ORDER BY workspace, agent_id, git_commit, config_hash
"""
_FIRST: Final = f"""
SELECT workspace, agent_id, arrayMap(run -> run.2, groupArraySorted({{learn}})(({_PLACE}, toString(status))))
{_OF_AGENTS}
GROUP BY workspace, agent_id
"""
_CANCELLED: Final = """
SELECT workspace, agent_id, count() FROM closings FINAL
WHERE (workspace, agent_id) IN ({agents}) AND status = 'cancelled' GROUP BY workspace, agent_id
"""

AgentKey = tuple[str, str]


class Version(NamedTuple):
    """A version of an agent: complete stretches before the current one, and the statuses of that, in order."""

    git_commit: str
    config_hash: str
    complete: int
    statuses: Sequence[str]


@dataclass(frozen=True, slots=True)
class History:
    """What the failure process needs of an agent: its first closed runs, the versions of its last ones; apart the cancelled.

    Their order is (append time, topic, partition, offset) of the event that last changed the run's own object, which is its
    closing, unless it was corrected or told again. Steps and evals that come later move nothing. So a run counts once, as it
    stands now: a correction takes it from its place and puts it where the correction stands; one that is open again is not
    there. The run's object alone says all that, so a history depends on the log and on nothing else: not on how many workers
    there were, where batches were cut or what died. No watermark is needed, because nothing here only moves forward: what a
    slow partition brings later takes its place, and its agent is judged again from the beginning of the version.
    """

    first: Sequence[str]
    versions: Sequence[Version]
    cancelled: int


@dataclass(frozen=True, slots=True)
class News:
    """Rows new to settlements, not yet in closings: `version` is that of what is written after taking them in."""

    epoch: int
    version: int
    blocks: Mapping[Place, Sequence[Interval]]
    new: Mapping[Place, Sequence[Interval]]


def news(client: Client) -> News:
    """What is new. The version is the number of closed block numbers, for the reasons given in `windows._sum`.

    Of two passes the one that read more wins, and whatever it lacks is noted by nobody and touches its agents again. So a pass
    takes in all there is, however much that is.
    """
    book = _read(client)
    if not book.epoch or (book.went_back() and _read(client).went_back()):
        execute(client, _BEGIN.format(least=book.epoch + 1, unit=1 << CLOSED_BITS), INSERT_SETTINGS)
        book = _read(client)
    taken, _ = book.new(sys.maxsize)
    unseen = {place: minus(blocks, joined(book.seen.get(place, ()))) for place, blocks in taken.items()}
    closed = sum(book.closed(place) for place in {*book.parts, *book.seen})
    _compact(client, book)
    return News(book.epoch, (book.epoch << CLOSED_BITS) + closed, taken, unseen)


def unseen(client: Client) -> str:
    """A query for the runs with rows that were not taken in, or of which nobody noted it. It only reads."""
    book = _read(client)
    if book.went_back():
        book.seen = {}
    taken, _ = book.new(sys.maxsize)
    rows = [
        _NEW.format(
            partition=literal(place.partition),
            low=min(i.first for i in left),
            high=max(i.last for i in left),
            blocks=_array(left),
        )
        for place, blocks in taken.items()
        if (left := minus(blocks, joined(book.seen.get(place, ()))))
    ]
    return " UNION ALL ".join(rows) or f"SELECT workspace, run_id FROM {SOURCE} WHERE 0"


def take_in(client: Client, found: News) -> list[AgentKey]:
    """Bring closings up to date; return the agents concerned. Done again it changes nothing."""
    touched: set[AgentKey] = set()
    for place, blocks in _pieces(found.new):
        new = _NEW.format(
            partition=literal(place.partition),
            low=min(i.first for i in blocks),
            high=max(i.last for i in blocks),
            blocks=_array(blocks),
        )
        for sql in (_TAKE_IN, _VOID):
            execute(client, sql.format(new=new), INSERT_SETTINGS)
        touched.update((row[0], row[1]) for row in rows_of(client, _TOUCHED.format(new=new)))
    return sorted(touched)


def _pieces(new: Mapping[Place, Sequence[Interval]]) -> Iterator[tuple[Place, list[Interval]]]:
    """A bounded number of blocks at a time."""
    for place, blocks in new.items():
        piece: list[Interval] = []
        room = BLOCKS_MAX
        for first, last in blocks:
            for start in range(first, last + 1, BLOCKS_MAX):
                cut = Interval(start, min(last, start + BLOCKS_MAX - 1))
                piece.append(cut)
                room -= cut.last - cut.first + 1
                if room <= 0:
                    yield place, piece
                    piece, room = [], BLOCKS_MAX
        if piece:
            yield place, piece


def record(client: Client, found: News) -> None:
    """Note that closings and what was made of them contain these rows."""
    for place, blocks in found.blocks.items():
        given = {"source": literal(place.source), "partition": literal(place.partition), "epoch": found.epoch}
        execute(client, _RECORD.format(**given, blocks=_array(joined(blocks))), INSERT_SETTINGS)


def histories(
    client: Client, agents: Sequence[AgentKey], stretch: int, learn: int
) -> Iterator[tuple[AgentKey, History]]:
    """The histories of these agents; one without closed runs has an empty one."""
    for start in range(0, len(agents), AGENTS_MAX):
        some = agents[start : start + AGENTS_MAX]
        given = {"agents": ", ".join(f"({literal(w)}, {literal(a)})" for w, a in some)}
        first = {(w, a): statuses for w, a, statuses in rows_of(client, _FIRST.format(**given, learn=learn))}
        cancelled = {(w, a): count for w, a, count in rows_of(client, _CANCELLED.format(**given))}
        versions: dict[AgentKey, list[tuple[Version, list[Any]]]] = {}
        for w, a, commit, config, complete, statuses, places in rows_of(
            client, _PROCESSES.format(**given, stretch=stretch)
        ):
            versions.setdefault((w, a), []).append((Version(commit, config, complete, statuses), places))
        for key in some:
            yield key, History(first.get(key, ()), _recent(versions.get(key, ())), cancelled.get(key, 0))


def _recent(versions: Sequence[tuple[Version, list[Any]]]) -> list[Version]:
    """The versions of an agent's last runs, of (version, the places of its last runs)."""
    last = sorted(place for _, places in versions for place in places)[-RECENT_RUNS:]
    return [version for version, places in versions if last and places[-1] >= last[0]]


def _read(client: Client) -> Book:
    book = Book()
    rows = list(rows_of(client, _BOOK))
    book.epoch = max((row[1] for row in rows), default=0)
    for kind, epoch, source, partition, first, last, count in rows:
        place, blocks = Place(source, partition), Interval(first, last)
        if kind == "part":
            book.parts.setdefault(place, []).append(Parts(blocks, count))
        elif epoch == book.epoch and source:
            book.seen.setdefault(place, []).append(blocks)
    return book


def _compact(client: Client, book: Book) -> None:
    """Join neighbours and forget older epochs. Nobody but a pass reads them, so one record may take the place of many."""
    if sum(len(seen) - len(joined(seen)) for seen in book.seen.values()) <= PROGRESS_ROWS_MAX:
        return
    gone = ["0"]
    for place, seen in book.seen.items():
        kept = joined(seen)
        if longer := [i for i in kept if i not in seen]:
            given = {"source": literal(place.source), "partition": literal(place.partition), "epoch": book.epoch}
            execute(client, _RECORD.format(**given, blocks=_array(longer)), INSERT_SETTINGS)
        places = f"source = {literal(place.source)} AND partition_id = {literal(place.partition)}"
        covered = ", ".join(f"({i.first}, {i.last})" for i in sorted(set(seen).difference(kept)))
        gone += [f"({places} AND (first, last) IN ({covered}))"] if covered else []
    execute(client, _FORGET.format(epoch=book.epoch, gone=" OR ".join(gone)), {"mutations_sync": 1})


def _array(intervals: Sequence[Interval]) -> str:
    return f"CAST([{', '.join(f'({i.first}, {i.last})' for i in intervals)}] AS Array(Tuple(UInt64, UInt64)))"

"""Pricing stored runs again, in SQL: requests, which runs they concern, what stood before, which partitions are done.

Must not live here: when runs are given to the loop (runtime/reprice.py), what a changed price comes to (runtime/repriced.py).
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from clickhouse_connect.driver.client import Client

from agentrun_stream.model.projection import FIGURES, PRICED_AMOUNTS
from agentrun_stream.ports import Part, RunKey
from agentrun_stream.store.client import StoreAddress, connect, execute
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.rows import MS, row
from agentrun_stream.store.sql import literal
from agentrun_stream.store.writer import insert

T = TypeVar("T")
FIRST: Final[RunKey] = ("", "")
_MICRO: Final = 1_000_000


class Wanted(NamedTuple):
    """Which runs: those that had not ended at `since_us` (microseconds since 1970); `workspace` '' means all."""

    since_us: int
    workspace: str = ""


class Request(NamedTuple):
    """What somebody asked for: `ordinal` is the number of the book that was in force then, or may be later."""

    id: str
    wanted: Wanted
    ordinal: int
    price_book: str


_PART: Final = "topic = {topic:String} AND partition = {partition:UInt32}"
_RULE: Final = """
price_book != {price_book} AND ({workspace} = '' OR workspace = {workspace})
AND (closed_by IS NULL OR toUnixTimestamp64Micro(ifNull(ended_at, CAST(last_event_at AS DateTime64(6, 'UTC')))) >= {since_us})
"""
_CONCERNED: Final = _RULE.format(
    price_book="{price_book:String}", workspace="{workspace:String}", since_us="{since_us:Int64}"
)
_AFTER: Final = "(workspace, run_id) > ({after_workspace:String}, {after_run:String})"
_PENDING: Final = f"""
SELECT id, toUnixTimestamp64Micro(since), workspace, ordinal, price_book FROM reprices
WHERE id NOT IN (SELECT id FROM reprice_progress WHERE {_PART}) ORDER BY stored_at, id
"""
_RUNS: Final = f"""
SELECT workspace, run_id FROM runs FINAL
WHERE {_PART} AND {_AFTER} AND expired_at IS NULL AND {_CONCERNED} ORDER BY workspace, run_id LIMIT {{most:UInt32}}
"""
_FIGURES: Final = ", ".join(f"toDecimalString({n}, 12) AS {n}" if n in PRICED_AMOUNTS else n for n in FIGURES)
_SHOWN: Final = f"workspace, run_id, ifNull(coalesce(cost_model, model), '') AS named, revision, {', '.join(FIGURES)}"
_STORED: Final = f"""
SELECT workspace, run_id, topic, partition, expired_at IS NOT NULL, ifNull(coalesce(cost_model, model), ''), revision, {_FIGURES}
FROM runs FINAL WHERE {_AFTER} AND {_CONCERNED} ORDER BY workspace, run_id LIMIT {{most:UInt32}}
"""
_BOTH: Final = f"""
WITH page AS
(
    SELECT * FROM reprice_before WHERE id = {{id:String}} AND {_AFTER} ORDER BY workspace, run_id LIMIT {{most:UInt32}}
)
SELECT b.workspace, b.run_id, b.model, b.expired, b.revision = r.revision,
    {", ".join(f"b.{n}" if n not in PRICED_AMOUNTS else f"toDecimalString(b.{n}, 12)" for n in FIGURES)},
    {", ".join(f"r.{n}" if n not in PRICED_AMOUNTS else f"toDecimalString(r.{n}, 12)" for n in FIGURES)}
FROM page AS b LEFT JOIN
(
    SELECT {_SHOWN} FROM runs FINAL WHERE (workspace, run_id) IN (SELECT workspace, run_id FROM page)
) AS r ON b.workspace = r.workspace AND b.run_id = r.run_id
ORDER BY b.workspace, b.run_id
"""
_KNOWN: Final = (
    "SELECT id, toUnixTimestamp64Micro(since), workspace, ordinal, price_book FROM reprices WHERE id = {id:String}"
)
_PARTS: Final = "SELECT DISTINCT topic, partition FROM batches WHERE topic IN {topics:Array(String)}"
_DONE: Final = "SELECT DISTINCT topic, partition FROM reprice_progress WHERE id = {id:String}"


def _request(found: Sequence[Any]) -> Request:
    name, since_us, workspace, ordinal, price_book = found
    return Request(name, Wanted(since_us, workspace), ordinal, price_book)


def _given(wanted: Wanted, price_book: str, after: RunKey, most: int) -> dict[str, Any]:
    paged = {"after_workspace": after[0], "after_run": after[1], "most": most}
    return wanted._asdict() | {"price_book": price_book} | paged


# ---- for whoever asks


class Before(NamedTuple):
    """A run's row as it stands, with its figures in the order of `FIGURES`."""

    key: RunKey
    part: Part
    expired: bool
    model: str
    revision: int
    figures: tuple[Any, ...]


class Beside(NamedTuple):
    """What a run's row said when it was asked for, and what it says now. `same` says that no event came in between."""

    key: RunKey
    model: str
    expired: bool
    same: bool
    before: tuple[Any, ...]
    after: tuple[Any, ...]


def concerned(client: Client, wanted: Wanted, price_book: str, most: int) -> Iterator[list[Before]]:
    """The rows of the runs that are not priced by this book, some at a time."""
    after = FIRST
    while True:
        page = [
            Before((w, r), Part(topic, partition), bool(expired), model, revision, tuple(figures))
            for w, r, topic, partition, expired, model, revision, *figures in rows_of(
                client, _STORED, _given(wanted, price_book, after, most)
            )
        ]
        if not page:
            return
        yield page
        after = page[-1].key


def beside(client: Client, request_id: str, most: int) -> Iterator[Beside]:
    """Every run of a request, before and now."""
    after, count = FIRST, len(FIGURES)
    while True:
        given = {"id": request_id, "after_workspace": after[0], "after_run": after[1], "most": most}
        page = list(rows_of(client, _BOTH, given))
        for workspace, run_id, model, expired, same, *figures in page:
            yield Beside(
                (workspace, run_id), model, bool(expired), bool(same), tuple(figures[:count]), tuple(figures[count:])
            )
        if len(page) < most:
            return
        after = (page[-1][0], page[-1][1])


def ask_for(client: Client, request: Request, requested_by: str) -> None:
    """Keep what stands, then ask the owners of the partitions. Whoever dies in between has asked for nothing."""
    wanted, columns = request.wanted, ", ".join(FIGURES)
    price_book, workspace = literal(request.price_book), literal(wanted.workspace)
    rule = _RULE.format(price_book=price_book, workspace=workspace, since_us=wanted.since_us)
    execute(
        client,
        f"""INSERT INTO reprice_before (id, workspace, run_id, model, expired, revision, {columns})
        SELECT {literal(request.id)}, workspace, run_id, ifNull(coalesce(cost_model, model), ''), expired_at IS NOT NULL,
            revision, {columns}
        FROM runs FINAL WHERE {rule}""",
    )
    told = {"id": request.id, "since": wanted.since_us / _MICRO, "workspace": wanted.workspace}
    told |= {"ordinal": request.ordinal, "price_book": request.price_book, "requested_by": requested_by}
    insert(client, "reprices", [row(told)])


def request_of(client: Client, request_id: str) -> Request | None:
    """A request by its id."""
    return next((_request(found) for found in rows_of(client, _KNOWN, {"id": request_id})), None)


def undone(client: Client, request_id: str, topics: Sequence[str]) -> tuple[list[Part], int]:
    """The partitions of these topics that are not done, and how many there are."""
    parts = {Part(*found) for found in rows_of(client, _PARTS, {"topics": list(topics)})}
    done = {Part(*found) for found in rows_of(client, _DONE, {"id": request_id})}
    return sorted(parts - done), len(parts)


# ---- for the owner of a partition


def pending(client: Client, part: Part) -> list[Request]:
    """See `runtime.reprice.Reprices.pending`."""
    return [_request(found) for found in rows_of(client, _PENDING, part._asdict())]


def page(client: Client, part: Part, asked: tuple[Wanted, str], after: RunKey, most: int) -> list[RunKey]:
    """See `runtime.reprice.Reprices.page`."""
    given = part._asdict() | _given(*asked, after, most)
    return [(workspace, run_id) for workspace, run_id in rows_of(client, _RUNS, given)]


def note(client: Client, part: Part, request_id: str, runs: int, now_ms: int) -> None:
    """See `runtime.reprice.Reprices.note`."""
    told = {"id": request_id, "runs": runs, "done_at": now_ms / MS}
    insert(client, "reprice_progress", [row(part._asdict() | told)])


class ClickHouseReprices:
    """`runtime.reprice.Reprices`. Connects at the first use."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._client: Client | None = None

    async def pending(self, part: Part) -> Sequence[Request]:
        """See `runtime.reprice.Reprices.pending`."""
        return await self._do(lambda client: pending(client, part))

    async def page(self, part: Part, asked: tuple[Wanted, str], after: RunKey, most: int) -> Sequence[RunKey]:
        """See `runtime.reprice.Reprices.page`."""
        return await self._do(lambda client: page(client, part, asked, after, most))

    async def note(self, part: Part, request_id: str, runs: int, now_ms: int) -> None:
        """See `runtime.reprice.Reprices.note`."""
        await self._do(lambda client: note(client, part, request_id, runs, now_ms))

    async def _do(self, ask: Callable[[Client], T]) -> T:
        return await asyncio.to_thread(self._ask, ask)

    def _ask(self, ask: Callable[[Client], T]) -> T:
        if self._client is None:
            self._client = connect(self._address)
        return ask(self._client)

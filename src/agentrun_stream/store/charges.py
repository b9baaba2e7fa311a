"""The closed runs that settled in a time, some at a time, with what stands in their rows about cost.

Must not live here: what they are billed for (runtime/charges.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from clickhouse_connect.driver.client import Client

from agentrun_stream.model.run import RunState
from agentrun_stream.ports import RunKey
from agentrun_stream.store.reader import load_runs, pieces, rows_of
from agentrun_stream.store.sql import literal

PAGE_RUNS: Final = 500
_END_OF_TIME_S: Final = 2**32 - 1

_SETTLED: Final = """
SELECT toUInt32(minute), workspace, run_id FROM settlements FINAL
WHERE {where} AND minute >= toDateTime({at}, 'UTC') AND (minute, workspace, run_id) > (toDateTime({at}, 'UTC'), {after})
ORDER BY minute, workspace, run_id LIMIT {most}
"""
_ROWS: Final = """
SELECT run_id, ifNull(agent_id, ''), ifNull(provider, ''), ifNull(model, ''), toString(cost_computed),
    toString(cost_effective), price_status, price_book, ifNull(diff_class, '')
FROM runs FINAL WHERE workspace = {workspace:String} AND run_id IN {ids:Array(String)}
"""
_DIGEST: Final = """
SELECT count(), groupBitXor(cityHash64(tuple(workspace, run_id, minute, cost_computed, cost_effective))) FROM settlements FINAL
WHERE {where}
"""


class Span(NamedTuple):
    """Which runs: settled from `since_s` on and before `until_s`, of one workspace where it is named."""

    since_s: int = 0
    until_s: int = _END_OF_TIME_S
    workspace: str | None = None


class Settled(NamedTuple):
    """A closed run: the minute it settled in, and its row. An amount that is not known is None."""

    minute_s: int
    workspace: str
    run_id: str
    agent_id: str
    provider: str
    model: str
    computed: Decimal | None
    effective: Decimal | None
    status: str
    book: str
    diff_class: str

    @property
    def key(self) -> RunKey:
        """The run."""
        return self.workspace, self.run_id


class Page(NamedTuple):
    """Some closed runs, and the states of those that are still there."""

    runs: Sequence[Settled]
    states: Mapping[RunKey, RunState]


def settled(client: Client, span: Span) -> Iterator[Page]:
    """The runs of a span in the order in which they settled, a page at a time."""
    at, after = span.since_s, ("", "")
    while True:
        names = ", ".join(map(literal, after))
        sql = _SETTLED.format(where=_where(span), at=int(at), after=names, most=PAGE_RUNS)
        found = [(int(minute), (workspace, run_id)) for minute, workspace, run_id in rows_of(client, sql)]
        if not found:
            return
        keys = [key for _, key in found]
        rows = _rows(client, keys)
        runs = [rows[key]._replace(minute_s=minute) for minute, key in found if key in rows]
        yield Page(runs, load_runs(client, keys))
        at, after = found[-1]


def digest(client: Client, span: Span) -> tuple[int, int]:
    """Changes whenever a run of the span does: how a reader of several pages knows that nothing moved meanwhile."""
    ((runs, mixed),) = rows_of(client, _DIGEST.format(where=_where(span)))
    return int(runs), int(mixed)


def _where(span: Span) -> str:
    only = "" if span.workspace is None else f"AND workspace = {literal(span.workspace)}"
    until = min(int(span.until_s), _END_OF_TIME_S)
    return (
        f"runs > 0 AND minute >= toDateTime({int(span.since_s)}, 'UTC') AND minute < toDateTime({until}, 'UTC') {only}"
    )


def _rows(client: Client, keys: list[RunKey]) -> dict[RunKey, Settled]:
    found: dict[RunKey, Settled] = {}
    for workspace, ids in pieces(keys):
        for run_id, agent, provider, model, *amounts, status, book, kind in rows_of(
            client, _ROWS, {"workspace": workspace, "ids": ids}
        ):
            known = [None if amount is None else Decimal(amount) for amount in amounts]
            found[workspace, run_id] = Settled(
                0, workspace, run_id, agent, provider, model, known[0], known[1], status, book, kind
            )
    return found

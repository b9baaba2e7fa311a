"""The store's side of a repair: projected rows read, written and removed, windows summed from nothing.

Must not live here: what the rows hold (runtime/repair.py).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from clickhouse_connect.driver.client import Client

from agentrun_stream.model.lineage import Kin
from agentrun_stream.model.run import RunState
from agentrun_stream.ports import RunKey
from agentrun_stream.store import lineage, reader, windows, writer
from agentrun_stream.store.client import execute
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.sql import literal

_PROJECTED: Final = """
SELECT 'runs', workspace, run_id, NULL, toString(_version) FROM runs FINAL WHERE {which}
UNION ALL
SELECT 'settlements', workspace, run_id, toUnixTimestamp(minute), toString(_version) FROM settlements FINAL WHERE {which}
"""
_SYNC: Final = {"mutations_sync": 1}


class Stored(NamedTuple):
    """A projected row as it stands: its table, run, minute (None in `runs`) and version."""

    table: str
    run: RunKey
    minute: int | None
    version: int


class ClickHouseRepair:
    """`runtime.repair.RepairStore`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def load_runs(self, keys: Sequence[RunKey]) -> dict[RunKey, RunState]:
        """See `RepairStore.load_runs`."""
        return reader.load_runs(self._client, keys)

    def projected(self, keys: Sequence[RunKey]) -> Iterator[Stored]:
        """See `RepairStore.projected`."""
        which = f"(workspace, run_id) IN ({', '.join(map(_key, keys))})"
        for table, workspace, run_id, minute, version in rows_of(self._client, _PROJECTED.format(which=which)):
            yield Stored(table, (workspace, run_id), minute, int(version))

    def kin(self, keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
        """See `RepairStore.kin`."""
        return lineage.kin(self._client, keys)

    def insert(self, table: str, encoded: Sequence[bytes]) -> None:
        """See `RepairStore.insert`."""
        writer.insert(self._client, table, encoded)

    def remove(self, gone: Sequence[Stored]) -> None:
        """See `RepairStore.remove`."""
        for table in sorted({row.table for row in gone}):
            rows = ", ".join(f"({_key(row.run)}, '{row.version}')" for row in gone if row.table == table)
            where = f"((workspace, run_id), toString(_version)) IN ({rows})"
            execute(self._client, f"ALTER TABLE {table} DELETE WHERE {where}", _SYNC)

    def sum_again(self, differing: Iterable[tuple[str, int]]) -> None:
        """See `RepairStore.sum_again`. From `start_over` on readers sum from the ledgers until the windows are made."""
        windows.start_over(self._client)
        named = ", ".join(f"('{ledger}', {int(minute)})" for ledger, minute in sorted(differing))
        if named:
            where = f"(toString(ledger), toUnixTimestamp(minute)) IN ({named})"
            execute(self._client, f"ALTER TABLE cost_windows DELETE WHERE {where}", _SYNC)
        windows.refresh_all(self._client)


def _key(run: RunKey) -> str:
    return f"({literal(run[0])}, {literal(run[1])})"

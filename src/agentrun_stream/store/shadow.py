"""A shadow database beside the live one: made for a replay, compared table by table, exchanged.

Must not live here: what fills it (runtime/replay.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from clickhouse_connect.driver.client import Client

from agentrun_stream.errors import UsageError
from agentrun_stream.ports import Part
from agentrun_stream.store import windows
from agentrun_stream.store.client import StoreAddress, connect, execute
from agentrun_stream.store.migrate import migrate
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.sql import literal

# What the log makes. The other tables are the operator's, and stay where they are.
REBUILT: Final = (
    *("run_objects", "runs", "runs_by_start", "accruals", "settlements", "cost_windows", "cost_hours"),
    *("evidence", "refused", "batches", "run_activity", "expired_runs", "sweep_progress", "run_keys", "trust_progress"),
    *("window_progress", "run_edges", "run_changes", "closings", "signal_progress", "policy_progress"),
    "reprice_progress",
)
COMPARED: Final = ("run_objects", "runs", "accruals", "settlements", "refused", "evidence", "cost_by_minute")
# When something was written, by which worker, and the owner's counters are no functions of the log; nor is how many rows of
# the ledger an operator's refusal left without amounts, nor by which version a run was judged that a later one did not concern,
# nor which of several books that give the same figures.
_NOT_OF_THE_LOG: Final = {
    "run_objects": ("_ingested_at", "_sum"),
    "runs": ("projected_at", "projection", "_version", "trust_version", "verifier", "price_book"),
    "accruals": ("_version",),
    "settlements": ("_version",),
    "refused": ("refused_at", "_version"),
    "evidence": (),
    "cost_by_minute": ("rows",),
}
_BOOKED: Final = (
    "(input_tokens IS NOT NULL OR output_tokens IS NOT NULL OR cache_read_tokens IS NOT NULL "
    "OR cache_write_tokens IS NOT NULL OR total_tokens IS NOT NULL OR cost_reported IS NOT NULL)"
)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
_RESERVED: Final = frozenset({"default", "system", "information_schema"})
_MARK: Final = "replay_shadow"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a replay covered of a partition, and the append time (ms) of the first record that the log still holds."""

    part: Part
    start: int
    end: int
    first_ms: int


@dataclass(frozen=True, slots=True)
class Compared:
    """One table on both sides. `left_out` says why nothing was compared."""

    table: str
    live_rows: int = 0
    shadow_rows: int = 0
    equal: bool = True
    left_out: str = ""


class Shadow:
    """The shadow database `name` beside the live one."""

    def __init__(self, live: StoreAddress, name: str) -> None:
        if not _NAME.match(name) or name.lower() in _RESERVED or name == live.database:
            raise UsageError(
                f"{name!r} can't be the shadow.", "Give the name of a new database, such as agentrun_replay."
            )
        self.name = name
        self._live = live
        self.address = StoreAddress(
            live.url, name, live.user, live.password, live.connect_timeout_s, live.request_timeout_s
        )

    def prepare(self) -> None:
        """Make it, empty but for what an operator decided. One that a replay left behind is replaced."""
        client = connect(self._live)
        tables = {
            row[0] for row in rows_of(client, f"SELECT name FROM system.tables WHERE database = {literal(self.name)}")
        }
        if tables and _MARK not in tables:
            raise UsageError(
                f"The database {self.name} exists and is no shadow of ours.", "Give another name, or drop it first."
            )
        execute(client, f"DROP DATABASE IF EXISTS {self.name} SYNC")
        migrate(self.address)
        execute(
            client,
            f"CREATE TABLE {self.name}.{_MARK} (made_at DateTime DEFAULT now()) ENGINE = MergeTree ORDER BY made_at",
        )
        execute(
            client,
            f"INSERT INTO {self.name}.refused SELECT * FROM {self._live.database}.refused FINAL "
            "WHERE reason = 'sink_rejected'",
        )

    def sum_windows(self) -> None:
        """Make the windows from the ledgers."""
        windows.refresh_all(connect(self.address))

    def compare(self, bounds: Sequence[Bounds], *, moving: bool) -> list[Compared]:
        """Digest every table on both sides, without what the live side has from after or before the replay."""
        client = connect(self._live)
        found = []
        for table in COMPARED:
            if table == "cost_by_minute" and (moving or any(b.start for b in bounds)):
                found.append(Compared(table, left_out="the live side holds more than was replayed"))
                continue
            where = self._comparable(table, bounds)
            live, shadow = (self._digest(client, db, table, where) for db in (self._live.database, self.name))
            found.append(Compared(table, live[0], shadow[0], live == shadow))
        return found

    def left_out(self, bounds: Sequence[Bounds]) -> int:
        """How many runs are not compared, because they changed since, or began before the log."""
        sql = f"SELECT count() FROM (SELECT DISTINCT workspace, run_id FROM ({self._incomparable(bounds)}))"
        return int(next(rows_of(connect(self._live), sql))[0])

    def swap(self) -> None:
        """Exchange the tables; each exchange is atomic. The shadow is then what was live, and ours no longer."""
        client = connect(self._live)
        pairs = ", ".join(f"{self._live.database}.{table} AND {self.name}.{table}" for table in REBUILT)
        execute(client, f"EXCHANGE TABLES {pairs}")
        execute(client, f"DROP TABLE {self.name}.{_MARK} SYNC")

    def _digest(self, client: Client, database: str, table: str, where: str) -> list[Any]:
        final = "" if table == "cost_by_minute" else "FINAL"
        columns = ", ".join(self._columns(client, table))
        # A sum and a xor of hashes do not depend on the order of rows.
        sql = (
            "SELECT count(), toString(sum(hash)), toString(groupBitXor(hash)) FROM "
            f"(SELECT cityHash64(tuple({columns})) AS hash FROM {database}.{table} {final} WHERE {where})"
        )
        return next(rows_of(client, sql))

    def _columns(self, client: Client, table: str) -> list[str]:
        sql = (
            f"SELECT name FROM system.columns WHERE database = {literal(self._live.database)} AND table = {literal(table)} "
            "ORDER BY position"
        )
        return [row[0] for row in rows_of(client, sql) if row[0] not in _NOT_OF_THE_LOG[table]]

    def _comparable(self, table: str, bounds: Sequence[Bounds]) -> str:
        known = f"(workspace, run_id) NOT IN ({self._incomparable(bounds)})"
        # Of an expired run one object stays; the log brings the others back, and retention removes them again.
        kept = f"{known} AND (workspace, run_id) NOT IN ({self._expired()})"
        covered = " OR ".join(
            f"(topic = {literal(b.part.topic)} AND partition = {b.part.partition} AND offset >= {b.start} AND offset < {b.end})"
            for b in bounds
        )
        return {
            "run_objects": f"({kept} OR ({known} AND kind = 'expired'))",
            "evidence": kept,
            "accruals": f"{known} AND ({covered}) AND {_BOOKED}",
            "refused": f"({covered})",
            "cost_by_minute": f"(ledger = 'settled' OR {_BOOKED})",
        }.get(table, known)

    def _incomparable(self, bounds: Sequence[Bounds]) -> str:
        """Runs that the live side knows more of than the replay saw."""
        rules = ["0"]
        for b in bounds:
            outside = f"_offset >= {b.end}"
            if b.start:
                outside = f"({outside} OR toUnixTimestamp64Milli(_first_appended_at) < {b.first_ms})"
            rules.append(f"(_topic = {literal(b.part.topic)} AND _partition = {b.part.partition} AND {outside})")
        return f"SELECT workspace, run_id FROM {self._live.database}.run_objects WHERE {' OR '.join(rules)}"

    def _expired(self) -> str:
        return f"SELECT workspace, run_id FROM {self.name}.run_objects WHERE kind = 'expired'"

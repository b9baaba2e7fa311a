"""The store's twin in memory: `ports.Store` over dictionaries, with the tables' own rule that the higher version wins.

It takes the same encoded rows and decodes states as the real reader does. Must not live here: SQL, waiting, views.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from agentrun_stream.errors import StoreRejectedError
from agentrun_stream.model.lineage import Kin
from agentrun_stream.model.projection import OPINION_COLUMNS
from agentrun_stream.model.run import RunState
from agentrun_stream.ports import Part, RunKey, Stored
from agentrun_stream.store.reader import add_object
from agentrun_stream.store.rows import ARRAY_TABLES, MS

Row = dict[str, Any]
Key = tuple[Any, ...]
Tables = dict[str, dict[Key, Row]]

_MICRO: Final = 1_000_000
# ClickHouse's codes, so that a refusal reads the same from both stores.
_UNKNOWN_TABLE: Final = 60
_BAD_ROW: Final = 117


@dataclass(frozen=True, slots=True)
class TableRule:
    """What identifies a row, and which column decides between two of a key; None: the one that came last."""

    key: tuple[str, ...]
    version: str | None


RULES: Final[Mapping[str, TableRule]] = {
    "run_objects": TableRule(("workspace", "run_id", "kind", "object_id"), "_version"),
    "runs": TableRule(("workspace", "run_id"), "_version"),
    "accruals": TableRule(("minute", "topic", "partition", "offset", "object_id"), "_version"),
    "settlements": TableRule(("minute", "workspace", "run_id"), "_version"),
    "evidence": TableRule(("workspace", "run_id", "version"), None),
    "refused": TableRule(("topic", "partition", "offset"), "_version"),
    "batches": TableRule(("topic", "partition", "first", "last"), "written_at"),
    "sweep_progress": TableRule(("topic", "partition", "walk"), "written_at"),
    "trust_versions": TableRule(("workspace", "version", "digest"), None),
    "trust_progress": TableRule(("topic", "partition", "workspace", "version", "digest"), "done_at"),
    "policy_progress": TableRule(("topic", "partition", "ordinal", "policy"), "done_at"),
    "reprices": TableRule(("id",), None),
    "reprice_progress": TableRule(("topic", "partition", "id"), "done_at"),
    "run_changes": TableRule(("minute", "workspace", "run_id"), "_version"),
    "run_keys": TableRule(("workspace", "topic", "partition", "kid", "run_id"), None),
}


class MemoryStore:
    """`ports.Store`, whole and at once: an insert is atomic and durable when it returns.

    `rejects`, where given, plays the store that can't take a row: it is asked for every row before any is kept.
    """

    def __init__(self, rejects: Callable[[str, Row], bool] | None = None) -> None:
        self.rejects = rejects
        self._tables: Tables = {name: {} for name in RULES}
        self._changes = 0  # the twin's `minute` of run_changes: it has no clock

    async def insert(self, table: str, rows: Sequence[bytes]) -> None:
        """See `ports.Store.insert`."""
        rule = RULES.get(table)
        if rule is None:
            raise StoreRejectedError(f"There is no table {table}.", code=_UNKNOWN_TABLE)
        decoded = [_decoded(table, line) for some in rows for line in some.splitlines()]
        if self.rejects is not None and any(self.rejects(table, row) for row in decoded):
            raise StoreRejectedError(f"The store refuses a row of {table}.", code=_BAD_ROW)
        held = self._tables[table]
        for row in decoded:
            _put(held, rule, row)
        if table == "runs":
            self._feed_changes(decoded)
        elif table == "run_objects":
            self._feed_keys(decoded)

    def _feed_changes(self, runs: Iterable[Row]) -> None:
        self._changes += 1
        for row in runs:
            names = ("workspace", "run_id", "_version")
            change = {"minute": self._changes, "kin": kin_of(row).version}
            self.note("run_changes", change | {name: row[name] for name in names})

    def _feed_keys(self, objects: Iterable[Row]) -> None:
        """As the store's feed: what is removed from the objects later stays here."""
        for row in objects:
            if row["kind"] == "claim":
                signed = {"kid": row["object_id"].partition(".")[0], "run_id": row["run_id"]}
                place = {"workspace": row["workspace"], "topic": row["_topic"], "partition": row["_partition"]}
                self.note("run_keys", place | signed)

    async def load_runs(self, keys: Sequence[RunKey]) -> dict[RunKey, RunState]:
        """See `ports.Store.load_runs`."""
        wanted = set(keys)
        found: dict[RunKey, RunState] = {}
        for row in self._tables["run_objects"].values():
            key = (row["workspace"], row["run_id"])
            if key in wanted:
                add_object(found.setdefault(key, RunState(*key)), _selected(row))
        return found

    async def projected(self, keys: Sequence[RunKey]) -> dict[RunKey, Stored]:
        """See `ports.Store.projected`."""
        rows = ((key, self._tables["runs"].get(key)) for key in keys)
        return {
            key: Stored(int(row["_version"]), {name: row.get(name) for name in OPINION_COLUMNS})
            for key, row in rows
            if row is not None
        }

    async def evidence(self, run: RunKey, version: int) -> bytes | None:
        """See `ports.Store.evidence`."""
        row = self._tables["evidence"].get((*run, version))
        return None if row is None else row["raw"].encode()

    async def kin(self, keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
        """See `ports.Store.kin`."""
        return {key: kin_of(row) for key in keys if (row := self._tables["runs"].get(key)) is not None}

    async def journal_end(self, part: Part) -> tuple[int, int] | None:
        """See `ports.Store.journal_end`."""
        covered = sorted((row["first"], row["last"]) for row in self._of_part("batches", part))
        if not covered:
            return None
        start, end = covered[0]
        for first, last in covered:
            if first > end:
                break
            end = max(end, last)
        return start, end

    async def refused_from(self, part: Part, offset: int) -> dict[int, tuple[str, str, str]]:
        """See `ports.Store.refused_from`."""
        return {
            row["offset"]: (row["reason"], row["pointer"], row["keyword"])
            for row in self._of_part("refused", part)
            if row["offset"] >= offset
        }

    async def set_aside(self, part: Part) -> list[int]:
        """See `ports.Store.set_aside`."""
        return sorted(r["offset"] for r in self._of_part("refused", part) if r["reason"] == "sink_rejected")

    # ---- for the sweeper's twin

    def note(self, table: str, row: Row) -> None:
        """Keep one row that was never encoded."""
        _put(self._tables[table], RULES[table], row)

    def delete(self, table: str, gone: Callable[[Row], bool]) -> None:
        """Remove rows."""
        self._tables[table] = {key: row for key, row in self._tables[table].items() if not gone(row)}

    # ---- for whoever looks at the tables, or breaks them

    def rows(self, table: str) -> list[Row]:
        """The rows of a table as they are now, one per key, by column name. A column that was left out is not there."""
        return [dict(row) for row in self._tables[table].values()]

    def backup(self, *tables: str) -> Tables:
        """A copy of these tables, or of all."""
        return {name: dict(self._tables[name]) for name in tables or RULES}

    def restore(self, backup: Mapping[str, Mapping[Key, Row]]) -> None:
        """Put the tables of a backup back as they were; the others stay. Workers must start again after it."""
        for name, rows in backup.items():
            self._tables[name] = dict(rows)

    def _of_part(self, table: str, part: Part) -> list[Row]:
        return [
            r for r in self._tables[table].values() if r["topic"] == part.topic and r["partition"] == part.partition
        ]


def _decoded(table: str, encoded: bytes) -> Row:
    """One encoded row by column name. Raises StoreRejectedError where it is not a row of this table."""
    columns = ARRAY_TABLES.get(table)
    try:
        values = orjson.loads(encoded)
    except orjson.JSONDecodeError:
        values = None
    row: Row | None = None
    if columns is None:
        row = values if isinstance(values, dict) else None
    elif isinstance(values, list) and len(values) == len(columns):
        row = dict(zip(columns, values, strict=True))
    if row is None or any(row.get(name) is None for name in RULES[table].key):
        raise StoreRejectedError(f"This is no row of {table}.", code=_BAD_ROW)
    return row


def _put(held: dict[Key, Row], rule: TableRule, row: Row) -> None:
    key = tuple(row[name] for name in rule.key)
    old = held.get(key)
    if old is None or rule.version is None or _version(row, rule.version) >= _version(old, rule.version):
        held[key] = row


def _version(row: Row, column: str) -> float:
    """A version as a number: 128-bit ones travel as text."""
    value = row.get(column, 0)
    return int(value) if isinstance(value, str) else value


def kin_of(row: Row) -> Kin:
    """What a row says of its lineage. What was left out of it is NULL, or empty."""
    kin = Kin(
        row["run_id"],
        row.get("closed_by") is not None,
        row.get("run_hash"),
        tuple(row.get("lineage", ())),
        row.get("genesis") if row.get("verdict_signature") == "trusted" else None,
        row.get("parent_run_id"),
        row.get("verdict_lineage", ""),
        "",
        expired=row.get("expired_at") is not None,
    )
    return kin._replace(version=hashlib.sha256(repr(kin).encode()).hexdigest()[:16])


def _selected(row: Row) -> list[Any]:
    """An object's row as the reader's query selects it: instants as whole numbers, members of other kinds left out."""
    kind = row["kind"]
    return [
        row["workspace"],
        row["run_id"],
        kind,
        row["object_id"],
        row["type"],
        row["success"],
        row["tokens_used"],
        row["metadata"] if kind == "step" else None,
        row["extra"] if kind in {"run", "claim"} else None,
        None if kind == "step" else row["doc"],
        row["chain"],
        row["_source"],
        round(row["_event_time"] * _MICRO),
        row["_version"],
        round(row["_first_appended_at"] * MS),
        round(row["_appended_at"] * MS),
    ]

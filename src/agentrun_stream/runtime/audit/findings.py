"""What an audit found: differences with their place, residuals by check, what was looked at.

A value that may come from a payload is shown by digest and length alone. Must not live here: comparing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from agentrun_stream.model.event import REASONS
from agentrun_stream.ports import Part, RunKey

CHECKS: Final = (
    *("coverage", "records", "digests", "projections", "settlements", "accruals", "windows", "published", "signatures"),
    *("closings", "signals"),
)
KEPT_MAX: Final = 1_000
RUNS_MAX: Final = 100_000
# Columns whose text is a word of ours, a name or an amount; any other text may be payload.
_SHOWN_COLUMNS: Final = (
    frozenset({"minute", "basis", "agent_id", "model", "provider", "runtime", "trigger", "status", "outcome", "type"})
    | {"closed_by", "time_basis", "tool_name", "mcp_server", "parent_run_id", "task_id", "run_hash", "parent_run_hash"}
    | {"cost_reported", "cost_reported_raw", "model_version", "config_hash", "started_at", "ended_at", "created_at"}
    | {"verdict", "verdict_hash", "verdict_chain", "verdict_signature", "verdict_lineage", "verdict_log", "reason"}
    | {"first_event_at", "last_event_at", "appended_at", "_event_time", "_first_appended_at", "_appended_at"}
    | {"cost_computed", "cost_effective", "effective_source", "price_status", "price_book", "diff_class"}
    | {"claim_difference", "_version", "_topic", "topic", "workspace", "run_id", "kind"}
)
_SHOWN_CHARS_MAX: Final = 80
_MICRO: Final = 1_000_000


class Where(NamedTuple):
    """Where something stands: on the log, in a run, in a column. What does not apply is empty or None."""

    part: Part | None = None
    offset: int | None = None
    run: RunKey | None = None
    object: str = ""
    column: str = ""
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it must be. `last` is the last offset where a range is meant."""

    check: str
    table: str
    column: str
    topic: str
    partition: int | None
    offset: int | None
    last: int | None
    workspace: str
    run: str
    object: str
    expected: str
    found: str

    @property
    def place(self) -> str:
        """Where it stands on the log, as far as that is known."""
        if self.partition is None:
            return ""
        offset = "" if self.offset is None else f":{self.offset}"
        return f"{self.topic}:{self.partition}{offset}" + ("" if self.last is None else f"-{self.last}")

    @property
    def text(self) -> str:
        """The difference on one line."""
        table = f"{self.table}.{self.column}" if self.column else self.table
        words = (self.place, f"{self.workspace}/{self.run}".strip("/"), self.object)
        where = " ".join(word for word in words if word)
        return f"{self.check}: {table} {where}: expected {self.expected}, found {self.found}"


@dataclass(slots=True)
class Findings:
    """What the audit found. `residual` is the number of differences by check; all zero is the promise."""

    records: int = 0
    objects: int = 0
    runs: int = 0
    refused: int = 0
    residual: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHECKS, 0))
    differences: list[Difference] = field(default_factory=list)
    # Runs and windows that differ, by check: what a repair begins with.
    touched: dict[str, dict[RunKey, Part]] = field(default_factory=lambda: {name: {} for name in CHECKS})
    windows: set[tuple[str, int]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    kept_max: int = KEPT_MAX

    @property
    def total(self) -> int:
        """The sum of all residuals."""
        return sum(self.residual.values())

    def note(self, text: str) -> None:
        """Say once what was not looked at, or how."""
        if text not in self.notes:
            self.notes.append(text)

    def differ(self, check: str, table: str, where: Where, expected: object, found: object) -> None:
        """Count a difference. `expected` and `found` are words of ours, or values of `where.column`."""
        self.residual[check] += 1
        if where.run is not None and where.part is not None and len(self.touched[check]) < RUNS_MAX:
            self.touched[check][where.run] = where.part
        if len(self.differences) >= self.kept_max:
            return
        part, run = where.part, where.run or ("", "")
        self.differences.append(
            Difference(
                check,
                table,
                where.column,
                part.topic if part else "",
                part.partition if part else None,
                where.offset,
                where.last,
                run[0],
                run[1],
                where.object,
                shown(where.column, expected),
                shown(where.column, found),
            )
        )

    def differ_columns(
        self, check: str, table: str, where: Where, rows: tuple[Mapping[str, Any], Mapping[str, Any]]
    ) -> bool:
        """Compare (expected, found) column by column, as far as expected goes; return whether any differs."""
        expected, found = rows
        differs = False
        for name, value in expected.items():
            if not equal(value, found.get(name)):
                differs = True
                self.differ(check, table, where._replace(column=name), value, found.get(name))
        return differs


def shown(column: str, value: object) -> str:
    """A value as a difference shows it: what may be payload by its digest and length."""
    text = str(value)
    plain = not column or value is None or isinstance(value, bool | int | float) or column in _SHOWN_COLUMNS
    if plain or text in REASONS:
        return text[:_SHOWN_CHARS_MAX]
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]} of {len(text)} characters"


def equal(expected: Any, found: Any) -> bool:
    """Equal as the store prints it: times come back as text of seconds, wide integers as text or number."""
    if expected == found:
        return type(expected) is not bool or type(found) is bool
    if expected is None or found is None:
        return False
    if str(expected) == str(found):
        return True
    if isinstance(expected, float | int) and isinstance(found, str):
        return round(float(expected) * _MICRO) == round(float(found) * _MICRO)
    return False


def ranges(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted offsets as ranges, both ends included."""
    found: list[tuple[int, int]] = []
    for offset in offsets:
        if found and offset == found[-1][1] + 1:
            found[-1] = found[-1][0], offset
        else:
            found.append((offset, offset))
    return found

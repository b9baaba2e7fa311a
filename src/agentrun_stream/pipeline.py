"""The system on one screen: what happens to a record, and in which order a checkpoint writes.

Must not live here: I/O. The loop (runtime/) walks these tables.
"""

from dataclasses import dataclass
from typing import Final

from agentrun_stream.codec.cloudevents import Route, decode
from agentrun_stream.model.event import Event, Refusal
from agentrun_stream.ports import Record
from agentrun_stream.processors.fold import fold
from agentrun_stream.processors.project import project
from agentrun_stream.processors.publish import announcements, run_record
from agentrun_stream.processors.verify import prove, settle

__all__ = ["PHASES", "Phase", "announcements", "fold", "project", "read", "run_record", "settle"]


def read(record: Record, route: Route, append_ms: int | None = None) -> Event | Refusal:
    """Decode a record, and read what a signed or chained object says by its bytes; `settle` then looks at the equation."""
    when = record.timestamp if append_ms is None else append_ms
    event = decode(record.value, record.key, record.headers, when, route)
    return event if isinstance(event, Refusal) or record.value is None else prove(event, record.value)


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of a checkpoint; `tables` are inserted side by side."""

    name: str
    tables: tuple[str, ...]
    why: str


# record -> read -> settle -> fold -> rows, accruals   per record, so that its objects die young
# run    -> project -> rows, settlements, record       per run that a batch changed, or that is judged again
# batch  -> these phases                               one at a time; a failure means that nothing later happens
PHASES: Final = (
    Phase(
        "facts", ("accruals", "refused", "evidence"), "before the objects that would make their event already folded"
    ),
    Phase("objects", ("run_objects",), "atomically: per run the exact state up to some offset"),
    Phase("projections", ("runs", "settlements"), "a function of the objects, written again after a crash"),
    Phase(
        "publish",
        (),
        "runs in one fenced transaction per partition, dead letters, misplaced records; rows only judged again",
    ),
    Phase("journal", ("batches",), "vouches for everything above"),
    Phase("commit", (), "for lag tools, and an upper bound of the resume point"),
)

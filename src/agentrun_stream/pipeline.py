"""The system on one screen: what happens to a record, and in which order a checkpoint writes.

Must not live here: I/O. The loop (runtime/) walks these tables.
"""

from dataclasses import dataclass
from typing import Final

from agentrun_stream.codec.cloudevents import decode
from agentrun_stream.processors.fold import fold
from agentrun_stream.processors.project import project
from agentrun_stream.processors.publish import announcement, run_record

__all__ = ["PHASES", "Phase", "announcement", "decode", "fold", "project", "run_record"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of a checkpoint; `tables` are inserted side by side."""

    name: str
    tables: tuple[str, ...]
    why: str


# record -> decode -> fold -> rows, accruals       per record, so that its objects die young
# run    -> project -> rows, settlements, record   per run that a batch changed
# batch  -> these phases                           one at a time; a failure means that nothing later happens
PHASES: Final = (
    Phase(
        "facts", ("accruals", "refused", "evidence"), "before the objects that would make their event already folded"
    ),
    Phase("objects", ("run_objects",), "atomically: per run the exact state up to some offset"),
    Phase("projections", ("runs", "settlements"), "a function of the objects, written again after a crash"),
    Phase("publish", (), "runs in one fenced transaction per partition, dead letters, misplaced records"),
    Phase("journal", ("batches",), "vouches for everything above"),
    Phase("commit", (), "for lag tools, and an upper bound of the resume point"),
)

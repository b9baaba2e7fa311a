"""A batch: what some records of one or more partitions make, folded and encoded, ready for its checkpoint.

Must not live here: folding (folder.py), what is shown of runs (show.py), writes (checkpoint.py).
"""

from dataclasses import dataclass, field
from typing import Final

from agentrun_stream.codec import json_codec
from agentrun_stream.ports import Outgoing, Part
from agentrun_stream.runtime.assigned import Assigned

ALREADY: Final = "already_folded"
REHOMED: Final = "rehomed"


@dataclass(slots=True)
class PartBatch:
    """What one partition brings to a batch: the offsets it covers (`last` exclusive) and what is to be published.

    `last_offset` is that of its last record: control records may be covered beyond it. `again` counts the runs that are shown
    again although nothing new was said of them.
    """

    assigned: Assigned
    first: int
    last: int
    first_append_ms: int
    last_append_ms: int
    records: int = 0
    last_offset: int = -1
    again: int = 0
    runs: dict[str, list[Outgoing]] = field(default_factory=dict)
    dead: list[Outgoing] = field(default_factory=list)
    misplaced: list[Outgoing] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """One batch of one or more partitions, folded and encoded, ready for its checkpoint.

    `judged` are the rows of runs that are only shown again: they say that it was done, so they are written once it is told.
    """

    number: int
    started_ms: int
    parts: dict[Part, PartBatch] = field(default_factory=dict)
    rows: dict[str, list[bytes]] = field(default_factory=dict)
    judged: dict[str, list[bytes]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    ended: dict[tuple[str, str], int] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], int] = field(default_factory=dict)
    misplaced_by: dict[str, int] = field(default_factory=dict)
    ages: list[tuple[int, int, int]] = field(default_factory=list)
    detected_ms: list[int] = field(default_factory=list)
    hits: int = 0
    looked_up: int = 0

    @property
    def records(self) -> int:
        """Records in the batch."""
        return sum(p.records for p in self.parts.values())

    def count(self, outcome: str, times: int = 1) -> None:
        """Count the outcome of an event, or of several."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + times

    def put(self, table: str, row: bytes, *, judged: bool = False) -> None:
        """Add one encoded row."""
        (self.judged if judged else self.rows).setdefault(table, []).append(json_codec.fitted(row))
        self.counts[table] = self.counts.get(table, 0) + 1

    def put_all(self, table: str, encoded: list[bytes]) -> None:
        """Add many rows as one element: thousands of small buffers that live until the checkpoint tear the heap apart."""
        if encoded:
            self.rows.setdefault(table, []).append(b"\n".join(encoded))
            self.counts[table] = self.counts.get(table, 0) + len(encoded)

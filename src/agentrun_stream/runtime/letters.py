"""What is kept of a refused record: its row in `refused`, and its dead letter, untouched but for our headers.

Must not live here: why a record is refused, or sending.
"""

from dataclasses import dataclass
from typing import Any, Final

from agentrun_stream.codec.cloudevents import ATTEMPT_HEADER, FIRST_SEEN_HEADER, attempt_of
from agentrun_stream.model.event import Refusal
from agentrun_stream.ports import Outgoing, Part, Record

PREFIX: Final = "agentrun.dlq."
_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Refused:
    """One refused record and why. Nothing of its value goes anywhere but into the dead letter."""

    record: Record
    refusal: Refusal
    part: Part
    group: str

    @property
    def _place(self) -> dict[str, Any]:
        return {"topic": self.part.topic, "partition": self.part.partition, "offset": self.record.offset}

    @property
    def _size(self) -> int:
        return len(self.record.value or b"")

    def row(self, refused_s: float) -> dict[str, Any]:
        """The row of `refused`."""
        refusal = self.refusal
        return {
            **self._place,
            "workspace": refusal.workspace,
            "reason": refusal.reason,
            "pointer": refusal.pointer,
            "keyword": refusal.keyword,
            "size": self._size,
            "attempt": attempt_of(self.record.headers),
            "appended_at": self.record.timestamp / _MS,
            "refused_at": refused_s,
            "_version": 0,
        }

    def letter(self) -> Outgoing:
        """The dead letter: key, value and headers as they came, and the reason in headers of ours."""
        record, refusal = self.record, self.refusal
        detail = " ".join(filter(None, (refusal.pointer, refusal.keyword, f"{self._size} bytes")))
        said = {
            "reason": refusal.reason,
            "detail": detail,
            **self._place,
            "timestamp": record.timestamp,
            "group": self.group,
        }
        first_seen = dict(record.headers).get(FIRST_SEEN_HEADER, str(record.timestamp).encode())
        headers = [(name, value) for name, value in record.headers if not name.startswith(PREFIX)]
        headers += [(PREFIX + name, str(value).encode()) for name, value in said.items()]
        headers += [(ATTEMPT_HEADER, str(attempt_of(record.headers)).encode()), (FIRST_SEEN_HEADER, first_seen)]
        return Outgoing(record.key, record.value, tuple(headers))

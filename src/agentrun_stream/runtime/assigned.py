"""A partition that is ours: from where to where it is folded, its cache, and how many refused records it bears.

Must not live here: reading, folding, writing.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentrun_stream.codec.cloudevents import Route
from agentrun_stream.errors import RefusedShareError
from agentrun_stream.ports import Part, RunKey
from agentrun_stream.runtime.cache import Cache

HomeOf = Callable[[bytes], int]


@dataclass(frozen=True, slots=True)
class RefusedLimit:
    """How many of the last `window` records may be refused, as a share, before the partition stops; 1 never stops it."""

    ratio: float = 1.0
    window: int = 1_000


NO_LIMIT: Final = RefusedLimit()


class Dropped(Exception):  # noqa: N818  not an error: the partition moved away
    """The partition is no longer ours; what was built on it is dropped."""


@dataclass(slots=True)
class Assigned:
    """A partition that is ours. `number` tells this assignment from every other.

    `folded` is the offset up to which batches were made, `acknowledged` that up to which they were written. While a batch
    is being folded, `folding` is true and the cache stands nowhere.

    `set_aside` are the offsets that an operator refused. Whoever owned the partition before that may have booked what
    follows them as if they had been folded, and a zombie may do so still. So what is booked after the n-th of them is of
    version n, and below `caution_below`, where such a zombie can have been, every object that an event names is booked,
    be it with nothing.

    `again` are the runs that are to be projected again under the opinions in force. The loop takes some of them into a
    batch; `again_taken` counts those that it ever took, and `again_written` those of them whose batch was written.
    """

    part: Part
    number: int
    route: Route
    epoch: int
    home_of: HomeOf
    group: str
    cache: Cache = field(default_factory=Cache)
    folded: int = 0
    acknowledged: int = 0
    acknowledged_ms: int = 0
    folding: bool = False
    refused: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    lost: bool = False
    set_aside: Sequence[int] = ()
    caution_below: int = 0
    limit: RefusedLimit = NO_LIMIT
    resume_below: int = 0  # an operator lets pass whatever is refused below this offset
    recent: deque[int] = field(default_factory=deque)
    again: dict[RunKey, None] = field(default_factory=dict)
    again_taken: int = 0
    again_written: int = 0

    def judge_refusal(self, offset: int) -> None:
        """Hear of a refused offset. Raises RefusedShareError when there are too many among the last ones."""
        recent, limit = self.recent, self.limit
        recent.append(offset)
        while recent[0] <= offset - limit.window:
            recent.popleft()
        if len(recent) > limit.ratio * limit.window and offset >= self.resume_below:
            raise RefusedShareError(
                f"{len(recent)} of the last {limit.window} records of {self.part.topic}:{self.part.partition} up to offset "
                f"{offset} are refused, more than the share of {limit.ratio:g} that is allowed. None of them was sent to "
                "the dead letters yet.",
                "See why with `agentrun doctor` and mend the producer; then `agentrun work --resume` lets what is on the "
                "log now go to the dead letters (or raise AGENTRUN_WORKER__DLQ_STOP_RATIO).",
            )

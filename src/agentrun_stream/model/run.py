"""What a run is: its objects (snapshot, steps, evals, claims, marks), their facts, and the table of statuses.

Must not live here: how events change a run (processors/fold.py) or what is shown of it (processors/project.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from agentrun_stream import limits
from agentrun_stream.model.chain import Link, Seen, seen_of
from agentrun_stream.model.facts import Facts

OPEN: Final = frozenset({"pending", "running"})
TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "timeout"})
LEASE_STATUS: Final = "timeout"

# (the stored status is terminal, the new one is terminal) -> what a snapshot does to the run.
SNAPSHOT_EFFECT: Final = {
    (False, False): "replace",
    (False, True): "close",
    (True, False): "stale",
    (True, True): "correct",
}

# What most runs have of a kind: one for all of them, so it is replaced and never written to.
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


def _none() -> Mapping[str, Any]:
    return _NONE


CLOSED_BY_RUNTIME: Final = "runtime"
CLOSED_BY_LEASE: Final = "lease"


def position(epoch: int, offset: int) -> int:
    """Where an event stands: topic epoch above partition offset. What orders the events of a run."""
    return epoch << limits.OFFSET_BITS | offset


def offset_of(pos: int) -> int:
    """The partition offset of a position."""
    return pos & ((1 << limits.OFFSET_BITS) - 1)


def row_version(pos: int, maintenance: int = 0) -> int:
    """The version of an object's row, 64 bits: topic epoch, offset, maintenance counter."""
    return pos << limits.MAINTENANCE_BITS | maintenance


def projection_version(pos: int, counter: int = 0) -> int:
    """The version of a projected row, 128 bits: topic epoch and offset above, projection counter below."""
    return pos << 64 | counter


class Usage(NamedTuple):
    """Tokens of one model call, of which model, and its terms (`model.terms`). None is unknown, never zero."""

    provider: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    total_tokens: int | None
    cache_write_1h_tokens: int | None
    service_tier: str | None
    convention: str | None


class StepFact(NamedTuple):
    """What the fold and the projection keep of a step. Append times in ms, the event's time in s.

    `link` is its place in the chain. `origin` is the id of the claim that brought it, if nothing else ever did; else ''.
    """

    pos: int
    source: str
    time_s: float
    first_append_ms: int
    append_ms: int
    type: str
    success: bool | None
    usage: Usage | None
    link: Link | None = None
    origin: str = ""

    @property
    def seen(self) -> Seen:
        """What this version of the step alone says of how it came."""
        return seen_of(self.link, self.origin)


class EvalFact(NamedTuple):
    """What is kept of an eval; `doc` is the EvalResult as it came."""

    pos: int
    source: str
    time_s: float
    first_append_ms: int
    append_ms: int
    doc: dict[str, Any]


class MarkFact(NamedTuple):
    """What stays of a step's other versions: `seen` sums up all that ever came, also what changed nothing else."""

    pos: int
    source: str
    time_s: float
    first_append_ms: int
    append_ms: int
    seen: Seen


class ClaimFact(NamedTuple):
    """A validly signed snapshot, kept whole: `doc` as canonical JSON, None where it is one too many to be kept here.

    `at` is the position of the event that brought it, under which its bytes are evidence; `pos` is a later one where the same
    key and revision came with another digest (`fork`).
    """

    pos: int
    source: str
    time_s: float
    first_append_ms: int
    append_ms: int
    at: int
    fork: bool
    doc: bytes | None
    cost_raw: str | None
    facts: Facts


@dataclass(slots=True)
class Snapshot:
    """The run's own object: its merged members (steps and eval aside) and what the fold must remember of it.

    `seen` is False while only patches, refused steps or a lease made the object. `settled` holds every minute (epoch
    seconds) that the run ever settled in. `opened_ms` is the append time at which it began or was last reopened, `due_ms` that
    from which on a lease that closed it could have done so. `proof` is what the last snapshot says of its signature and chain;
    None where it has neither, or where something unsigned was said since.
    """

    doc: dict[str, Any]
    pos: int
    source: str
    time_s: float
    first_append_ms: int
    append_ms: int
    opened_ms: int
    seen: bool = False
    started_s: float | None = None
    ended_s: float | None = None
    cost_raw: str | None = None
    closed_by: str | None = None
    closed_s: float = 0.0
    time_basis: str | None = None
    settled: tuple[int, ...] = ()
    reopened: int = 0
    corrections: int = 0
    steps_refused: int = 0
    due_ms: int = 0
    proof: Facts | None = None

    @property
    def status(self) -> str | None:
        """The status that counts: a lease's `timeout` stands above the last reported one."""
        return LEASE_STATUS if self.closed_by == CLOSED_BY_LEASE else self.doc.get("status")


@dataclass(slots=True)
class RunState:
    """A run as its objects say. `pos` is the highest position that any of them holds: the guard against folding twice.

    Of an expired run `expired` is all there is; its other objects are gone, or as good as gone.
    """

    workspace: str
    run_id: str
    pos: int = -1
    snap: Snapshot | None = None
    steps: dict[str, StepFact] = field(default_factory=dict)
    evals: dict[str, EvalFact] = field(default_factory=dict)
    claims: Mapping[str, ClaimFact] = field(default_factory=_none)
    marks: Mapping[str, MarkFact] = field(default_factory=_none)
    expired: dict[str, Any] | None = None
    # The cache's own notes: the last batch that touched the run, and what it counted for its size.
    mark: int = field(default=-1, compare=False)
    shown: tuple[int, tuple[Any, ...]] | None = field(
        default=None, compare=False
    )  # as `runs` will have it: see show.py
    cached_bytes: int = field(default=0, compare=False)

    def forget(self) -> None:
        """Let go of all objects but `expired`."""
        self.snap, self.steps, self.evals, self.claims, self.marks = None, {}, {}, _NONE, _NONE

    @property
    def closed(self) -> bool:
        """Whether the run has ended, by its runtime or by a lease."""
        return self.expired is not None or (self.snap is not None and self.snap.closed_by is not None)

    @property
    def last_append_ms(self) -> int:
        """The newest append time among the run's objects."""
        times = [s.append_ms for s in self.steps.values()]
        for others in (self.evals, self.claims, self.marks):
            times += [fact.append_ms for fact in others.values()]
        if self.snap is not None:
            times.append(self.snap.append_ms)
        return max(times, default=0)

    @property
    def first_append_ms(self) -> int:
        """The append time of the event that made the run's first object."""
        times = [s.first_append_ms for s in self.steps.values()]
        for others in (self.evals, self.claims, self.marks):
            times += [fact.first_append_ms for fact in others.values()]
        if self.snap is not None:
            times.append(self.snap.first_append_ms)
        return min(times, default=0)


def expired_snapshot(expired: dict[str, Any]) -> Snapshot:
    """What an expired run keeps of its snapshot."""
    return Snapshot(**expired["snap"] | {"settled": tuple(expired["snap"]["settled"])})


class Accrual(NamedTuple):
    """What one event brought to the ledger, as differences. Amounts of money are Decimal with 12 decimals."""

    object_id: str
    basis: str
    agent_id: str | None
    model: str | None
    provider: str | None
    runtime: str | None
    trigger: str | None
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    total_tokens: int | None
    cost_reported: Decimal | None

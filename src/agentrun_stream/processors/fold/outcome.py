"""What an event changed, and the rules that every kind of event has in common.

Must not live here: what one kind of event does.
"""

from typing import Any, Final, NamedTuple

from agentrun_stream.model.event import Event, Refusal, Times
from agentrun_stream.model.run import Accrual, EvalFact, Snapshot, StepFact

FOLDED: Final = "folded"
REPEATED: Final = "repeated"  # folded, although source and time are those of the stored object
LATE: Final = "late"
STALE: Final = "stale"
NO_EFFECT: Final = "no_effect"


class Place(NamedTuple):
    """Where an event stands on the log: its position and the broker's append time in ms."""

    pos: int
    append_ms: int


FoldedStep = tuple[str, dict[str, Any], Times, StepFact]


class Folded:
    """What one event changed. `steps` are (id, object, times, fact), `run` says whether the run's own object did.

    Of the other kinds they are ids.

    `refusal` is set where the contract refuses the event because of the run's state; then only `run` may be set besides.
    """

    __slots__ = ("accruals", "claims", "evals", "marks", "outcome", "refusal", "run", "steps")

    def __init__(self, outcome: str) -> None:
        self.outcome = outcome
        self.steps: list[FoldedStep] = []
        self.evals: list[str] = []
        self.claims: list[str] = []
        self.marks: list[str] = []
        self.accruals: list[Accrual] = []
        self.run = False
        self.refusal: Refusal | None = None

    @property
    def changed(self) -> bool:
        """Whether any object changed; an event that changes none has no effect."""
        return bool(self.steps or self.evals or self.run or self.claims or self.marks)


# ---- late repeats and refusals


def is_late(event: Event, old: StepFact | EvalFact | Snapshot) -> bool:
    """Rule 5: the same source told an earlier time than the stored object has."""
    return event.stamped and event.time_s < old.time_s and event.source == old.source


def same_stamp(event: Event, old: StepFact | Snapshot) -> bool:
    """Whether source and time are those of the stored object."""
    return event.stamped and event.time_s == old.time_s and event.source == old.source


def refused(reason: str, event: Event) -> Folded:
    """An event that the contract refuses because of the run's state."""
    out = Folded(NO_EFFECT)
    out.refusal = Refusal(reason, workspace=event.workspace)
    return out

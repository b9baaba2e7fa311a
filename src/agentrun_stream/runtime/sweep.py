"""The sweeper: asks, on the log, about runs that were silent for too long or open for too long. The fold decides.

Must not live here: what a lease does to a run (processors/fold.py), SQL (store/sweeps.py), retention (retention.py).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from agentrun_stream.codec.question import question
from agentrun_stream.errors import AgentrunError
from agentrun_stream.model.event import LEASE
from agentrun_stream.ports import Clock, Outgoing, Part, Publisher, RunKey, Source
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.membership import Membership
from agentrun_stream.store.sweeps import BEGINNING, Age, Touch
from agentrun_stream.telemetry.metrics import Metrics

IDLE: Final = "idle"
AGE: Final = "age"
LAG_MS_MAX: Final = 60_000
LOOK_AGAIN_MS: Final = 60_000
PAGE_RUNS: Final = 2_000
PAGES_MAX: Final = 10  # of each walk in one turn
_MINUTE_S: Final = 60


class Sweeps(Protocol):
    """The part of the store that the sweeper asks. Every query is bounded by the number of runs that it may return."""

    async def touched(self, part: Part, after: Touch, before_s: int, most: int) -> Sequence[Touch]:
        """The next touches after one, of minutes below `before_s`, in order."""
        ...

    async def open_ages(self, keys: Sequence[RunKey]) -> Mapping[RunKey, Age]:
        """The ages of those of these runs that are open."""
        ...

    async def reached(self, part: Part) -> Mapping[str, int]:
        """How far each walk came."""
        ...

    async def reach(self, part: Part, walk: str, value: int, now_ms: int) -> None:
        """Note how far a walk came."""
        ...


@dataclass(frozen=True, slots=True)
class LeaseRules:
    """When a run is asked about, in seconds."""

    idle_timeout_s: int
    max_age_s: int

    @property
    def data(self) -> dict[str, float]:
        """What the event says."""
        return {"idle_timeout": self.idle_timeout_s, "max_age": self.max_age_s}

    def due_ms(self, age: Age) -> int:
        """From when on a run is due."""
        return min(age.last_ms + self.idle_timeout_s * 1000, age.opened_ms + self.max_age_s * 1000 + 1)


@dataclass(slots=True)
class Walk:
    """How far one walk came, what it asked (when, and of which minute), and what the store knows of that."""

    name: str
    wait_s: int
    at: Touch = BEGINNING
    noted: int = 0
    looked_ms: int = 0
    asked: dict[RunKey, tuple[int, int]] = field(default_factory=dict)

    @property
    def safe(self) -> int:
        """The minute before which nothing is left to do."""
        return min([self.at.minute, *(minute for _, minute in self.asked.values())])


def question_on(part: Part, kind: str, run: RunKey, data: Mapping[str, float], now_ms: int) -> Outgoing:
    """A question as a record of the partition that its run is on."""
    return Outgoing(run[1].encode(), question(kind, run, data, now_ms), (), part.partition)


class Leases:
    """The walks of one partition for one assignment, one for each of the two reasons.

    A walk goes through the minutes in which something was appended, oldest first, as far as every run of a minute may be
    due, and looks at the runs of these minutes only: a run that went on has a later minute of its own. What was asked is
    looked at again a minute later, as a question may come too early by the broker's clock. The next owner goes on where
    `sweep_progress` says; asking twice does no harm, so nothing here is locked.
    """

    def __init__(self, part: Part, rules: LeaseRules, sweeps: Sweeps, publisher: Publisher, clock: Clock) -> None:
        self.hear: Callable[[int], None] = lambda _asked: None
        self._part = part
        self._rules = rules
        self._sweeps = sweeps
        self._publisher = publisher
        self._clock = clock
        self._walks: list[Walk] = []

    async def turn(self) -> int:
        """Ask about what is due now; how many runs that were. Raises UnavailableError: then the same is tried again."""
        if not self._walks:
            known = await self._sweeps.reached(self._part)
            waits = {IDLE: self._rules.idle_timeout_s, AGE: self._rules.max_age_s}
            self._walks = [Walk(n, w, Touch(known.get(n, 0), "", ""), known.get(n, 0)) for n, w in waits.items()]
        asked = 0
        for walk in self._walks:
            asked += await self._again(walk)
            asked += await self._on(walk)
            if walk.safe > walk.noted:
                await self._sweeps.reach(self._part, walk.name, walk.safe, self._clock.now_ms())
                walk.noted = walk.safe
        return asked

    async def _again(self, walk: Walk) -> int:
        """What was asked a while ago should be closed by now; what is not is asked again after an `idle_timeout`."""
        now, asked = self._clock.now_ms(), 0
        if now - walk.looked_ms < LOOK_AGAIN_MS:
            return 0
        walk.looked_ms = now
        waited = [Touch(minute, *key) for key, (at, minute) in walk.asked.items() if at <= now - LOOK_AGAIN_MS]
        for start in range(0, len(waited), PAGE_RUNS):
            asked += await self._ask(walk, waited[start : start + PAGE_RUNS])
        return asked

    async def _on(self, walk: Walk) -> int:
        """Walk on through the minutes of which every run may be due."""
        asked = 0
        before_s = self._clock.now_ms() // 1000 - walk.wait_s - _MINUTE_S
        for _ in range(PAGES_MAX):
            found = await self._sweeps.touched(self._part, walk.at, before_s, PAGE_RUNS)
            asked += await self._ask(walk, [t for t in found if t.key not in walk.asked])
            walk.at = found[-1] if found else walk.at
            if len(found) < PAGE_RUNS:
                break
        return asked

    async def _ask(self, walk: Walk, touches: Sequence[Touch]) -> int:
        """Ask about those that are due; the others are closed, or will come up under a later minute."""
        if not touches:
            return 0
        now, minutes = self._clock.now_ms(), {t.key: t.minute for t in touches}
        ages = await self._sweeps.open_ages(list(minutes))
        due = {key: self._last_asked_ms(key) for key, age in ages.items() if self._rules.due_ms(age) <= now}
        new = [key for key, at in due.items() if at <= now - self._rules.idle_timeout_s * 1000]
        if new:
            events = [question_on(self._part, LEASE, key, self._rules.data, now) for key in new]
            await self._publisher.send(self._part.topic, events)
            self.hear(len(new))
        for key in minutes:
            walk.asked.pop(key, None)
        walk.asked.update({key: (at, minutes[key]) for key, at in due.items()} | {k: (now, minutes[k]) for k in new})
        return len(new)

    def _last_asked_ms(self, key: RunKey) -> int:
        return max(walk.asked[key][0] if key in walk.asked else 0 for walk in self._walks)


class Duty(Protocol):
    """What the owner of a partition does beside the loop."""

    async def turn(self) -> int:
        """One bounded piece of it; how much was done."""
        ...


Duties = Callable[[Assigned], Iterable[Duty]]


class Sweeper:
    """`run()` does the duties of every partition that is ours and not behind. An error never reaches the loop."""

    def __init__(self, members: Membership, source: Source, clock: Clock, duties: Duties, every_s: float) -> None:
        self._members = members
        self._source = source
        self._clock = clock
        self._duties = duties
        self._every_s = every_s
        self._tails: dict[int, int] = {}
        self._made: dict[int, list[Duty]] = {}
        self.hear: Callable[[Part, Exception | None], None] = lambda _part, _error: None

    async def run(self) -> None:
        """Work until cancelled, which may happen at any point."""
        while True:
            await self._round()
            await self._clock.sleep(self._every_s)

    async def _round(self) -> None:
        owned = self._members.parts
        numbers = {assigned.number for assigned in owned.values()}
        self._tails = {n: end for n, end in self._tails.items() if n in numbers}
        self._made = {n: duties for n, duties in self._made.items() if n in numbers}
        for part, assigned in list(owned.items()):
            if self._up_to_date(part, assigned):
                await self._turn(part, assigned)

    async def _turn(self, part: Part, assigned: Assigned) -> None:
        if assigned.number not in self._made:
            self._made[assigned.number] = list(self._duties(assigned))
        for duty in self._made[assigned.number]:
            try:
                await duty.turn()
            except Exception as error:  # noqa: BLE001 - it is tried again; the worker goes on whatever went wrong here
                self.hear(part, error)
                return
        self.hear(part, None)

    def _up_to_date(self, part: Part, assigned: Assigned) -> bool:
        """Whether what the log has is folded, but for the last minute; what is not known counts as behind.

        At first all that was there when we came must be folded: the questions of the owner before us are among it.
        """
        end = self._source.end(part)
        if end is None:
            return False
        if assigned.acknowledged < self._tails.setdefault(assigned.number, end):
            return False
        known = assigned.acknowledged_ms
        return assigned.acknowledged >= end or bool(known and self._clock.now_ms() - known < LAG_MS_MAX)


class SweepReport:
    """Says once that a partition is not swept, and once that it is again."""

    def __init__(self, log: FilteringBoundLogger, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics
        self._failing: set[Part] = set()

    def hear(self, part: Part, error: Exception | None) -> None:
        """Hear of the end of a turn."""
        if error is None:
            if part in self._failing:
                self._failing.remove(part)
                self._log.info("is swept again", topic=part.topic, partition=part.partition)
            return
        self._metrics.sweeps_failed.inc()
        if part not in self._failing:
            self._failing.add(part)
            # Only our own errors are known to quote no row.
            why = error.message if isinstance(error, AgentrunError) else type(error).__name__
            next_step = (
                "Silent runs stay open meanwhile. It is tried again; `agentrun doctor` says what does not answer."
            )
            self._log.warning("not swept", topic=part.topic, partition=part.partition, why=why, next=next_step)

"""One seeded fleet of agents for the demo and the tests: the same seed gives the same bytes.

It tells stories (failures, retries, handoffs, late and repeated events, mistakes, forgeries) and counts what a correct
pipeline must show. The fast, plain load is in `load.py`. Must not live here: a clock, a broker, one test's expectation.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import count, cycle
from random import Random
from typing import Final

from agentrun_stream.testing.fleet_bad import bad_value
from agentrun_stream.testing.fleet_plan import AGENTS, Plan, Turn, draw_plan
from agentrun_stream.testing.fleet_signing import TAMPERS, tamper_with
from agentrun_stream.testing.fleet_story import Story, iso, traceparent

WINDOW_MS: Final = 3_600_000
# The longest story: a run, its child and its grandchild, with all that comes after the end.
STORY_MS_MAX: Final = 1_600_000
AFTERMATH_MS: Final = 90_000
REPEAT_MS_MAX: Final = 20_000
FLAGS: Final = ("late", "corrected", "unfinished")


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record: key, value, headers."""

    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class FleetShares:
    """How much is out of the ordinary: `bad` and `repeated` are shares of records, the others of runs.

    `tampered` is of the runs that are signed and start no other.
    """

    bad: float = 0.01
    repeated: float = 0.02
    late: float = 0.05
    corrected: float = 0.03
    unfinished: float = 0.04
    children: float = 0.12
    tampered: float = 0.03
    oversize: bool = False


@dataclass(slots=True)
class FleetTotals:
    """What a pipeline must hold after the records that were taken. `tokens` are the sums of the steps' usage.

    `runs_by_verdict` is under `fleet_registry` of the same seed, with every parent looked up. Give `verdicts` a dict to have
    the headlines run by run.
    """

    records: int = 0
    runs: int = 0
    child_runs: int = 0
    steps: int = 0
    failed_tool_calls: int = 0
    evals: int = 0
    evals_passed: int = 0
    repeats: int = 0
    late_steps: int = 0
    corrections: int = 0
    runs_with_cost: int = 0
    cost_reported_usd: Decimal = Decimal(0)
    runs_by_status: Counter[str] = field(default_factory=Counter)
    runs_by_outcome: Counter[str] = field(default_factory=Counter)
    runs_by_agent: Counter[str] = field(default_factory=Counter)
    runs_by_hash: Counter[str] = field(default_factory=Counter)
    steps_by_type: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    runs_by_verdict: Counter[str] = field(default_factory=Counter)
    runs_by_tamper: Counter[str] = field(default_factory=Counter)
    verdicts: dict[str, str] | None = None


def demo_fleet(
    runs: int, seed: int, now: datetime, totals: FleetTotals | None = None, shares: FleetShares | None = None
) -> Iterator[Record]:
    """Yield the records of `runs` runs within the hour before `now`, in the order in which they would be sent.

    `totals` is filled as runs begin, so it is complete when the iterator is at its end.
    """
    fleet = _Fleet(seed, int(now.timestamp() * 1000), totals or FleetTotals(), shares or FleetShares())
    return fleet.records(runs)


class _Fleet:
    """The records that are not sent yet, by time; `totals` counts what was put among them."""

    def __init__(self, seed: int, now_ms: int, totals: FleetTotals, shares: FleetShares) -> None:
        self.seed = seed
        self.begin_ms = now_ms - WINDOW_MS
        self.totals = totals
        self.shares = shares
        self.rng = Random(f"fleet/{seed}")
        self.waiting: list[tuple[int, int, Record]] = []
        self.order = count()
        self.tampers = cycle(TAMPERS)

    def records(self, runs: int) -> Iterator[Record]:
        children = min(int(runs * self.shares.children), runs // 2)
        roots = runs - children
        descendants = Counter(self.rng.sample([*range(roots), *range(roots)], children))
        marks = sorted(self.rng.random() for _ in range(roots))
        for index, mark in enumerate(marks):
            # No later story can begin before this, so what is due earlier is in its final order.
            yield from self._due(self.begin_ms + int(mark * (WINDOW_MS - STORY_MS_MAX)))
            plan = self._draw(f"{self.seed}-{index:05d}", descendants[index])
            room_ms = WINDOW_MS - plan.span_ms() - AFTERMATH_MS
            Story(self.rng, self.totals, self._put, self.seed).tell(plan, self.begin_ms + int(mark * room_ms))
        yield from self._due(self.begin_ms + WINDOW_MS)

    def _draw(self, name: str, descendants: int, parent: Plan | None = None) -> Plan:
        """Draw a run; its child, if it has any, has the rest of its descendants."""
        agents = [a for a in AGENTS if parent is None or a is not parent.agent]
        agent = self.rng.choices(agents, [a.weight for a in agents])[0]
        plan = draw_plan(self.rng, f"{agent.id}-{name}", agent, parent)
        plan.flags.update(f for f in FLAGS if self.rng.random() < getattr(self.shares, f))
        if not descendants:
            if agent.signs and self.rng.random() < self.shares.tampered:
                tamper_with(self.rng, plan, next(self.tampers))  # each way in turn: a small fleet shows most
        else:
            if not agent.signs:
                plan.flags.discard("unfinished")  # an open parent without a signature: nobody knows what its child is
            child = self._draw(f"{name}.1", descendants - 1, plan)
            handoff = Turn("handoff", self.rng.randint(5, 50), 20, child=child)
            plan.turns.insert(self.rng.randrange(len(plan.turns)), handoff)
        return plan

    def _put(self, at_ms: int, key: bytes, value: bytes) -> None:
        """Let a record wait for its time, and now and then one that repeats it or one that is refused."""
        record = Record(key, value, traceparent(key) if key[-1] % 4 == 0 else ())
        self._wait(at_ms, record)
        if self.rng.random() < self.shares.repeated:
            self.totals.repeats += 1
            self._wait(at_ms + self.rng.randint(1, REPEAT_MS_MAX), record)
        if self.rng.random() < self.shares.bad:
            reason, bad = bad_value(self.rng, key.decode(), iso(at_ms), oversize=self.shares.oversize)
            self.totals.refused[reason] += 1
            self._wait(at_ms, Record(key, bad))

    def _wait(self, at_ms: int, record: Record) -> None:
        self.totals.records += 1
        heapq.heappush(self.waiting, (at_ms, next(self.order), record))

    def _due(self, until_ms: int) -> Iterator[Record]:
        while self.waiting and self.waiting[0][0] < until_ms:
            yield heapq.heappop(self.waiting)[2]

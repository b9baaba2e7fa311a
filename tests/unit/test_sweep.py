"""The sweeper in made-up time: when it asks, how often, what the next owner knows, and that it asks nothing while behind."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from agentrun_stream.broker.memory import MemoryBroker, MemoryPublisher
from agentrun_stream.codec.cloudevents import NO_ROUTE
from agentrun_stream.errors import UnavailableError
from agentrun_stream.model.run import RunState, StepFact, position
from agentrun_stream.ports import Outgoing, Part
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.sweep import Duty, LeaseRules, Leases, Sweeper
from agentrun_stream.store import rows
from agentrun_stream.store.memory import MemoryStore
from agentrun_stream.store.memory_sweeps import MemorySweeps

PART = Part("events", 0)
START_S = 1_767_268_800
RULES = LeaseRules(600, 3_600)


class Time:
    """`ports.Clock`; moved by hand, or by who sleeps."""

    def __init__(self) -> None:
        self.s = float(START_S)

    def now_ms(self) -> int:
        return round(self.s * 1000)

    def monotonic_s(self) -> float:
        return self.s

    async def sleep(self, seconds: float) -> None:
        self.s += seconds
        await asyncio.sleep(0)

    def jitter(self) -> float:
        return 0.5


@dataclass
class World:
    """A partition with steps in the store, nobody who folds, and the questions on the log."""

    clock: Time = field(default_factory=Time)
    store: MemoryStore = field(default_factory=MemoryStore)
    offset: int = 0

    def __post_init__(self) -> None:
        self.broker = MemoryBroker(self.clock.now_ms)
        self.broker.create(PART.topic, 1)
        self.publisher: Any = MemoryPublisher(self.broker, "group")
        self.leases = self.owner()

    def owner(self) -> Leases:
        """Who takes the partition on."""
        return Leases(PART, RULES, MemorySweeps(self.store), self.publisher, self.clock)

    def step(self, run_id: str) -> None:
        self.offset += 1
        now, run = self.clock.now_ms(), RunState("default", run_id)
        fact = StepFact(position(0, self.offset), "/s", self.clock.s, now, now, "message", None, None)
        made = (f"s{self.offset}", {"id": f"s{self.offset}", "type": "message"}, (None, None), fact)
        asyncio.run(self.store.insert("run_objects", [rows.step_row(run, made, rows.Origin(*PART, now))]))

    def asked(self, *, until_s: float, every_s: float = 15) -> list[tuple[str, float]]:
        """Turn by turn until then: (run, second) of every question so far."""
        while self.clock.s < START_S + until_s:
            asyncio.run(self.leases.turn())
            self.clock.s += every_s
        records = self.broker.records(PART.topic)
        return [(orjson.loads(r.value or b"")["subject"], r.timestamp / 1000 - START_S) for r in records]


def test_a_silent_run_is_asked_about_once_an_idle_timeout() -> None:
    """Within two minutes of being due; again, while nobody folds it, an `idle_timeout` later and not before."""
    world = World()
    world.step("r")
    found = world.asked(until_s=2_000)
    assert [run for run, _ in found] == ["r"] * len(found)
    assert 600 <= found[0][1] <= 720
    gaps = [b - a for (_, a), (_, b) in itertools.pairwise(found)]
    assert gaps
    assert all(600 <= gap <= 700 for gap in gaps)


def test_a_run_that_goes_on_is_asked_about_for_its_age_alone() -> None:
    world = World()
    while world.clock.s < START_S + 4_000:
        world.step("r")
        found = world.asked(until_s=world.clock.s - START_S + 300)
    assert len(found) == 1
    assert 3_600 < found[0][1] <= 3_720


def test_the_next_owner_goes_on_and_forgets_nobody() -> None:
    """What was asked and is still open is not passed by; what is behind is not read again."""
    world = World()
    world.step("first")
    world.clock.s += 120
    world.step("second")
    assert len(world.asked(until_s=900)) == 2
    world.leases = world.owner()
    reached = asyncio.run(MemorySweeps(world.store).reached(PART))
    assert reached["idle"] <= START_S
    assert sorted(run for run, _ in world.asked(until_s=930)[2:]) == ["first", "second"]


def test_a_question_that_is_not_acknowledged_is_asked_again() -> None:
    world = World()
    world.step("r")
    world.clock.s += 700

    class Broken(MemoryPublisher):
        async def send(self, topic: str, records: Sequence[Outgoing]) -> None:
            raise UnavailableError(f"{topic} {len(records)}")

    world.publisher = Broken(world.broker, "group")
    broken = world.owner()
    for _ in range(2):
        with pytest.raises(UnavailableError):
            asyncio.run(broken.turn())
    assert asyncio.run(MemorySweeps(world.store).reached(PART)).get("idle", 0) <= START_S
    assert len(world.asked(until_s=730)) == 1


@dataclass
class Log:
    """How far the log goes, and who owns what."""

    last: int | None
    parts: Mapping[Part, Assigned]

    def end(self, _part: Part) -> int | None:
        return self.last


@pytest.mark.parametrize(
    ("end", "acknowledged", "age_s", "sweeps"),
    [
        (10, 10, None, True),
        (10, 10, 9_999, True),
        (20, 15, 30, True),
        (20, 15, 61, False),
        (20, 15, None, False),
        (20, 5, 1, False),
        (None, 10, 1, False),
    ],
    ids=["at-the-end", "long-at-the-end", "near", "a-minute-behind", "unknown", "owner-before-us", "unheard-of"],
)
def test_a_partition_that_is_behind_is_not_swept(
    end: int | None, acknowledged: int, age_s: int | None, *, sweeps: bool
) -> None:
    """At first all that was on the log when we came must be folded, which here was up to 10."""
    clock, turns = Time(), list[int]()
    assigned = Assigned(PART, 1, NO_ROUTE, 0, lambda _key: 0, "group")

    class Counts:
        async def turn(self) -> int:
            turns.append(1)
            return 0

    def duties(_assigned: Assigned) -> list[Duty]:
        return [Counts()]

    log: Any = Log(10, {PART: assigned})
    sweeper = Sweeper(log, log, clock, duties, 1.0)

    async def play() -> None:
        task = asyncio.ensure_future(sweeper.run())
        await asyncio.sleep(0)  # heard of the end at 10, behind it
        log.last, assigned.acknowledged = end, acknowledged
        assigned.acknowledged_ms = 0 if age_s is None else clock.now_ms() - age_s * 1000
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(play())
    assert bool(turns) is sweeps

"""A changed policy is followed on a partition: one suite, on the twin in memory and on ClickHouse's engine."""

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest

from agentrun_stream.codec.cloudevents import NO_ROUTE
from agentrun_stream.model.opinions import ENFORCE, OFF, Policy
from agentrun_stream.model.projection import COUNTER_BITS
from agentrun_stream.model.run import projection_version
from agentrun_stream.ports import Part, RunKey, Store
from agentrun_stream.runtime import policy as duty
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.clock import SystemClock
from agentrun_stream.runtime.policy import Flags, Policies
from agentrun_stream.store import rows
from agentrun_stream.store.clickhouse import ClickHouseStore
from agentrun_stream.store.memory import MemoryStore
from agentrun_stream.store.memory_policy import MemoryPolicies
from agentrun_stream.store.policy import ClickHousePolicies, InForce

GRACE_S = 70
NOW_MS = 1_767_268_800_000
STRICT, LAX = Policy(ENFORCE), Policy(OFF)
_numbers = itertools.count()


class Time(SystemClock):
    """Moved by hand."""

    ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms


@dataclass
class World:
    """One partition, its owner's duty, and a loop that shows again what it is given when the test says so."""

    store: Store
    policies: Policies
    part: Part
    workspace: str
    clock: Time = field(default_factory=Time)
    shown: dict[RunKey, dict[str, Any]] = field(default_factory=dict)
    given: int = 0

    def __post_init__(self) -> None:
        self.own(1, STRICT)

    def own(self, ordinal: int, policy: Policy) -> None:
        """A new owner, which was started with this policy."""
        self.policy = policy
        self.assigned = Assigned(self.part, 1, NO_ROUTE, 0, lambda _key: 0, "group")
        told = InForce(ordinal, policy.mode), lambda _workspace: policy
        self.duty = Flags(self.assigned, self.policies, self.clock, told, GRACE_S)
        self.duty.hear = self._hear

    def _hear(self, runs: int) -> None:
        self.given += runs

    def show(self, run_id: str, verdict: str, flag: str = "", **columns: Any) -> None:
        """Put a row of `runs`, one counter higher than what stands."""
        key = (self.workspace, run_id)
        before = self.shown.get(key)
        version = int(before["_version"]) + 1 if before else projection_version(next(_numbers))
        assert version & ((1 << COUNTER_BITS) - 1) < 100
        row = {"workspace": self.workspace, "run_id": run_id, "closed_by": "runtime", "verdict": verdict, "flag": flag}
        times = {"judged_at": NOW_MS / 1000, "projected_at": NOW_MS / 1000}
        self.shown[key] = row | times | self.part._asdict() | columns | {"_version": str(version)}
        asyncio.run(self.store.insert("runs", [rows.row(self.shown[key])]))

    def turn(self, times: int = 1) -> list[str]:
        for _ in range(times):
            asyncio.run(self.duty.turn())
        return [run_id for _, run_id in self.assigned.again]

    def take(self) -> list[RunKey]:
        taken = list(self.assigned.again)
        self.assigned.again.clear()
        self.assigned.again_taken += len(taken)
        return taken

    def write(self, taken: list[RunKey]) -> None:
        """What was taken is shown under the owner's policy."""
        for key in taken:
            verdict = self.shown[key]["verdict"]
            self.show(key[1], verdict, self.policy.flag(verdict))
        self.assigned.again_written += len(taken)

    def work(self) -> set[str]:
        """Everything that the loop is given until there is no more, time standing still."""
        done: set[str] = set()
        for _ in range(10):
            self.turn()
            taken = self.take()
            done |= {run_id for _, run_id in taken}
            self.write(taken)
        return done

    @property
    def followed(self) -> list[tuple[int, str]]:
        return sorted(asyncio.run(self.policies.followed(self.part)))


@pytest.fixture(params=["memory", pytest.param("clickhouse", marks=pytest.mark.stack)])
def world(request: pytest.FixtureRequest) -> World:
    number = next(_numbers)
    part, workspace = Part(f"policy-{number}", 2), f"policy{number}"
    if request.param == "memory":
        memory = MemoryStore()
        return World(memory, MemoryPolicies(memory), part, workspace)
    address = request.getfixturevalue("store_address")
    return World(ClickHouseStore(address), ClickHousePolicies(address), part, workspace)


def test_runs_with_another_flag_are_given_to_the_loop(world: World) -> None:
    """And no others: neither open ones, nor those of other partitions, nor what the newest row says rightly."""
    world.show("bad", "rejected")
    world.show("flagged", "rejected", "quarantined")
    world.show("cleared", "verified", "quarantined")
    world.show("good", "verified")
    world.show("mended", "rejected")
    world.show("mended", "rejected", "quarantined")
    world.show("open", "rejected", closed_by=None)
    world.show("elsewhere", "rejected", partition=3)
    assert world.work() == {"bad", "cleared"}
    assert world.given == 2


def test_a_policy_is_followed_once(world: World) -> None:
    """Not before an insert of an owner before must have ended; then neither this owner nor the next looks again."""
    world.show("bad", "rejected")
    assert world.work() == {"bad"}
    assert world.followed == []
    world.show("late", "rejected")
    world.clock.ms += GRACE_S * 1000
    assert world.work() == {"late"}
    assert world.followed == [(1, "enforce")]
    world.show("never so", "rejected")
    world.own(1, STRICT)
    world.clock.ms += GRACE_S * 1000
    assert world.work() == set()


def test_one_that_comes_back_is_followed_again(world: World) -> None:
    """By the number of its settings, however short the other was in force."""
    world.show("bad", "rejected")
    world.work()
    world.clock.ms += GRACE_S * 1000
    world.work()
    world.own(2, LAX)
    assert world.work() == {"bad"}
    world.own(3, STRICT)
    assert world.work() == {"bad"}
    world.clock.ms += GRACE_S * 1000
    world.work()
    assert world.followed == [(1, "enforce"), (3, "enforce")]


def test_nothing_is_noted_before_it_is_written(world: World) -> None:
    """A crash in between: the next owner does it again. A partition that is lost is left alone."""
    world.show("bad", "rejected")
    world.clock.ms += GRACE_S * 1000
    assert world.turn(5) == ["bad"]
    taken = world.take()
    assert world.turn(5) == []
    assert world.followed == []
    world.own(1, STRICT)
    world.assigned.lost = True
    assert world.turn(5) == []
    world.assigned.lost = False
    assert world.turn(5) == ["bad"]
    world.write(taken)


def test_the_loop_is_never_given_more_than_it_has_room_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs there are; each of them comes in the end."""
    monkeypatch.setattr(duty, "AGAIN_RUNS_MAX", 5)
    monkeypatch.setattr(duty, "PAGE_ROWS", 3)
    monkeypatch.setattr(duty, "PAGES_MAX", 10_000)  # past whatever other tests left in the store
    names = {f"run-{number:02d}" for number in range(13)}
    for name in sorted(names):
        world.show(name, "rejected")
    assert len(world.turn(3)) == 5
    assert world.work() == names
    world.clock.ms += GRACE_S * 1000
    assert world.work() == set()
    assert len(world.followed) == 1

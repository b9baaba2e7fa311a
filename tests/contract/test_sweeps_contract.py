"""What every store promises the sweeper: one suite, on the twin in memory and on ClickHouse's engine."""

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import Any

import pytest

from agentrun_stream.model.run import RunState, Snapshot, StepFact, position
from agentrun_stream.ports import Part, Store
from agentrun_stream.processors.project import project
from agentrun_stream.runtime.retention import Retained
from agentrun_stream.store import rows
from agentrun_stream.store.clickhouse import ClickHouseStore
from agentrun_stream.store.memory import MemoryStore
from agentrun_stream.store.memory_sweeps import MemorySweeps
from agentrun_stream.store.sweeps import BEGINNING, Age, ClickHouseSweeps, Expired, Horizons, Touch

NOON_S = 1_767_268_800
DAY_S = 86_400
STORED_MS = time.time_ns() // 1_000_000
WEIRD = "it's\\a\n🙂"
_numbers = itertools.count()


@dataclass
class Swept:
    """A store, and a partition and workspace of the test's own in it."""

    store: Store
    sweeps: Retained
    part: Part
    workspace: str
    offset: int = 0

    def put(self, table: str, *encoded: bytes) -> None:
        asyncio.run(self.store.insert(table, encoded))

    def next_pos(self) -> int:
        self.offset += 1
        return position(0, self.offset)

    @property
    def origin(self) -> rows.Origin:
        return rows.Origin(*self.part, STORED_MS)

    def step(self, run_id: str, at_s: float, step_id: str = "s") -> None:
        run, pos = RunState(self.workspace, run_id), self.next_pos()
        fact = StepFact(pos, "/s", NOON_S, round(at_s * 1000), round(at_s * 1000), "message", None, None)
        self.put(
            "run_objects",
            rows.step_row(run, (step_id, {"id": step_id, "type": "message"}, (None, None), fact), self.origin),
        )

    def run(self, run_id: str, at_s: float, **facts: Any) -> RunState:
        state, pos, ms = RunState(self.workspace, run_id), self.next_pos(), round(at_s * 1000)
        state.snap = Snapshot({"id": run_id, "status": "running"}, pos, "/s", NOON_S, ms, ms, ms, seen=True)
        for name, value in facts.items():
            setattr(state.snap, name, value)
        state.pos = pos
        self.put("run_objects", rows.snapshot_row(state, self.origin))
        self.show(state)
        return state

    def show(self, state: RunState) -> None:
        shown = project(state, *self.part)
        assert shown is not None
        self.put("runs", rows.row(shown.row))


@pytest.fixture(params=["memory", pytest.param("clickhouse", marks=pytest.mark.stack)])
def swept(request: pytest.FixtureRequest) -> Swept:
    number = next(_numbers)
    part, workspace = Part(f"sweeps-{number}", 2), f"w{number}"
    if request.param == "memory":
        memory = MemoryStore()
        return Swept(memory, MemorySweeps(memory), part, workspace)
    address = request.getfixturevalue("store_address")
    return Swept(ClickHouseStore(address), ClickHouseSweeps(address), part, workspace)


def test_touches_come_in_order_and_page_by_page(swept: Swept) -> None:
    """Each run once per minute, of this partition alone, whatever its id holds; the next page begins behind the last."""
    swept.step("b", NOON_S)
    swept.step("b", NOON_S + 59, "s2")
    swept.step(WEIRD, NOON_S + 30)
    swept.step("b", NOON_S + 60, "s3")
    swept.step("a", NOON_S + 61)
    swept.step("later", NOON_S + 600)
    whole = [Touch(NOON_S, swept.workspace, "b"), Touch(NOON_S, swept.workspace, WEIRD)]
    whole += [Touch(NOON_S + 60, swept.workspace, "a"), Touch(NOON_S + 60, swept.workspace, "b")]

    async def pages(most: int) -> list[Touch]:
        found: list[Touch] = []
        while page := await swept.sweeps.touched(swept.part, found[-1] if found else BEGINNING, NOON_S + 120, most):
            assert len(page) <= most
            found += page
        return found

    for most in (1, 3, 100):
        assert list(dict.fromkeys(asyncio.run(pages(most)))) == whole
    other = swept.part._replace(partition=3)
    assert list(asyncio.run(swept.sweeps.touched(other, BEGINNING, NOON_S + 120, 10))) == []


def test_ages_are_those_of_open_runs(swept: Swept) -> None:
    """Newest and first append time of all objects, or when it was reopened; closed, expired and unknown ones have none."""
    swept.step("bare", NOON_S, "s1")
    swept.step("bare", NOON_S + 5.25, "s2")
    swept.run("open", NOON_S + 1)
    swept.step("open", NOON_S + 9)
    swept.run("closed", NOON_S, closed_by="runtime")
    swept.run("again", NOON_S + 70, reopened=1, opened_ms=(NOON_S + 70) * 1000)
    swept.step("again", NOON_S)
    keys = [(swept.workspace, name) for name in ("bare", "open", "closed", "again", "unknown")]
    assert asyncio.run(swept.sweeps.open_ages(keys)) == {
        keys[0]: Age(NOON_S * 1000 + 5250, NOON_S * 1000),
        keys[1]: Age((NOON_S + 9) * 1000, (NOON_S + 1) * 1000),
        keys[3]: Age((NOON_S + 70) * 1000, (NOON_S + 70) * 1000),
    }
    assert asyncio.run(swept.sweeps.open_ages([])) == {}


def test_what_was_reached_is_known_to_the_next_owner(swept: Swept) -> None:
    async def notes() -> list[Any]:
        seen = [dict(await swept.sweeps.reached(swept.part))]
        for walk, value, now in (("idle", 60, 1_000), ("age", 5, 1_000), ("idle", 120, 2_000)):
            await swept.sweeps.reach(swept.part, walk, value, now)
        return [*seen, dict(await swept.sweeps.reached(swept.part))]

    assert asyncio.run(notes()) == [{}, {"idle": 120, "age": 5}]


def test_runs_past_their_horizon_are_the_closed_ones_of_this_partition(swept: Swept) -> None:
    for name, ago in (("old", 3 * DAY_S), ("young", DAY_S)):
        swept.run(name, NOON_S - ago, closed_by="runtime")
    swept.run("open", NOON_S - 3 * DAY_S)

    async def due(horizons: Horizons, part: Part) -> list[str]:
        found, _ = await swept.sweeps.past_horizon(part, (swept.workspace, ""), horizons, NOON_S * 1000)
        return [run_id for workspace, run_id in found if workspace == swept.workspace]

    assert asyncio.run(due(Horizons(2 * DAY_S), swept.part)) == ["old"]
    assert asyncio.run(due(Horizons(None, {swept.workspace: 2 * DAY_S}), swept.part)) == ["old"]
    assert asyncio.run(due(Horizons(2 * DAY_S, {swept.workspace: 4 * DAY_S}), swept.part)) == []
    assert asyncio.run(due(Horizons(), swept.part)) == []
    assert asyncio.run(due(Horizons(2 * DAY_S), swept.part._replace(partition=7))) == []


def test_what_is_below_an_expiry_is_removed_and_nothing_else(swept: Swept) -> None:
    """Done twice it changes nothing; an expiry that is too young is not passed over for a later one."""
    for name in ("gone", "kept"):
        swept.step(name, NOON_S)
    state = swept.run("gone", NOON_S, closed_by="runtime")
    state.expired, state.pos = {"at": 1, "first": 1}, swept.next_pos()
    swept.put("run_objects", rows.expired_row(state, state.pos, swept.origin))
    wanted = [Expired(swept.offset, swept.workspace, "gone", state.pos << 8)]

    async def expired(first: int, before: int, stored_before_ms: int) -> list[Expired]:
        return list(await swept.sweeps.expired(swept.part, (first, before), stored_before_ms, 10))

    at, later = swept.offset, STORED_MS + 1
    assert asyncio.run(expired(0, at + 1, later)) == wanted
    for nothing in ((0, at, later), (at + 1, at + 9, later), (0, at + 1, STORED_MS)):
        assert asyncio.run(expired(*nothing)) == []
    keys = [(swept.workspace, "gone"), (swept.workspace, "kept")]
    for _ in range(2):
        asyncio.run(swept.sweeps.remove(wanted))
        found = asyncio.run(swept.store.load_runs(keys))
        assert found[keys[0]].expired == {"at": 1, "first": 1}
        assert list(found[keys[1]].steps) == ["s"]
    assert asyncio.run(swept.sweeps.open_ages(keys)).keys() == {keys[1]}

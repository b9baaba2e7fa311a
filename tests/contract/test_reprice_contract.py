"""A request to price again is done on a partition: one suite, on the twin in memory and on ClickHouse's engine."""

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest

from agentrun_stream.codec.cloudevents import NO_ROUTE
from agentrun_stream.model.run import projection_version
from agentrun_stream.ports import Part, RunKey, Store
from agentrun_stream.runtime import reprice as duty
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.clock import SystemClock
from agentrun_stream.runtime.reprice import BookInForce, Reprice, Reprices
from agentrun_stream.store import rows
from agentrun_stream.store.clickhouse import ClickHouseStore
from agentrun_stream.store.client import connect, execute
from agentrun_stream.store.memory import MemoryStore
from agentrun_stream.store.memory_reprice import MemoryReprices
from agentrun_stream.store.reprice import ClickHouseReprices
from agentrun_stream.store.writer import insert

GRACE_S = 70
NOW_MS = 1_767_268_800_000
DAY_S = 86_400
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
    reprices: Reprices
    part: Part
    workspace: str
    address: Any = None
    clock: Time = field(default_factory=Time)
    asked: int = 0
    book: BookInForce = field(default=BookInForce(2, "new"))

    def __post_init__(self) -> None:
        self.own()

    def own(self) -> None:
        """A new owner."""
        self.assigned = Assigned(self.part, 1, NO_ROUTE, 0, lambda _key: 0, "group")
        self.duty = Reprice(self.assigned, self.reprices, self.clock, lambda: self.book, GRACE_S)

    def _put(self, table: str, row: dict[str, Any]) -> None:
        if self.address is None:
            assert isinstance(self.store, MemoryStore)
            self.store.note(table, row)
        else:
            insert(connect(self.address), table, [rows.row(row)])

    def request(self, since_s: float = 0, ordinal: int = 2, **members: Any) -> str:
        """Somebody asks."""
        self.asked += 1
        name = f"{self.workspace}-{self.asked}"
        row = {"id": name, "since": since_s, "workspace": self.workspace, "ordinal": ordinal, "price_book": "new"}
        self._put("reprices", row | members)
        return name

    def show(self, run_id: str, **columns: Any) -> None:
        """Put a row of `runs`, priced by an older book where it is not said."""
        times = {"judged_at": NOW_MS / 1000, "projected_at": NOW_MS / 1000, "last_event_at": NOW_MS / 1000}
        row = {"workspace": self.workspace, "run_id": run_id, "closed_by": "runtime", "price_book": "old"}
        version = {"_version": str(projection_version(next(_numbers)))}
        row = row | times | self.part._asdict() | columns | version
        asyncio.run(self.store.insert("runs", [rows.row(row)]))

    def turn(self, times: int = 1) -> list[str]:
        for _ in range(times):
            asyncio.run(self.duty.turn())
        return [run_id for _, run_id in self.assigned.again]

    def take(self) -> list[RunKey]:
        taken = list(self.assigned.again)
        self.assigned.again.clear()
        self.assigned.again_taken += len(taken)
        return taken

    def work(self) -> set[str]:
        """Everything that the loop is given until there is no more, time standing still. Nobody's figures change."""
        done: set[str] = set()
        for _ in range(10):
            self.turn()
            taken = self.take()
            done |= {run_id for _, run_id in taken}
            self.assigned.again_written += len(taken)
        return done

    def pending(self) -> list[str]:
        found = asyncio.run(self.reprices.pending(self.part))
        return [request.id for request in found if request.wanted.workspace in {"", self.workspace}]


@pytest.fixture(params=["memory", pytest.param("clickhouse", marks=pytest.mark.stack)])
def world(request: pytest.FixtureRequest) -> World:
    number = next(_numbers)
    part, workspace = Part(f"reprice-{number}", 2), f"reprice{number}"
    if request.param == "memory":
        memory = MemoryStore()
        return World(memory, MemoryReprices(memory), part, workspace)
    address = request.getfixturevalue("store_address")
    execute(connect(address), "TRUNCATE TABLE reprices")  # owners do what anybody asked for, oldest first
    return World(ClickHouseStore(address), ClickHouseReprices(address), part, workspace, address)


def settled(world: World) -> None:
    """Nothing of an owner before us can be on its way any more."""
    world.clock.ms += GRACE_S * 1000


def test_the_runs_that_are_wanted_are_given_to_the_loop(world: World) -> None:
    """Those that had not ended, priced by another book, of this partition and workspace, and not expired."""
    now = NOW_MS / 1000
    found: dict[str, dict[str, Any]] = {
        "wanted": {},
        "unpriced": {"price_book": ""},
        "ended since": {"ended_at": now - DAY_S},
        "open": {"closed_by": None, "last_event_at": now - 9 * DAY_S},
        "ended before": {"ended_at": now - DAY_S - 0.000001, "last_event_at": now},
        "told before": {"last_event_at": now - 2 * DAY_S},
        "priced": {"price_book": "new"},
        "expired": {"expired_at": now},
        "elsewhere": {"partition": 3},
        "of another": {"workspace": "somebody"},
    }
    for name, columns in found.items():
        world.show(name, **columns)
    world.request(since_s=now - DAY_S)
    settled(world)
    assert world.work() == {"wanted", "unpriced", "ended since", "open"}


def test_a_request_is_done_once(world: World) -> None:
    """Not before an insert of an owner before must have ended; then neither this owner nor the next looks again."""
    world.show("early")
    name = world.request()
    assert world.work() == {"early"}
    assert world.pending() == [name]
    world.show("late")
    settled(world)
    assert world.work() == {"early", "late"}
    assert world.pending() == []
    assert world.work() == set()
    world.own()
    settled(world)
    assert world.work() == set()
    again = world.request()
    assert world.pending() == [again]
    assert world.work() == {"early", "late"}
    assert world.pending() == []


def test_it_waits_for_the_book(world: World) -> None:
    """An owner that prices by an older one does nothing; one that prices by a later one has done it, too."""
    world.show("run")
    world.request(ordinal=3)
    settled(world)
    assert world.work() == set()
    assert len(world.pending()) == 1
    world.book = BookInForce(4, "newer")
    assert world.work() == {"run"}
    assert world.pending() == []


def test_nothing_is_noted_before_it_is_written(world: World) -> None:
    """Neither what it gave, nor what the loop had made before; a crash in between: the next owner does it again."""
    world.show("run")
    world.request()
    settled(world)
    world.assigned.folded = 30
    assert world.turn(5) == []  # what was folded under the older book is not written
    world.assigned.acknowledged = 30
    assert world.turn(5) == ["run"]
    world.take()
    world.turn(5)
    assert len(world.pending()) == 1
    world.own()
    settled(world)
    world.assigned.lost = True
    assert world.turn(5) == []
    world.assigned.lost = False
    assert world.turn(5) == ["run"]
    world.assigned.again_written += len(world.take())
    world.turn(5)
    assert world.pending() == []


def test_the_loop_is_never_given_more_than_it_has_room_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs there are; each of them comes in the end."""
    monkeypatch.setattr(duty, "AGAIN_RUNS_MAX", 5)
    monkeypatch.setattr(duty, "PAGE_RUNS", 3)
    names = {f"run-{number:02d}" for number in range(13)}
    for name in sorted(names):
        world.show(name)
    world.request()
    settled(world)
    assert len(world.turn(3)) == 5
    assert world.work() == names
    assert world.pending() == []

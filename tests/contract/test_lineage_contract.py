"""What every store promises lineage, and what comes of it: one suite, on the twin in memory and on ClickHouse's engine."""

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from agentrun_stream.codec.cloudevents import NO_ROUTE
from agentrun_stream.model.lineage import Child, Kin, parents_of
from agentrun_stream.model.run import projection_version
from agentrun_stream.ports import Part, RunKey, Store
from agentrun_stream.runtime import lineage as duty
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.clock import SystemClock
from agentrun_stream.runtime.lineage import Kinship, Lineages, resolve
from agentrun_stream.store import lineage, rows
from agentrun_stream.store.clickhouse import ClickHouseStore
from agentrun_stream.store.client import StoreAddress, connect, execute
from agentrun_stream.store.lineage import FIRST, ClickHouseLineages, Edge, Page
from agentrun_stream.store.memory import MemoryStore
from agentrun_stream.store.memory_lineage import MemoryLineages
from agentrun_stream.store.reader import rows_of

DAY_MS = 86_400_000
NOW_MS = time.time_ns() // 1_000_000
WEIRD = "it's\\a\n🙂"
_numbers = itertools.count()


class Time(SystemClock):
    """The machine's clock, put on by hand."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


@dataclass
class Family:
    """A store, a partition and a workspace of the test's own in it, and a loop that judges what it is given."""

    store: Store
    lineages: Lineages
    part: Part
    workspace: str
    clock: Time = field(default_factory=Time)
    offset: int = 0
    orphan_after_s: float = 86_400
    address: StoreAddress | None = None
    children: dict[RunKey, Child] = field(default_factory=dict)
    shown: dict[RunKey, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.assigned, self.kinship = self.owner()

    def owner(self) -> tuple[Assigned, Kinship]:
        """Who takes the partition on."""
        assigned = Assigned(self.part, 1, NO_ROUTE, 0, lambda _key: 0, "group")
        return assigned, Kinship(assigned, self.lineages, self.clock, self.orphan_after_s)

    def taken_over(self) -> None:
        self.assigned, self.kinship = self.owner()

    def key(self, run_id: str) -> RunKey:
        return self.workspace, run_id

    def show(self, run_id: str, *, part: Part | None = None, counter: int = 0, **columns: Any) -> str:
        """Put a row of `runs`, as of the next event, or with a counter as made again; what children see of it."""
        self.offset += 0 if counter else 1
        version = str(projection_version(self.offset, counter))
        times = {"judged_at": NOW_MS / 1000, "projected_at": NOW_MS / 1000}
        row = {
            "workspace": self.workspace,
            "run_id": run_id,
            "closed_by": "runtime",
            "verdict_lineage": "root",
            **(part or self.part)._asdict(),
            **times,
            "_version": version,
            **columns,
        }
        asyncio.run(self.store.insert("runs", [rows.row(row)]))
        self.shown[self.key(run_id)] = row
        return asyncio.run(self.store.kin([self.key(run_id)]))[self.key(run_id)].version

    def born(self, run_id: str, parent: str | None, **said: Any) -> None:
        """An event of a child: it is shown pending, and nobody looked yet. Whether `again` knows it is not told."""
        told: dict[str, Any] = {"parent_run_hash": None, "lineage": (), "parents": (), "since_ms": NOW_MS}
        child = self.children[self.key(run_id)] = Child(run_id, parent, **told | said)
        parents = list(parents_of(child))
        self.show(
            run_id,
            parent_run_id=parent,
            verdict_lineage="pending" if parents else "root",
            judged_at=child.since_ms / 1000,
            parents=parents,
            parents_seen=[""] * len(parents),
        )

    def turn(self, times: int = 1) -> list[str]:
        """Turns of the duty; the runs in `again`."""
        for _ in range(times):
            asyncio.run(self.kinship.turn())
        return [run_id for _, run_id in self.assigned.again]

    def judge(self) -> None:
        """What the loop does with `again`: judged under the rows of now, and written where that differs."""
        keys = [key for key in self.assigned.again if key in self.children]
        self.assigned.again.clear()
        wanted = {key: self.children[key] for key in keys}
        after_ms = round(self.orphan_after_s * 1000)
        for key, found in asyncio.run(resolve(self.store.kin, wanted, self.clock.now_ms(), after_ms)).items():
            row = self.shown[key]
            if (row["verdict_lineage"], row["parents_seen"]) != (found.axis, list(found.seen)):
                made = {"verdict_lineage": found.axis, "parents_seen": list(found.seen)}
                version = str(int(row["_version"]) + 1)
                self.shown[key] = row = row | made | {"_version": version}
                asyncio.run(self.store.insert("runs", [rows.row(row)]))

    def settle(self, rounds: int = 15) -> dict[str, str]:
        """Duty and loop until nothing changes; the axes of the children."""
        quiet = 0
        while quiet < 2 and rounds:
            quiet, rounds = 0 if self.turn() else quiet + 1, rounds - 1
            self.judge()
        return {run_id: self.shown[workspace, run_id]["verdict_lineage"] for workspace, run_id in self.children}


@pytest.fixture(params=["memory", pytest.param("clickhouse", marks=pytest.mark.stack)])
def family(request: pytest.FixtureRequest) -> Family:
    number = next(_numbers)
    part, workspace = Part(f"lineage-{number}", 2), f"lineage{number}"
    if request.param == "memory":
        memory = MemoryStore()
        return Family(memory, MemoryLineages(memory), part, workspace)
    address = request.getfixturevalue("store_address")
    return Family(ClickHouseStore(address), ClickHouseLineages(address), part, workspace, address=address)


# ---- what is looked at of an ancestor


def kin_of(name: str, *columns: Any, closed: bool, expired: bool = False) -> Kin:
    run_hash, ancestors, genesis, parent, axis, version = columns
    return Kin(name, closed, run_hash, ancestors, genesis, parent, axis, version, expired)


def test_kin_is_what_the_newest_row_says(family: Family) -> None:
    """Whatever came last; absent is absent; a genesis only of a trusted claim; unknown runs and workspaces are left out."""
    signed: dict[str, Any] = {
        "genesis": "g",
        "verdict_signature": "trusted",
        "parent_run_id": "p",
        "verdict_lineage": "linked",
    }
    newest = family.show(WEIRD, counter=3, run_hash="h2", lineage=["a", WEIRD], **signed)
    family.show(WEIRD, counter=2, run_hash="h1", closed_by=None)
    bare = family.show("bare", closed_by=None, run_hash=None)
    doubted = family.show("doubted", genesis="g", verdict_signature="key_revoked")
    expired = family.show("expired", expired_at=NOW_MS / 1000)
    stripped = family.show("stripped", run_hash="h", genesis="g", verdict_signature="trusted", parent_run_id="p")
    stripped = family.show("stripped", counter=1)
    names = [WEIRD, "bare", "doubted", "expired", "stripped", "unknown", WEIRD]
    keys = [family.key(name) for name in names]
    found = asyncio.run(family.store.kin([*keys, (family.workspace + "x", "bare")]))
    assert found == {
        keys[0]: kin_of(WEIRD, "h2", ("a", WEIRD), "g", "p", "linked", newest, closed=True),
        keys[1]: kin_of("bare", None, (), None, None, "root", bare, closed=False),
        keys[2]: kin_of("doubted", None, (), None, None, "root", doubted, closed=True),
        keys[3]: kin_of("expired", None, (), None, None, "root", expired, expired=True, closed=True),
        keys[4]: kin_of("stripped", None, (), None, None, "root", stripped, closed=True),
    }
    assert asyncio.run(family.store.kin([])) == {}


def test_more_kin_than_one_query_takes_are_found(family: Family) -> None:
    names = [f"{'x' * 80}{i}" for i in range(2_300)]
    encoded = [rows.row({"workspace": family.workspace, "run_id": n, "topic": "t", "_version": "1"}) for n in names]
    asyncio.run(family.store.insert("runs", encoded))
    found = asyncio.run(family.store.kin([family.key(name) for name in names]))
    assert {key: row.run_id for key, row in found.items()} == {family.key(name): name for name in names}


# ---- which edges are found


async def pages(family: Family, ask: str, most: int, after: Edge = FIRST, **more: int) -> list[Edge]:
    """Every page, one after another."""
    found: list[Edge] = []
    at: Edge | None = after
    while at is not None:
        page: Page = await getattr(family.lineages, ask)(family.part, at, most=most, **more)
        assert len(page[0]) <= most
        found += page[0]
        at = page[1]
    return found


def children(edges: list[Edge]) -> list[str]:
    return sorted({edge.run_id for edge in edges})


def test_who_waits_is_found_page_by_page(family: Family) -> None:
    """Of this partition alone, as long as it waits: not once it is linked, nor once it names somebody else."""
    for name in ("a", WEIRD, "z"):
        family.born(name, "p")
    family.born("young", "p", since_ms=NOW_MS + 60_000)
    family.born("linked", "p")
    family.show("linked", counter=1, verdict_lineage="linked", parents=["p"], parents_seen=["1"])
    family.born("renamed", "p")
    family.show("renamed")
    family.show("elsewhere", part=Part("elsewhere", 2), verdict_lineage="pending", parents=["p"], parents_seen=[""])
    for most in (1, 2, 100):
        old = asyncio.run(pages(family, "waiting", most, before_ms=NOW_MS + 1_000))
        assert children(old) == sorted(["a", WEIRD, "z"])
    assert children(asyncio.run(pages(family, "waiting", 3, before_ms=NOW_MS + DAY_MS))) == sorted(
        ["a", WEIRD, "young", "z"]
    )
    assert asyncio.run(pages(family, "waiting", 3, before_ms=NOW_MS)) == []


def settled_child(family: Family, name: str, **parents: str) -> None:
    family.born(name, next(iter(parents)))
    family.show(name, counter=1, verdict_lineage="linked", parents=list(parents), parents_seen=list(parents.values()))


def test_who_saw_another_version_is_found(family: Family) -> None:
    """Whether by the log of changes or along all edges: not who saw the one of now, nor who gave up that parent."""
    first = family.show("p")
    before = asyncio.run(family.lineages.changes())[1]
    second = family.show(WEIRD)
    settled_child(family, "one", p=first)
    settled_child(family, "two", p=first, **{WEIRD: second})
    settled_child(family, "former", p=first)
    family.show("former")
    for ask in ("changed", "outdated"):
        assert asyncio.run(pages(family, ask, 2)) == []
    family.show("p", counter=8)
    assert asyncio.run(pages(family, "changed", 2)) == [], "what children look at is what it was"
    family.show("p", counter=9, run_hash="corrected")
    for most in (1, 2, 100):
        assert children(asyncio.run(pages(family, "outdated", most))) == ["one", "two"]
        found = asyncio.run(pages(family, "changed", most))
        assert children(found) == ["one", "two"]
        assert {edge.parent for edge in found} == {"p"}
        assert all(before <= edge.minute <= asyncio.run(family.lineages.changes())[1] for edge in found)
    later = Edge(asyncio.run(family.lineages.changes())[1] + 60, "", "", "")
    assert asyncio.run(pages(family, "changed", 100, later)) == []


@pytest.mark.stack
def test_the_log_of_changes_is_read_in_pieces(store_address: StoreAddress) -> None:
    """However few rows of it one query may take, each child is found, and a child of two changed parents under both."""
    store = ClickHouseStore(store_address)
    family = Family(store, ClickHouseLineages(store_address), Part("pieces", 0), "pieces")
    began = Edge(asyncio.run(family.lineages.changes())[1], "pieces", "", "")
    parents = {f"p{i}": family.show(f"p{i}") for i in range(7)}
    for i in range(7):
        settled_child(family, f"c{i}", **{f"p{i}": parents[f"p{i}"], f"p{(i + 1) % 7}": parents[f"p{(i + 1) % 7}"]})
    for name in parents:
        family.show(name, run_hash="corrected")
    client = connect(store_address)
    for piece in (4, 1_000):
        found: list[Edge] = []
        at: Edge | None = began
        while at is not None:
            page, at = lineage.changed(client, family.part, at, 2, piece)
            found += page
        edges = {(edge.parent, edge.run_id) for edge in found}
        assert edges == {(f"p{(i + j) % 7}", f"c{i}") for i in range(7) for j in (0, 1)}


# ---- the duty


def test_a_child_before_its_parent_is_linked_when_that_arrives(family: Family) -> None:
    """Also one on another partition, and one that only a signature names; nobody else is looked at."""
    family.born("c", "p", parent_run_hash="h")
    assert family.settle() == {"c": "pending"}
    assert family.turn() == []
    family.show("stranger")
    assert family.turn() == []
    family.show("p", part=Part("elsewhere", 0), run_hash="h")
    assert family.turn() == ["c"]
    assert family.settle() == {"c": "linked"}
    assert family.turn() == []


def test_a_parent_that_is_corrected_is_looked_at_again(family: Family) -> None:
    """For better or worse, and however often."""
    family.show("p", run_hash="h")
    family.born("c", "p", parent_run_hash="h")
    for said, axis in (("h", "linked"), ("x", "mismatch"), ("h", "linked")):
        family.show("p", run_hash=said)
        assert family.settle() == {"c": axis}


def test_who_waits_too_long_is_an_orphan_and_no_longer_when_the_parent_comes(family: Family) -> None:
    family.born("c", "p")
    assert family.settle() == {"c": "pending"}
    family.clock.ahead_ms = DAY_MS - 3_600_000
    assert family.settle() == {"c": "pending"}
    family.clock.ahead_ms = DAY_MS + 7_200_000
    assert family.settle() == {"c": "orphaned"}
    family.show("p")
    assert family.settle() == {"c": "linked"}


def test_a_circle_is_known_to_all_of_it(family: Family) -> None:
    """Closed by a correction of the eldest, when all the others were linked."""
    family.born("r0", None)
    for i in range(1, 5):
        family.born(f"r{i}", f"r{i - 1}")
    assert family.settle() == {"r0": "root"} | {f"r{i}": "linked" for i in range(1, 5)}
    family.born("r0", "r4")
    assert family.settle() == {f"r{i}": "cycle" for i in range(5)}


def test_the_next_owner_finds_what_the_one_before_left(family: Family) -> None:
    """What was in `again` alone is lost with it; what was corrected while nobody was there is in the log of changes."""
    first = family.show("p", run_hash="h")
    for name in ("waits", "linked"):
        family.born(name, "p", parent_run_hash="h")
    assert set(family.turn()) == {"waits", "linked"}
    family.taken_over()
    assert family.settle() == {"waits": "linked", "linked": "linked"}
    family.show("p", run_hash="x")
    assert set(family.turn()) == {"waits", "linked"}
    family.taken_over()
    assert set(family.turn()) == {"waits", "linked"}
    assert family.settle() == {"waits": "mismatch", "linked": "mismatch"}
    assert first


def test_who_was_away_for_longer_than_the_log_goes_back_looks_at_every_edge(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page, and until nothing is left."""
    monkeypatch.setattr(duty, "PAGE_EDGES", 2)
    family.show("p", run_hash="h")
    names = [f"c{i}" for i in range(5)]
    for name in names:
        family.born(name, "p", parent_run_hash="h")
    assert set(family.settle().values()) == {"linked"}
    family.show("p", run_hash="x")
    if isinstance(family.store, MemoryStore):
        family.store.delete("run_changes", lambda _row: True)
    elif family.address is not None:
        execute(connect(family.address), "TRUNCATE TABLE run_changes")
    family.taken_over()
    assert set(family.settle().values()) == {"mismatch"}


def test_never_too_many_at_once(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent of many is corrected: its children come a few at a time, as the loop takes them, and all of them do."""
    monkeypatch.setattr(duty, "PAGE_EDGES", 3)
    monkeypatch.setattr(duty, "AGAIN_MAX", 6)
    family.show("p", run_hash="h")
    names = [f"c{i}" for i in range(10)]
    for name in names:
        family.born(name, "p", parent_run_hash="h")
    for said, axis in (("h", "linked"), ("x", "mismatch")):
        family.show("p", run_hash=said)
        for _ in range(2):
            assert 0 < len(family.turn()) <= 6
            family.judge()
        assert set(family.settle().values()) == {axis}


@pytest.mark.stack
def test_rows_without_parents_make_no_edges(store_address: StoreAddress) -> None:
    """And a row whose two lists differ in length is no reason to refuse an insert."""
    store = ClickHouseStore(store_address)
    family = Family(store, ClickHouseLineages(store_address), Part("edges", 0), "edges")
    family.show("root")
    family.show("odd", parents=["a", "b"], parents_seen=["1"])
    found = rows_of(connect(store_address), "SELECT run_id, parent, seen FROM run_edges WHERE workspace = 'edges'")
    assert sorted(map(tuple, found)) == [("odd", "a", "1"), ("odd", "b", "")]

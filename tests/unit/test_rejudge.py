"""A changed registry is followed on a partition: after what was made before it, page by page, twice, by whoever owns it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
import pytest
import structlog

from agentrun_stream.codec import ed25519
from agentrun_stream.codec.cloudevents import NO_ROUTE
from agentrun_stream.model.run import position, row_version
from agentrun_stream.ports import Part, RunKey
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.clock import SystemClock
from agentrun_stream.runtime.rejudge import AGAIN_RUNS_MAX, Rejudge
from agentrun_stream.runtime.trust import TrustKeeper
from agentrun_stream.store.memory import MemoryStore
from agentrun_stream.store.memory_trust import MemoryTrust
from agentrun_stream.store.rows import OBJECT_COLUMNS
from agentrun_stream.store.trust import Version
from agentrun_stream.trust.manage import Scope, entry_of

PART = Part("events", 0)
GRACE_S = 70
ENTRIES = [entry_of(ed25519.public_of(bytes([number]) * 32), Scope()) for number in range(3)]
KIDS = [str(entry["kid"]) for entry in ENTRIES]


class Time(SystemClock):
    """Moved by hand."""

    s = 1_767_268_800.0

    def now_ms(self) -> int:
        return round(self.s * 1000)


@dataclass
class World:
    """One partition, its owner's duty, and a loop that takes what it is given when the test says so."""

    clock: Time = field(default_factory=Time)
    store: MemoryStore = field(default_factory=MemoryStore)
    given: int = 0

    def __post_init__(self) -> None:
        self.trust = MemoryTrust(self.store)
        self.own()

    def own(self) -> None:
        """A new owner, as after a crash."""
        self.assigned = Assigned(PART, 1, NO_ROUTE, 0, lambda _key: 0, "group")
        self.keeper = TrustKeeper(self.trust, self.clock, structlog.get_logger())
        self.duty = Rejudge(self.assigned, self.keeper, self.trust, self.clock, GRACE_S)
        self.duty.hear = self._hear
        asyncio.run(self.keeper.load())

    def _hear(self, runs: int) -> None:
        self.given += runs

    def put_in_force(self, version: int, *entries: object, workspace: str = "acme") -> None:
        jwks = {"version": version, "keys": list(entries)}
        asyncio.run(self.trust.propose(Version(workspace, version, f"d{version}"), jwks, "me"))
        asyncio.run(self.keeper.load())

    def sign(self, run_id: str, kid: str = KIDS[0], part: Part = PART, workspace: str = "acme") -> None:
        self.sign_all([(workspace, run_id)], kid, part)

    def sign_all(self, runs: Sequence[RunKey], kid: str, part: Part = PART) -> None:
        """Store a claim of each of these runs, as the fold does."""
        numbers = ("_event_time", "_offset", "_first_appended_at", "_appended_at", "_ingested_at")
        place = {"_topic": part.topic, "_partition": part.partition, "_version": row_version(position(0, 1))}
        same = {"kind": "claim", "object_id": f"{kid}.1", "_source": "/s", **place, **dict.fromkeys(numbers, 0)}
        encoded = []
        for workspace, run_id in runs:
            row = dict.fromkeys(OBJECT_COLUMNS) | same | {"workspace": workspace, "run_id": run_id}
            encoded.append(orjson.dumps([row[name] for name in OBJECT_COLUMNS]))
        asyncio.run(self.store.insert("run_objects", encoded))

    def turn(self, times: int = 1) -> set[str]:
        """What the loop is to do after some turns."""
        for _ in range(times):
            asyncio.run(self.duty.turn())
        return {run_id for _, run_id in self.assigned.again}

    def take(self) -> list[RunKey]:
        """The loop takes all of it into a batch."""
        taken = list(self.assigned.again)
        self.assigned.again.clear()
        self.assigned.again_taken += len(taken)
        return taken

    def write(self) -> None:
        """The batch is written."""
        self.assigned.again_written = self.assigned.again_taken

    def work(self) -> set[str]:
        """Everything that the loop is given until there is no more, time standing still."""
        done: set[str] = set()
        for _ in range(100):
            self.turn()
            done |= {run_id for _, run_id in self.take()}
            self.write()
        return done

    def followed(self) -> set[int]:
        return {version.version for version in asyncio.run(self.trust.progress(PART))}


def test_the_runs_of_changed_keys_are_given_to_the_loop_twice() -> None:
    """Then it is noted, and neither this owner nor the next does it again."""
    world = World()
    world.sign("a")
    world.sign("b", KIDS[1])
    world.sign("elsewhere", part=PART._replace(partition=1))
    world.sign("other", workspace="other")
    world.put_in_force(1, ENTRIES[0], ENTRIES[1])
    assert world.work() == {"a", "b"}
    assert world.followed() == set()
    world.clock.s += GRACE_S - 1
    assert world.work() == set()
    world.clock.s += 1
    assert world.work() == {"a", "b"}
    assert world.followed() == {1}
    assert world.given == 4
    world.own()
    assert world.work() == set()
    world.put_in_force(2, ENTRIES[0], ENTRIES[1] | {"status": "revoked"}, ENTRIES[2])
    assert world.work() == {"b"}


def test_what_an_owner_before_had_on_its_way_is_found_the_second_time() -> None:
    """Its rows arrive after the first look."""
    world = World()
    world.put_in_force(1, ENTRIES[0])
    assert world.work() == set()
    world.sign("late")
    world.clock.s += GRACE_S
    assert world.work() == {"late"}
    assert world.followed() == {1}


@pytest.mark.parametrize("folding", [False, True])
def test_what_was_made_under_the_older_registry_is_written_first(*, folding: bool) -> None:
    """Batches that were made, the one at hand, and what was projected again; not what is made afterwards."""
    world = World()
    world.sign("a")
    assigned = world.assigned
    assigned.folded, assigned.acknowledged, assigned.folding = 20, 10, folding
    assigned.again_taken, assigned.again_written = 2, 1
    world.put_in_force(1, ENTRIES[0])
    assert world.turn(3) == set()
    assigned.acknowledged = 20
    assert world.turn(3) == set()
    assigned.again_written = 2
    if folding:
        assert world.turn(3) == set(), "the batch at hand may hold what was projected before"
        assigned.folded = 30
        assert world.turn(3) == set()
        assigned.folded = 40
        assigned.acknowledged = 30
    else:
        assigned.folded = 30
    assert world.turn() == {"a"}


def test_nothing_is_noted_before_the_loop_has_written_what_it_took() -> None:
    """A crash in between: the next owner does it again."""
    world = World()
    world.sign("a")
    world.put_in_force(1, ENTRIES[0])
    world.work()
    world.clock.s += GRACE_S
    assert world.turn(9) == {"a"}
    assert world.followed() == set()
    world.take()
    world.turn(9)
    assert world.followed() == set()
    world.own()
    assert world.turn() == {"a"}
    world.work()
    world.clock.s += GRACE_S
    world.work()
    assert world.followed() == {1}


def test_a_lost_partition_is_left_alone() -> None:
    world = World()
    world.sign("a")
    world.put_in_force(1, ENTRIES[0])
    world.assigned.lost = True
    assert world.turn(9) == set()


def test_the_loop_is_never_given_more_than_it_has_room_for() -> None:
    """However many runs a key signed; each of them comes in the end, and what somebody else gave stays."""
    world = World()
    runs = [("acme", f"{number:05d}") for number in range(AGAIN_RUNS_MAX + 5_000)]
    world.sign_all(runs, KIDS[0])
    other = ("acme", "of another duty")
    world.assigned.again[other] = None
    world.put_in_force(1, ENTRIES[0])
    seen: set[RunKey] = set()
    for _ in range(2):
        world.turn(2)
        assert len(world.assigned.again) <= AGAIN_RUNS_MAX
        seen |= set(world.take())
        world.write()
    assert seen == {*runs, other}


def test_a_newer_version_takes_the_place_of_one_that_is_not_followed_yet() -> None:
    """What changed since the last version that was followed is looked at, the versions in between included."""
    world = World()
    for run_id, kid in zip("abc", KIDS, strict=True):
        world.sign(run_id, kid)
    world.put_in_force(1, *ENTRIES)
    world.work()
    world.clock.s += GRACE_S
    world.work()
    world.put_in_force(2, ENTRIES[0] | {"agents": []}, *ENTRIES[1:])
    assert world.turn() == {"a"}
    world.put_in_force(3, ENTRIES[0], ENTRIES[1] | {"agents": []}, ENTRIES[2])
    world.take()
    world.write()
    assert world.turn() == {"a", "b"}
    world.work()
    world.clock.s += GRACE_S
    assert world.work() == {"a", "b"}
    assert world.followed() == {1, 3}


def test_what_one_workspace_followed_says_nothing_of_another() -> None:
    """Versions are a workspace's own, though they be the same numbers."""
    world = World()
    world.put_in_force(1, ENTRIES[2], workspace="beta")
    world.work()
    world.clock.s += GRACE_S
    world.work()
    world.sign("a")
    world.put_in_force(1, ENTRIES[0])
    world.put_in_force(2, ENTRIES[0], ENTRIES[1])
    assert world.turn() == {"a"}


def test_a_version_without_a_changed_key_concerns_nobody() -> None:
    world = World()
    world.sign("a")
    world.put_in_force(1, ENTRIES[0])
    world.work()
    world.clock.s += GRACE_S
    world.work()
    world.put_in_force(2, ENTRIES[0])
    assert world.work() == set()
    assert world.followed() == {1, 2}


def test_workspaces_do_not_wait_for_each_other() -> None:
    """The grace of one is no pause of another."""
    world = World()
    world.sign("a")
    world.sign("b", workspace="beta")
    world.put_in_force(1, ENTRIES[0])
    world.work()
    world.put_in_force(1, ENTRIES[0], workspace="beta")
    assert world.work() == {"b"}
    world.clock.s += GRACE_S
    assert world.work() == {"a", "b"}

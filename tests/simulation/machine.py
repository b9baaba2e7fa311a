"""One made-up machine with a worker on it: its ports pass through gates at which it is stalled, killed, or lied to.

Must not live here: when that happens to which machine (theatre.py).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from agentrun_stream import topics
from agentrun_stream.broker.kafka import partition_of
from agentrun_stream.broker.memory import MemoryBroker, MemoryPublisher, MemorySource
from agentrun_stream.errors import StoreError, UnavailableError
from agentrun_stream.model.lineage import Kin
from agentrun_stream.model.opinions import Opinions, Policy
from agentrun_stream.model.run import RunState
from agentrun_stream.model.trust import Registry
from agentrun_stream.ports import GroupListener, LogBounds, Outgoing, Part, Record, RunKey, Stored
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.lineage import Kinship
from agentrun_stream.runtime.rejudge import Rejudge
from agentrun_stream.runtime.retention import Expiry, Removal
from agentrun_stream.runtime.sweep import Duty, LeaseRules, Leases, Sweeper
from agentrun_stream.runtime.trust import TrustKeeper
from agentrun_stream.runtime.worker import Worker, WorkerOptions, World
from agentrun_stream.store.memory import MemoryStore
from agentrun_stream.store.lineage import Edge, Page
from agentrun_stream.store.memory_lineage import MemoryLineages
from agentrun_stream.store.memory_trust import MemoryTrust
from agentrun_stream.store.sweeps import Age, Expired, Horizons, Touch
from agentrun_stream.store.trust import Signed, Version
from agentrun_stream.telemetry.metrics import Metrics
from simulation.virtual import MachineClock

GROUP = "agentrun"
DELAYS_S = (0.0, 0.0, 0.0, 0.001, 0.05, 0.7)
METRICS = Metrics(CollectorRegistry())
QUIET = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(50))


REMOVE_AFTER_S = 300.0
T = TypeVar("T")


class KilledError(BaseException):
    """The machine is gone; at the end of the play its coroutines must go too."""


@dataclass
class Fate:
    """What may happen at a call, as shares of all calls."""

    error_before: float = 0.0
    error_after: float = 0.0
    in_flight: float = 0.0
    twice: float = 0.0
    kill: float = 0.0
    stall: float = 0.0


@dataclass
class Shared:
    """What all machines of a play have in common; `over` ends them all."""

    chance: Random
    broker: MemoryBroker
    store: MemoryStore
    fate: Fate = field(default_factory=Fate)
    policy: Policy = field(default_factory=Policy)
    orphan_after_s: int = 24
    longest_s: float = 300.0  # that a machine is stalled, or a request is on its way
    calls: int = 0
    schedule: list[str] = field(default_factory=list)
    over: bool = False
    graves: list[asyncio.Future[None]] = field(default_factory=list)
    flying: set[asyncio.Task[None]] = field(default_factory=set)

    def note(self, what: str) -> None:
        """Write down what befell whom, at what virtual time."""
        self.schedule.append(f"{asyncio.get_running_loop().time():9.3f} s  {what}")


class Events(Protocol):
    """Who hears of what befalls a machine."""

    def killed(self, machine: "Machine") -> None: ...

    def stalled(self, machine: "Machine") -> None: ...


class Machine:
    """A worker on twins behind gates."""

    def __init__(self, shared: Shared, name: str, events: "Events") -> None:
        self.shared = shared
        self.name = name
        self.dead = False
        self.awake = asyncio.Event()
        self.awake.set()
        self._events = events
        chance = shared.chance
        self.inner = MemorySource(shared.broker, GROUP, [topics.EVENTS], name)
        clock = MachineClock(chance, chance.choice((0, -5_000, 3_600_000)), self.gate)
        publisher = MemoryPublisher(shared.broker, GROUP, control=True)
        world = World(
            GatedSource(self), GatedPublisher(self, publisher), GatedStore(self), clock, METRICS, partition_of, QUIET
        )
        self.keeper = TrustKeeper(GatedTrust(self), clock, QUIET)
        options = WorkerOptions(
            name,
            GROUP,
            batch_records_max=chance.choice((1, 4, 20, 1_000)),
            cache_bytes=chance.choice((0, 10_000, 10_000_000)),
            opinions=Opinions(self.keeper.current, lambda _workspace: shared.policy),
            orphan_after_ms=shared.orphan_after_s * 1000,
        )
        self.worker = Worker(world, options)
        self.worker.members.prepare = self.keeper.load
        self.running = asyncio.ensure_future(self.worker.run())
        self.trusting = asyncio.ensure_future(self.keeper.run())
        self.sweeping = asyncio.ensure_future(self._sweeper(clock).run())
        self.heart = asyncio.ensure_future(self._beat())

    def _sweeper(self, clock: MachineClock) -> Sweeper:
        """Beside the loop, with a network and a publisher of its own, and a clock near the broker's."""
        shared, chance = self.shared, self.shared.chance
        near = MachineClock(chance, chance.choice((0, 0, -5_000, 90_000)), self.gate, shared.broker.now_ms)
        publisher = GatedPublisher(self, MemoryPublisher(shared.broker, f"{GROUP}-questions"))
        store, trust = GatedLineages(self), GatedTrust(self)
        rules = LeaseRules(chance.choice((60, 600)), chance.choice((3_600, 86_400)))

        def duties(assigned: Assigned) -> list[Duty]:
            leases = Leases(assigned.part, rules, store, publisher, near)
            expiry = Expiry(assigned.part, Horizons(86_400), store, publisher, near)
            rejudge = Rejudge(assigned, self.keeper, trust, clock, 2 * shared.longest_s)
            kinship = Kinship(assigned, store, clock, shared.orphan_after_s)
            return [leases, expiry, Removal(assigned, store, clock, REMOVE_AFTER_S), rejudge, kinship]

        return Sweeper(self.worker.members, self.worker.source, near, duties, chance.choice((0.2, 5.0)))

    async def _beat(self) -> None:
        """What the client's coordinator does beside the worker's own loop."""
        while True:
            await asyncio.sleep(self.shared.chance.choice((0.1, 0.5, 3.0)))
            await self.gate()
            await self.inner.meet()

    def kill(self) -> None:
        """SIGKILL: nothing of it runs on, not even what comes after an error."""
        self.dead = True
        self.shared.note(f"{self.name} is killed")
        self._events.killed(self)

    def stall(self) -> None:
        """SIGSTOP."""
        self.awake.clear()
        self.shared.note(f"{self.name} is stalled")
        self._events.stalled(self)

    async def gate(self) -> None:
        """Where the machine stands still while it is stalled, and for ever once it is dead."""
        if not self.shared.over:
            await self.awake.wait()
            if self.dead:
                grave = asyncio.get_running_loop().create_future()
                self.shared.graves.append(grave)  # else the collector would end what waits, with all its clean-up
                await grave
        if self.shared.over:
            raise KilledError

    async def call(
        self, what: str, ask: Callable[[], Awaitable[object]], error: UnavailableError, *, flies: bool = False
    ) -> None:
        """One write to the outside: lost before, lost after, late, twice, or the end of the machine at either side."""
        shared, chance, fate = self.shared, self.shared.chance, self.shared.fate
        shared.calls += 1
        if chance.random() < fate.stall:
            self.stall()
        await self.pause()
        at = chance.random()
        flying = fate.in_flight if flies else 0.0
        for share, happens in ((fate.error_before, "before"), (flying, "flies"), (fate.kill, "dies")):
            if at < share:
                shared.note(f"{self.name}: {what} {happens}")
                await self._fails(happens, ask, error)
            at -= share
        await ask()
        if chance.random() < fate.twice:
            shared.note(f"{self.name}: {what} twice")
            await ask()
        if chance.random() < fate.kill:
            shared.note(f"{self.name}: {what} done, then dies")
            await self._fails("dies", ask, error)
        if chance.random() < fate.stall:
            self.stall()
        await self.pause()
        if chance.random() < fate.error_after:
            shared.note(f"{self.name}: {what} done, the answer is lost")
            raise error

    async def _fails(self, how: str, ask: Callable[[], Awaitable[object]], error: UnavailableError) -> None:
        if how == "dies":
            self.kill()
            await self.gate()
        if how == "flies":  # the answer is given up, the request arrives much later
            seconds = min(self.shared.longest_s, self.shared.chance.choice((0.5, 20.0, 200.0)))
            task = asyncio.ensure_future(_later(ask, seconds))
            self.shared.flying.add(task)
            task.add_done_callback(self.shared.flying.discard)
        raise error

    async def pause(self) -> None:
        """Others run meanwhile."""
        await asyncio.sleep(self.shared.chance.choice(DELAYS_S))
        await self.gate()


async def _later(ask: Callable[[], Awaitable[object]], seconds: float) -> None:
    await asyncio.sleep(seconds)
    await ask()


class GatedStore:
    """`ports.Store` over the machine's network."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._store = machine.shared.store

    async def insert(self, table: str, rows: Sequence[bytes]) -> None:
        insert = lambda: self._store.insert(table, rows)  # noqa: E731
        await self._machine.call(f"insert into {table}", insert, StoreError("no answer"), flies=True)

    async def load_runs(self, keys: Sequence[RunKey]) -> dict[RunKey, RunState]:
        await self._asked()
        found = await self._store.load_runs(keys)
        await self._asked()
        return found

    async def kin(self, keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
        await self._asked()
        return await self._store.kin(keys)

    async def journal_end(self, part: Part) -> tuple[int, int] | None:
        await self._asked()
        return await self._store.journal_end(part)

    async def refused_from(self, part: Part, offset: int) -> dict[int, tuple[str, str, str]]:
        await self._asked()
        return await self._store.refused_from(part, offset)

    async def set_aside(self, part: Part) -> Sequence[int]:
        await self._asked()
        return await self._store.set_aside(part)

    async def projected(self, keys: Sequence[RunKey]) -> dict[RunKey, Stored]:
        await self._asked()
        return await self._store.projected(keys)

    async def evidence(self, run: RunKey, version: int) -> bytes | None:
        await self._asked()
        return await self._store.evidence(run, version)

    async def _asked(self) -> None:
        await self._machine.pause()
        if self._machine.shared.chance.random() < self._machine.shared.fate.error_before:
            raise StoreError("no answer")


class Asking:
    """Questions to the store over the machine's network."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        await self._machine.pause()
        if self._machine.shared.chance.random() < self._machine.shared.fate.error_before:
            raise StoreError("no answer")
        found = await ask()
        await self._machine.pause()
        return found


class GatedLineages(Asking):
    """`runtime.retention.Retained` and `runtime.lineage.Lineages` over the machine's network."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._store = MemoryLineages(machine.shared.store)

    async def waiting(self, part: Part, after: Edge, before_ms: int, most: int) -> Page:
        return await self._asked(lambda: self._store.waiting(part, after, before_ms, most))

    async def outdated(self, part: Part, after: Edge, most: int) -> Page:
        return await self._asked(lambda: self._store.outdated(part, after, most))

    async def changes(self) -> tuple[int, int]:
        return await self._asked(self._store.changes)

    async def changed(self, part: Part, after: Edge, most: int) -> Page:
        return await self._asked(lambda: self._store.changed(part, after, most))

    async def touched(self, part: Part, after: Touch, before_s: int, most: int) -> Sequence[Touch]:
        return await self._asked(lambda: self._store.touched(part, after, before_s, most))

    async def open_ages(self, keys: Sequence[RunKey]) -> Mapping[RunKey, Age]:
        return await self._asked(lambda: self._store.open_ages(keys))

    async def reached(self, part: Part) -> Mapping[str, int]:
        return await self._asked(lambda: self._store.reached(part))

    async def reach(self, part: Part, walk: str, value: int, now_ms: int) -> None:
        await self._machine.call(
            f"reach of {walk}", lambda: self._store.reach(part, walk, value, now_ms), StoreError("no answer")
        )

    async def past_horizon(
        self, part: Part, after: RunKey, horizons: Horizons, now_ms: int
    ) -> tuple[list[RunKey], RunKey | None]:
        return await self._asked(lambda: self._store.past_horizon(part, after, horizons, now_ms))

    async def expired(self, part: Part, span: tuple[int, int], stored_before_ms: int, most: int) -> Sequence[Expired]:
        return await self._asked(lambda: self._store.expired(part, span, stored_before_ms, most))

    async def remove(self, runs: Sequence[Expired]) -> None:
        await self._machine.call("removal", lambda: self._store.remove(runs), StoreError("no answer"))


class GatedTrust(Asking):
    """`runtime.trust.Trust` over the machine's network."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._store = MemoryTrust(machine.shared.store)

    async def in_force(self) -> Sequence[Version]:
        return await self._asked(self._store.in_force)

    async def registry(self, version: Version) -> Registry:
        return await self._asked(lambda: self._store.registry(version))

    async def propose(self, version: Version, jwks: dict[str, Any], proposed_by: str) -> None:
        await self._machine.call(
            "proposal", lambda: self._store.propose(version, jwks, proposed_by), StoreError("no answer")
        )

    async def changed(self, workspace: str, since: int | None) -> frozenset[str]:
        return await self._asked(lambda: self._store.changed(workspace, since))

    async def affected(
        self, part: Part, workspace: str, kids: Collection[str], after: Signed, most: int
    ) -> Sequence[Signed]:
        return await self._asked(lambda: self._store.affected(part, workspace, kids, after, most))

    async def progress(self, part: Part) -> frozenset[Version]:
        return await self._asked(lambda: self._store.progress(part))

    async def note(self, part: Part, version: Version, now_ms: int) -> None:
        await self._machine.call(
            f"note of version {version.version}",
            lambda: self._store.note(part, version, now_ms),
            StoreError("no answer"),
        )


class GatedPublisher:
    """`ports.Publisher` over the machine's network."""

    def __init__(self, machine: Machine, publisher: MemoryPublisher) -> None:
        self._machine = machine
        self._publisher = publisher

    async def fence(self, part: Part) -> None:
        await self._machine.pause()
        await self._publisher.fence(part)
        await self._machine.pause()

    async def publish(self, part: Part, records: Mapping[str, Sequence[Outgoing]]) -> None:
        try:
            await self._call(f"publish of {part.partition}", lambda: self._publisher.publish(part, records))
        except UnavailableError:
            await self._publisher.release(
                part
            )  # it may or may not be committed: nothing more before it is fenced again
            raise

    async def send(self, topic: str, records: Sequence[Outgoing]) -> None:
        await self._call(f"send to {topic}", lambda: self._publisher.send(topic, records))

    async def partitions(self, topic: str) -> int:
        return await self._publisher.partitions(topic)

    async def release(self, part: Part) -> None:
        await self._machine.pause()
        await self._publisher.release(part)

    async def close(self) -> None:
        await self._machine.gate()
        await self._publisher.close()

    async def _call(self, what: str, ask: Callable[[], Awaitable[object]]) -> None:
        await self._machine.call(what, ask, UnavailableError("no answer"))


class GatedSource:
    """`ports.Source` over the machine's network."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._source = machine.inner

    async def open(self, listener: GroupListener) -> None:
        await self._machine.pause()
        await self._source.open(listener)

    async def poll(self, wait_ms: int, records_max: int) -> Mapping[Part, Sequence[Record]]:
        await self._machine.pause()
        if self._machine.shared.chance.random() < self._machine.shared.fate.error_before / 4:
            raise UnavailableError("no answer")
        return await self._source.poll(wait_ms, records_max)

    async def keep_alive(self) -> None:
        await self._machine.pause()
        await self._source.keep_alive()

    def position(self, part: Part) -> int | None:
        return self._source.position(part)

    def end(self, part: Part) -> int | None:
        return self._source.end(part)

    async def bounds(self, part: Part) -> LogBounds:
        await self._machine.pause()
        return await self._source.bounds(part)

    def start(self, part: Part, offset: int) -> None:
        self._source.start(part, offset)

    def pause(self, part: Part) -> None:
        self._source.pause(part)

    async def commit(self, offsets: Mapping[Part, int]) -> None:
        commit = lambda: self._source.commit(offsets)  # noqa: E731
        await self._machine.call("commit", commit, UnavailableError("no answer"))

    async def close(self) -> None:
        await self._machine.gate()
        await self._source.close()

"""One made-up machine with a worker on it: its ports pass through gates at which it is stalled, killed, or lied to.

Must not live here: when that happens to which machine (theatre.py).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import structlog
from prometheus_client import CollectorRegistry

from agentrun_stream import topics
from agentrun_stream.broker.kafka import partition_of
from agentrun_stream.broker.memory import MemoryBroker, MemoryPublisher, MemorySource
from agentrun_stream.errors import UnavailableError
from agentrun_stream.model.opinions import Opinions, Policy
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.lineage import Kinship
from agentrun_stream.runtime.rejudge import Rejudge
from agentrun_stream.runtime.retention import Expiry, Removal
from agentrun_stream.runtime.sweep import Duty, LeaseRules, Leases, Sweeper
from agentrun_stream.runtime.trust import TrustKeeper
from agentrun_stream.runtime.worker import Worker, WorkerOptions, World
from agentrun_stream.store.memory import MemoryStore
from agentrun_stream.store.sweeps import Horizons
from agentrun_stream.telemetry.metrics import Metrics
from simulation.network import GatedLineages, GatedPublisher, GatedSource, GatedStore, GatedTrust
from simulation.virtual import MachineClock

GROUP = "agentrun"
DELAYS_S = (0.0, 0.0, 0.0, 0.001, 0.05, 0.7)
METRICS = Metrics(CollectorRegistry())
QUIET = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(50))


REMOVE_AFTER_S = 300.0


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

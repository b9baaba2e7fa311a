"""The network of a made-up machine: the ports as its worker sees them, through gates at which calls are lost or late.

Must not live here: what happens to which call (machine.py, theatre.py).
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agentrun_stream.broker.memory import MemoryPublisher
from agentrun_stream.errors import StoreError, UnavailableError
from agentrun_stream.model.lineage import Kin
from agentrun_stream.model.run import RunState
from agentrun_stream.model.trust import Registry
from agentrun_stream.ports import GroupListener, LogBounds, Outgoing, Part, Record, RunKey, Stored
from agentrun_stream.store.lineage import Edge, Page
from agentrun_stream.store.memory_lineage import MemoryLineages
from agentrun_stream.store.memory_trust import MemoryTrust
from agentrun_stream.store.sweeps import Age, Expired, Horizons, Touch
from agentrun_stream.store.trust import Signed, Version

if TYPE_CHECKING:
    from simulation.machine import Machine

T = TypeVar("T")


class GatedStore:
    """`ports.Store` over the machine's network."""

    def __init__(self, machine: "Machine") -> None:
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

    def __init__(self, machine: "Machine") -> None:
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

    def __init__(self, machine: "Machine") -> None:
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

    def __init__(self, machine: "Machine") -> None:
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

    def __init__(self, machine: "Machine", publisher: MemoryPublisher) -> None:
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

    def __init__(self, machine: "Machine") -> None:
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

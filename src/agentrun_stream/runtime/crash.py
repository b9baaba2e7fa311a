"""Crash points, a seam for fault tests: at the named point, for the n-th time, the worker kills itself with SIGKILL.

The ports of one worker are wrapped where a point is asked for, and only then. Must not live here: the loop, or anything
that a worker without a crash point runs.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar, cast

from agentrun_stream.errors import ConfigError
from agentrun_stream.pipeline import PHASES
from agentrun_stream.ports import Clock, Part, Publisher, RunKey, Source, Store
from agentrun_stream.runtime.worker import World

_SEVERAL: Final = ("facts", "projections", "publish")
_PHASE_OF: Final = {table: phase.name for phase in PHASES for table in phase.tables}
IN_TRANSACTION: Final = "in-transaction"

# Each with what has happened when the worker dies there.
POINTS: Final[dict[str, str]] = {
    "assigned": "a partition is fenced and its resume point found, nothing is folded yet",
    "looked-up": "the store told of the runs of a batch, nothing is folded with it yet",
    "folding": "some of a batch is folded",
    **{f"before-{phase.name}": f"nothing of the phase {phase.name} is written" for phase in PHASES},
    **{
        f"within-{name}": f"one of several writes of the phase {name} has arrived, the others have not"
        for name in _SEVERAL
    },
    IN_TRANSACTION: "runs are produced, their transaction has not ended",
    **{f"after-{phase.name}": f"all of the phase {phase.name} has arrived, nothing after it" for phase in PHASES},
}

T = TypeVar("T")


class CrashPoint:
    """One point, and how often it is passed before the worker dies there. Text: `<name>` or `<name>:<nth>`."""

    def __init__(self, text: str) -> None:
        name, _, nth = text.partition(":")
        if name not in POINTS or (nth and not nth.isdecimal()):
            raise ConfigError(
                f"{text} is no crash point.", f"They are {', '.join(POINTS)}, each with an optional :<nth>."
            )
        self.name = name
        self._left = int(nth or 1)
        self._under_way = 0
        self._held: list[asyncio.Event] = []
        self._published = False

    def phase_of(self, table: str) -> str:
        """The phase that an insert belongs to. The rows of runs that are only judged again go in after their records."""
        phase = _PHASE_OF[table]
        return "publish" if phase == "projections" and self._published else phase

    def reached(self, name: str) -> None:
        """The worker is at this point."""
        if name == self.name:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    async def write(self, phase: str, work: Callable[[], Awaitable[T]]) -> T:
        """One write of a phase. The writes of a phase begin together, so the first one sees that the others wait."""
        if self.name == f"within-{phase}" and self._under_way:
            self._held.append(asyncio.Event())
            await self._held[-1].wait()
        if not self._under_way:
            self.reached(f"before-{phase}")
        self._published = phase == "publish"
        self._under_way += 1
        try:
            answer = await work()
            if self._held:
                self.reached(f"within-{phase}")
        finally:
            self._under_way -= 1
            for event in self._held:
                event.set()
            self._held.clear()
        if not self._under_way:
            self.reached(f"after-{phase}")
        return answer


class _Wrapped:
    """A port that passes on whatever is not a point."""

    def __init__(self, inner: Any, point: CrashPoint) -> None:
        self._inner = inner
        self._point = point

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Store(_Wrapped):
    async def insert(self, table: str, rows: Sequence[bytes]) -> None:
        phase = self._point.phase_of(table)
        await self._point.write(phase, lambda: self._inner.insert(table, rows))

    async def load_runs(self, keys: Sequence[RunKey]) -> Any:
        found = await self._inner.load_runs(keys)
        self._point.reached("looked-up")
        return found


class _Publisher(_Wrapped):
    async def publish(self, part: Part, records: Mapping[str, Sequence[Any]]) -> None:
        await self._point.write("publish", lambda: self._inner.publish(part, records))

    async def send(self, topic: str, records: Sequence[Any]) -> None:
        await self._point.write("publish", lambda: self._inner.send(topic, records))


class _Source(_Wrapped):
    def start(self, part: Part, offset: int) -> None:
        self._inner.start(part, offset)
        self._point.reached("assigned")

    async def commit(self, offsets: Any) -> None:
        await self._point.write("commit", lambda: self._inner.commit(offsets))


class _Clock(_Wrapped):
    async def sleep(self, seconds: float) -> None:
        if not seconds:  # the fold lets others run between two chunks
            self._point.reached("folding")
        await self._inner.sleep(seconds)


def armed(world: World, point: CrashPoint) -> World:
    """The same world, with a worker in it that dies at this point."""
    return replace(
        world,
        source=cast("Source", _Source(world.source, point)),
        publisher=cast("Publisher", _Publisher(world.publisher, point)),
        store=cast("Store", _Store(world.store, point)),
        clock=cast("Clock", _Clock(world.clock, point)),
    )

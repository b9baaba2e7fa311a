"""Keeps the watermark while this worker owns partition 0: up to which append time everything is stored.

States of windows are read from it and from the lateness of their workspace, so nothing else has to be kept, and whoever dies
here leaves an older watermark and never a wrong one. Must not live here: SQL (store/finality.py), the broker.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from agentrun_stream.broker.admin import GroupLag
from agentrun_stream.errors import AgentrunError
from agentrun_stream.ports import Clock, Part
from agentrun_stream.processors.signals.rules import Rules
from agentrun_stream.store.finality import GENERAL, Journaled
from agentrun_stream.telemetry.metrics import Metrics

log = structlog.get_logger()

LOOK_EVERY_S: Final = 5.0
ASKED_EVERY_S: Final = 1.0
# The broker stamps by its own clock: so far behind ours nothing is appended any more.
CLOCKS_APART_MS: Final = 5_000


class Marks(Protocol):
    """The part of the store that knows how far partitions are stored, in ms of append time."""

    async def journaled(self, part: Part) -> Journaled:
        """How far the journal vouches for a partition."""
        ...

    async def passed(self) -> Mapping[Part, int]:
        """What was noted last."""
        ...

    async def note_passed(self, found: Mapping[Part, int], now_ms: int) -> None:
        """Note all partitions at once."""
        ...

    async def put_latenesses(self, wanted: Mapping[str, int], now_ms: int) -> None:
        """Let these be in force, in seconds by workspace, and no other."""
        ...


def lateness_by_workspace(rules: Rules) -> dict[str, int]:
    """What the rules say, in seconds; the general one besides."""
    own = {name: mine.lateness_s for name, mine in rules.by_workspace.items()}
    return {GENERAL: rules.general.lateness_s, **own}


class Finality:
    """`run()` until it is cancelled. Two workers at it at once do no harm: each notes what is true."""

    def __init__(
        self,
        marks: Marks,
        lags: Callable[[], Awaitable[Sequence[GroupLag]]],
        rules: Rules,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._marks = marks
        self._lags = lags
        self._latenesses = lateness_by_workspace(rules)
        self._clock = clock
        self._metrics = metrics
        self._put = False
        self._failing = False

    async def run(self, owns: Callable[[], bool]) -> None:
        """Look while `owns()`."""
        while True:
            if owns():
                await self._turn()
                await self._clock.sleep(LOOK_EVERY_S)
            else:
                self._put = False
                self._metrics.watermark_timestamp_seconds.replace(())
                await self._clock.sleep(ASKED_EVERY_S)

    async def _turn(self) -> None:
        try:
            await self.look()
        except Exception as error:  # noqa: BLE001 - the next look does it again; the worker must go on whatever went wrong here
            if not self._failing:
                # Only our own errors are known to quote no row.
                why = error.message if isinstance(error, AgentrunError) else type(error).__name__
                log.warning("the watermark stands still", why=why, next="Windows stay open for longer; sums are exact.")
            self._failing = True
        else:
            if self._failing:
                log.info("the watermark moves again")
            self._failing = False

    async def look(self) -> None:
        """One look at every partition.

        One with nothing left to store has passed every time before the look; any other one what the journal vouches for.
        """
        now_ms = self._clock.now_ms()
        if not self._put:
            await self._marks.put_latenesses(self._latenesses, now_ms)
            self._put = True
        found = {lag.part: await self._passed_ms(lag, now_ms) for lag in await self._lags()}
        held = await self._marks.passed()
        found = {part: max(at, held.get(part, 0)) for part, at in found.items()}
        if found:
            await self._marks.note_passed(found, now_ms)
        series = [(at / 1000, {"topic": part.topic, "partition": part.partition}) for part, at in found.items()]
        self._metrics.watermark_timestamp_seconds.replace(series)

    async def _passed_ms(self, lag: GroupLag, now_ms: int) -> int:
        # The journal and not the commit, which a restored store is behind.
        journaled = await self._marks.journaled(lag.part)
        nothing_left = lag.end <= max(lag.start, journaled.end)
        return now_ms - CLOCKS_APART_MS if nothing_left else journaled.appended_ms

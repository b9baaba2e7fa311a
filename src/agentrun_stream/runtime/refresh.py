"""Keeps the cost windows fresh while this worker owns partition 0; an error here never reaches the worker's loop.

Two workers at it at once do no harm (store/windows.py), so ownership is asked and not locked.
Must not live here: what a refresh does.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from agentrun_stream.errors import AgentrunError
from agentrun_stream.ports import Clock
from agentrun_stream.store.windows import Refreshed
from agentrun_stream.telemetry.metrics import Metrics

log = structlog.get_logger()

EVERY_S: Final = 3.0
AGE_EVERY_S: Final = 1.0
LONGEST_WAIT_S: Final = 30.0


class Windows(Protocol):
    """The part of the store that sums."""

    async def refresh(self) -> Refreshed:
        """One pass. MUST be safe at any time, also beside another one. Raises AgentrunError where the store can't."""
        ...


class Refresher:
    """`run()` until `stop()`; the last thing it does is one more pass, so that a clean stop leaves exact windows."""

    def __init__(self, windows: Windows, owns: Callable[[], bool], clock: Clock, metrics: Metrics) -> None:
        self._windows = windows
        self._owns = owns
        self._clock = clock
        self._metrics = metrics
        self._stopping = asyncio.Event()
        self._finished_s: float | None = None
        self._failures = 0

    def stop(self) -> None:
        """Let `run` do its last pass and return."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop`."""
        age = asyncio.create_task(self._tell_age())
        stopped = asyncio.create_task(self._stopped())
        try:
            while not self._stopping.is_set():
                more = await self._turn()
                if not more:
                    await self._wait(stopped)
            if self._finished_s is not None and not self._failures:
                await self._pass()
        finally:
            age.cancel()
            stopped.cancel()

    async def _turn(self) -> bool:
        """One pass if it is ours to do; whether another one should follow at once."""
        if self._owns():
            if self._finished_s is None:
                self._finished_s = self._clock.monotonic_s()
            return await self._pass()
        self._finished_s = None
        self._metrics.window_age_seconds.remove()
        return False

    async def _stopped(self) -> None:
        await self._stopping.wait()

    async def _wait(self, stopped: asyncio.Task[None]) -> None:
        seconds = min(EVERY_S * 2 ** min(self._failures, 8), LONGEST_WAIT_S)
        nap = asyncio.create_task(self._clock.sleep(seconds))
        await asyncio.wait({nap, stopped}, return_when=asyncio.FIRST_COMPLETED)
        nap.cancel()

    async def _pass(self) -> bool:
        try:
            done = await self._windows.refresh()
        except Exception as error:  # noqa: BLE001 - sums are made again; the worker must go on whatever went wrong here
            self._failed(error)
            return False
        if self._failures:
            log.info("windows are refreshed again")
        self._failures = 0
        self._finished_s = self._clock.monotonic_s()
        self._metrics.window_age_seconds.set(0)
        self._metrics.window_refresh_seconds.observe(done.seconds)
        self._metrics.rows_inserted.inc(done.rows, table="cost_windows")
        return done.more

    def _failed(self, error: Exception) -> None:
        if not self._failures:
            # Only our own errors are known to quote no row.
            why = error.message if isinstance(error, AgentrunError) else type(error).__name__
            log.warning("windows are not refreshed", why=why, next="Readers see exact sums all the same, only slower.")
        self._failures += 1

    async def _tell_age(self) -> None:
        """Beside the passes, so that one that hangs shows."""
        while True:
            if self._finished_s is not None:
                self._metrics.window_age_seconds.set(self._clock.monotonic_s() - self._finished_s)
            await self._clock.sleep(AGE_EVERY_S)

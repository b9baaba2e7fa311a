"""Virtual time: an event loop that never waits, and the clock of a made-up machine. Must not live here: faults."""

import asyncio
import selectors
from collections.abc import Callable, Mapping
from random import Random
from typing import Any


class StuckError(Exception):
    """Everybody waits for somebody, and nothing is due."""


class _Selector(selectors.DefaultSelector):
    """Where a real one would sleep, time jumps to what is due next."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StuckError
        self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop by which the same seed gives the same run: one thread, its own time, no sockets."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """What would go to a thread is done at once: threads keep no order."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it belongs to who waits
            done.set_exception(error)
        return done


def play(loop: VirtualLoop, scene: Callable[[], Any]) -> Any:
    """Run a coroutine to its end, then end everything that it left behind."""
    left: list[Mapping[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: left.append(context))
    try:
        return loop.run_until_complete(scene())
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()


class MachineClock:
    """`ports.Clock` of one machine; its time of day is off by `skew_ms`."""

    def __init__(
        self, chance: Random, skew_ms: int, gate: Callable[[], Any], told_ms: Callable[[], int] | None = None
    ) -> None:
        self._told_ms = told_ms
        self._chance = chance
        self._skew_ms = skew_ms
        self._gate = gate

    def now_ms(self) -> int:
        if self._told_ms is not None:
            return self._told_ms() + self._skew_ms
        return 1_800_000_000_000 + self._skew_ms + round(self.monotonic_s() * 1000)

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._gate()

    def jitter(self) -> float:
        return self._chance.random()

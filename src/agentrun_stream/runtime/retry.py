"""Back-off with jitter: how long to wait before the store or the broker is asked again.

Must not live here: what is retried.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from agentrun_stream.errors import UnavailableError
from agentrun_stream.ports import Clock

FIRST_S: Final = 0.2
LONGEST_S: Final = 15.0
SLOW_S: Final = 10.0

T = TypeVar("T")
Waiting = Callable[[float, UnavailableError | None], None]


class Abandoned(Exception):  # noqa: N818  not an error: the work is somebody else's now
    """The work that was retried is no longer ours."""


@contextmanager
def impatient(waiting: Waiting) -> Iterator[None]:
    """Let `waiting` hear of an answer that takes long: what stands still takes connections, and time-outs are a minute."""
    slow = UnavailableError(f"No answer for {SLOW_S:g} s so far.", "Check that it runs: `agentrun doctor`.")
    handle = asyncio.get_running_loop().call_later(SLOW_S, waiting, 0.0, slow)
    try:
        yield
    finally:
        handle.cancel()


async def insist(clock: Clock, ask: Callable[[], Awaitable[T]], waiting: Waiting, ours: Callable[[], bool]) -> T:
    """Ask until it works. `waiting(seconds, error)` hears of every wait, and `waiting(0, None)` of the end of it.

    Raises Abandoned as soon as `ours` is false; any error that is not UnavailableError goes through.
    """
    wait = FIRST_S
    while True:
        if not ours():
            raise Abandoned
        try:
            with impatient(waiting):
                answer = await ask()
        except UnavailableError as error:
            pause = wait * (0.5 + clock.jitter() / 2)
            waiting(pause, error)
            await clock.sleep(pause)
            wait = min(wait * 2, LONGEST_S)
        else:
            waiting(0.0, None)
            return answer

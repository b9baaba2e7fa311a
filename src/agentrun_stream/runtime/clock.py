"""The real clock. Must not live here: decisions."""

import asyncio
import random
import time


class SystemClock:
    """`ports.Clock` by the machine."""

    def now_ms(self) -> int:
        """See `ports.Clock.now_ms`."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """See `ports.Clock.monotonic_s`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See `ports.Clock.sleep`."""
        await asyncio.sleep(seconds)

    def jitter(self) -> float:
        """See `ports.Clock.jitter`."""
        return random.random()  # noqa: S311 - spreads retries

"""Load without an end: seeded fleets one after the other, at a steady rate, through every outage of the broker.

Must not live here: what a fleet is (`testing/fleet.py`), or what becomes of its records.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count, islice
from typing import Final

from agentrun_stream import topics
from agentrun_stream.broker.bulk import BulkProducer
from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.errors import UnavailableError
from agentrun_stream.testing.fleet import FleetShares, Record, demo_fleet

FLEET_RUNS: Final = 60
TICK_S: Final = 0.1
SHARES: Final = FleetShares(bad=0.03, repeated=0.05)
_AGAIN_S: Final = 0.3
_JOIN_S: Final = 120.0


class SteadyLoad:
    """Publishes from a thread of its own between `start` and `stop`. What the broker did not acknowledge is sent again."""

    def __init__(self, address: KafkaAddress, seed: int, rate: int) -> None:
        self._address = address
        self._seed = seed
        self._each = max(1, int(rate * TICK_S))
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None
        self._unsent: list[Record] = []
        self._records = self._fleets()
        self.acknowledged = 0

    def start(self) -> None:
        """Begin, or go on where `stop` ended it."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="load", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Return when what was sent is acknowledged. Raises what ended the load before, if anything did."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            self._thread = None
        if self._failed is not None:
            raise self._failed

    def _fleets(self) -> Iterator[Record]:
        for number in count():
            yield from demo_fleet(FLEET_RUNS, self._seed * 100_000 + number, datetime.now(UTC), shares=SHARES)

    def _run(self) -> None:
        try:
            asyncio.run(self._publish())
        except BaseException as error:  # noqa: BLE001 - handed to whoever stops the load
            self._failed = error

    async def _publish(self) -> None:
        while not self._stopping.is_set() or self._unsent:
            try:
                async with BulkProducer(self._address, topics.EVENTS) as producer:
                    await self._steadily(producer)
            except UnavailableError:
                await asyncio.sleep(_AGAIN_S)

    async def _steadily(self, producer: BulkProducer) -> None:
        while not self._stopping.is_set() or self._unsent:
            tick = time.monotonic()
            self._unsent = self._unsent or list(islice(self._records, self._each))
            for record in self._unsent:
                await producer.send(record.key, record.value, record.headers)
            await producer.flush()
            self.acknowledged += len(self._unsent)
            self._unsent = []
            await asyncio.sleep(max(0.0, tick + TICK_S - time.monotonic()))

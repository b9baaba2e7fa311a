"""Keeps the signals while this worker owns partition 0: passes, rows, gauges, and budgets for those who enforce them.

Two workers at it at once do no harm, so ownership is asked and not locked; an error here never reaches the worker's loop.
Must not live here: what a signal is made of (failures.py, spending.py).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import orjson
import structlog

from agentrun_stream import topics
from agentrun_stream.errors import AgentrunError
from agentrun_stream.model.opinions import Pricing, no_prices
from agentrun_stream.ports import Clock, Outgoing, Publisher
from agentrun_stream.processors.signals.budgets import Budget
from agentrun_stream.processors.signals.rules import Rules
from agentrun_stream.runtime.signals import spending
from agentrun_stream.runtime.signals.failures import Closings, refresh_failures
from agentrun_stream.runtime.signals.gauges import Gauges
from agentrun_stream.runtime.signals.spending import BUDGET, BUDGET_PREFIX, BURN, LOOPS, VELOCITY, Present
from agentrun_stream.store.signals import Signal

log = structlog.get_logger()

# So many times as long as a pass took nobody begins another: signals never cost more than a fifth of a core.
REST: Final = 4
LONGEST_WAIT_S: Final = 300.0
ASKED_EVERY_S: Final = 1.0

Held = dict[tuple[str, str, str], Signal]


class SignalStore(Closings, Present, Protocol):
    """Everything that is asked of the store."""

    async def held(self) -> Held:
        """All signals as they stand."""
        ...


@dataclass(frozen=True, slots=True)
class Opinions:
    """What agents are held against, how often one looks, and what tokens cost that nobody reports a cost of."""

    rules: Rules = field(default_factory=Rules)
    budgets: Sequence[Budget] = ()
    every_s: float = 15.0
    price: Pricing = no_prices


class SignalRefresher:
    """`run()` until it is cancelled. What a pass left undone, the next owner's first pass does."""

    def __init__(
        self, store: SignalStore, publisher: Publisher, clock: Clock, opinions: Opinions, gauges: Gauges
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._opinions = opinions
        self._gauges = gauges
        self._failing = False

    async def run(self, owns: Callable[[], bool]) -> None:
        """Work while `owns()`."""
        try:
            while True:
                if owns():
                    await self._clock.sleep(await self._turn())
                else:
                    self._gauges.forget()
                    await self._clock.sleep(min(ASKED_EVERY_S, self._opinions.every_s))
        finally:
            self._gauges.forget()

    async def _turn(self) -> float:
        """One pass, told of its errors; how long to wait for the next."""
        started = self._clock.monotonic_s()
        try:
            await self.refresh()
        except Exception as error:  # noqa: BLE001 - signals are made again; the worker must go on whatever went wrong here
            if not self._failing:
                # Only our own errors are known to quote no row.
                why = error.message if isinstance(error, AgentrunError) else type(error).__name__
                log.warning("signals are not refreshed", why=why, next="They are tried again; runs and costs go on.")
            self._failing = True
        else:
            if self._failing:
                log.info("signals are refreshed again")
            self._failing = False
        took = self._clock.monotonic_s() - started
        if not self._failing:
            self._gauges.passed(took)
        return min(LONGEST_WAIT_S, max(self._opinions.every_s, took * REST))

    async def refresh(self) -> None:
        """One pass over every signal."""
        now_ms = self._clock.now_ms()
        now_s = now_ms // 1000
        store, rules = self._store, self._opinions.rules
        held = await store.held()
        judged = await refresh_failures(store, rules, held, now_ms)
        held |= {s.key: s for s in judged}
        present = {
            VELOCITY: await spending.velocities(store, rules, self._opinions.price, now_s),
            LOOPS: await spending.looping(store, rules, now_s),
            BURN: await spending.burning(store, rules, now_s),
        }
        changed = [s for signal, made in present.items() for s in _changes(held, made, {signal})]
        told = await spending.budgeted(store, self._opinions.budgets, now_s)
        budgets = _changes(held, told, BUDGET.values())
        # Told before noted: whoever dies in between lets the next one tell it again.
        await self._tell(budgets, now_s)
        await store.write([*changed, *budgets], now_ms, now_ms)
        self._gauges.show((held | {s.key: s for s in (*changed, *budgets)}).values())

    async def _tell(self, budgets: Sequence[Signal], now_s: int) -> None:
        """Publish budgets that changed; of one that is gone its end."""
        records = []
        for s in budgets:
            period = s.signal.removeprefix(BUDGET_PREFIX)
            key = "/".join((period, s.workspace, *([s.agent_id] if s.agent_id else ())))
            value = orjson.dumps({**s.state, "at": now_s}) if s.state else None
            records.append(Outgoing(key.encode(), value))
        if records:
            await self._publisher.send(topics.BUDGETS, records)


def _changes(held: Mapping[tuple[str, str, str], Signal], made: Sequence[Signal], of: Collection[str]) -> list[Signal]:
    """What differs from what is held; of these signals those that nobody has any more become void."""
    found = [s for s in made if held.get(s.key) != s]
    now = {s.key for s in made}
    gone = (s for s in held.values() if s.signal in of and s.state and s.key not in now)
    return [*found, *(Signal(*s.key) for s in gone)]

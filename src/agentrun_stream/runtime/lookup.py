"""What a batch asks the store while it is made, until the store answers: states, rows as they stand, evidence, parents.

Must not live here: SQL, what the answers mean.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agentrun_stream.model.lineage import Child, Lineage
from agentrun_stream.model.opinions import NO_OPINIONS, ORPHAN_AFTER_MS, Opinions
from agentrun_stream.model.run import RunState
from agentrun_stream.ports import Clock, RunKey, Store, Stored
from agentrun_stream.runtime.lineage import resolve

Ask = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


class Lookups:
    """Questions to the store. `ask` asks each until there is an answer, or the work is no longer ours."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ask: Ask,
        opinions: Opinions = NO_OPINIONS,
        orphan_after_ms: int = ORPHAN_AFTER_MS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ask = ask
        self._orphan_after_ms = orphan_after_ms
        self.opinions = opinions
        self.looked_up: Callable[[int, float], None] = lambda _ids, _seconds: None

    async def runs(self, keys: Sequence[RunKey]) -> dict[RunKey, RunState]:
        """The states of these runs; unknown ones are left out."""
        before = self._clock.monotonic_s()
        found: dict[RunKey, RunState] = await self._ask(lambda: self._store.load_runs(keys))
        self.looked_up(len(keys), self._clock.monotonic_s() - before)
        return found

    async def projected(self, keys: Sequence[RunKey]) -> dict[RunKey, Stored]:
        """What stands in `runs` of these runs."""
        found: dict[RunKey, Stored] = await self._ask(lambda: self._store.projected(keys)) if keys else {}
        return found

    async def evidence(self, run: RunKey, version: int) -> bytes | None:
        """The bytes of a signed event."""
        found: bytes | None = await self._ask(lambda: self._store.evidence(run, version))
        return found

    async def lineage(self, children: Mapping[RunKey, Child]) -> dict[RunKey, Lineage]:
        """The lineage of these runs, by what their parents show now."""
        if not children:
            return {}
        found: dict[RunKey, Lineage] = await self._ask(
            lambda: resolve(self._store.kin, children, self._clock.now_ms(), self._orphan_after_ms)
        )
        return found

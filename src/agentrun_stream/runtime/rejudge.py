"""A changed registry: gives the signed runs that it concerns to the loop, to be projected again under it.

Must not live here: projecting, SQL (store/trust.py), which registry is in force (trust.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agentrun_stream.ports import Clock, RunKey
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.trust import Trust, TrustKeeper
from agentrun_stream.store.trust import FIRST, Signed, Version

PAGE_RUNS: Final = 2_000
AGAIN_RUNS_MAX: Final = 20_000
ROUNDS: Final = 2


class Made:
    """Everything that the loop had made at one moment. `written` says when all of that is."""

    def __init__(self, assigned: Assigned) -> None:
        self._assigned = assigned
        self._folded = assigned.folded
        self._taken = assigned.again_taken
        self._folding = (
            assigned.folding
        )  # a batch at hand, that may hold what was projected earlier, ends beyond `folded`

    @property
    def written(self) -> bool:
        """Whether it is acknowledged."""
        now = self._assigned
        if self._folding and now.folding and now.folded == self._folded:
            return False
        if self._folding:
            self._folded, self._folding = now.folded, False
        return now.acknowledged >= self._folded and now.again_written >= self._taken


@dataclass(slots=True)
class Pass:
    """How far one version of a workspace's registry is followed. `at` None: every run of this round was given away."""

    version: Version
    kids: frozenset[str]
    before: Made
    begun_ms: int
    from_ms: int = 0
    at: Signed | None = FIRST
    given: set[RunKey] = field(default_factory=set)
    rounds: int = 0


class Rejudge:
    """Follows the registries in force on one partition, for one assignment.

    What was made under an older registry must be written first, and then everything is done twice: the rows of an owner
    before us may have been on their way to the store, but not for longer than an insert may take (`grace_s`). Only when
    the loop has written what it was given is a version noted as followed, so it may be killed at any point.
    """

    def __init__(self, assigned: Assigned, keeper: TrustKeeper, store: Trust, clock: Clock, grace_s: float) -> None:
        self.hear: Callable[[int], None] = lambda _runs: None
        self._assigned = assigned
        self._keeper = keeper
        self._store = store
        self._clock = clock
        self._grace_ms = round(grace_s * 1000)
        self._followed: set[Version] | None = None
        self._passes: dict[str, Pass] = {}

    async def turn(self) -> int:
        """A piece of every version that is not followed yet; how many runs were given to the loop."""
        if self._followed is None:
            self._followed = set(await self._store.progress(self._assigned.part))
        given = 0
        for workspace, version in self._keeper.in_force.items():
            if version in self._followed:
                continue
            known = self._passes.get(workspace)
            if known is None or known.version != version:
                known = self._passes[workspace] = await self._begin(version, self._followed)
            given += await self._go_on(known, self._followed)
        self.hear(given)
        return given

    async def _begin(self, version: Version, followed: set[Version]) -> Pass:
        before = Made(self._assigned)
        older = [v.version for v in followed if v.workspace == version.workspace and v.version < version.version]
        kids = await self._store.changed(version.workspace, max(older, default=None))
        return Pass(version, kids, before, self._clock.now_ms(), rounds=0 if kids else ROUNDS)

    async def _go_on(self, going: Pass, followed: set[Version]) -> int:
        now = self._clock.now_ms()
        if self._assigned.lost or not going.before.written or now < going.from_ms:
            return 0
        if going.rounds == ROUNDS:
            await self._store.note(self._assigned.part, going.version, now)
            followed.add(going.version)
            del self._passes[going.version.workspace]
            return 0
        if going.at is not None:
            return await self._give(going)
        going.given &= self._assigned.again.keys()
        if not going.given:
            going.rounds, going.at, going.before = going.rounds + 1, FIRST, Made(self._assigned)
            going.from_ms = going.begun_ms + self._grace_ms
        return 0

    async def _give(self, going: Pass) -> int:
        """As many of the next runs as the loop has room for."""
        again, workspace, count = self._assigned.again, going.version.workspace, 0
        going.given &= again.keys()
        while going.at is not None and (room := min(PAGE_RUNS, AGAIN_RUNS_MAX - len(again))) > 0:
            found = await self._store.affected(self._assigned.part, workspace, going.kids, going.at, room)
            keys = dict.fromkeys((workspace, signed.run_id) for signed in found)
            again.update(keys)
            going.given.update(keys)
            going.at = found[-1] if len(found) == room else None
            count += len(keys)
        return count

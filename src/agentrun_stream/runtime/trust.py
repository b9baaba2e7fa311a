"""What a worker trusts: the registries in force in the store, and the files that propose newer ones.

Must not live here: what a key is trusted for (model/trust.py), projecting runs again (rejudge.py), SQL (store/trust.py).
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from structlog.typing import FilteringBoundLogger

from agentrun_stream.errors import AgentrunError
from agentrun_stream.model.trust import NOBODY, Registry
from agentrun_stream.ports import Clock, Part
from agentrun_stream.store.trust import Signed, Version
from agentrun_stream.trust.watch import RAISE_IT, Change, RegistryWatch, refusal

EVERY_S: Final = 3.0
MEND_IT: Final = "See `agentrun keys list`; mend the entry in the file and raise its version."


class Trust(Protocol):
    """The part of the store that keeps registries. Errors are those of `ports.Store`."""

    async def in_force(self) -> Sequence[Version]:
        """Of every workspace the highest version; of two contents under it, the one stored first."""
        ...

    async def registry(self, version: Version) -> Registry:
        """A stored version as a registry."""
        ...

    async def propose(self, version: Version, jwks: dict[str, Any], proposed_by: str) -> None:
        """Store a version that is above what is in force; any other is left out. MUST NOT store anything private.

        Two at once may both be stored; `in_force` then says the same to everybody. MUST NOT return before it is durable.
        """
        ...

    async def changed(self, workspace: str, since: int | None) -> frozenset[str]:
        """The kids of which any version stored from `since` on says something else; None: all that there ever were."""
        ...

    async def affected(
        self, part: Part, workspace: str, kids: Collection[str], after: Signed, most: int
    ) -> Sequence[Signed]:
        """The next runs of a partition that hold a claim by one of these keys, in order."""
        ...

    async def progress(self, part: Part) -> frozenset[Version]:
        """The versions that the owners of a partition have followed."""
        ...

    async def note(self, part: Part, version: Version, now_ms: int) -> None:
        """Note that a version was followed. MUST NOT return before it is durable."""
        ...


class Problem(NamedTuple):
    """What is wrong with a workspace's registry, and what mends it."""

    what: str
    next_step: str


class _InForce:
    """`trust.watch.Memory` over what is in force in the store: nothing else ever was, also before a restart."""

    def __init__(self, held: Mapping[str, tuple[Version, Registry]]) -> None:
        self._held = held

    def highest(self, workspace: str) -> tuple[int, str] | None:
        """The version in force."""
        held = self._held.get(workspace)
        return None if held is None else held[0][1:]

    def remember(self, workspace: str, registry: Registry) -> None:
        """A file only proposes: what is stored is read back."""


class TrustKeeper:
    """`current` answers from memory; `run()` keeps that up to date beside the loop, and proposes what the files say.

    `load` is to be awaited before the first record of a partition is folded. Nothing ever goes back to an earlier version.
    """

    def __init__(
        self, store: Trust, clock: Clock, log: FilteringBoundLogger, folder: Path | None = None, name: str = ""
    ) -> None:
        self.hear: Callable[[Version], None] = lambda _version: None
        self._store = store
        self._clock = clock
        self._log = log
        self._name = name
        self._held: dict[str, tuple[Version, Registry]] = {}
        self._watch = RegistryWatch(folder, _InForce(self._held)) if folder is not None else None
        self._files: dict[str, Registry] = {}
        self._proposed: dict[str, Change] = {}
        self._refused: dict[str, Problem] = {}
        self._failed: Problem | None = None
        self._told: set[Problem] = set()
        self._reading = asyncio.Lock()

    def current(self, workspace: str) -> Registry:
        """The registry in force; an empty one where there is none."""
        held = self._held.get(workspace)
        return NOBODY if held is None else held[1]

    @property
    def in_force(self) -> dict[str, Version]:
        """The version in force of each workspace."""
        return {workspace: version for workspace, (version, _) in self._held.items()}

    def problems(self) -> list[Problem]:
        """What is wrong with files and registries now. A worker goes on in spite of it, under what is in force."""
        found = [] if self._failed is None else [self._failed]
        for workspace in sorted(self._files.keys() | self._refused.keys() | self._held.keys()):
            found += self._problems_of(workspace)
        return found

    async def load(self) -> None:
        """Read what is in force. Raises AgentrunError where the store can't say."""
        async with self._reading:  # two answers must not overtake each other
            for version in await self._store.in_force():
                known = self._held.get(version.workspace)
                if known is not None and (known[0] == version or known[0].version > version.version):
                    continue
                registry = await self._store.registry(version)
                self._held[version.workspace] = (version, registry)
                self._log.info("registry in force", workspace=version.workspace, version=version.version)
                self.hear(version)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                await self.turn()
                self._failed = None
            except Exception as error:  # noqa: BLE001 - what is in force stays so; the worker must go on whatever went wrong
                # Only our own errors are known to quote no row.
                why = error.message if isinstance(error, AgentrunError) else type(error).__name__
                self._failed = Problem(
                    f"Registries are not kept up to date: {why}", "It is tried again; see `agentrun doctor`."
                )
            self._tell()
            await self._clock.sleep(EVERY_S)

    async def turn(self) -> None:
        """Read what is in force, propose what the files say beyond that, and read again."""
        await self.load()
        if self._watch is None:
            return
        for change in await asyncio.to_thread(self._watch.poll):
            self._take(change)
        for workspace, change in list(self._proposed.items()):
            version = Version(workspace, change.registry.version, change.registry.digest)
            await self._store.propose(version, change.jwks or {"keys": []}, self._name)
            del self._proposed[workspace]
            await self.load()

    def _take(self, change: Change) -> None:
        if change.problem is not None:
            self._refused[change.workspace] = Problem(change.problem, change.next_step)
            return
        self._refused.pop(change.workspace, None)
        self._files[change.workspace] = change.registry
        self._proposed[change.workspace] = change

    def _problems_of(self, workspace: str) -> list[Problem]:
        """What is wrong with the file, else whether it lost to another; and which entries count as not there."""
        found, (held, registry) = [], self._held.get(workspace, (None, NOBODY))
        if workspace in self._refused:
            found.append(self._refused[workspace])
        elif held is not None and workspace in self._files:
            said = refusal(f"The registry of {workspace}", self._files[workspace], (held.version, held.digest))
            found += [] if said is None else [Problem(said, RAISE_IT)]
        where = f"In the registry of {workspace}, version {registry.version},"
        return found + [Problem(f"{where} {warning}", MEND_IT) for warning in registry.warnings]

    def _tell(self) -> None:
        """Say each problem once, and once that it is over."""
        now = set(self.problems())
        for problem in sorted(now - self._told):
            self._log.warning("a registry has a problem", why=problem.what, next=problem.next_step)
        for problem in sorted(self._told - now):
            self._log.info("a registry's problem is over", was=problem.what)
        self._told = now

"""Registries that follow their files: read again when one changes, and never back to an earlier version.

Must not live here: who is told of a change (the runtime), how versions outlive the process (behind `Memory`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from agentrun_stream.errors import AgentrunError
from agentrun_stream.model.trust import NOBODY, Registry
from agentrun_stream.trust.folder import load, registry_path, workspaces_of

_Stamp = tuple[int, int, int]  # mtime in ns, bytes, inode

RAISE_IT: Final = "Change keys with `agentrun keys`, which raises the version; or raise `version` in the file above it."
PUT_IT_BACK: Final = "Put it back. Keys are revoked by `agentrun keys revoke`, not by removing the file."


class Memory(Protocol):
    """Where the versions that were in force are kept: workspace -> (version, digest)."""

    def highest(self, workspace: str) -> tuple[int, str] | None:
        """The highest version that was ever in force, and the digest of its content."""

    def remember(self, workspace: str, registry: Registry) -> None:
        """Keep a version that is in force from now on."""


class ProcessMemory:
    """Versions kept as long as the process lives."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[int, str]] = {}

    def highest(self, workspace: str) -> tuple[int, str] | None:
        """The highest version that was in force since the process began."""
        return self._kept.get(workspace)

    def remember(self, workspace: str, registry: Registry) -> None:
        """Keep a version."""
        self._kept[workspace] = (registry.version, registry.digest)


@dataclass(frozen=True, slots=True)
class Change:
    """What a look at the files found for one workspace: a registry in force from now on, or a problem that keeps the old one.

    `jwks` is the JWK Set that the registry was read from; without a problem, it may also say that one is over.
    """

    workspace: str
    registry: Registry
    problem: str | None = None
    next_step: str = ""
    jwks: dict[str, Any] | None = None


class RegistryWatch:
    """The registries of a folder. `poll` looks at the files; `current` answers from memory.

    A file that is broken, gone, of an earlier version, or changed under the same version leaves the registry in force that
    was, and is reported once per state of the file.
    """

    def __init__(self, folder: Path, memory: Memory | None = None) -> None:
        self._folder = folder
        self._memory = memory or ProcessMemory()
        self._stamps: dict[str, _Stamp | None] = {}
        self._registries: dict[str, Registry] = {}
        self._troubled: set[str] = set()

    def current(self, workspace: str) -> Registry:
        """The registry in force; an empty one where there is none."""
        return self._registries.get(workspace, NOBODY)

    def poll(self) -> list[Change]:
        """Look at the files again, and say what changed; cheap while none does."""
        names = {*workspaces_of(self._folder), *self._stamps}
        return [change for name in sorted(names) if (change := self._look(name)) is not None]

    def _look(self, workspace: str) -> Change | None:
        path = registry_path(self._folder, workspace)
        stamp = _stamp(path)
        if workspace in self._stamps and self._stamps[workspace] == stamp:
            return None
        self._stamps[workspace] = stamp
        change = self._read(workspace, path)
        if change.problem is not None:
            self._troubled.add(workspace)
            return change
        if change.registry.digest == self.current(workspace).digest and workspace not in self._troubled:
            return None
        self._troubled.discard(workspace)
        self._memory.remember(workspace, change.registry)
        self._registries[workspace] = change.registry
        return change

    def _read(self, workspace: str, path: Path) -> Change:
        before = self.current(workspace)
        known = self._memory.highest(workspace)
        stays = "Nothing is trusted yet." if known is None else f"Version {known[0]} stays in force."
        try:
            found, jwks = load(path)
        except FileNotFoundError:
            return Change(workspace, before, f"The registry {path} is gone. {stays}", PUT_IT_BACK)
        except AgentrunError as error:
            return Change(workspace, before, f"{error.message} {stays}", error.next_step)
        problem = refusal(f"The registry {path}", found, known)
        if problem is not None:
            return Change(workspace, before, problem, RAISE_IT)
        return Change(workspace, found, jwks=jwks)


def refusal(name: str, found: Registry, highest: tuple[int, str] | None) -> str | None:
    """Why a registry can't follow the highest version (and digest) that was in force; None where it can, or is that one."""
    if highest is None or found.version > highest[0] or (found.version, found.digest) == highest:
        return None
    if found.version == highest[0]:
        return f"{name} has another content than version {found.version} that is in force, so it is refused."
    return f"{name} goes back from version {highest[0]} to {found.version}, so it is refused."


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

"""Registries that follow their files: read again when one changes, and never back to an earlier version.

Must not live here: who is told of a change (the runtime), how versions outlive the process (behind `Memory`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentrun_stream.errors import AgentrunError
from agentrun_stream.model.trust import NOBODY, Registry
from agentrun_stream.trust.folder import load_registry, registry_path, workspaces_of

_Stamp = tuple[int, int, int]  # mtime in ns, bytes, inode


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
    """What a look at the files found for one workspace: a registry in force from now on, or a problem that keeps the old one."""

    workspace: str
    registry: Registry
    problem: str | None = None


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
        before = self.current(workspace)
        try:
            found = load_registry(path)
        except FileNotFoundError:
            return Change(workspace, before, f"The registry {path} is gone; version {before.version} stays in force.")
        except AgentrunError as error:
            return Change(workspace, before, f"{error.message} Version {before.version} stays in force.")
        problem = self._goes_back(workspace, path, found)
        if problem is not None:
            return Change(workspace, before, problem)
        if found.digest == before.digest:
            return None
        self._memory.remember(workspace, found)
        self._registries[workspace] = found
        return Change(workspace, found)

    def _goes_back(self, workspace: str, path: Path, found: Registry) -> str | None:
        highest = self._memory.highest(workspace)
        if highest is None or found.version > highest[0] or (found.version, found.digest) == highest:
            return None
        if found.version == highest[0]:
            return f"The registry {path} changed but kept version {found.version}, so it is refused; raise its version."
        return f"The registry {path} goes back from version {highest[0]} to {found.version}, so it is refused."


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

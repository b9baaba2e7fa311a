"""The twin in memory of what the store keeps of trust: the same answers from the rows of a `MemoryStore`.

Must not live here: which version is proposed, or followed.
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from agentrun_stream.model.trust import Registry
from agentrun_stream.ports import Part
from agentrun_stream.store.memory import MemoryStore, Row
from agentrun_stream.store.rows import MS
from agentrun_stream.store.trust import Signed, Version, changed_since, parsed, proposal


class MemoryTrust:
    """`runtime.trust.Trust` over a store in memory, which keeps versions and notes too."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def in_force(self) -> Sequence[Version]:
        """See `runtime.trust.Trust.in_force`."""
        return [_version(row) for row in self._newest().values()]

    async def registry(self, version: Version) -> Registry:
        """See `runtime.trust.Trust.registry`."""
        found = (row["content"] for row in self._store.rows("trust_versions") if _version(row) == version)
        return parsed(version, next(found, "").encode())

    async def propose(self, version: Version, jwks: dict[str, Any], proposed_by: str) -> None:
        """See `runtime.trust.Trust.propose`."""
        before = self._newest().get(version.workspace)
        if before is not None and before["version"] >= version.version:
            return
        content = None if before is None else before["content"].encode()
        await asyncio.sleep(0)  # somebody else may store one meanwhile, as in the real store
        self._store.note("trust_versions", proposal(version, jwks, content, proposed_by))

    async def changed(self, workspace: str, since: int | None) -> frozenset[str]:
        """See `runtime.trust.Trust.changed`."""
        mine = [row for row in self._store.rows("trust_versions") if row["workspace"] == workspace]
        later = [(r["version"], r["content"].encode()) for r in mine if since is not None and r["version"] >= since]
        kids = changed_since(later, since)
        return frozenset(kid for row in mine for kid in row["changed"]) if kids is None else kids

    async def affected(
        self, part: Part, workspace: str, kids: Collection[str], after: Signed, most: int
    ) -> Sequence[Signed]:
        """See `runtime.trust.Trust.affected`."""
        found = {
            Signed(row["kid"], row["run_id"])
            for row in self._store.rows("run_keys")
            if row["workspace"] == workspace and (row["topic"], row["partition"]) == tuple(part)
        }
        return sorted(signed for signed in found if signed.kid in kids and signed > after)[:most]

    async def progress(self, part: Part) -> frozenset[Version]:
        """See `runtime.trust.Trust.progress`."""
        rows = self._store.rows("trust_progress")
        return frozenset(_version(row) for row in rows if (row["topic"], row["partition"]) == tuple(part))

    async def note(self, part: Part, version: Version, now_ms: int) -> None:
        """See `runtime.trust.Trust.note`."""
        self._store.note("trust_progress", {**part._asdict(), **version._asdict(), "done_at": now_ms / MS})

    def _newest(self) -> dict[str, Row]:
        """Per workspace the row of the highest version; of two, the one stored first. Rows come in that order."""
        found: dict[str, Row] = {}
        for row in self._store.rows("trust_versions"):
            if row["workspace"] not in found or row["version"] > found[row["workspace"]]["version"]:
                found[row["workspace"]] = row
        return found


def _version(row: Row) -> Version:
    return Version(row["workspace"], row["version"], row["digest"])

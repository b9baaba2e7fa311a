"""The registries in force, who proposed them, and which runs a changed entry concerns: what the store keeps of trust, in SQL.

Must not live here: files (trust/), when runs are projected again (runtime/rejudge.py).
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import orjson
from clickhouse_connect.driver.client import Client

from agentrun_stream.codec.jwks import differing, public_content, registry_of
from agentrun_stream.model.trust import Registry
from agentrun_stream.ports import Part
from agentrun_stream.store.client import StoreAddress, connect
from agentrun_stream.store.reader import batched, rows_of
from agentrun_stream.store.rows import MS, row
from agentrun_stream.store.writer import insert

T = TypeVar("T")


class Version(NamedTuple):
    """One content of a workspace's registry."""

    workspace: str
    version: int
    digest: str


class Signed(NamedTuple):
    """A run that holds a claim by this key. They are paged in this order."""

    kid: str
    run_id: str


FIRST: Final = Signed("", "")

_PART: Final = "topic = {topic:String} AND partition = {partition:UInt32}"
_IN_FORCE: Final = """
SELECT workspace, version, digest FROM trust_versions
ORDER BY workspace, version DESC, stored_at, digest LIMIT 1 BY workspace
"""
_EVERY: Final = """
SELECT workspace, version, digest FROM trust_versions
ORDER BY workspace, version, stored_at, digest LIMIT 1 BY workspace, version
"""
_CONTENT: Final = """
SELECT content FROM trust_versions
WHERE workspace = {workspace:String} AND version = {version:UInt64} AND digest = {digest:String} LIMIT 1
"""
_SINCE: Final = """
SELECT version, content FROM trust_versions WHERE workspace = {workspace:String} AND version >= {since:UInt64}
"""
_EVER: Final = "SELECT DISTINCT arrayJoin(changed) FROM trust_versions WHERE workspace = {workspace:String}"
_AFFECTED: Final = f"""
SELECT DISTINCT kid, run_id FROM run_keys
WHERE workspace = {{workspace:String}} AND {_PART} AND kid IN {{kids:Array(String)}}
    AND (kid, run_id) > ({{kid:String}}, {{run_id:String}})
ORDER BY kid, run_id LIMIT {{most:UInt32}}
"""
_PROGRESS: Final = f"SELECT DISTINCT workspace, version, digest FROM trust_progress WHERE {_PART}"


def parsed(version: Version, content: bytes) -> Registry:
    """A stored content as a registry; one that is no JWK Set is a registry without keys, so that all workers see the same."""
    try:
        found = registry_of(orjson.loads(content), version.digest)
    except (ValueError, AttributeError):
        return Registry(version.version, version.digest, warnings=("What the store holds is no JWK Set.",))
    return Registry(version.version, version.digest, found.keys, found.refused, found.warnings)


def changed_since(contents: Sequence[tuple[int, bytes]], since: int | None) -> frozenset[str] | None:
    """The kids whose entry is not the same in all these (version, content); None where the first is not among them."""
    if since is None or all(number != since for number, _ in contents):
        return None
    return differing([_loaded(content) for _, content in contents])


def proposal(version: Version, jwks: dict[str, Any], before: bytes | None, proposed_by: str) -> dict[str, Any]:
    """The row of a proposed version, beside the content that is in force before it."""
    content = public_content(jwks)
    changed = differing([{} if before is None else _loaded(before), _loaded(content)])
    told = {"content": content.decode(), "changed": sorted(changed), "proposed_by": proposed_by}
    return version._asdict() | told


def _loaded(content: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError:
        found = None
    return found if isinstance(found, dict) and isinstance(found.get("keys"), list) else {}


def in_force(client: Client) -> list[Version]:
    """See `runtime.trust.Trust.in_force`."""
    return [Version(*found) for found in rows_of(client, _IN_FORCE)]


def content_of(client: Client, version: Version) -> bytes:
    """The content of a stored version; empty where there is none."""
    return next((found[0].encode() for found in rows_of(client, _CONTENT, version._asdict())), b"")


def registry(client: Client, version: Version) -> Registry:
    """See `runtime.trust.Trust.registry`."""
    return parsed(version, content_of(client, version))


def registries(client: Client) -> dict[tuple[str, int], Registry]:
    """Every registry that ever was in force, by workspace and version."""
    return {(found[0], found[1]): registry(client, Version(*found)) for found in rows_of(client, _EVERY)}


def propose(client: Client, version: Version, jwks: dict[str, Any], proposed_by: str) -> None:
    """See `runtime.trust.Trust.propose`."""
    before = next((found for found in in_force(client) if found.workspace == version.workspace), None)
    if before is not None and before.version >= version.version:
        return
    content = None if before is None else content_of(client, before)
    insert(client, "trust_versions", [row(proposal(version, jwks, content, proposed_by))])


def changed(client: Client, workspace: str, since: int | None) -> frozenset[str]:
    """See `runtime.trust.Trust.changed`."""
    contents = []
    if since is not None:
        found = rows_of(client, _SINCE, {"workspace": workspace, "since": since})
        contents = [(number, content.encode()) for number, content in found]
    kids = changed_since(contents, since)
    if kids is None:
        kids = frozenset(found[0] for found in rows_of(client, _EVER, {"workspace": workspace}))
    return kids


def affected(
    client: Client, part: Part, signed_by: tuple[str, Collection[str]], after: Signed, most: int
) -> list[Signed]:
    """See `runtime.trust.Trust.affected`."""
    workspace, kids = signed_by
    given: dict[str, Any] = {**part._asdict(), **after._asdict(), "workspace": workspace}
    runs: list[Signed] = []
    for some in batched(sorted(kid for kid in kids if kid >= after.kid)):
        found = rows_of(client, _AFFECTED, {**given, "kids": some, "most": most - len(runs)})
        runs += (Signed(*one) for one in found)
        if len(runs) >= most:
            break
    return runs


def progress(client: Client, part: Part) -> frozenset[Version]:
    """See `runtime.trust.Trust.progress`."""
    return frozenset(Version(*found) for found in rows_of(client, _PROGRESS, part._asdict()))


def note(client: Client, part: Part, version: Version, now_ms: int) -> None:
    """See `runtime.trust.Trust.note`."""
    insert(client, "trust_progress", [row({**part._asdict(), **version._asdict(), "done_at": now_ms / MS})])


class ClickHouseTrust:
    """`runtime.trust.Trust`. Connects at the first use."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._client: Client | None = None

    async def in_force(self) -> Sequence[Version]:
        """See `runtime.trust.Trust.in_force`."""
        return await self._do(in_force)

    async def registry(self, version: Version) -> Registry:
        """See `runtime.trust.Trust.registry`."""
        return await self._do(lambda client: registry(client, version))

    async def propose(self, version: Version, jwks: dict[str, Any], proposed_by: str) -> None:
        """See `runtime.trust.Trust.propose`."""
        await self._do(lambda client: propose(client, version, jwks, proposed_by))

    async def changed(self, workspace: str, since: int | None) -> frozenset[str]:
        """See `runtime.trust.Trust.changed`."""
        return await self._do(lambda client: changed(client, workspace, since))

    async def affected(
        self, part: Part, workspace: str, kids: Collection[str], after: Signed, most: int
    ) -> Sequence[Signed]:
        """See `runtime.trust.Trust.affected`."""
        return await self._do(lambda client: affected(client, part, (workspace, kids), after, most))

    async def progress(self, part: Part) -> frozenset[Version]:
        """See `runtime.trust.Trust.progress`."""
        return await self._do(lambda client: progress(client, part))

    async def note(self, part: Part, version: Version, now_ms: int) -> None:
        """See `runtime.trust.Trust.note`."""
        await self._do(lambda client: note(client, part, version, now_ms))

    async def _do(self, ask: Callable[[Client], T]) -> T:
        return await asyncio.to_thread(self._ask, ask)

    def _ask(self, ask: Callable[[Client], T]) -> T:
        if self._client is None:
            self._client = connect(self._address)
        return ask(self._client)

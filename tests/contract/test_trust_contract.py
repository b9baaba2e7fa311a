"""What every store promises of trust: one suite, on the twin in memory and on ClickHouse's engine."""

import asyncio
import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from agentrun_stream.codec import ed25519
from agentrun_stream.model.run import position, row_version
from agentrun_stream.ports import Part, Store
from agentrun_stream.runtime.trust import Trust
from agentrun_stream.store import rows
from agentrun_stream.store.clickhouse import ClickHouseStore
from agentrun_stream.store.client import StoreAddress, connect
from agentrun_stream.store.memory import MemoryStore
from agentrun_stream.store.memory_trust import MemoryTrust
from agentrun_stream.store.queries import ask
from agentrun_stream.store.rows import OBJECT_COLUMNS
from agentrun_stream.store.trust import FIRST, ClickHouseTrust, Signed, Version, proposal
from agentrun_stream.trust.manage import Scope, entry_of

WEIRD = "it's\\a\n🙂"
NOON_S = 1_767_268_800
_numbers = itertools.count()


def key(number: int) -> dict[str, Any]:
    """The entry of one of a few keys."""
    return entry_of(ed25519.public_of(bytes([number]) * 32), Scope())


KIDS = sorted(str(key(number)["kid"]) for number in range(4))
ENTRIES = sorted((key(number) for number in range(4)), key=lambda entry: str(entry["kid"]))


@dataclass
class Trusting:
    """A store of trust, a second client of it, and a workspace and partition of the test's own."""

    store: Store
    trust: Trust
    other: Trust
    workspace: str
    part: Part
    everything: Callable[[], str]

    def version(self, number: int, jwks: dict[str, Any]) -> Version:
        return Version(self.workspace, number, hashlib.sha256(orjson.dumps(jwks)).hexdigest())

    def propose(self, number: int, *entries: Any) -> Version:
        jwks = {"version": number, "keys": list(entries)}
        version = self.version(number, jwks)
        asyncio.run(self.trust.propose(version, jwks, "me"))
        return version

    def in_force(self) -> Version | None:
        found = [v for v in asyncio.run(self.trust.in_force()) if v.workspace == self.workspace]
        assert len(found) < 2
        return found[0] if found else None

    def changed(self, since: int | None) -> set[str]:
        return set(asyncio.run(self.trust.changed(self.workspace, since)))

    def sign(self, run_id: str, kid: str, rev: int = 1, part: Part | None = None) -> None:
        """Store a claim, as the fold does."""
        pos = position(0, next(_numbers))
        topic, partition = part or self.part
        row = dict.fromkeys(OBJECT_COLUMNS) | {
            "workspace": self.workspace,
            "run_id": run_id,
            "kind": "claim",
            "object_id": f"{kid}.{rev}",
            "doc": "{}",
            "_source": "/s",
            "_topic": topic,
            "_partition": partition,
            "_offset": pos,
            "_version": row_version(pos),
        }
        row |= dict.fromkeys(("_event_time", "_first_appended_at", "_appended_at", "_ingested_at"), NOON_S)
        asyncio.run(self.store.insert("run_objects", [orjson.dumps([row[name] for name in OBJECT_COLUMNS])]))

    def affected(self, kids: list[str], most: int = 100) -> list[Signed]:
        """Every page."""
        found: list[Signed] = []
        while True:
            after = found[-1] if found else FIRST
            page = asyncio.run(self.trust.affected(self.part, self.workspace, kids, after, most))
            assert len(page) <= most
            found += page
            if len(page) < most:
                return list(found)


@pytest.fixture(params=["memory", pytest.param("clickhouse", marks=pytest.mark.stack)])
def trusting(request: pytest.FixtureRequest) -> Trusting:
    number = next(_numbers)
    workspace, part = f"trust-{number}", Part(f"trust-{number}", 1)
    if request.param == "memory":
        memory = MemoryStore()
        dump = lambda: str(memory.rows("trust_versions"))  # noqa: E731
        return Trusting(memory, MemoryTrust(memory), MemoryTrust(memory), workspace, part, dump)
    address: StoreAddress = request.getfixturevalue("store_address")
    dump = lambda: str(ask(connect(address), f"SELECT * FROM trust_versions WHERE workspace = '{workspace}'"))  # noqa: E731
    trusts = ClickHouseTrust(address), ClickHouseTrust(address)
    return Trusting(ClickHouseStore(address), *trusts, workspace, part, dump)


def test_the_highest_version_is_in_force(trusting: Trusting) -> None:
    """Whatever is proposed below or beside it changes nothing, and other workspaces are apart."""
    assert trusting.in_force() is None
    first = trusting.propose(3, ENTRIES[0])
    assert trusting.in_force() == first
    for number, entry in ((2, ENTRIES[1]), (3, ENTRIES[1]), (3, ENTRIES[0])):
        trusting.propose(number, entry)
        assert trusting.in_force() == first
    second = trusting.propose(4, ENTRIES[1])
    assert trusting.in_force() == second
    assert trusting.everything().count("proposed_by") == 2
    registry = asyncio.run(trusting.trust.registry(second))
    assert (registry.version, registry.digest, list(registry.keys)) == (4, second.digest, [KIDS[1]])
    assert list(asyncio.run(trusting.other.registry(first)).keys) == [KIDS[0]]


def test_of_two_that_propose_at_once_everybody_trusts_the_same(trusting: Trusting) -> None:
    """One version, several contents: what is in force after all does not change any more, also for who asks later."""
    contents: list[dict[str, Any]] = [{"version": 1, "keys": [entry]} for entry in ENTRIES]

    async def all_at_once() -> None:
        stores = itertools.cycle((trusting.trust, trusting.other))
        await asyncio.gather(*(next(stores).propose(trusting.version(1, c), c, "me") for c in contents))

    asyncio.run(all_at_once())
    winner = trusting.in_force()
    assert winner in [trusting.version(1, c) for c in contents]
    for content in contents:
        asyncio.run(trusting.other.propose(trusting.version(1, content), content, "late"))
    assert [v for v in asyncio.run(trusting.other.in_force()) if v.workspace == trusting.workspace] == [winner]


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_contents_of_one_version_the_one_stored_first_wins(trusting: Trusting, order: int) -> None:
    """Whoever trusted by the other one meanwhile: every key that it named is looked at again."""
    contents: list[dict[str, Any]] = [{"version": 1, "keys": [entry]} for entry in ENTRIES[:3][::order]]
    for content in contents:
        encoded = rows.row(proposal(trusting.version(1, content), content, None, "me"))
        asyncio.run(trusting.store.insert("trust_versions", [encoded]))
    assert trusting.in_force() == trusting.version(1, contents[0])
    trusting.propose(2, ENTRIES[2], ENTRIES[3])
    assert trusting.changed(1) == set(KIDS)


def test_what_changed_is_told_by_key(trusting: Trusting) -> None:
    """From any version to the present, the way there included: added, removed, revoked, and entries that count as not there."""
    a, b, c, d = ENTRIES
    trusting.propose(1, a, b)
    trusting.propose(2, b, a)
    trusting.propose(4, a, b | {"status": "revoked"}, c)
    trusting.propose(5, a, b, {**d, "status": "retired"})
    assert trusting.changed(None) == set(KIDS)
    assert trusting.changed(1) == {KIDS[1], KIDS[2], KIDS[3]}
    assert trusting.changed(2) == {KIDS[1], KIDS[2], KIDS[3]}
    assert trusting.changed(4) == {KIDS[1], KIDS[2], KIDS[3]}
    assert trusting.changed(5) == set()
    assert trusting.changed(3) == set(KIDS), "a version that nobody knows any more says nothing"
    trusting.propose(6, a, {**d, "status": "retired"}, {**b, "kid": "another"})
    assert trusting.changed(5) == {KIDS[1], "another"}


def test_no_private_key_gets_into_the_store(trusting: Trusting) -> None:
    """An entry that holds one is kept without it, and stays refused."""
    version = trusting.propose(1, ENTRIES[0] | {"d": "the-secret"}, "text-secret", {"kty": "oct", "k": "the-secret"})
    registry = asyncio.run(trusting.trust.registry(version))
    assert registry.keys == {}
    assert "private key" in registry.refused[KIDS[0]]
    assert len(registry.warnings) == 3
    assert "secret" not in trusting.everything()
    assert KIDS[0] in trusting.everything()


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_affected_runs_come_page_by_page(trusting: Trusting, most: int) -> None:
    """By key and run id, each once however many claims it holds; of this workspace and partition alone."""
    for run_id, kid, rev in (
        ("b", KIDS[0], 1),
        ("b", KIDS[0], 2),
        (WEIRD, KIDS[0], 1),
        ("a", KIDS[1], 1),
        ("b", KIDS[1], 7),
    ):
        trusting.sign(run_id, kid, rev)
    trusting.sign("unaffected", KIDS[2])
    trusting.sign("elsewhere", KIDS[0], part=trusting.part._replace(partition=2))
    trusting.sign("elsewhere", KIDS[0], part=trusting.part._replace(topic="another"))
    expected = [(KIDS[0], "b"), (KIDS[0], WEIRD), (KIDS[1], "a"), (KIDS[1], "b")]
    assert trusting.affected([KIDS[1], KIDS[0], KIDS[3], WEIRD], most) == expected
    assert trusting.affected([KIDS[1]], most) == expected[2:]
    assert trusting.affected([KIDS[3]], most) == []
    assert trusting.affected([], most) == []


def test_very_many_keys_are_asked_for(trusting: Trusting) -> None:
    """More than one query may name."""
    many = [f"{number:043d}" for number in range(30_000)]
    for run_id, kid in (("first", many[0]), ("last", many[-1])):
        trusting.sign(run_id, kid)
    assert trusting.affected(many, 1) == [(many[0], "first"), (many[-1], "last")]


def test_what_was_followed_is_known_to_the_next_owner(trusting: Trusting) -> None:
    versions = [Version(trusting.workspace, number, "d") for number in (1, 2)] + [Version(trusting.workspace, 2, "e")]
    follow: Callable[[Trust], frozenset[Version]] = lambda trust: asyncio.run(trust.progress(trusting.part))  # noqa: E731
    assert follow(trusting.trust) == frozenset()
    for version in versions:
        asyncio.run(trusting.trust.note(trusting.part, version, NOON_S * 1000))
    assert follow(trusting.other) == frozenset(versions)
    asyncio.run(trusting.trust.note(trusting.part, versions[0], NOON_S * 1000 + 1))
    assert follow(trusting.other) == frozenset(versions)
    elsewhere = trusting.part._replace(partition=9)
    assert asyncio.run(trusting.trust.progress(elsewhere)) == frozenset()


def test_a_content_that_is_no_registry_trusts_nobody(trusting: Trusting) -> None:
    """Whatever stands in the table, every worker makes the same of it."""
    version = Version(trusting.workspace, 1, "d")
    assert asyncio.run(trusting.trust.registry(version)).keys == {}

"""Registries in force: files propose, the store decides, and a worker that starts again knows what was."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import structlog

from agentrun_stream.codec import ed25519, keynames
from agentrun_stream.errors import StoreError
from agentrun_stream.model.trust import NOBODY, Registry, judge_key
from agentrun_stream.runtime.clock import SystemClock
from agentrun_stream.runtime.trust import TrustKeeper
from agentrun_stream.store.memory import MemoryStore
from agentrun_stream.store.memory_trust import MemoryTrust
from agentrun_stream.store.trust import Version
from agentrun_stream.trust import manage
from agentrun_stream.trust.folder import registry_path
from agentrun_stream.trust.manage import Scope

LOG = structlog.get_logger()
PUBLIC = ed25519.public_of(bytes(32))
KID = keynames.kid_of(PUBLIC)


def write(folder: Path, version: int, *entries: Any) -> None:
    folder.mkdir(exist_ok=True)
    registry_path(folder, "acme").write_text(json.dumps({"version": version, "keys": entries}))


def axis(keeper: TrustKeeper) -> str:
    return judge_key(keeper.current("acme"), KID, "a", 0)[0]


def said(keeper: TrustKeeper) -> str:
    problems = keeper.problems()
    assert all(problem.next_step for problem in problems)
    return " ".join(problem.what for problem in problems)


class Worker:
    """A worker's keeper on a folder of its own, over a store that all share."""

    def __init__(self, store: MemoryStore, folder: Path | None) -> None:
        self.trust = MemoryTrust(store)
        self.keeper = TrustKeeper(self.trust, SystemClock(), LOG, folder, "w")

    def turn(self) -> TrustKeeper:
        asyncio.run(self.keeper.turn())
        return self.keeper


ENTRY = manage.entry_of(PUBLIC, Scope())
REVOKED = ENTRY | {"status": "revoked"}


def test_a_file_is_in_force_for_every_worker(tmp_path: Path) -> None:
    """Also for one without the file; and its next version too."""
    store = MemoryStore()
    one, other = Worker(store, tmp_path / "one"), Worker(store, None)
    assert one.turn().current("acme") is NOBODY
    write(tmp_path / "one", 1, ENTRY)
    assert (axis(one.turn()), axis(other.turn())) == ("trusted", "trusted")
    write(tmp_path / "one", 2, REVOKED)
    one.turn()
    assert axis(other.keeper) == "trusted"
    asyncio.run(other.keeper.load())
    assert axis(other.keeper) == "key_revoked"
    assert other.keeper.in_force["acme"].version == 2
    assert said(one.keeper) + said(other.keeper) == ""


@pytest.mark.parametrize(("version", "words"), [(4, "goes back from version 5 to 4"), (5, "another content")])
def test_a_rollback_is_refused_after_a_restart(tmp_path: Path, version: int, words: str) -> None:
    """The worker was away when the file was put back; the store remembers."""
    store = MemoryStore()
    write(tmp_path, 5, REVOKED)
    Worker(store, tmp_path).turn()
    write(tmp_path, version, ENTRY)
    restarted = Worker(store, tmp_path).turn()
    assert axis(restarted) == "key_revoked"
    assert words in said(restarted)
    assert len(store.rows("trust_versions")) == 1


def test_two_files_of_one_version_are_told_and_one_holds(tmp_path: Path) -> None:
    """The loser says what to do; when it does, its file is in force."""
    store = MemoryStore()
    write(tmp_path / "one", 1, REVOKED)
    write(tmp_path / "two", 1, ENTRY)
    one, two = Worker(store, tmp_path / "one"), Worker(store, tmp_path / "two")

    async def together() -> None:
        await asyncio.gather(one.keeper.turn(), two.keeper.turn())
        await asyncio.gather(one.keeper.load(), two.keeper.load())

    asyncio.run(together())
    assert one.keeper.in_force == two.keeper.in_force
    assert axis(one.keeper) == axis(two.keeper)
    troubled = [name for name, worker in (("one", one), ("two", two)) if worker.keeper.problems()]
    assert len(troubled) == 1
    (loser,) = troubled
    worker = {"one": one, "two": two}[loser]
    assert "another content than version 1 that is in force" in said(worker.keeper)
    write(tmp_path / loser, 2, ENTRY)
    assert (axis(worker.turn()), said(worker.keeper)) == ("trusted", "")


def test_a_file_that_another_workers_outran_is_told(tmp_path: Path) -> None:
    store = MemoryStore()
    write(tmp_path / "one", 1, ENTRY)
    write(tmp_path / "two", 2, REVOKED)
    one = Worker(store, tmp_path / "one")
    assert said(one.turn()) == ""
    Worker(store, tmp_path / "two").turn()
    assert "goes back from version 2 to 1" in said(one.turn())
    assert axis(one.keeper) == "key_revoked"


def test_a_broken_file_is_told_until_it_is_mended(tmp_path: Path) -> None:
    """Mended to what it was it is no news, but the problem is over."""
    worker = Worker(MemoryStore(), tmp_path)
    write(tmp_path, 1, ENTRY)
    worker.turn()
    registry_path(tmp_path, "acme").write_text("{")
    assert "no strict JSON" in said(worker.turn())
    assert "Version 1 stays in force" in said(worker.turn())
    assert axis(worker.keeper) == "trusted"
    write(tmp_path, 1, ENTRY)
    assert said(worker.turn()) == ""


def test_entries_that_count_as_not_there_are_told(tmp_path: Path) -> None:
    """By every worker, with the reason, whoever's file it was."""
    store = MemoryStore()
    write(tmp_path, 1, ENTRY | {"status": "retired"})
    Worker(store, tmp_path).turn()
    other = Worker(store, None)
    assert "counts as not there: its status" in said(other.turn())
    assert axis(other.keeper) == "valid_untrusted"


def test_what_could_not_be_stored_is_proposed_again(tmp_path: Path) -> None:
    """The file is looked at once, but the store may have been away just then."""

    class Away(MemoryTrust):
        away = True

        async def propose(self, version: Version, jwks: dict[str, Any], proposed_by: str) -> None:
            if self.away:
                raise StoreError("away")
            await super().propose(version, jwks, proposed_by)

    trust = Away(MemoryStore())
    keeper = TrustKeeper(trust, SystemClock(), LOG, tmp_path)
    write(tmp_path, 1, ENTRY)
    with pytest.raises(StoreError):
        asyncio.run(keeper.turn())
    assert keeper.current("acme") is NOBODY
    trust.away = False
    asyncio.run(keeper.turn())
    assert axis(keeper) == "trusted"


def test_it_goes_on_whatever_happens_and_says_each_thing_once(tmp_path: Path) -> None:
    """Beside the loop: an error is told, tried again, and told to be over."""

    class Flaky(MemoryTrust):
        fails = 3

        async def in_force(self) -> Any:
            self.fails -= 1
            if self.fails >= 0:
                raise StoreError("the store is away")
            return await super().in_force()

    class Fast(SystemClock):
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(0.001)

    keeper = TrustKeeper(Flaky(MemoryStore()), Fast(), LOG, tmp_path)
    write(tmp_path, 1, ENTRY, "nothing")

    async def play() -> None:
        running = asyncio.ensure_future(keeper.run())
        for _ in range(10_000):
            await asyncio.sleep(0.001)
            if keeper.problems() and keeper.in_force:
                break
        for _ in range(30):
            await asyncio.sleep(0.001)
        running.cancel()

    with structlog.testing.capture_logs() as logs:
        asyncio.run(asyncio.wait_for(play(), 20))
    told = [line for line in logs if "problem" in line["event"]]
    assert sum("the store is away" in line.get("why", "") for line in told) == 1
    assert sum("the store is away" in line.get("was", "") for line in told) == 1
    assert sum("keys[1]" in line.get("why", "") for line in told) == 1
    assert len(told) == 3
    assert all(line["next"] for line in told if "why" in line)


def test_an_answer_that_comes_late_takes_nothing_back() -> None:
    """Two reads at once: the older answer does not win by arriving last."""

    class Slow(MemoryTrust):
        async def registry(self, version: Version) -> Registry:
            if version.version == 1:
                await asyncio.sleep(0.05)
            return await super().registry(version)

    trust = Slow(MemoryStore())
    keeper = TrustKeeper(trust, SystemClock(), LOG)

    async def play() -> None:
        await trust.propose(Version("acme", 1, "a"), {"keys": [ENTRY]}, "me")
        slow = asyncio.ensure_future(keeper.load())
        await asyncio.sleep(0.01)
        await trust.propose(Version("acme", 2, "b"), {"keys": [REVOKED]}, "me")
        await asyncio.gather(keeper.load(), slow)

    asyncio.run(play())
    assert axis(keeper) == "key_revoked"


def test_a_store_that_was_put_back_takes_nothing_back(tmp_path: Path) -> None:
    """Not in a worker that goes on; one that starts again proposes its file."""
    store = MemoryStore()
    worker = Worker(store, tmp_path)
    write(tmp_path, 1, ENTRY)
    worker.turn()
    backup = store.backup()
    write(tmp_path, 2, REVOKED)
    worker.turn()
    store.restore(backup)
    assert axis(worker.turn()) == "key_revoked"
    assert axis(Worker(store, tmp_path).turn()) == "key_revoked"

"""Each mechanism of exactness, and how a test switches it off: the twelve of the design's model and those beside them.

Must not live here: bugs that are patched into the text of the product (bugs.py).
"""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agentrun_stream import limits, pipeline, topics
from agentrun_stream.broker.memory import MemoryBroker
from agentrun_stream.model import run
from agentrun_stream.model.facts import claim_id
from agentrun_stream.model.opinions import Opinions
from agentrun_stream.model.run import RunState
from agentrun_stream.processors.fold import provenance, snapshot, steps
from agentrun_stream.processors.project import project, shown
from agentrun_stream.runtime import (
    cache,
    checkpoint,
    folder,
    lineage,
    membership,
    resume,
    show,
    worker,
)

FOLD = sys.modules["agentrun_stream.processors.fold"]
PROJECT = sys.modules["agentrun_stream.processors.project"]
Patch = Callable[[pytest.MonkeyPatch], None]
FACTS, OBJECTS, PROJECTIONS, PUBLISH, JOURNAL, COMMIT = pipeline.PHASES


def phases(*order: pipeline.Phase) -> Patch:
    return lambda patch: patch.setattr(checkpoint, "PHASES", order)


def no_guard(patch: pytest.MonkeyPatch) -> None:
    """What the objects hold already is folded again."""
    real = folder.PartFolder._look_up

    async def blind(self: Any, keys: Any) -> None:
        await real(self, keys)
        for key in keys:
            self.assigned.cache.runs[key].pos = -1

    patch.setattr(folder.PartFolder, "_look_up", blind)


def stale_cache(patch: pytest.MonkeyPatch) -> None:
    """A cache comes back with its partition, wherever that goes on."""
    real = membership.Membership._open

    async def keeping(self: Any, part: Any) -> None:
        parked = self._parked.get(part)
        await real(self, part)
        if parked is not None and part in self.parts:
            self.parts[part].cache = parked[0]

    patch.setattr(membership.Membership, "_open", keeping)


def at_commit(patch: pytest.MonkeyPatch) -> None:
    """The group's commit alone says where to go on, as most consumers have it."""

    def committed(_part: Any, bounds: Any, _journal: Any) -> resume.Resume:
        return resume.Resume(bounds.start if bounds.committed is None else bounds.committed, rewound=False)

    patch.setattr(resume, "resume_point", committed)


def dirty_eviction(patch: pytest.MonkeyPatch) -> None:
    """What is not written yet may leave the cache."""
    real = cache.Cache.trim
    patch.setattr(cache.Cache, "trim", lambda self, most, _acknowledged: real(self, most, 1 << 60))


def unsettled(patch: pytest.MonkeyPatch) -> None:
    """A run that left a minute keeps its amounts there."""

    def only_here(state: RunState, topic: str, partition: int, opinions: Opinions) -> Any:
        shown = project(state, topic, partition, opinions)
        return shown and replace(shown, settlements=[s for s in shown.settlements if s["runs"]])

    patch.setattr(show, "project", only_here)


def split_objects(patch: pytest.MonkeyPatch) -> None:
    """The objects of a checkpoint go in by two inserts."""
    real = checkpoint.Checkpointer._insert

    async def halves(self: Any, given: Any, table: str, encoded: Any) -> None:
        lines = b"\n".join(encoded).splitlines()
        for some in (lines[::2], lines[1::2]) if table == "run_objects" else (lines,):
            if some:
                await real(self, given, table, some)

    patch.setattr(checkpoint.Checkpointer, "_insert", halves)


def two_in_flight(patch: pytest.MonkeyPatch) -> None:
    """The next checkpoint begins while the last one is being written."""
    real = worker.Worker._written

    async def at_once(self: Any) -> bool:
        if self._writing is not None and not self._writing[0].done():
            task, given = self._writing
            self._writing = None
            task.add_done_callback(lambda t: t.cancelled() or t.exception() or self._acknowledge(given))
            return True
        return await real(self)

    patch.setattr(worker.Worker, "_written", at_once)


def letters_unawaited(patch: pytest.MonkeyPatch) -> None:
    """Dead letters are sent on the side, and the offset moves on."""

    async def on_the_side(self: Any, _given: Any, dead: Any) -> None:
        task = asyncio.ensure_future(self._publisher.send(topics.DEAD_LETTERS, dead))
        task.add_done_callback(lambda t: t.cancelled() or t.exception())

    patch.setattr(checkpoint.Checkpointer, "_dead_letters", on_the_side)


def refused_unread(patch: pytest.MonkeyPatch) -> None:
    """What an operator refused is not looked up when a partition is opened."""
    real = resume.Opener.open

    async def forgetful(self: Any, part: Any, number: int, route: Any) -> Any:
        opened = await real(self, part, number, route)
        opened.refused = {}
        return opened

    patch.setattr(resume.Opener, "open", forgetful)


def forked_revisions(patch: pytest.MonkeyPatch) -> None:
    """The same revision of a key with another content is taken for a repeat."""
    real = FOLD.keep_claim

    def unseen(state: RunState, out: Any, event: Any, at: Any) -> None:
        if claim_id(event.facts) not in state.claims:
            real(state, out, event, at)

    patch.setattr(FOLD, "keep_claim", unseen)


def inherits(patch: pytest.MonkeyPatch) -> None:
    """A claim is filled up with what the merged snapshot has besides."""
    real = shown.shown_of

    def filled(state: RunState, snap: Any, opinions: Opinions) -> Any:
        found = real(state, snap, opinions)
        return replace(found, snap=replace(found.snap, doc=snap.doc | found.snap.doc))

    patch.setattr(PROJECT, "shown_of", filled)


def no_tombstone(patch: pytest.MonkeyPatch) -> None:
    """A run that changes between the topics stays on the one that it left."""
    real = pipeline.announcements
    patch.setattr(show, "announcements", lambda *a, **k: [t for t in real(*a, **k) if t[1].value is not None])


def row_before_record(patch: pytest.MonkeyPatch) -> None:
    """The row of a run that is only judged again is written with the others, before its record is."""
    patch.setattr(show.Touched, "only_asked", property(lambda _self: False))


def no_marks(patch: pytest.MonkeyPatch) -> None:
    """Only the version of a step that stands counts for the chain."""
    for room in (provenance, steps):
        patch.setattr(room, "mark", lambda *_: None)


def not_heard(patch: pytest.MonkeyPatch) -> None:
    """A version of a step that comes too late leaves nothing behind."""
    for room in (FOLD, steps):
        patch.setattr(room, "hear", lambda *_: None)


def late_repeats(patch: pytest.MonkeyPatch) -> None:
    """What a source told earlier replaces what it told later."""
    for room in (snapshot, steps):
        patch.setattr(room, "is_late", lambda *_: False)


MUTATIONS: dict[str, Patch] = {
    "no guard": no_guard,
    "stale cache": stale_cache,
    "resume at commit": at_commit,
    "dirty eviction": dirty_eviction,
    "minutes left keep amounts": unsettled,
    "objects before facts": phases(OBJECTS, FACTS, PROJECTIONS, PUBLISH, JOURNAL, COMMIT),
    "journal first": phases(JOURNAL, FACTS, OBJECTS, PROJECTIONS, PUBLISH, COMMIT),
    "commit before publish": phases(FACTS, OBJECTS, PROJECTIONS, JOURNAL, COMMIT, PUBLISH),
    "journal before projections": phases(FACTS, OBJECTS, JOURNAL, PROJECTIONS, PUBLISH, COMMIT),
    "no second announcement": lambda p: p.setattr(folder.PartFolder, "_touch", lambda *_, **__: None),
    "nobody is fenced": lambda p: p.setattr(MemoryBroker, "is_current", lambda *_: True),
    "leases are believed": lambda p: p.setattr(limits, "LEASE_IDLE_MS_MIN", 0),
    "late repeats count": late_repeats,
    "refused rows are not searched for": lambda p: p.setattr(
        membership.Membership, "batch_max", lambda _self, most: most
    ),
    "refused leaves no trace": lambda p: p.setattr(folder.PartFolder, "_refuse", lambda *_: None),
    "objects in two inserts": split_objects,
    "two checkpoints in flight": two_in_flight,
    "dead letters are not waited for": letters_unawaited,
    "stale snapshots count": lambda p: p.setitem(run.SNAPSHOT_EFFECT, (True, False), "replace"),
    "refused is not consulted": refused_unread,
    "a revision's other content is not seen": forked_revisions,
    "marks are not sticky": no_marks,
    "late versions of steps are not heard": not_heard,
    "a claim inherits": inherits,
    "no tombstones": no_tombstone,
    "rows of the judged before their records": row_before_record,
    "children are not put on": lambda p: p.setattr(lineage.Kinship, "_put", lambda _self, edges: len(list(edges))),
}

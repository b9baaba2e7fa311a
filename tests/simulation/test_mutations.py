"""Is the simulation mean enough? Each mechanism of exactness switched off must show within a few hundred seeds.

Must not live here: plays of the design as it is (test_simulation.py).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agentrun_stream import limits, pipeline
from agentrun_stream.broker.memory import MemoryBroker
from agentrun_stream.model.run import RunState
from agentrun_stream.processors import fold, project
from agentrun_stream.runtime import batch, cache, checkpoint, membership, resume
from simulation.theatre import Theatre

pytestmark = pytest.mark.slow

SEEDS = 400
Patch = Callable[[pytest.MonkeyPatch], None]
FACTS, OBJECTS, PROJECTIONS, PUBLISH, JOURNAL, COMMIT = pipeline.PHASES


def phases(*order: pipeline.Phase) -> Patch:
    return lambda patch: patch.setattr(checkpoint, "PHASES", order)


def no_guard(patch: pytest.MonkeyPatch) -> None:
    """What the objects hold already is folded again."""
    real = batch.PartFolder._look_up

    async def blind(self: Any, keys: Any) -> None:
        await real(self, keys)
        for key in keys:
            self._assigned.cache.runs[key].pos = -1

    patch.setattr(batch.PartFolder, "_look_up", blind)


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
    real = project.project

    def only_here(state: RunState, topic: str, partition: int) -> Any:
        shown = real(state, topic, partition)
        return shown and replace(shown, settlements=[s for s in shown.settlements if s["runs"]])

    patch.setattr(batch, "project", only_here)


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
    "no second announcement": lambda p: p.setattr(batch.PartFolder, "_touch", lambda *_: None),
    "nobody is fenced": lambda p: p.setattr(MemoryBroker, "is_current", lambda *_: True),
    "leases are believed": lambda p: p.setattr(limits, "LEASE_IDLE_MS_MIN", 0),
    "late repeats count": lambda p: p.setattr(fold, "_is_late", lambda *_: False),
    "refused rows are not searched for": lambda p: p.setattr(
        membership.Membership, "batch_max", lambda _self, most: most
    ),
    "refused leaves no trace": lambda p: p.setattr(batch.PartFolder, "_refuse", lambda *_: None),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mechanism_switched_off_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[name](monkeypatch)
    for seed in range(SEEDS):
        if Theatre(seed).run():
            return
    pytest.fail(f"{name}: {SEEDS} seeds noticed nothing")

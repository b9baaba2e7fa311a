"""Nobody without the key changes what a verified run shows: whatever is sent, it is exactly what was signed, or not verified.

Must not live here: what a verdict should be in detail (the oracle says, test_fold.py).
"""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrun_stream.codec.jwks import registry_of
from agentrun_stream.model.opinions import Opinions
from agentrun_stream.model.trust import NOBODY
from property import tales
from property.lane import Lane
from property.oracle import Json, Logged
from property.stories import HOUR_MS, MINUTE_MS, START_MS, text
from property.tables import of_store

SEEDS = st.integers(0, 2**32)
RUN_ID = "s-1"
COVERED = ("agent_id", "model", "error", "status", "run_hash", "input_tokens", "parent_run_id", "lineage")
TRUSTED = registry_of(tales.registry(1, ""))
OPINIONS = Opinions(lambda workspace: TRUSTED if workspace == tales.TENANT else NOBODY)
STEP_IDS = ("c0", "c1", "c2", "e0", "c9", "#0")


class Attacker:
    """Sends whatever it likes about a run whose key it does not have; it has a key of its own, and an old revision."""

    def __init__(self, chance: Random, shape: int) -> None:
        self.chance = chance
        self.own = tales.tale(RUN_ID, "foreign", chance.choice((shape, shape, 0, 1, 2, 3)))
        self.seen = tales.tale(RUN_ID, "ours", shape)

    def event(self) -> tuple[str, Json]:
        """One event: its kind and its object."""
        kind: str = self.chance.choice(
            ("step", "step", "run", "run", "run", "patch", "lease", "eval", "claim", "replay")
        )
        data: Json = getattr(self, f"_{kind}")()
        return ("run" if kind in {"claim", "replay"} else kind), data

    def _step(self) -> Json:
        step = self.chance.choice(
            (*self.own.steps, *self.seen.steps, {"id": self.chance.choice(STEP_IDS), "type": "error"})
        )
        bent: tuple[Json, ...] = ({"output_preview": "forged"}, {"metadata": {}}, {"id": "c9"}, {"type": "message"}, {})
        return step | self.chance.choice(bent)

    def _run(self) -> Json:
        """Unsigned, or with a signature that is of something else."""
        end = self.chance.choice((*self.seen.ends, *self.own.ends))
        unsigned = {"provenance": end["provenance"] | {"signature": None}, "metadata": {}}
        steps = [self._step() for _ in range(self.chance.choice((0, 0, 1, 3)))]
        told = {
            "model": "forged",
            "error": "forged",
            "cost": {"input_tokens": 1},
            "status": self._status(),
            "steps": steps,
        }
        kept = {name: value for name, value in told.items() if self.chance.random() < 0.5}
        return end | kept | self.chance.choice((unsigned, unsigned, {"task_id": "forged"}))

    def _claim(self) -> Json:
        """Signed by the attacker, as it is."""
        return self.chance.choice(self.own.ends)

    def _replay(self) -> Json:
        """An old revision of the true signer's, again."""
        return self.seen.ends[0]

    def _patch(self) -> Json:
        data: Json = {"id": RUN_ID, "model": "forged", "cost": {"input_tokens": 2}, "status": self._status()}
        return data | ({"steps": [self._step()]} if self.chance.random() < 0.5 else {})

    def _lease(self) -> Json:
        return {"idle_timeout": 60, "max_age": 3600}

    def _eval(self) -> Json:
        return {"pass": True, "score": 100}

    def _status(self) -> str:
        return self.chance.choice(("running", "completed", "failed", "timeout"))


def interleaved(chance: Random, honest: list[tuple[str, Json]], attack: list[tuple[str, Json]]) -> list[Logged]:
    """Both, each side's order kept or not; sources, times and gaps at random."""
    if chance.random() < 0.3:
        chance.shuffle(honest)
    told, left = [], [honest[::-1], attack[::-1]]
    while any(left):
        told.append(chance.choice([side for side in left if side]).pop())
    now, log = START_MS, []
    for offset, (kind, data) in enumerate(told):
        now += chance.choice((0, 1, 1_000, MINUTE_MS, 31 * MINUTE_MS, 2 * HOUR_MS))
        time = chance.choice((None, text(now), text(now - 10 * MINUTE_MS), text(START_MS - HOUR_MS)))
        source = chance.choice(("/true", "/true", "/other"))
        log.append(Logged(offset, now, tales.TENANT, kind, RUN_ID, source, time, data))
    return log


def shown(log: list[Logged], chance: Random) -> tuple[Json, dict[Any, Any]]:
    """The run's row, and the steps that stand, after everything was folded by machines that crash."""
    lane = Lane(log, chance, OPINIONS)
    lane.run()
    lane.store.left = None
    lane.judge(OPINIONS)
    row = next(row for row in lane.store.rows("runs") if row["run_id"] == RUN_ID)
    objects = of_store(lane.store)["objects"]
    return row, {key[-1]: found[0] for key, found in objects.items() if key[2] == "step"}


@pytest.mark.parametrize("shape", range(len(tales.SHAPES)))
@settings(max_examples=120)
@given(seed=SEEDS, count=st.integers(0, 14))
def test_a_verified_run_shows_what_was_signed(shape: int, seed: int, count: int) -> None:
    """Before, between, after; late, stale, patches, leases, self-signed claims, altered steps, old revisions."""
    chance = Random(seed)
    true = tales.tale(RUN_ID, "ours", shape)
    ends = true.ends[: chance.choice((1, 2))]
    honest = [("step", step) for step in true.steps] + [("run", end) for end in ends]
    attacker = Attacker(chance, shape)
    row, steps = shown(interleaved(chance, honest, [attacker.event() for _ in range(count)]), chance)
    # What two claims bring without a place in a chain counts as streamed, and nothing covers that.
    assert count or row["verdict"] == "verified" or (tales.SHAPES[shape][2] and len(ends) > 1), "nobody attacked"
    if row["verdict"] != "verified":
        return
    best = ends[-1]
    assert row["signed_rev"] == len(ends)
    for name in COVERED:
        covered = best.get(name) if name in best else {**best["provenance"], **best["cost"]}.get(name)
        assert row.get(name) == (covered or ([] if name == "lineage" else None)), name
    signed = {step["id"]: step for step in (*true.steps, *(best["steps"] or []))}
    wanted, _ = shown(
        [Logged(i, START_MS, tales.TENANT, "step", RUN_ID, "/true", None, s) for i, s in enumerate(signed.values())]
        + [Logged(9, START_MS, tales.TENANT, "run", RUN_ID, "/true", None, best)],
        Random(0),
    )[::-1]
    assert steps == wanted

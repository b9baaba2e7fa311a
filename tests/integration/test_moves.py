"""Final runs that change: the windows concerned change, no other one does, and the sums are those of the runs."""

from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agentrun_stream.testing.events import run_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane

pytestmark = [pytest.mark.slow, pytest.mark.stack]

RUNS, ROUNDS = 24, 3
MODELS = ("gpt-4o", "house-model", "claude-sonnet-4-5-20250929")
COSTS = (None, 1e-12, 0.1, 12.345678901234, 7.0)

Window = tuple[Any, ...]
Said = dict[str, Any]


def ending(minute: int) -> str:
    return f"2026-01-01T{12 + minute // 60}:{minute % 60:02}:30Z"


def windows(made: Lane) -> dict[Window, Window]:
    """The settled windows as they are shown."""
    keys, sums = ("ended", "model"), ("runs", "unpriced", "cost_reported", "cost_effective", "corrections")
    ended = "formatDateTime(minute, '%Y-%m-%dT%H:%i:30Z')"
    rows = made.rows(f"SELECT *, {ended} AS ended FROM cost_by_minute WHERE ledger = 'settled'")
    return {tuple(row[k] for k in keys): tuple(row[s] for s in sums) for row in rows}


def concerned(said: Said) -> Window:
    return said["ended_at"], said["model"]


def event(name: str, said: Said, at: int) -> bytes:
    cost = {"total_tokens": 9} | ({} if said["cost"] is None else {"cost_usd": said["cost"]})
    members: Said = {"model": said["model"], "ended_at": said["ended_at"], "cost": cost}
    return run_event(name, envelope={"time": f"2026-01-01T18:{at:02}:00Z"}, agent_id="mover", **members)


def test_a_change_of_final_runs_moves_what_it_concerns_alone(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Model, `ended_at` and cost, each alone and together, round after round; the refresher sums in between."""
    rng = Random(7)
    said: dict[str, Said] = {
        f"move-{i}": {
            "model": rng.choice(MODELS),
            "ended_at": ending(rng.randrange(90)),
            "cost": rng.choice(COSTS),
        }
        for i in range(RUNS)
    }
    with lane(agentrun_stack, tmp_path, "moves") as made:
        made.start()
        made.produce([event(name, one, 0) for name, one in said.items()])
        made.wait()
        for number in range(1, ROUNDS + 1):
            made.refresh_windows()
            before, old = windows(made), {name: dict(one) for name, one in said.items()}
            changed = rng.sample(sorted(said), 3)
            for name in changed:
                for member in rng.sample(["model", "ended_at", "cost"], rng.randint(1, 3)):
                    choices = {"model": MODELS, "cost": COSTS[1:]}
                    said[name][member] = rng.choice(choices.get(member, (ending(rng.randrange(90)),)))
            made.produce([event(name, said[name], number) for name in changed])
            made.wait()
            after = windows(made)
            may = {concerned(one[name]) for one in (old, said) for name in changed}
            moved = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
            assert moved <= may, number
            runs = made.one(
                "SELECT count() AS n, sum(cost_effective) AS cost, sum(cost_reported) AS told FROM runs_latest"
            )
            for view in ("cost_by_minute", "cost_by_hour", "cost_by_day"):
                sums = "sum(runs) AS n, sum(cost_effective) AS cost, sum(cost_reported) AS told"
                assert made.one(f"SELECT {sums} FROM {view} WHERE ledger = 'settled'") == runs, (number, view)
        assert runs["n"] == RUNS
        assert Decimal(runs["told"]) == sum(
            Decimal(str(one["cost"])) for one in said.values() if one["cost"] is not None
        )
        made.assert_exact()

"""What runs cost with all that they started, on the real stack: exact sums, circles, orphans, depth, recorded runs."""

import os
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream import limits
from agentrun_stream.testing.events import run_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane

pytestmark = pytest.mark.stack

DATA = Path(__file__).resolve().parents[3] / "shared/data"
ROOTS = "tree != 'child'"
CHAIN = limits.ANCESTORS_MAX + 5
Graph = dict[str, tuple[str | None, Decimal | None]]

SUMS = """
SELECT count() AS runs, sumIf(t.runs, {roots}) AS counted, sum(t.cost_effective) AS cost,
    sumIf(t.inclusive_cost_effective, {roots}) AS inclusive_cost_effective, sum(t.tokens) AS tokens,
    sumIf(t.inclusive_tokens, {roots}) AS inclusive_tokens, countIf(t.cost_effective IS NULL) AS unknown,
    sumIf(t.unpriced, {roots}) AS unpriced
FROM run_tree_costs AS t
"""


def assert_counted_once(made: Lane) -> dict[str, Any]:
    """The sums of all roots are those of all runs, to the last digit."""
    sums = made.one(SUMS.format(roots=ROOTS))
    assert sums["runs"] == sums["counted"] == made.one("SELECT count() AS n FROM runs_latest")["n"]
    assert sums["cost"] == sums["inclusive_cost_effective"]
    assert sums["cost"] == made.one("SELECT sum(cost_effective) AS cost FROM runs_latest")["cost"]
    assert (sums["tokens"], sums["unknown"]) == (sums["inclusive_tokens"], sums["unpriced"])
    return sums


def graph() -> Graph:
    """Some runs by chance, a circle with runs below it, one that names itself, orphans."""
    chance = random.Random(11)
    made: Graph = {}
    for number in range(250):
        cost = None if chance.random() < 0.2 else Decimal(chance.randrange(1, 10**9)).scaleb(-12)
        parent = f"r{chance.randrange(number)}" if number and chance.random() < 0.8 else None
        made[f"r{number}"] = (parent, cost)
    made |= {f"circle{n}": (f"circle{(n + 1) % 3}", Decimal(n)) for n in range(3)}
    made |= {"under": ("circle1", Decimal(10)), "lower": ("under", Decimal(20)), "itself": ("itself", Decimal(7))}
    made |= {"lost": ("nobody", Decimal(3)), "lost-child": ("lost", None)}
    return made


def chain() -> Graph:
    """A chain that is too long."""
    return {f"deep{n}": (f"deep{n - 1}" if n else None, Decimal(1)) for n in range(CHAIN)}


def events(runs: Graph) -> list[bytes]:
    return [
        run_event(name, parent_run_id=parent, cost={} if cost is None else {"cost_usd": float(cost)})
        for name, (parent, cost) in runs.items()
    ]


def ancestors(runs: Graph, run: str) -> tuple[str, list[str]]:
    """What kind of a place a run has, and its ancestors that count, walked one by one."""
    met: list[str] = []
    at = runs[run][0]
    while at in runs and at not in met and at != run and len(met) <= limits.ANCESTORS_MAX:
        met.append(at)
        at = runs[at][0]
    if at == run:
        return "circle", []
    if len(met) > limits.ANCESTORS_MAX:
        return "deep", []
    if met and at in met:
        return "child", met[: met.index(at) + 1]
    named = runs[run][0]
    return ("child" if met else "root" if named is None else "orphan"), met


@pytest.fixture(scope="module")
def trees(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    with lane(agentrun_stack, tmp_path_factory.mktemp("trees"), "cost_trees") as made:
        made.start()
        made.produce(events(graph()))
        made.wait()
        yield made


def test_the_command_shows_a_subtree_with_unknown_as_unknown(trees: Lane) -> None:
    """Own and inclusive amounts, indented; a run without a cost is a dash and a count, never 0; a circle is named."""
    told = trees.agentrun("cost", "tree", "lost", "-o", "json")
    assert told.code == 0, told
    rows = orjson.loads(told.out)["tree"]
    assert [(r["run_id"], r["tree"], r["cost_effective"]) for r in rows] == [
        ("lost", "orphan", "3"),
        ("lost-child", "child", None),
    ]
    assert rows[0]["unpriced"] == 1
    shown = trees.agentrun("cost", "tree", "lost").out
    assert "$3.00 + 1 unknown" in shown
    assert "\n└ lost-child" in shown
    assert "its parent is not stored" in shown
    assert "$0.00" not in shown
    assert "its own ancestor" in trees.agentrun("cost", "tree", "circle1").out
    missing = trees.agentrun("cost", "tree", "nobody")
    assert (missing.code, "agentrun runs" in missing.err) == (2, True)


def test_every_run_is_counted_once_with_each_of_its_ancestors(trees: Lane) -> None:
    """Own and inclusive amounts of every run are those of a walk by hand, also through circles, orphans and great depth."""
    trees.produce(events(chain()))
    trees.wait()
    runs = graph() | chain()
    inclusive: dict[str, list[Decimal | None]] = {name: [] for name in runs}
    kinds = {}
    for name, (_, cost) in runs.items():
        kinds[name], above = ancestors(runs, name)
        for one in (name, *above):
            inclusive[one].append(cost)
    found = {row["run_id"]: row for row in trees.rows("SELECT * FROM run_tree_costs")}
    assert found.keys() == runs.keys()
    for name, row in found.items():
        known = [cost for cost in inclusive[name] if cost is not None]
        assert row["tree"] == kinds[name], name
        assert (row["runs"], row["unpriced"]) == (len(inclusive[name]), len(inclusive[name]) - len(known)), name
        assert row["cost_effective"] == runs[name][1], name
        assert row["inclusive_cost_effective"] == (sum(known) if known else None), name
        children = [cost for parent, cost in (runs[n] for n in runs if kinds[n] == "child") if parent == name and cost]
        assert row["covers_children"] == bool(children and (runs[name][1] or 0) >= sum(children)), name
    assert {"root", "child", "orphan", "circle", "deep"} == set(kinds.values())
    assert_counted_once(trees)


def test_recorded_runs_with_subagents(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Subagents add to the run that started them; the orphan is a root of its own and named; nothing is counted twice."""
    if not DATA.is_dir():
        reason = "the recorded runs are not beside the checkout (../shared/data)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    files = sorted(DATA.glob("claude-code/*.events.jsonl"))
    said = [orjson.loads(line)["data"] for file in files for line in file.read_bytes().splitlines()]
    parents = {data["id"]: data["parent_run_id"] for data in said if data.get("parent_run_id")}
    ids = {data["id"] for data in said if "agent_id" in data}
    with lane(agentrun_stack, tmp_path, "cost_trees_recorded") as made:
        made.start()
        assert made.agentrun("publish", *map(str, files), "--topic", made.topic).code == 0
        made.wait()
        sums = assert_counted_once(made)
        assert sums["cost"] > 0
        found = {row["run_id"]: row for row in made.rows("SELECT * FROM run_tree_costs")}
        own = {row["id"]: row["cost_computed"] for row in made.rows("SELECT id, cost_computed FROM runs_latest")}
        for run in ids:
            children = [own[child] for child, parent in parents.items() if parent == run and own[child] is not None]
            assert found[run]["inclusive_cost_computed"] == (own[run] or 0) + sum(children), run
        assert {run for run in found if found[run]["tree"] == "orphan"} == {
            c for c, p in parents.items() if p not in ids
        }

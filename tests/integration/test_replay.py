"""`agentrun replay`: every table again from the log, equal to the live ones; exchanged, a worker goes on as if nothing were."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from agentrun_stream import topics
from agentrun_stream.broker import admin
from agentrun_stream.testing.events import eval_event, lease_event, patch_event, run_event, step_event
from agentrun_stream.testing.load import Load, bench_load
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, Sent, lane, read_all, run_on, with_admin

pytestmark = pytest.mark.stack

RUN = run_on(1, "replayed")


def load(made: Lane) -> None:
    """Bad, repeated, late and misplaced records; corrections, patches, evals, a lease that does nothing."""
    events = bench_load(
        Load(steps=1_500, open_runs=30, seed=5, now=datetime.now(UTC), bad=0.02, repeated=0.05, late=0.05)
    )
    made.produce([Sent(r.value, r.key, tuple(r.headers)) for r in events])
    cost = {"input_tokens": 5, "cost_usd": 0.25}
    usage = {"usage": {"model": "m", "input_tokens": 5, "output_tokens": 7}}
    made.produce(
        [
            step_event(RUN, "a", metadata=usage),
            patch_event(RUN, task_id="t"),
            run_event(RUN, cost=cost, steps=[{"id": "b", "type": "message"}]),
            eval_event(RUN),
            lease_event(RUN),
            run_event(RUN, status="failed", cost=cost | {"cost_usd": 0.5}),
            step_event(RUN, "a", metadata=usage | {"more": 1}),
            Sent(step_event(run_on(2, "lost"), "x"), run_on(2, "lost").encode(), partition=0),
        ]
    )
    made.wait()


def replay(made: Lane, into: str, *flags: str) -> tuple[int, dict[str, Any]]:
    told = made.agentrun("replay", "--into", into, *flags, "-o", "json")
    assert told.code in (0, 1), told
    return told.code, orjson.loads(told.out)


def different(found: dict[str, Any]) -> list[str]:
    return [table["table"] for table in found["tables"] if not table["equal"]]


def ends(made: Lane) -> tuple[int, int, list[admin.GroupLag]]:
    """How much there is of published runs and dead letters, and how far the group is."""
    published = asyncio.run(read_all(made.stack.kafka, topics.RUNS))
    letters = asyncio.run(read_all(made.stack.kafka, topics.DEAD_LETTERS))
    return len(published), len(letters), asyncio.run(admin.group_lag(made.kafka, made.name, (made.topic,)))


def test_a_replay_equals_the_live_tables_and_tells_nobody(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Digests equal, table by table, also with an operator's refusal; nothing published, committed or sent."""
    with lane(agentrun_stack, tmp_path, "replayed") as made:
        made.start()
        load(made)
        made.stop()
        [place] = made.produce([step_event(RUN, "refused-by-hand", tokens_used=3)])
        where = f"{made.topic}:{place.partition}:{place.offset}"
        assert made.agentrun("refuse", where, "--reason", "by hand", "--yes").code == 0
        made.start()
        made.produce([step_event(RUN, "after", tokens_used=4)])
        made.wait()
        made.assert_exact("--deep")
        before = ends(made)
        code, found = replay(made, "replayed_shadow")
        assert (code, different(found), found["left_out"]) == (0, [], 0), found
        rows = {table["table"]: (table["live_rows"], table["shadow_rows"]) for table in found["tables"]}
        assert all(live == shadow > 0 for name, (live, shadow) in rows.items() if name != "evidence"), rows
        assert ends(made) == before
        made.execute(
            f"ALTER TABLE run_objects UPDATE output_preview = 'forged' WHERE run_id = '{RUN}' AND object_id = 'a'"
        )
        made.execute("ALTER TABLE settlements DELETE WHERE run_id LIKE 'bench-%'")
        code, found = replay(made, "replayed_shadow")  # a shadow of ours is replaced
        assert (code, different(found)) == (1, ["run_objects", "settlements"])


def test_swapped_tables_are_exact_and_a_worker_goes_on(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Refused while a worker runs; then what was wrong is right, the old tables are kept, and late steps are folded."""
    with lane(agentrun_stack, tmp_path, "swapped") as made:
        made.start()
        load(made)
        told = made.agentrun("replay", "--into", "swapped_shadow", "--swap", "--yes")
        assert (told.code, "has 1 members" in told.err) == (3, True), told
        made.stop()
        made.execute(f"ALTER TABLE run_objects DELETE WHERE run_id = '{RUN}' AND object_id = 'a'")
        made.execute("ALTER TABLE accruals UPDATE input_tokens = 77 WHERE input_tokens > 0")
        assert made.audit()[0] == 1
        code, found = replay(made, "swapped_shadow", "--swap", "--yes")
        assert (code, found["swapped"], "run_objects" in different(found)) == (0, True, True)
        made.assert_exact("--deep")
        kept = f"SELECT count() AS n FROM swapped_shadow.run_objects WHERE run_id = '{RUN}' AND object_id = 'a'"
        assert made.one(kept)["n"] == 0
        made.start()
        made.produce([step_event(RUN, "late"), run_event(run_on(3, "new")), step_event(RUN, "a", success=False)])
        made.wait()
        made.assert_exact("--deep")
        assert made.run_row(RUN)["steps"] == 3
        assert made.rows("SELECT run_id FROM runs_by_start WHERE run_id LIKE 'new-%'")
        told = made.agentrun("replay", "--into", "swapped_shadow")
        assert (told.code, "is no shadow of ours" in told.err) == (2, True)  # it holds the old tables


@pytest.mark.slow
def test_a_replay_beside_a_worker_compares_what_both_have_seen(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Runs that changed meanwhile are left out, and counted."""
    with lane(agentrun_stack, tmp_path, "beside_replay") as made:
        made.start()
        load(made)
        code, found = replay(made, "beside_shadow")
        assert (code, different(found)) == (0, []), found


@pytest.mark.slow
def test_what_the_log_lost_is_not_compared_and_never_swapped(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Where retention took the log's beginning: runs from before are left out, and the audit judges what it can."""
    old, new = run_on(0, "early"), run_on(0, "recent")
    with lane(agentrun_stack, tmp_path, "trimmed") as made:
        made.start()
        made.produce([step_event(old, "a"), run_event(old)])
        made.wait()
        made.produce([step_event(old, "late"), step_event(new, "a"), run_event(new)])
        made.wait()
        made.stop()

        async def trim(client: AIOKafkaAdminClient) -> None:
            await client.delete_records({TopicPartition(made.topic, 0): RecordsToDelete(before_offset=2)})

        asyncio.run(with_admin(agentrun_stack.kafka, trim))
        made.assert_exact("--deep")
        code, found = replay(made, "trimmed_shadow")
        assert (code, different(found), found["left_out"]) == (0, [], 1), found
        assert "begins at 2" in found["notes"][0]
        told = made.agentrun("replay", "--into", "trimmed_shadow", "--swap", "--yes")
        assert (told.code, "no longer holds its beginning" in told.err) == (3, True)


@pytest.mark.parametrize("name", ["default", "naming", "a b", "x;drop"])
def test_a_shadow_has_a_name_of_its_own(agentrun_stack: Stack, tmp_path: Path, name: str) -> None:
    """Never the live database, never what is no name."""
    made = Lane(agentrun_stack, tmp_path, "naming", "naming.v1").set_up()
    told = made.agentrun("replay", "--into", name)
    assert (told.code, "can't be the shadow" in told.err) == (2, True)

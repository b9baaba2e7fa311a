"""What dies or stands still under a worker, and what it does then: nothing is lost, nothing counts twice, and it says why."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from agentrun_stream.supervisor import Supervisor
from agentrun_stream.testing.events import run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane, run_on, soon, with_admin

pytestmark = pytest.mark.stack

STEPS = 10


def story(name: str) -> list[bytes]:
    """A run with its steps."""
    steps = [step_event(name, f"s{n}", metadata={"usage": {"input_tokens": n}}) for n in range(STEPS)]
    return [run_event(name, status="running"), *steps, run_event(name)]


@contextmanager
def publishing(made: Lane) -> Iterator[list[str]]:
    """Runs published one after the other in the background while the block runs; yields the names of those that are."""
    done, names = threading.Event(), list[str]()

    def publish() -> None:
        while not done.is_set():
            name = f"{made.name}-{len(names)}"
            made.produce(story(name))
            names.append(name)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield names
    finally:
        done.set()
        thread.join(60)


def assert_all_stored(made: Lane, names: list[str]) -> None:
    """Each of these runs is there with all of its steps, once; the audit agrees."""
    made.wait(120)
    found = made.one("SELECT count() AS n, sum(steps) AS steps, sum(step_input_tokens) AS tokens FROM runs_latest")
    count = len(names)
    assert found == {"n": count, "steps": count * STEPS, "tokens": count * sum(range(STEPS))}
    made.assert_exact()


@pytest.fixture
def supervisor(agentrun_stack: Stack) -> Supervisor:
    if agentrun_stack.supervisor is None:
        pytest.skip("the store runs in a container here, so there is no process of ours to stop")
    return agentrun_stack.supervisor


def store_pid(supervisor: Supervisor) -> int:
    assert supervisor.store is not None
    return supervisor.store.pid


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def killed_store(supervisor: Supervisor) -> Iterator[None]:
    os.kill(store_pid(supervisor), signal.SIGKILL)
    try:
        yield
    finally:
        soon(lambda: _mended(supervisor), 60, "the store")


def _mended(supervisor: Supervisor) -> bool:
    supervisor.mend()
    return supervisor.store is not None and supervisor.store.alive


def outage(made: Lane, down: Callable[[], object], seconds: float) -> None:
    """Publish before, while and after the store is down for so long."""
    made.start()
    rebalances = made.metric("rebalances_total")
    with publishing(made) as names:
        soon(lambda: made.metric("records_consumed_total") > 0, what="a first batch")
        with down():  # type: ignore[attr-defined]
            started = time.monotonic()
            reasons = soon(made.reasons, seconds, "a reason in readyz")
            assert "store" in reasons[0]
            assert "agentrun doctor" in reasons[0]
            assert made.get("/readyz")[0] == 503
            assert made.get("/healthz")[0] == 200
            time.sleep(max(0.0, started + seconds - time.monotonic()))
        soon(lambda: not made.reasons(), what="readiness")
    assert_all_stored(made, names)
    assert made.metric("rebalances_total") == rebalances
    assert made.child().alive


def test_a_store_that_stands_still_loses_nothing(agentrun_stack: Stack, tmp_path: Path, supervisor: Supervisor) -> None:
    """It takes connections and does not answer: the worker says so, keeps its membership, and goes on."""
    with lane(agentrun_stack, tmp_path, "still", AGENTRUN_CLICKHOUSE__INSERT_TIMEOUT_S="4") as made:
        outage(made, lambda: frozen(store_pid(supervisor)), 15)


@pytest.mark.slow
def test_a_store_that_is_killed_loses_nothing(agentrun_stack: Stack, tmp_path: Path, supervisor: Supervisor) -> None:
    """In the middle of its inserts, for a quarter of a minute."""
    with lane(agentrun_stack, tmp_path, "struck") as made:
        outage(made, lambda: killed_store(supervisor), 15)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_a_store_that_is_away_for_a_minute_loses_nothing(
    agentrun_stack: Stack, tmp_path: Path, supervisor: Supervisor, how: str
) -> None:
    """Under the settings that everybody has."""
    downs = {"frozen": lambda: frozen(store_pid(supervisor)), "killed": lambda: killed_store(supervisor)}
    with lane(agentrun_stack, tmp_path, f"minute_{how}") as made:
        outage(made, downs[how], 60)


def test_two_workers_share_and_one_is_killed(agentrun_stack: Stack, tmp_path: Path) -> None:
    """The other takes over; every run is exact."""
    with lane(agentrun_stack, tmp_path, "shared", AGENTRUN_WORKER__BATCH_RECORDS_MAX="500") as made:
        made.start(2)
        with publishing(made) as names:
            soon(lambda: all(made.metric("records_consumed_total", index) > 20 for index in (0, 1)), what="sharing")
            made.kill(0)
            consumed = made.metric("records_consumed_total", 1)
            soon(lambda: len(made.log().split("partition opened")) > 6, what="the other one's take-over")
            soon(lambda: made.metric("records_consumed_total", 1) > consumed + 200, what="going on")
        assert_all_stored(made, names)
        workers = made.rows("SELECT DISTINCT worker FROM batches")
        assert len(workers) == 2


def test_a_worker_that_stands_still_is_a_zombie_afterwards(agentrun_stack: Stack, tmp_path: Path) -> None:
    """It comes back when another one owns its partitions: what it still writes changes nothing."""
    with lane(agentrun_stack, tmp_path, "zombie", AGENTRUN_WORKER__BATCH_RECORDS_MAX="300") as made:
        made.start(2)
        with publishing(made) as names:
            soon(lambda: all(made.metric("records_consumed_total", index) > 20 for index in (0, 1)), what="sharing")
            with frozen(made.child(0).pid):
                consumed = made.metric("records_consumed_total", 1)
                soon(lambda: made.metric("records_consumed_total", 1) > consumed + 300, what="going on alone")
                time.sleep(6)  # with what came before, longer than the session
            soon(lambda: not made.reasons(0) and not made.reasons(1), what="readiness of both")
            time.sleep(1)
        assert_all_stored(made, names)


def test_a_clean_stop_finishes_the_batch_at_hand(agentrun_stack: Stack, tmp_path: Path) -> None:
    """SIGTERM: exit code 0, what was folded is stored, and the next worker goes on without a rewind."""
    with lane(agentrun_stack, tmp_path, "stopping") as made:
        made.start()
        with publishing(made) as names:
            soon(lambda: len(names) > 5, what="publishing")
            soon(lambda: made.one("SELECT max(last) AS n FROM batches")["n"] > 0, what="a first batch")
            assert made.child().stop(30) == 0
        assert "worker stopped" in made.log()
        assert "Traceback" not in made.log()
        behind = made.one("SELECT max(last) AS n FROM batches")
        assert behind["n"] > 0
        made.start()
        assert_all_stored(made, names)
        assert made.metric("rewinds_total") == 0


def test_a_store_that_lost_its_last_writes_is_caught_up(agentrun_stack: Stack, tmp_path: Path) -> None:
    """A restored backup: the journal is behind the group's commit, so the worker rewinds, says so and counts it."""
    names = [run_on(1, f"restored-{n}") for n in range(20)]
    with lane(agentrun_stack, tmp_path, "restored") as made:
        made.start()
        for half in (names[:10], names[10:]):
            made.produce(event for name in half for event in story(name))
            made.wait()
        made.stop()
        cut = made.one("SELECT max(last) AS n FROM batches WHERE partition = 1 AND last <= 120")["n"]
        for table, offset in (("batches", "first"), ("run_objects", "_offset"), ("accruals", "offset")):
            made.execute(f"ALTER TABLE {table} DELETE WHERE {offset} >= {cut}")
        for table in ("runs", "settlements"):
            made.execute(f"ALTER TABLE {table} DELETE WHERE revision >= {cut}")
        made.start()
        soon(lambda: made.metric("rewinds_total") >= 1, what="a rewind")
        assert "rewound" in made.log()
        soon(
            lambda: made.one("SELECT count() AS n FROM runs_latest WHERE steps = 10")["n"] == len(names),
            what="all runs",
        )
        assert_all_stored(made, names)


def test_a_lost_offset_stops_the_partition_and_says_so(agentrun_stack: Stack, tmp_path: Path) -> None:
    """The store needs records that the log no longer holds: going on would lose them in silence. The others go on."""
    name, other = run_on(1, "lost"), run_on(2, "not-lost")
    with lane(agentrun_stack, tmp_path, "lost") as made:
        made.start()
        made.produce([*story(name), *story(other)])
        made.wait()
        made.stop()
        made.execute("ALTER TABLE batches DELETE WHERE partition = 1")

        async def delete(client: AIOKafkaAdminClient) -> None:
            await client.delete_records({TopicPartition(made.topic, 1): RecordsToDelete(before_offset=6)})

        asyncio.run(with_admin(made.stack.kafka, delete))
        made.launch()
        reasons = soon(lambda: [r for r in _reasons(made) if "offset 0" in r], what="a stop")
        assert f"{made.topic}:1" in reasons[0]
        assert "the log starts at 6" in reasons[0]
        assert "AGENTRUN_WORKER__GROUP" in reasons[0]
        assert made.metric("partition_stopped", partition=1, reason="lost_offset") == 1
        made.produce([step_event(other, "more")])
        soon(
            lambda: made.one(f"SELECT count() AS n FROM steps_latest WHERE run_id = '{other}'")["n"] == 11,
            what="others",
        )


def _reasons(made: Lane) -> list[str]:
    try:
        return made.reasons()
    except OSError:
        return []

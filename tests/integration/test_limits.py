"""Back-pressure and limits on the real stack: what is large, long, or for long away must not cost memory or records.

Must not live here: faults that strike while a load runs (tests/faults).
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from agentrun_stream import limits
from agentrun_stream.broker.bulk import BulkProducer
from agentrun_stream.supervisor import Supervisor
from agentrun_stream.testing.events import run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane, soon

# Fixtures and helpers of the outages serve here too.
from integration.test_outages import assert_all_stored, killed_store, publishing, supervisor  # noqa: F401

pytestmark = [pytest.mark.stack, pytest.mark.slow]

OUTAGE_S = 600
GROWTH_MB_MAX = 100
OPEN_RUNS = 1_000_000
RSS_MB_MAX = 1_024
MARK = "run-to-be-named"


@contextmanager
def watched_memory(pid: int) -> Iterator[list[float]]:
    """The resident megabytes of a process, once a second while the block runs."""
    process, seen, done = psutil.Process(pid), list[float](), threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            seen.append(process.memory_info().rss / limits.MIB)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


@pytest.mark.timeout(OUTAGE_S + 300)
def test_a_store_that_is_away_for_ten_minutes_costs_no_memory_and_no_record(
    agentrun_stack: Stack,
    tmp_path: Path,
    supervisor: Supervisor,  # noqa: F811
) -> None:
    """The worker stays in its group, holds no more than before, says why it waits, and catches up by itself."""
    with lane(agentrun_stack, tmp_path, "ten_minutes") as made:
        made.start()
        rebalances = made.metric("rebalances_total")
        with publishing(made) as names:
            soon(lambda: made.metric("records_consumed_total") > 0, what="a first batch")
            with killed_store(supervisor), watched_memory(made.child().pid) as seen:
                started = time.monotonic()
                time.sleep(OUTAGE_S)
                assert "store" in made.reasons()[0]
            assert time.monotonic() - started >= OUTAGE_S
            assert max(seen[60:]) - seen[59] < GROWTH_MB_MAX
            soon(lambda: not made.reasons(), 60, what="readiness")
        assert len(names) > OUTAGE_S // 10
        assert_all_stored(made, names)
        assert made.metric("rebalances_total") == rebalances
        assert made.child().alive


async def publish_open_runs(made: Lane, count: int) -> None:
    template = run_event(MARK, status="running")
    async with BulkProducer(made.kafka, made.topic) as producer:
        for number in range(count):
            name = f"open-{number:07}".encode()
            await producer.send(name, template.replace(MARK.encode(), name))


@pytest.mark.timeout(1_200)
def test_a_million_runs_are_open_on_one_worker(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Within a gigabyte; and a run that has long left the cache goes on exactly where it was."""
    with lane(agentrun_stack, tmp_path, "million") as made:
        asyncio.run(publish_open_runs(made, OPEN_RUNS))
        made.start()
        with watched_memory(made.child().pid) as seen:
            made.wait(900)
            assert made.one("SELECT count() AS n FROM runs_latest WHERE status = 'running'")["n"] == OPEN_RUNS
            some = [f"open-{number:07}" for number in range(0, OPEN_RUNS, OPEN_RUNS // 100)]
            made.produce([step_event(name, "late") for name in some])
            made.produce([run_event(name) for name in some])
            made.wait(120)
        assert max(seen) < RSS_MB_MAX
        closed = made.one("SELECT count() AS n, sum(steps) AS steps FROM runs_latest WHERE status = 'completed'")
        assert closed == {"n": len(some), "steps": len(some)}
        assert made.one("SELECT count() AS n FROM runs_latest")["n"] == OPEN_RUNS


def test_a_record_of_a_mebibyte_is_stored_and_a_larger_one_is_a_dead_letter(
    agentrun_stack: Stack, tmp_path: Path
) -> None:
    with lane(agentrun_stack, tmp_path, "mebibyte") as made:
        made.start()
        empty = len(step_event("r", "s", output_preview=""))
        whole = step_event("r", "s", output_preview="x" * (limits.VALUE_BYTES_MAX - empty))
        above = step_event("r", "t", output_preview="x" * (limits.VALUE_BYTES_MAX - empty + 1))
        assert (len(whole), len(above)) == (limits.VALUE_BYTES_MAX, limits.VALUE_BYTES_MAX + 1)
        _, place = made.produce([whole, above])
        made.wait()
        assert (
            made.one("SELECT id, length(output_preview) AS n FROM steps_latest")["n"] == limits.VALUE_BYTES_MAX - empty
        )
        assert made.letter_of(place).said["reason"] == "oversize"
        made.assert_exact()

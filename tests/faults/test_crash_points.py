"""A worker dies where its crash point says: what is in the store then, and what is not."""

from pathlib import Path

import pytest

from agentrun_stream.testing.chaos.bed import Bed, BedOptions
from faults.slow_model import model_differences

pytestmark = [pytest.mark.slow, pytest.mark.stack, pytest.mark.timeout(900)]

# What is written beyond the journal: ledger, objects, run rows; and whether the journal is beyond the group's commit.
BEYOND = {
    "before-facts": (False, False, False, False),
    "after-facts": (True, False, False, False),
    "before-objects": (True, False, False, False),
    "after-objects": (True, True, False, False),
    "before-projections": (True, True, False, False),
    "after-projections": (True, True, True, False),
    "before-publish": (True, True, True, False),
    "in-transaction": (True, True, True, False),
    "after-publish": (True, True, True, False),
    "before-journal": (True, True, True, False),
    "after-journal": (False, False, False, True),
    "before-commit": (False, False, False, True),
    "after-commit": (False, False, False, False),
}
NTH = 3


def beyond(bed: Bed) -> tuple[bool, bool, bool, bool]:
    journal = newest(bed, "max(last)", "batches", "partition")
    written = [
        newest(bed, "max(offset) + 1", "accruals", "partition"),
        newest(bed, "max(_offset) + 1", "run_objects", "_partition"),
        newest(bed, "max(revision) + 1", "runs", "partition"),
    ]
    committed = {lag.part.partition: lag.committed or 0 for lag in bed.lags()}
    ledger, objects, runs = (any(found[p] > journal.get(p, 0) for p in found) for found in written)
    return ledger, objects, runs, any(journal[p] > committed[p] for p in journal)


def newest(bed: Bed, what: str, table: str, partition: str) -> dict[int, int]:
    return {row["p"]: row["n"] for row in bed.ask(f"SELECT {partition} AS p, {what} AS n FROM {table} GROUP BY p")}


def test_a_worker_dies_where_its_crash_point_says(tmp_path: Path) -> None:
    """One worker alone, so that nobody writes on after its death; in the end everything is as the slow model says.

    Each death is that of a worker which began where all was stored: what the death before it left is folded by another one.
    """
    with Bed(BedOptions(tmp_path, workers=1, seed=3)) as bed:
        bed.load.start()
        found = {}
        for point in BEYOND:
            bed.caught_up()
            bed.workers.stop()
            assert beyond(bed) == (False, False, False, False)
            bed.start_worker(0, f"{point}:{NTH}")
            bed.wait_dead(0, 120)
            found[point] = beyond(bed)
            bed.heal()
        bed.drain()
        assert model_differences(bed) == []
    assert found == BEYOND

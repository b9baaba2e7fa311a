"""Every fault of the catalogue on a real broker, store and workers under load, and after it: exact, by three judges.

The audit's residual is 0, the tables are what the slow model folds from the log, and the compacted topic read to its end is
`runs_latest` key by key. The page of faults is written where AGENTRUN_TEST_FAULTS_PAGE says.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from agentrun_stream.runtime.crash import POINTS
from agentrun_stream.testing.chaos.bed import Bed, BedOptions
from agentrun_stream.testing.chaos.disasters import stopped_partition
from agentrun_stream.testing.chaos.outcomes import Outcomes, page
from agentrun_stream.testing.chaos.session import strike
from agentrun_stream.testing.chaos.verdict import Verdict, judge
from faults.slow_model import model_differences

pytestmark = [pytest.mark.slow, pytest.mark.stack, pytest.mark.timeout(1_500)]

SEED = 20
KILLS_MIN = 50
DISK_MB = 700
OFTEN = {
    **{f"killed at {point}": 2 for point in POINTS},
    "killed at random": 8,
    "paused": 2,
    "two with one id": 2,
    "rebalance storm": 2,
    "broker killed": 3,
    "store killed": 4,
    "answers cut": 4,
    "too many parts": 3,
    "read only": 3,
}


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Outcomes]:
    """What all sessions came to; the page is written from it."""
    merged = Outcomes()
    yield merged
    text = page(merged)
    if where := os.environ.get("AGENTRUN_TEST_FAULTS_PAGE"):
        Path(where).write_text(text, encoding="utf-8")


def assert_exact(bed: Bed, *, went_back: bool = False) -> Verdict:
    bed.drain()
    verdict = judge(bed.settings, went_back=went_back)
    assert verdict.exact, [*verdict.differences[:5], *verdict.published[:5]]
    assert model_differences(bed) == []
    return verdict


def test_more_than_fifty_kills_under_load_change_nothing(tmp_path: Path, outcomes: Outcomes) -> None:
    """At each crash point, at random, paused, doubled, moved about; broker and store too; answers lost and tables shut."""
    rng = Random(SEED)
    names = [name for name, times in OFTEN.items() for _ in range(times)]
    rng.shuffle(names)
    with Bed(BedOptions(tmp_path, seed=SEED)) as bed:
        found = strike(bed, ["dead letters removed", *names], rng, print)
        verdict = assert_exact(bed)
    found.judged(verdict.residual)
    outcomes.merge(found)
    assert sum(found.kills.values()) >= KILLS_MIN
    assert {name: row.times for name, row in found.rows.items()} == {"dead letters removed": 1, **OFTEN}
    assert verdict.records > 20_000


@pytest.mark.parametrize("name", ["power cut", "backup restored", "store emptied"])
def test_a_store_that_went_back_in_time_is_caught_up(tmp_path: Path, outcomes: Outcomes, name: str) -> None:
    """The worker rewinds to what the store knows, and the log brings back the rest."""
    with Bed(BedOptions(tmp_path, seed=SEED)) as bed:
        bed.load.start()
        found = strike(bed, [name], Random(SEED), print)
        verdict = assert_exact(bed, went_back=True)
    assert "partitions rewound" in found.rows[name].text
    found.judged(verdict.residual)
    outcomes.merge(found)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of its own at this folder, where this machine lets us."""
    folder.mkdir(parents=True)
    argv = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0700", "tmpfs", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("a small disk can't be mounted here, which needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing(tmp_path: Path, outcomes: Outcomes) -> None:
    """The store can't write a byte; the worker says so, and goes on by itself when there is room."""
    with small_disk(tmp_path / "clickhouse"), Bed(BedOptions(tmp_path, seed=SEED)) as bed:
        bed.load.start()
        found = strike(bed, ["disk full"], Random(SEED), print)
        verdict = assert_exact(bed)
    found.judged(verdict.residual)
    outcomes.merge(found)


def test_a_committed_offset_below_the_log_start_stops_the_partition(tmp_path: Path, outcomes: Outcomes) -> None:
    """Going on would lose records in silence; the other partitions go on, and are as the slow model says."""
    with Bed(BedOptions(tmp_path, seed=SEED)) as bed:
        bed.load.start()
        found = strike(bed, ["lost offset"], Random(SEED), print)
        stopped = stopped_partition(bed)
        differences = model_differences(bed, without=stopped)
        assert not differences, "\n".join(differences[:5])
    assert found.rows["lost offset"].text == "that partition stopped and said why, the others went on"
    found.judged(len(differences))
    outcomes.merge(found)

"""The real worker on the twins, hundreds of seeds: whatever happens to it, the tables and the topic are the oracle's.

`pytest tests/simulation --seed N` replays one seed, AGENTRUN_TEST_SEEDS=N plays that many.
"""

import os
import sys
from pathlib import Path
from types import FrameType

import pytest

import agentrun_stream
from simulation.theatre import Theatre

SEEDS = int(os.environ.get("AGENTRUN_TEST_SEEDS", "320"))
SEEDS_SLOW = max(SEEDS, 2_000)
GROUPS = 16
SOURCE = Path(agentrun_stream.__file__).parent


def check(seed: int) -> None:
    play = Theatre(seed)
    wrong = play.run()
    assert not wrong, "\n".join([f"--seed {seed} replays this:", *play.shared.schedule, *wrong[:6]])


@pytest.mark.parametrize("group", range(GROUPS))
def test_the_end_is_the_oracles_whatever_happened(group: int) -> None:
    """Crashes between any two calls, zombies, lost answers, late and repeated inserts, rebalances, restored backups."""
    for seed in range(group, SEEDS, GROUPS):
        check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_two_thousand_seeds(group: int) -> None:
    """The same, up to two thousand."""
    for seed in range(SEEDS + group, SEEDS_SLOW, GROUPS):
        check(seed)


def test_one_seed_is_replayed(request: pytest.FixtureRequest) -> None:
    """The one that is named; else the first."""
    check(request.config.getoption("--seed"))


def test_only_the_two_ports_are_twins() -> None:
    """The worker's own loop, cache and checkpoint play; of the broker and the store only the twins do."""
    played: set[str] = set()

    def note(frame: FrameType, _event: str, _argument: object) -> None:
        played.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        Theatre(3).run()
    finally:
        sys.setprofile(None)
    inside = {str(Path(name).relative_to(SOURCE)) for name in played if Path(name).is_relative_to(SOURCE)}
    loop = {"worker", "membership", "resume", "batch", "cache", "checkpoint", "retry", "report"}
    loop |= {"gather", "folder", "show", "sweep", "trust", "rejudge", "lineage"}
    assert {f"runtime/{name}.py" for name in loop} <= inside
    ports = {name for name in inside if name.startswith(("broker/", "store/"))}
    # Besides the twins only pure text: how rows are encoded, and which partition a key has.
    pure = {"broker/kafka.py", *(f"store/{name}.py" for name in ("rows", "reader", "sweeps", "trust", "lineage"))}
    twins = {f"store/memory{name}.py" for name in ("", "_sweeps", "_trust", "_lineage")}
    assert ports == {"broker/memory.py"} | twins | pure


def test_a_seed_plays_the_same_twice() -> None:
    """Nothing but the seed decides: the number of calls is a fingerprint of the play."""
    for seed in range(3):
        first, second = Theatre(seed), Theatre(seed)
        assert first.run() == second.run()
        assert first.shared.calls == second.shared.calls
        assert first.shared.store.backup().keys() == second.shared.store.backup().keys()

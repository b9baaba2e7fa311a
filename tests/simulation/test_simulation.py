"""The real worker on the twins, hundreds of seeds: whatever happens to it, the tables and the topic are the oracle's.

AGENTRUN_TEST_SEED=N replays one seed, AGENTRUN_TEST_SEEDS=N plays that many.
"""

import os

import pytest

from simulation.theatre import Theatre

SEEDS = int(os.environ.get("AGENTRUN_TEST_SEEDS", "320"))
GROUPS = 16
ONE = os.environ.get("AGENTRUN_TEST_SEED")


def check(seed: int) -> None:
    wrong = Theatre(seed).run()
    assert not wrong, "\n".join([f"AGENTRUN_TEST_SEED={seed} replays this.", *wrong[:6]])


@pytest.mark.parametrize("group", range(GROUPS) if ONE is None else ())
def test_the_end_is_the_oracles_whatever_happened(group: int) -> None:
    """Crashes between any two calls, zombies, lost answers, late and repeated inserts, rebalances, restored backups."""
    for seed in range(group, SEEDS, GROUPS):
        check(seed)


def test_one_seed_is_replayed() -> None:
    """The one that is named; else the first."""
    check(int(ONE or 0))


def test_a_seed_plays_the_same_twice() -> None:
    """Nothing but the seed decides: the number of calls is a fingerprint of the play."""
    for seed in range(3):
        first, second = Theatre(seed), Theatre(seed)
        assert first.run() == second.run()
        assert first.shared.calls == second.shared.calls
        assert first.shared.store.backup().keys() == second.shared.store.backup().keys()

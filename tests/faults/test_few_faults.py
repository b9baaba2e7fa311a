"""A handful of faults on a real broker, store and workers, in half a minute; the slow suite does all of them."""

from pathlib import Path
from random import Random

import pytest

from agentrun_stream.testing.chaos.bed import Bed, BedOptions
from agentrun_stream.testing.chaos.session import strike
from agentrun_stream.testing.chaos.verdict import judge
from faults.slow_model import model_differences

pytestmark = pytest.mark.stack
FEW = ("killed at within-facts", "killed at in-transaction", "killed at after-journal", "answers cut", "store killed")


def test_a_handful_of_faults_changes_nothing(tmp_path: Path) -> None:
    """Kills at the worst moments, a store killed in an insert, answers lost: residual 0, and all as the slow model says."""
    with Bed(BedOptions(tmp_path, seed=7)) as bed:
        bed.load.start()
        outcomes = strike(bed, FEW, Random(7))
        bed.drain()
        verdict = judge(bed.settings)
        assert verdict.exact, [*verdict.differences[:5], *verdict.published[:5]]
        assert model_differences(bed) == []
    assert outcomes.kills["worker"] >= 3
    assert outcomes.kills["store"] == 1
    assert verdict.records > 1_000

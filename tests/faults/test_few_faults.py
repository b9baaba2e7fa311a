"""A handful of faults on a real broker, store and workers, in half a minute; the slow suite does all of them."""

from collections.abc import Iterator
from random import Random

import pytest

from agentrun_stream.testing.chaos.bed import Bed, BedOptions
from agentrun_stream.testing.chaos.session import strike
from agentrun_stream.testing.chaos.verdict import judge
from faults.slow_model import model_differences

pytestmark = pytest.mark.stack
FEW = ("killed at within-facts", "killed at in-transaction", "killed at after-journal", "answers cut", "store killed")


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """After some seconds of load and faults, drained."""
    with Bed(BedOptions(tmp_path_factory.mktemp("bed"), seed=7)) as made:
        made.load.start()
        outcomes = strike(made, FEW, Random(7))
        made.drain()
        assert outcomes.kills["worker"] >= 3
        assert outcomes.kills["store"] == 1
        yield made


def test_a_handful_of_faults_changes_nothing(bed: Bed) -> None:
    """Kills at the worst moments, a store killed in an insert, answers lost: residual 0, and all as the slow model says."""
    verdict = judge(bed.settings)
    assert verdict.exact, [*verdict.differences[:5], *verdict.published[:5]]
    assert model_differences(bed) == []
    assert verdict.records > 1_000


def test_the_judges_see_what_is_wrong(bed: Bed) -> None:
    """A step that is gone is named by the audit and by the slow model, a run that changed by the compacted topic too."""
    step = bed.ask("SELECT run_id, object_id FROM run_objects FINAL WHERE kind = 'step' ORDER BY run_id LIMIT 1")[0]
    bed.sql(f"ALTER TABLE run_objects DELETE WHERE run_id = '{step['run_id']}' AND object_id = '{step['object_id']}'")
    run = bed.ask("SELECT run_id FROM runs_latest WHERE closed_by = 'runtime' ORDER BY run_id LIMIT 1")[0]["run_id"]
    bed.sql(f"ALTER TABLE runs UPDATE steps = steps + 1 WHERE run_id = '{run}'")
    verdict = judge(bed.settings)
    assert not verdict.exact
    assert verdict.residual == len(verdict.differences) == 2
    assert [line.partition(": ")[0] for line in verdict.published] == [f"default/{run}"]
    wrong = "".join(model_differences(bed))
    assert step["object_id"] in wrong
    assert run in wrong

"""The failure process: it keeps its promise of false alarms, notices what got worse, and does not care how runs are cut."""

import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrun_stream.processors.signals.failures import (
    ALARM,
    LEARN_RUNS,
    STRETCH_RUNS,
    UNLEARNED,
    FailureRule,
    Process,
    baseline_of,
    evalue,
    log_evalue,
    prior_beta,
    wilson,
)

RULE = FailureRule(0.1)
STATUSES = st.lists(st.sampled_from(["completed", "failed", "timeout", "cancelled"]), max_size=60)


def ends(chance: random.Random, rate: float) -> Iterator[str]:
    while True:
        yield chance.choice(["failed", "timeout"]) if chance.random() < rate else "completed"


def first_alarm(statuses: Sequence[str], baseline: float) -> int | None:
    """After how many runs the e-value first reaches the alarm, looked at after every run."""
    process = Process()
    for count, status in enumerate(statuses, 1):
        process = process.after([status])
        if status != "completed" and evalue(process, RULE, baseline) >= ALARM:
            return count
    return None


@pytest.mark.parametrize("baseline", [0.02, 0.1, 0.3])
def test_false_alarms_are_rare(baseline: float) -> None:
    """At the baseline at most 2 % of 300 fleets ever see an alarm in 1 000 runs, though one looks after every run."""
    alarms = [
        seed
        for seed in range(300)
        if first_alarm(list(islice(ends(random.Random(seed), baseline), STRETCH_RUNS)), baseline)
    ]
    assert len(alarms) / 300 <= 0.02, alarms


def test_a_threshold_on_small_counts_would_cry_wolf() -> None:
    """Why an e-process: more than 20 % of the last 20 runs failed, at a true rate of 10 %, in nearly every stretch."""
    cried = 0
    for seed in range(300):
        last = [status != "completed" for status in islice(ends(random.Random(seed), 0.1), STRETCH_RUNS)]
        cried += any(sum(last[i : i + 20]) > 4 for i in range(STRETCH_RUNS - 19))
    assert cried / 300 > 0.95


@pytest.mark.parametrize(
    ("baseline", "times", "median", "most"),
    [(0.02, 2, 700, 1_000), (0.02, 3, 220, 700), (0.1, 2, 120, 400), (0.1, 3, 45, 150), (0.3, 2, 35, 120)],
)
def test_what_got_worse_is_noticed_soon(baseline: float, times: int, median: int, most: int) -> None:
    """Runs until the alarm after a fresh start at a multiple of the baseline, over 200 fleets; shown with `-rP`."""
    found = [
        first_alarm(list(islice(ends(random.Random(10_000 + seed), baseline * times), STRETCH_RUNS)), baseline)
        for seed in range(200)
    ]
    delays = sorted(STRETCH_RUNS + 1 if delay is None else delay for delay in found)
    missed = sum(delay is None for delay in found)
    told = f"median {delays[100]} runs, 95 % {delays[190]}, unnoticed in {STRETCH_RUNS}: {missed} of 200"
    sys.stdout.write(f"baseline {baseline:.0%}, rate x{times}: {told}\n")
    assert delays[100] <= median
    assert sum(delay <= most for delay in delays) >= (200 * 0.7 if baseline == 0.02 else 200 * 0.97)


def test_an_agent_that_always_fails_is_noticed_at_once() -> None:
    """A handful of runs is enough, however small the agent."""
    needed = {baseline: first_alarm(["failed"] * 30, baseline) for baseline in (0.02, 0.1, 0.3, 0.5)}
    assert needed == {0.02: 4, 0.1: 4, 0.3: 6, 0.5: 9}


@given(STATUSES, st.lists(st.integers(0, 60), max_size=6))
def test_however_the_stream_is_cut_the_evalue_is_the_same(statuses: list[str], cuts: list[int]) -> None:
    """Put away as JSON and gone on with at any place: the same process, the same e-value to the last bit."""
    whole = Process().after(statuses)
    cut = Process()
    edges = [0, *sorted(cuts), len(statuses)]
    for start, end in pairwise(edges):
        cut = Process(**json.loads(json.dumps(cut.after(statuses[start:end]).state())))
    assert cut == whole
    assert evalue(cut, RULE, 0.1) == evalue(whole, RULE, 0.1)


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.02, 0.1, 0.25, 0.5, 0.9]))
def test_an_evalue_is_the_mixture_that_it_claims_to_be(runs: int, failed: int, baseline: float) -> None:
    """Against the integral itself, by Simpson's rule on a fine grid."""
    failed = min(runs, failed)
    beta = prior_beta(baseline)
    mass: float = (1 - baseline) ** beta / beta  # of the uncut part of the density (1-p)^(beta-1)

    def part(p: float) -> float:
        if p >= 1:
            return float(runs == failed and beta == 1) * math.pow(baseline, -failed) / mass
        ratio = failed * math.log(p / baseline) + (runs - failed) * math.log((1 - p) / (1 - baseline))
        return math.exp(ratio + (beta - 1) * math.log(1 - p)) / mass

    assert math.exp(log_evalue(runs, failed, baseline)) == pytest.approx(simpson(part, baseline, 1.0), rel=1e-4)


def simpson(function: Callable[[float], float], low: float, high: float, pieces: int = 4_000) -> float:
    step = (high - low) / pieces
    inner = sum((4 if i % 2 else 2) * function(low + i * step) for i in range(1, pieces))
    return (function(low) + inner + function(high)) * step / 3


@given(st.integers(0, 80), st.integers(0, 80), st.sampled_from([0.1, 0.3, 0.7]))
def test_an_evalue_is_fair_at_the_baseline(runs: int, failed: int, baseline: float) -> None:
    """What the next run is expected to make of it, at a true rate equal to the baseline, is what it was: a martingale."""
    failed = min(runs, failed)
    now = math.exp(log_evalue(runs, failed, baseline))
    well = math.exp(log_evalue(runs + 1, failed, baseline))
    badly = math.exp(log_evalue(runs + 1, failed + 1, baseline))
    assert baseline * badly + (1 - baseline) * well == pytest.approx(now, rel=1e-9)
    assert well < now


def test_the_evalue_is_stable_where_floats_end() -> None:
    """A thousand failures of a thousand runs, against exact fractions."""
    exact = Fraction(1)
    odds = Fraction(7, 3)  # of a baseline of 0.3, for which the mixture is uniform: beta is 1
    assert prior_beta(0.3) == 1
    for j in range(1, 1001):
        exact = 1 + exact * odds * Fraction(j, 1000 + 1 - j + 1)
    log_exact = math.log(exact.numerator) - math.log(exact.denominator)
    assert log_evalue(1000, 1000, 0.3) == pytest.approx(log_exact, rel=1e-12)
    assert evalue(Process(runs=1000, by_status={"failed": 1000}), FailureRule(), 0.01) == math.exp(690)
    assert evalue(Process(), RULE, 0.1) == 1


def test_cancelled_runs_are_counted_nowhere_and_the_numerator_is_configurable() -> None:
    process = Process().after(["cancelled"] * 50 + ["timeout"] * 3 + ["failed", "completed"])
    assert (process.runs, process.failed(RULE)) == (5, 4)
    assert process.failed(FailureRule(0.1, frozenset({"failed"}))) == 1


def test_a_process_starts_anew_after_its_stretch() -> None:
    """A good past hides nothing: a new fault is noticed as by a new process."""
    process = Process().after(["completed"] * STRETCH_RUNS)
    assert (process.stretch, process.runs) == (0, STRETCH_RUNS)
    process = process.after(["failed"] * 4)
    assert (process.stretch, process.runs, process.failed(RULE)) == (1, 4, 4)
    assert evalue(process, RULE, 0.1) >= ALARM


def test_a_baseline_is_configured_or_learned_from_the_first_runs_and_stays() -> None:
    """Learned is the upper end of an interval, from at most so many first runs, and never so high that nothing is bad."""
    assert baseline_of(RULE, []) == (0.1, "configured")
    learning = FailureRule()
    assert baseline_of(learning, ["completed"] * (LEARN_RUNS - 1)) == (UNLEARNED, "unlearned")
    first = ["failed"] * 10 + ["completed"] * (LEARN_RUNS - 10)
    found = baseline_of(learning, first)
    assert found == (wilson(10, LEARN_RUNS)[1], "learned")
    assert baseline_of(learning, first + ["failed"] * 500) == found
    assert baseline_of(learning, ["failed"] * LEARN_RUNS) == (0.5, "learned")


def test_the_interval_for_display_is_wilsons() -> None:
    """Published figures: 0 of 10 and 10 of 20."""
    assert list(wilson(0, 10)) == pytest.approx([0, 0.2775], abs=1e-4)
    assert list(wilson(10, 20)) == pytest.approx([0.2993, 0.7007], abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)

"""Does an agent fail more often than it may? An e-process over its closed runs that starts anew with every version of it.

Only counts enter an e-value, so it is the same to the last bit however the runs were cut, repeated or handed over.
Must not live here: which runs there are and in which order they closed (store/signals.py).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

# The promise is made per so many runs: then the process starts anew, and neither a long good past hides a new fault nor does a
# fault that is gone stay on show for ever.
STRETCH_RUNS: Final = 1_000
LEARN_RUNS: Final = 200
UNLEARNED: Final = 0.1
LEARNED_MAX: Final = 0.5
ALARM: Final = 100.0
WARN: Final = 20.0

COUNTED: Final = frozenset({"completed", "failed", "timeout"})
CANCELLED: Final = "cancelled"
_PRIOR_MEAN: Final = 2.5  # times the baseline
_LOG_MAX: Final = 690.0  # a float ends at e^709
_Z95: Final = 1.959963984540054


@dataclass(frozen=True, slots=True)
class FailureRule:
    """What an agent is held against. `baseline` None: learned from its own first runs. `counts` are statuses that failed."""

    baseline: float | None = None
    counts: frozenset[str] = frozenset({"failed", "timeout"})


@dataclass(frozen=True, slots=True)
class Process:
    """Closed runs of one version of an agent in its current stretch. As JSON it can be put away and gone on with."""

    stretch: int = 0
    runs: int = 0
    by_status: dict[str, int] = field(default_factory=dict)

    def after(self, statuses: Iterable[str]) -> "Process":
        """The process after more runs, in the order in which they closed. Cancelled ones are nobody's failure: not counted."""
        stretch, runs, by_status = self.stretch, self.runs, dict(self.by_status)
        for status in statuses:
            if status not in COUNTED:
                continue
            if runs == STRETCH_RUNS:
                stretch, runs, by_status = stretch + 1, 0, {}
            runs += 1
            by_status[status] = by_status.get(status, 0) + 1
        return Process(stretch, runs, by_status)

    def failed(self, rule: FailureRule) -> int:
        """How many of them failed, by this rule."""
        return sum(count for status, count in self.by_status.items() if status in rule.counts)

    def state(self) -> dict[str, Any]:
        """As JSON; `Process(**state)` is this again."""
        return {"stretch": self.stretch, "runs": self.runs, "by_status": dict(sorted(self.by_status.items()))}


def evalue(process: Process, rule: FailureRule, baseline: float) -> float:
    """The e-value of a process against a baseline, at most 10^299."""
    return math.exp(min(log_evalue(process.runs, process.failed(rule), baseline), _LOG_MAX))


def log_evalue(runs: int, failed: int, baseline: float) -> float:
    """The natural logarithm of the e-value after so many runs, of which so many failed.

    Hypothesis: whatever happened before, the next run fails with probability at most p0, the baseline. For any p > p0 the
    likelihood ratio (p/p0)^failed ((1-p)/(1-p0))^(runs-failed) is then a supermartingale that starts at 1, and so is its mean
    over a distribution of p (Robbins' method of mixtures; one-sided beta-binomial mixture: Howard, Ramdas, McAuliffe, Sekhon,
    "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 2021, and Waudby-Smith, Ramdas,
    "Estimating means of bounded random variables by betting", JRSS B 2024). By Ville's inequality (1939) it ever reaches 100
    with probability at most 1/100, whenever and however often one looks.

    The mixture is Beta(1, b) cut to p > p0, with the b that gives it the mean 2.5 p0: most of its mass lies where doubled and
    tripled rates are, its density is positive from p0 to 1, and rates near 1, small agents that always fail, still need only a
    handful of runs. Repeated integration by parts makes it a sum of `failed` + 1 positive terms,

        E = b / (n-k+b) * sum over i = 0..k of prod over j = k-i+1..k of  j / (n+b-j+1) * (1-p0) / p0,

    taken here from the inside out in logarithms: nothing cancels, nothing overflows.
    """
    beta = prior_beta(baseline)
    odds = math.log1p(-baseline) - math.log(baseline)
    log_sum = 0.0
    for j in range(1, failed + 1):
        log_sum = _log1p_exp(log_sum + odds + math.log(j / (runs + beta - j + 1)))
    return log_sum + math.log(beta / (runs - failed + beta))


def prior_beta(baseline: float) -> float:
    """The second parameter of the mixture. Below 1 its density would rise towards 1, which no agent deserves."""
    return max(1.0, (1 - baseline) / ((_PRIOR_MEAN - 1) * baseline) - 1)


def _log1p_exp(x: float) -> float:
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def baseline_of(rule: FailureRule, first: Sequence[str]) -> tuple[float, str]:
    """What an agent is held against, and why: `configured`, `learned` from its first closed runs, or `unlearned` so far.

    Learned is the upper end of the 95 % Wilson interval of the first 200 runs, and stays: an agent that gets worse slowly must
    not teach that this is normal, nor one that always fails that it should. The same runs may stand in a process, too: no rate
    above the baseline explains them better than the baseline, so they make no e-value larger.
    """
    if rule.baseline is not None:
        return rule.baseline, "configured"
    counted = [status for status in first if status in COUNTED][:LEARN_RUNS]
    if len(counted) < LEARN_RUNS:
        return UNLEARNED, "unlearned"
    _, high = wilson(sum(status in rule.counts for status in counted), len(counted))
    return min(high, LEARNED_MAX), "learned"


def wilson(failed: int, runs: int) -> tuple[float, float]:
    """The 95 % interval of a rate, for display (Wilson 1927). Everything is possible while there are no runs."""
    if not runs:
        return 0.0, 1.0
    rate, square = failed / runs, _Z95 * _Z95
    middle = (rate + square / (2 * runs)) / (1 + square / runs)
    half = _Z95 * math.sqrt(rate * (1 - rate) / runs + square / (4 * runs * runs)) / (1 + square / runs)
    return max(0.0, middle - half), min(1.0, middle + half)


def level_of(value: float) -> str:
    """What an e-value means to a person."""
    return "over" if value >= ALARM else "warn" if value >= WARN else "ok"

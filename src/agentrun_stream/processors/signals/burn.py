"""Is the error budget of an objective spent too fast? Burn rates over a short and a long window.

Must not live here: the counts themselves.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class BurnRule:
    """`budget` is the share of runs that may fail; a burn rate of 1 uses it up exactly. Windows in seconds."""

    budget: Decimal
    threshold: Decimal
    short_s: int
    long_s: int

    def unreachable(self) -> str | None:
        """Why this rule could never fire, else None: if every run fails, the rate is 1/budget and no more."""
        if self.threshold * self.budget < 1:
            return None
        most = f"{float(1 / self.budget):.4g}"
        return f"a burn rate of {self.threshold} can't be reached: where every run fails, it is {most} and no more"


class Ends(NamedTuple):
    """Closed runs of a window, and those of them that failed."""

    runs: int = 0
    failed: int = 0


def burn_rate(rule: BurnRule, short: Ends, long: Ends) -> Decimal:
    """The lower of the two windows' burn rates: it fires where both are above the threshold."""
    return min((Decimal(e.failed) / e.runs / rule.budget if e.runs else Decimal(0)) for e in (short, long))

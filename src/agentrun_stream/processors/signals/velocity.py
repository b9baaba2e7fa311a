"""Does an agent spend faster than it may? Running runs against finished ones, and the last five minutes with the last hour.

Must not live here: where the amounts come from, what they are in (USD, as `Decimal`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

COHORT_RUNS_MIN: Final = 100  # below that a p99 is the dearest run there was


@dataclass(frozen=True, slots=True)
class VelocityRule:
    """Limits in USD. A window without a limit is never above it."""

    floor: Decimal = Decimal(10)
    factor: Decimal = Decimal(5)
    five_minutes: Decimal | None = None
    hour: Decimal | None = None


class Running(NamedTuple):
    """An open run and what it cost so far."""

    run_id: str
    cost: Decimal


class Cohort(NamedTuple):
    """The finished runs of an agent: how many have a cost, and its 99th percentile."""

    runs: int = 0
    p99: Decimal | None = None


class Velocity(NamedTuple):
    """What was found. `limit` is the one for a single run."""

    level: str
    runaways: tuple[Running, ...]
    fast: bool
    limit: Decimal


def run_limit(rule: VelocityRule, cohort: Cohort) -> Decimal:
    """What one running run may cost: max(floor, factor x p99 of the cohort's finished runs)."""
    if cohort.p99 is None or cohort.runs < COHORT_RUNS_MIN:
        return rule.floor
    return max(rule.floor, rule.factor * cohort.p99)


def judge(rule: VelocityRule, spent: tuple[Decimal, Decimal], running: Sequence[Running], cohort: Cohort) -> Velocity:
    """Judge an agent by what it spent in (five minutes, one hour), its running runs and its finished ones.

    The hour keeps a short burst quiet, the five minutes let the alarm end soon after the spending does.
    """
    limit = run_limit(rule, cohort)
    runaways = tuple(sorted((r for r in running if r.cost > limit), key=lambda r: (-r.cost, r.run_id)))
    above = [most is not None and sum_ > most for most, sum_ in zip((rule.five_minutes, rule.hour), spent, strict=True)]
    fast = all(above)
    return Velocity("over" if fast or runaways else "ok", runaways, fast, limit)

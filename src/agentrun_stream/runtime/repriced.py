"""What another price book makes of stored runs: the sums before and after, by model, and the biggest changes.

Must not live here: SQL, printing, prices.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

from agentrun_stream.model import money
from agentrun_stream.model.opinions import Opinions
from agentrun_stream.model.projection import FIGURES
from agentrun_stream.model.run import RunState, row_version
from agentrun_stream.pipeline import project
from agentrun_stream.ports import RunKey
from agentrun_stream.processors.project import missing_claim
from agentrun_stream.processors.verify import claim_of
from agentrun_stream.store.reprice import Before, Beside

BIGGEST: Final = 10
_ZERO: Final = Decimal(0)
Evidence = Callable[[RunKey, int], bytes | None]


@dataclass(slots=True)
class Sums:
    """The known part of an amount before and after, and of how many runs it is not known."""

    before: Decimal = _ZERO
    after: Decimal = _ZERO
    unknown_before: int = 0
    unknown_after: int = 0

    def add(self, before: Decimal | None, after: Decimal | None) -> None:
        """Add a run."""
        self.before += before or _ZERO
        self.after += after or _ZERO
        self.unknown_before += before is None
        self.unknown_after += after is None

    def told(self) -> dict[str, Any]:
        """For printing."""
        return {
            "before": self.before,
            "after": self.after,
            "difference": self.after - self.before,
            "unknown_before": self.unknown_before,
            "unknown_after": self.unknown_after,
        }


@dataclass(slots=True)
class OfModel:
    """What changes for the runs of one model."""

    runs: int = 0
    changed: int = 0
    computed: Sums = field(default_factory=Sums)
    effective: Sums = field(default_factory=Sums)

    def add(self, one: Beside) -> None:
        """Add a run."""
        self.runs += 1
        self.changed += changed(one)
        for name, sums in (("cost_computed", self.computed), ("cost_effective", self.effective)):
            sums.add(*amounts(one, name))


class Repriced:
    """Adds up runs, one by one. What expired, or changed in between, is counted and left out of the sums."""

    def __init__(self) -> None:
        self.total = OfModel()
        self.models: dict[str, OfModel] = {}
        self.newly_priced = 0
        self.no_longer_priced = 0
        self.expired = 0
        self.moved_on = 0
        self._biggest: list[tuple[Decimal, RunKey, Beside]] = []

    def add(self, one: Beside) -> None:
        """Add a run."""
        if one.expired or not one.same:
            self.expired += one.expired
            self.moved_on += not one.expired
            return
        self.total.add(one)
        self.models.setdefault(one.model, OfModel()).add(one)
        before, after = amounts(one, "cost_computed")
        self.newly_priced += before is None and after is not None
        self.no_longer_priced += before is not None and after is None
        by = money.difference(after, before)
        if changed(one):
            heapq.heappush(self._biggest, (abs(by or _ZERO), one.key, one))
            if len(self._biggest) > BIGGEST:
                heapq.heappop(self._biggest)

    def told(self) -> dict[str, Any]:
        """The report: amounts of US dollars, exact."""
        return {
            "runs": self.total.runs,
            "changed": self.total.changed,
            "newly_priced": self.newly_priced,
            "no_longer_priced": self.no_longer_priced,
            "expired": self.expired,
            "moved_on": self.moved_on,
            "computed": self.total.computed.told(),
            "effective": self.total.effective.told(),
            "by_model": [
                {"model": name, "runs": of.runs, "changed": of.changed, **of.computed.told()}
                for name, of in sorted(self.models.items())
            ],
            "biggest": [_told(one) for _, _, one in sorted(self._biggest, key=lambda row: (-row[0], row[1]))],
        }


def changed(one: Beside) -> bool:
    """Whether any figure of the run is another one: else it keeps the row that it has."""
    return one.before != one.after


def amounts(one: Beside, name: str) -> tuple[Decimal | None, Decimal | None]:
    """An amount before and after."""
    at = FIGURES.index(name)
    return money.amount(one.before[at]), money.amount(one.after[at])


def _told(one: Beside) -> dict[str, Any]:
    before, after = amounts(one, "cost_computed")
    status = FIGURES.index("price_status")
    return {
        "workspace": one.key[0],
        "run": one.key[1],
        "model": one.model,
        "before": before,
        "after": after,
        "difference": None if before is None or after is None else after - before,
        "price_status": one.after[status],
    }


def foreseen(
    stored: Iterable[Before], states: Mapping[RunKey, RunState], opinions: Opinions, evidence: Evidence
) -> Iterator[Beside]:
    """What these runs would show under opinions, by the same projection that their owners make."""
    for row in stored:
        state = states.get(row.key)
        projection = None if state is None else project(_whole(state, opinions, evidence), *row.part, opinions)
        if projection is None:
            continue
        same = projection.row["revision"] == row.revision
        after = tuple(projection.row[name] for name in FIGURES)
        yield Beside(row.key, row.model, row.expired, same, row.figures, after)


def _whole(state: RunState, opinions: Opinions, evidence: Evidence) -> RunState:
    """The state with the claim that is to be shown put back, where it is not kept whole."""
    wanted = missing_claim(state, opinions) if state.claims else None
    raw = None if wanted is None else evidence((state.workspace, state.run_id), row_version(wanted[1]))
    if wanted is None or raw is None:
        return state
    return replace(state, claims={**state.claims, wanted[0]: claim_of(state.claims[wanted[0]], raw)})

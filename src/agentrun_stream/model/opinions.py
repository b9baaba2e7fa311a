"""Opinions: what a projection needs besides a run's objects. They change without an event, and say so in the row.

Must not live here: where they come from (trust/, store/, runtime/), facts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentrun_stream.model import money
from agentrun_stream.model.lineage import Lineage
from agentrun_stream.model.projection import PRICED_COLUMNS, PRICED_WORDS
from agentrun_stream.model.trust import NOBODY, Registry
from agentrun_stream.model.usage import Bill

OFF: Final = "off"
WARN: Final = "warn"
ENFORCE: Final = "enforce"
MODES: Final = (OFF, WARN, ENFORCE)
ORPHAN_AFTER_MS: Final = 86_400_000
QUARANTINED: Final = "quarantined"
_FLAG_OF: Final = {OFF: "", WARN: "warned", ENFORCE: QUARANTINED}


@dataclass(frozen=True, slots=True)
class Policy:
    """What a workspace does about headlines: `off` nothing, `warn` flags the run, `enforce` keeps it from the runs topic."""

    mode: str = OFF
    quarantine_on: frozenset[str] = frozenset({"rejected", "mismatch", "revoked"})
    require_signed: bool = False

    def flag(self, headline: str) -> str:
        """What a run with this headline is flagged with; '' for nothing."""
        hit = headline in self.quarantine_on or (self.require_signed and headline == "unverifiable")
        return _FLAG_OF[self.mode] if hit else ""


NO_POLICY: Final = Policy()
Pricing = Callable[[Bill], Mapping[str, Any]]

_NO_PRICE: Final[dict[str, Any]] = dict.fromkeys(PRICED_COLUMNS) | dict.fromkeys(PRICED_WORDS, "")


def no_prices(bill: Bill) -> Mapping[str, Any]:
    """What a run costs where there is no price book: what it reports, if it does."""
    if bill.reported is None:
        return _NO_PRICE | {"effective_source": "none"}
    return _NO_PRICE | {"effective_source": "reported", "cost_effective": money.text(bill.reported)}


@dataclass(frozen=True, slots=True)
class Opinions:
    """The opinions in force: keys and policy by workspace, prices, the lineage of the runs whose parents were looked up.

    `price` says the priced columns of a run's bill.
    """

    registry: Callable[[str], Registry] = lambda _workspace: NOBODY
    policy: Callable[[str], Policy] = lambda _workspace: NO_POLICY
    lineage: Mapping[tuple[str, str], Lineage] = field(default_factory=dict)
    price: Pricing = no_prices


NO_OPINIONS: Final = Opinions()

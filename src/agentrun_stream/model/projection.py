"""A projection: what the store and the topics show of a run. Must not live here: how it is made (processors/project/)."""

from dataclasses import dataclass
from typing import Any, Final

from agentrun_stream.model.run import projection_version

COUNTER_BITS: Final = 64
# (axis, column) of a verdict.
AXES: Final = (
    ("headline", "verdict"),
    *((axis, f"verdict_{axis}") for axis in ("hash", "chain", "signature", "lineage", "log")),
)
# What a price book decides in a row of `runs`; of these the words, which are never NULL, and the amounts.
PRICED_WORDS: Final = ("effective_source", "price_status", "price_book")
PRICED_AMOUNTS: Final = ("cost_computed", "cost_lo", "cost_hi", "cost_effective")
PRICED_COLUMNS: Final = (
    *(*PRICED_AMOUNTS, *PRICED_WORDS, "price_basis", "price_as_of"),
    *("token_convention", "convention_evidence", "diff_abs", "diff_rel", "diff_class"),
    *("input_uncached", "cache_read", "cache_write_5m", "cache_write_1h", "output"),
)
# Of these what another book may change; the others follow from it, and `price_book` is where it is from.
FIGURES: Final = (
    *(*PRICED_AMOUNTS, "effective_source", "price_status"),
    *("token_convention", "convention_evidence", "diff_class"),
)
# What opinions decide in a row of `runs`: where none of it differs, a run need not be shown again.
OPINION_COLUMNS: Final = (
    *(column for _, column in AXES),
    *(
        "verdict_reasons",
        "genesis",
        "run_digest",
        "kid",
        "signed_rev",
        "claims_differ",
        "parents",
        "parents_seen",
        "flag",
        *FIGURES,
    ),
)


@dataclass(slots=True)
class Projection:
    """What the store and the topic show of a run: its row of `runs`, its settlements, and the members that are shown."""

    row: dict[str, Any]
    settlements: list[dict[str, Any]]
    doc: dict[str, Any]
    pos: int
    closed: bool

    @property
    def announced(self) -> bool:
        """Whether it is published: it is closed, or was once, as later revisions are told too."""
        return bool(self.settlements)

    def count(self, counter: int) -> None:
        """Set the projection counter, which orders projections of one revision."""
        version = str(projection_version(self.pos, counter))
        self.row.update(projection=counter, _version=version)
        for settlement in self.settlements:
            settlement["_version"] = version

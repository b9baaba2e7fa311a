"""What came of the faults, and the page that says so. Must not live here: faults, or how a terminal shows a table."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from agentrun_stream.testing.chaos.bed import Seen
from agentrun_stream.testing.chaos.faults import FAULTS

_HEAD: Final = """# Faults and what came of them

Made by `pytest -m slow tests/faults` on a real broker, store and workers under load; do not edit. Residual is the audit's
after the session (after `lost offset`: lines in which the other partitions differ from the tests' slow model); the tables
equalled that model, and `agentrun.runs.v1`, read to its end, equalled `runs_latest` key by key.
"""


@dataclass(slots=True)
class Outcome:
    """One fault, over all its injections. `residual` None: no verdict yet."""

    times: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    residual: int | None = None

    @property
    def text(self) -> str:
        """What was seen, the commonest first, and the longest time to catch up."""
        words = [f"{what} ({count}x)" if count < self.times else what for what, count in self.seen.most_common()]
        if self.seconds:
            words.append(f"caught up within {max(self.seconds):.1f} s")
        return "; ".join(words)


class Outcomes:
    """By the fault's name."""

    def __init__(self) -> None:
        self.rows: dict[str, Outcome] = {}
        self.kills: Counter[str] = Counter()

    def add(self, name: str, seen: Seen) -> None:
        """A fault was injected, and this was seen."""
        row = self.rows.setdefault(name, Outcome())
        row.times += 1
        row.seen[seen.words] += 1
        if seen.seconds is not None:
            row.seconds.append(seen.seconds)

    def judged(self, residual: int) -> None:
        """The verdict on everything that has none yet."""
        for row in self.rows.values():
            if row.residual is None:
                row.residual = residual

    def merge(self, other: "Outcomes") -> None:
        """Take the rows of another session."""
        for name, row in other.rows.items():
            mine = self.rows.setdefault(name, Outcome())
            mine.times += row.times
            mine.seen += row.seen
            mine.seconds += row.seconds
            known = [r for r in (mine.residual, row.residual) if r is not None]
            mine.residual = sum(known) if known else None
        self.kills += other.kills

    def listed(self) -> list[dict[str, object]]:
        """The rows in the catalogue's order, as a table or JSON shows them."""
        return [
            {
                "fault": fault.name,
                "what": fault.what,
                "times": self.rows[fault.name].times,
                "seen": self.rows[fault.name].text,
                "residual": self.rows[fault.name].residual,
            }
            for fault in FAULTS
            if fault.name in self.rows
        ]


def page(outcomes: Outcomes) -> str:
    """The page in Markdown."""
    kills = ", ".join(
        f"{count} of the {what}s" if what == "worker" else f"{count} of the {what}"
        for what, count in outcomes.kills.most_common()
    )
    lines = [
        _HEAD,
        f"Kills in all: {kills}.\n",
        "| fault | what is done | times | seen | residual |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += ["| " + " | ".join(str(cell) for cell in row.values()) + " |" for row in outcomes.listed()]
    return "\n".join(lines) + "\n"

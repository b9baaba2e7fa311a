"""Does a run go round in circles? The same tool with the same input, again and again.

The input is known by its preview, so two long inputs that begin alike look the same where previews are cut.
Must not live here: where the calls come from.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class LoopRule:
    """How often the same call makes a loop."""

    times: int = 3


class Call(NamedTuple):
    """A tool, the digest of its input, and how often it was called so. None of both may be unknown."""

    tool: str
    digest: str
    times: int = 1


class Loop(NamedTuple):
    """A tool that was called with the same input so often."""

    tool: str
    times: int


def loops(calls: Iterable[Call], rule: LoopRule) -> list[Loop]:
    """The loops of one run, worst first."""
    counts: Counter[tuple[str, str]] = Counter()
    for tool, digest, times in calls:
        counts[tool, digest] += times
    found = [Loop(tool, times) for (tool, _), times in counts.items() if times >= rule.times]
    return sorted(found, key=lambda loop: (-loop.times, loop.tool))

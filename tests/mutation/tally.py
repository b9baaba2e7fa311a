"""What was switched off or broken, and which seed noticed: a table that the tests print at their end."""

from collections.abc import Callable, Sequence
from typing import Any

Tally = Callable[[str, str, int, str], None]


def table(rows: Sequence[Sequence[Any]]) -> str:
    """The rows as lines of text."""
    lines = [f"{kind:24} {name:44} seed {seed:4}  {said[:90]}" for kind, name, seed, said in rows]
    return "\n".join(["", *lines, f"{len(rows)} of {len(rows)} noticed"])

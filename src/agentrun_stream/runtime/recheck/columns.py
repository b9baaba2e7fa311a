"""Two rows of `runs` side by side: as the projection makes it, and as the store tells it. Must not live here: which columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from agentrun_stream.model.dossier import Row

_CHARS_MAX: Final = 80
_MICRO: Final = 1_000_000


def differing(made: Mapping[str, Any], stored: Row, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(column, what is stored instead of what) of those in which the two differ."""
    for name in names:
        one, other = made[name], stored.get(name)
        same = _SAME.get(name)
        if one != other and (same is None or one is None or other is None or not same(one, other)):
            yield name, f"{_shown(other)} instead of {_shown(one)}"


def _same_moment(made: Any, stored: Any) -> bool:
    return bool(abs(round(datetime.fromisoformat(str(stored)).timestamp() * _MICRO) - round(made * _MICRO)) <= 1)


def _same_amount(made: Any, stored: Any) -> bool:
    return bool(Decimal(str(made)) == Decimal(str(stored)))


_SAME: Final[dict[str, Callable[[Any, Any], bool]]] = {
    **dict.fromkeys(("started_at", "ended_at", "created_at", "judged_at"), _same_moment),
    "cost_reported": _same_amount,
}


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= _CHARS_MAX else f"{text[:_CHARS_MAX]}…"

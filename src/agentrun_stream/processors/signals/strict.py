"""Tables of a TOML file read strictly: every key is known, every value of its kind, and an error names where it stands.

Must not live here: what the keys mean, reading files.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from agentrun_stream.errors import ConfigError

WORKSPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
NEXT_STEP: Final = "Mend the file; the README's part on signals shows one of each kind."

Reader = Callable[[Any, str], Any]


def wrong(where: str, what: str) -> ConfigError:
    """The error for one place of a file."""
    return ConfigError(f"{where}: {what}.", NEXT_STEP)


def read(table: Any, where: str, known: Mapping[str, Reader]) -> dict[str, Any]:
    """The table's values, each through its reader; keys that are not there are left out."""
    if not isinstance(table, dict):
        raise wrong(where, "must be a table")
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise wrong(f"{where}.{key}", "there is no such key" + (f"; did you mean {near[0]}?" if near else ""))
    return {key: known[key](value, f"{where}.{key}") for key, value in table.items()}


def named(reader: Reader, *, workspaces: bool = False) -> Reader:
    """A table whose keys are names, each value through the same reader."""

    def each(table: Any, where: str) -> dict[str, Any]:
        if not isinstance(table, dict):
            raise wrong(where, "must be a table of names")
        for name in table:
            if workspaces and not WORKSPACE.match(name):
                raise wrong(f"{where}.{name}", "is no name that a workspace can have")
        return {name: reader(value, f"{where}.{name}") for name, value in table.items()}

    return each


def number(low: float = 0, high: float = math.inf) -> Reader:
    """A number above `low` and at most `high`, as the digits that stand there; a string of digits will do as well."""

    def one(value: Any, where: str) -> Decimal:
        told = "" if high == math.inf else f" and at most {high:g}"
        plain = isinstance(value, Decimal) and value.is_finite()  # else 0.0000001 would be 1E-7
        text = f"{value:f}" if plain else "" if isinstance(value, bool) else str(value)
        if not re.fullmatch(r"\d{1,15}(\.\d{1,12})?", text) or not low < Decimal(text) <= high:
            raise wrong(where, f"must be a number above {low:g}{told}, with at most 12 decimals")
        return Decimal(text)

    return one


def whole(low: int, high: int) -> Reader:
    """A whole number within bounds, both included."""

    def one(value: Any, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise wrong(where, f"must be a whole number from {low} to {high}")
        return value

    return one

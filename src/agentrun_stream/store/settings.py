"""Settings that every worker must share, because they decide what is stored: kept in the store with an ordinal.

Must not live here: which settings these are (wiring.py).
"""

import time
from collections.abc import Mapping

from clickhouse_connect.driver.client import Client

from agentrun_stream.errors import ConfigError
from agentrun_stream.store.client import execute
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.sql import literal

_CURRENT = (
    "SELECT ordinal, name, value FROM worker_settings FINAL WHERE ordinal = (SELECT max(ordinal) FROM worker_settings)"
)


def current(client: Client) -> tuple[int, dict[str, str]]:
    """The settings in force, with their ordinal; (0, {}) where none were stored yet."""
    ordinal, values = 0, {}
    for number, name, value in rows_of(client, _CURRENT):
        ordinal, values[name] = number, value
    return ordinal, values


def store(client: Client, values: Mapping[str, str]) -> int:
    """Put settings in force under the next ordinal, unless they are already; return the ordinal."""
    ordinal, known = current(client)
    if known == values:
        return ordinal
    now = time.time()
    rows = ", ".join(f"({ordinal + 1}, {literal(n)}, {literal(v)}, {now:.3f})" for n, v in values.items())
    execute(client, f"INSERT INTO worker_settings (ordinal, name, value, stored_at) VALUES {rows}")
    return ordinal + 1


def check(client: Client, values: Mapping[str, str]) -> int:
    """The ordinal of the settings in force. Raises ConfigError where these differ; the first worker stores its own."""
    ordinal, known = current(client)
    if not ordinal:
        return store(client, values)
    differs = sorted(name for name in values.keys() | known.keys() if values.get(name) != known.get(name))
    if differs:
        raise ConfigError(
            f"This worker's settings differ from those in force (number {ordinal}): {', '.join(differs)}.",
            "Two workers with different ones would store different facts. Set them as the others have them "
            "(`agentrun config show`), or stop all workers and put the new ones in force with `agentrun config apply`.",
        )
    return ordinal

"""Inserts: encoded rows of one checkpoint into one table, by one insert that makes one part.

Must not live here: what the rows mean, or what to do when the store refuses.
"""

from collections.abc import Sequence
from typing import Final

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from agentrun_stream.store.client import server_of, translated
from agentrun_stream.store.rows import ARRAY_TABLES
from agentrun_stream.store.sql import INSERT_SETTINGS

_ONE_PART: Final = dict(INSERT_SETTINGS)


def insert(client: Client, table: str, rows: Sequence[bytes], *, into: str | None = None) -> None:
    """Insert encoded rows of `table`, into a table like it where `into` names one.

    Raises StoreError (try again) or StoreRejectedError (never again).
    """
    columns = ARRAY_TABLES.get(table)
    fmt = "JSONEachRow" if columns is None else "JSONCompactEachRow"
    try:
        client.raw_insert(into or table, columns, insert_block=b"\n".join(rows), settings=_ONE_PART, fmt=fmt)
    except (ClickHouseError, HTTPError, OSError) as error:
        raise translated(error, server_of(client)) from None

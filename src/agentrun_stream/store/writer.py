"""Inserts: encoded rows of one checkpoint into one table, by one insert that makes one part.

Must not live here: what the rows mean, or what to do when the store refuses.
"""

from collections.abc import Sequence
from typing import Final

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from agentrun_stream.ports import Part
from agentrun_stream.store.client import execute, server_of, translated
from agentrun_stream.store.rows import ACCRUAL_COLUMNS, ARRAY_TABLES
from agentrun_stream.store.sql import INSERT_SETTINGS, literal

_ONE_PART: Final = dict(INSERT_SETTINGS)
_KEPT: Final = ACCRUAL_COLUMNS[:13]
_VOID: Final = f"""
INSERT INTO accruals ({", ".join(_KEPT)}, appended_at, _version)
SELECT {", ".join(f"a.{name}" for name in _KEPT)}, a.appended_at, a._version
FROM (SELECT * FROM accruals FINAL WHERE {{place}}) AS a
LEFT JOIN
(
    SELECT workspace, run_id, max(_offset) AS folded FROM run_objects
    WHERE (workspace, run_id) IN (SELECT workspace, run_id FROM accruals WHERE {{place}})
    GROUP BY workspace, run_id
) AS o ON o.workspace = a.workspace AND o.run_id = a.run_id
WHERE a.offset > o.folded OR o.run_id = ''
"""


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


def void_accruals(client: Client, part: Part, offset: int) -> None:
    """Upsert rows without amounts over what the ledger has of a partition from an offset on and no object holds yet.

    An event that objects hold is folded already and will not be booked again, so its amounts stay. Of two rows of one
    version the later counts: what is booked again comes after these.
    """
    place = f"topic = {literal(part.topic)} AND partition = {part.partition} AND offset >= {offset}"
    execute(client, _VOID.format(place=place))

"""One connection to the store over HTTP, and what its errors mean for us.

Used through clickhouse-connect everywhere. Must not live here: table names, SQL, decisions about retries.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.httputil import get_pool_manager
from urllib3.exceptions import HTTPError

from agentrun_stream.errors import ConfigError, StoreError, StoreRejectedError

# ClickHouse's codes for what passes: sockets, time-outs, too many parts or queries, read-only, memory, keeper, disk. None is
# about a row, so none may lead to one being set aside.
TRANSIENT_CODES: Final = frozenset({3, 75, 159, 164, 202, 203, 209, 210, 242, 243, 252, 285, 319, 425, 774, 999})
_DENIED_CODES: Final = frozenset({192, 193, 194, 497, 516})
_CODE: Final = re.compile(r"[Cc]ode:?\s*(\d+)")
_TEXT_CHARS_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where the store is and how to log in. Timeouts in seconds."""

    url: str
    database: str = "agentrun"
    user: str = "default"
    password: str = ""
    connect_timeout_s: float = 10.0
    request_timeout_s: float = 60.0


def connect(address: StoreAddress, *, database: str | None = None) -> Client:
    """A thread-safe client. Raises StoreError where nothing answers, ConfigError where the login is refused."""
    try:
        return clickhouse_connect.get_client(
            dsn=address.url,
            username=address.user,
            password=address.password,
            database=database or address.database,
            connect_timeout=address.connect_timeout_s,
            send_receive_timeout=address.request_timeout_s,
            autogenerate_session_id=False,
            query_retries=0,
            compress=False,
            client_name="agentrun-stream",
            pool_mgr=get_pool_manager(maxsize=16, num_pools=2),
        )
    except (ClickHouseError, HTTPError, OSError) as error:
        raise translated(error, address.url) from None


def translated(error: Exception, where: str) -> StoreError | StoreRejectedError | ConfigError:
    """Our error for one of the driver's: transient, refused for good, or a wrong login."""
    text = str(error)
    found = _CODE.search(text)
    code = int(found.group(1)) if found else 0
    if code in _DENIED_CODES:
        return ConfigError(
            f"The store at {where} refuses the login (code {code}).",
            "Check AGENTRUN_CLICKHOUSE__USER and AGENTRUN_CLICKHOUSE__PASSWORD.",
        )
    if code == 81:  # noqa: PLR2004  UNKNOWN_DATABASE
        return ConfigError(f"The store at {where} has no such database (code 81).", "Run `agentrun migrate`.")
    if code in TRANSIENT_CODES or not code:
        said = f"code {code}" if code else "no answer"
        return StoreError(
            f"The store at {where} does not serve now ({said}).",
            "Check that it runs: `agentrun doctor`; the worker tries again by itself.",
            code=code,
        )
    return StoreRejectedError(f"The store at {where} refuses: {_without_values(text)}", code=code)


def _without_values(text: str) -> str:
    """The store's message up to where it may quote a row."""
    head = re.split(r"(?i)(row \d|column \d|text:|while|\(at row|: in scope|expression)", text, maxsplit=1)[0]
    return head.strip()[:_TEXT_CHARS_MAX]


def server_of(client: Client) -> str:
    """Where a client connects to, for messages."""
    return str(getattr(client, "url", "its address"))


def execute(client: Client, sql: str, settings: Mapping[str, Any] | None = None) -> None:
    """Run a statement that returns nothing."""
    try:
        client.command(sql, settings=dict(settings or {}))
    except (ClickHouseError, HTTPError, OSError) as error:
        raise translated(error, server_of(client)) from None


def fetch(
    client: Client,
    sql: str,
    settings: Mapping[str, Any] | None = None,
    fmt: str = "JSONCompactEachRow",
    *,
    parameters: dict[str, Any] | None = None,
) -> bytes:
    """Run a query and return its bytes in `fmt`; `parameters` are bound by the store."""
    try:
        return client.raw_query(sql, parameters=parameters, fmt=fmt, settings=dict(settings or {}))
    except (ClickHouseError, HTTPError, OSError) as error:
        raise translated(error, server_of(client)) from None

"""Migrations: numbered SQL files, applied in order, recorded with their digest. Must not live here: the tables themselves."""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

from clickhouse_connect.driver.client import Client

from agentrun_stream.errors import ConfigError
from agentrun_stream.store.client import StoreAddress, connect, execute
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.sql import literal

_FILE: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql\Z")
_STATEMENT_END: Final = re.compile(r";[ \t]*(?:\n|\Z)")
_COMMENT: Final = re.compile(r"(?m)^--.*\n?")
_RECORD: Final = """
CREATE TABLE IF NOT EXISTS migrations
(number UInt32, name String, digest String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3))
ENGINE = ReplacingMergeTree ORDER BY number
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, its name, its statements."""

    number: int
    name: str
    text: str

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the file."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """The statements, in order."""
        return [s.strip() for s in _STATEMENT_END.split(_COMMENT.sub("", self.text)) if s.strip()]


def migrations() -> list[Migration]:
    """Every migration the package holds, in order."""
    files = resources.files("agentrun_stream.store").joinpath("migrations").iterdir()
    found = [
        Migration(int(match.group(1)), file.name, file.read_text(encoding="utf-8"))
        for file in files
        if (match := _FILE.match(file.name))
    ]
    return sorted(found, key=lambda m: m.number)


def migrate(address: StoreAddress) -> list[str]:
    """Bring the database up to this package; return the names of what was applied.

    Raises ConfigError where the tables are newer than the package, or a recorded migration has another content.
    """
    execute(connect(address, database="default"), f"CREATE DATABASE IF NOT EXISTS {address.database}")
    client = connect(address)
    execute(client, _RECORD)
    known = migrations()
    done = applied(client)
    _check(known, done)
    names = []
    for migration in known:
        if migration.number in done:
            continue
        for statement in migration.statements:
            execute(client, statement)
        values = f"({migration.number}, {literal(migration.name)}, {literal(migration.digest)})"
        execute(client, f"INSERT INTO migrations (number, name, digest) VALUES {values}")
        names.append(migration.name)
    return names


def applied(client: Client) -> dict[int, str]:
    """The digests of the migrations that the store has, by number."""
    return {row[0]: row[1] for row in rows_of(client, "SELECT number, digest FROM migrations FINAL")}


def check_current(address: StoreAddress) -> None:
    """Raise ConfigError unless the tables are exactly those of this package."""
    client = connect(address)
    exists = list(
        rows_of(client, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'migrations'")
    )
    done = applied(client) if exists[0][0] else {}
    known = migrations()
    _check(known, done)
    missing = [m.name for m in known if m.number not in done]
    if missing:
        message = (
            f"The tables in database {address.database} are older than this package: {', '.join(missing)} not applied."
        )
        raise ConfigError(message, "Run `agentrun migrate`, or start the worker with `agentrun work --init`.")


def _check(known: list[Migration], done: dict[int, str]) -> None:
    newest = known[-1].number
    if max(done, default=0) > newest:
        raise ConfigError(
            f"The store's tables are of version {max(done)}, newer than this package knows ({newest}).",
            "Install the version of agentrun-stream that made them, or a newer one.",
        )
    for migration in known:
        if done.get(migration.number, migration.digest) != migration.digest:
            raise ConfigError(
                f"Migration {migration.name} was applied with another content than this package has.",
                "Use the build that made the tables, or a fresh database.",
            )

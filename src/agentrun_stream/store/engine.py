"""The engine behind the store server: a pool of chDB clients on one folder, each used by one thread at a time.

Text that reaches `Engine.query` or `Engine.insert` has passed the guard. No HTTP lives here.
"""

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chdb import _chdb

from agentrun_stream.store.guard import Names

DEFAULT_DATABASE: Final = "default"

_connect: Final[Any] = vars(_chdb)["connect"]  # its stub leaves it out

_SETTINGS: Final = re.compile(r"`(?:[^`\\]|\\.)*`|'(?:[^'\\]|\\.)*'|( SETTINGS )")  # outside of quotes

# What every client of the pool starts with; a query's own settings come on top and go again.
BASE_SETTINGS: Final = {
    "implicit_select": "0",
    "allow_introspection_functions": "0",
    "allow_python_table_function": "0",
    "input_format_values_interpret_expressions": "0",
}


class EngineError(Exception):
    """ClickHouse's own words: `code` and the text after `DB::Exception:`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Call:
    """What a statement runs under."""

    database: str = DEFAULT_DATABASE
    settings: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result's bytes and what it took."""

    body: bytes
    rows_read: int = 0
    bytes_read: int = 0
    rows_written: int = 0
    bytes_written: int = 0
    elapsed_s: float = 0.0


class _Client:
    """One chDB client and what is set on it now."""

    def __init__(self, connection_string: str) -> None:
        self.handle: Any = _connect(connection_string)
        self.database = DEFAULT_DATABASE
        self.settings: dict[str, str] = {}
        self.run(f"SET {_assignments(BASE_SETTINGS)}")

    def run(self, text: str) -> None:
        self.handle.query(text, "Null")

    def prepare(self, call: Call) -> None:
        if call.settings != self.settings:
            gone = {name: BASE_SETTINGS.get(name) for name in self.settings if name not in call.settings}
            wanted = {name: value for name, value in call.settings.items() if self.settings.get(name) != value}
            self.settings = {**self.settings, **wanted}  # should SET fail half way, all of it is undone next time
            self.run(f"SET {_assignments({**gone, **wanted})}")
            self.settings = dict(call.settings)
        if call.database != self.database:
            self.run(f"USE {quote_name(call.database)}")
            self.database = call.database


class Engine:
    """chDB on a folder. Thread safe; `clients_max` calls run side by side."""

    def __init__(self, folder: Path, *, clients_max: int, memory_bytes: int) -> None:
        self._metadata = folder / "metadata"
        self._connection_string = f"{folder}?max_server_memory_usage={memory_bytes}"
        self._free: list[_Client] = []
        self._changed = threading.Condition()
        self._clients_left = clients_max
        self._open_default_database()
        self.version = self.ask("SELECT version()").strip()
        self.timezone = self.ask("SELECT timezone()").strip()
        self.output_formats = self._list("formats WHERE is_output")
        self.input_formats = self._list("formats WHERE is_input")
        self.names = Names(
            table_functions=_lower(self._list("table_functions")),
            functions=_lower(self._list("functions")),
            settings=self._list("settings"),
            merge_tree_settings=self._list("merge_tree_settings"),
        )

    def ask(self, text: str, params: Mapping[str, str] | None = None) -> str:
        """A small answer of the engine's own, as text."""
        return self.query(text, "TSVRaw", Call(params=params or {})).body.decode("utf-8", "replace").removesuffix("\n")

    def query(self, text: str, output_format: str, call: Call) -> Outcome:
        """Run a statement and keep its whole result."""
        with self._client(call) as client, _engine_errors():
            result = client.handle.query(text, output_format, params=dict(call.params))
            return Outcome(
                body=bytes(result.bytes()) if result.size() else b"",
                rows_read=result.storage_rows_read() or result.rows_read(),
                bytes_read=result.storage_bytes_read() or result.bytes_read(),
                rows_written=result.rows_written(),
                bytes_written=result.bytes_written(),
                elapsed_s=result.elapsed(),
            )

    def insert(self, header: str, input_format: str, data: bytes, call: Call) -> Outcome:
        """Insert a body that is wholly here; returns once the table has it, else the engine's error comes back.

        It goes in as a file in memory. chDB's `send_insert` is no faster, and it reports success when the table refuses
        the rows after they were read: a constraint, too many parts, a full disk.
        """
        target, settings = _split_settings(header)
        with self._client(call) as client, _engine_errors(), _file_of(data) as name:
            source = f"FROM INFILE {_quote(name)} COMPRESSION 'none'"
            result = client.handle.query(f"{target} {source}{settings} FORMAT {input_format}", "Null")
            written = result.rows_written(), result.bytes_written()
            return Outcome(b"", rows_written=written[0], bytes_written=written[1], elapsed_s=result.elapsed())

    def close(self) -> None:
        """Close all clients; call when nothing runs any more."""
        with self._changed:
            for client in self._free:
                client.handle.close()
            self._free.clear()

    @contextmanager
    def _client(self, call: Call) -> Iterator[_Client]:
        client = self._take(call)
        try:
            with _engine_errors():
                client.prepare(call)
            yield client
        finally:
            with self._changed:
                self._free.append(client)
                self._changed.notify()

    def _take(self, call: Call) -> _Client:
        with self._changed:
            while not self._free and not self._clients_left:
                self._changed.wait()
            if self._free:
                fitting = (i for i, free in enumerate(self._free) if free.settings == call.settings)
                return self._free.pop(next(fitting, -1))
            self._clients_left -= 1
        return _Client(self._connection_string)

    def _open_default_database(self) -> None:
        """Make `default` a plain database.

        chDB opens it as an overlay that takes table names for files on the machine. Detaching it drops nothing;
        attached again it is the Atomic database in the same folder.
        """
        handle = _connect(self._connection_string)
        try:
            engine = bytes(handle.query("SELECT engine FROM system.databases WHERE name = 'default'", "TSVRaw").bytes())
            if engine.strip() != b"Atomic":
                handle.query("DETACH DATABASE default", "Null")
                if (self._metadata / DEFAULT_DATABASE).exists():
                    handle.query("ATTACH DATABASE default", "Null")
                else:  # never had a table, so there is nothing to attach, and chDB can't
                    (self._metadata / f"{DEFAULT_DATABASE}.sql").unlink(missing_ok=True)
                    handle.query("CREATE DATABASE default ENGINE = Atomic", "Null")
            # The first client keeps the engine open: when the last one goes, chDB shuts the folder.
            self._free.append(_Client(self._connection_string))
            self._clients_left -= 1
        finally:
            handle.close()

    def _list(self, source: str) -> frozenset[str]:
        return frozenset(self.ask(f"SELECT name FROM system.{source}").splitlines())


@contextmanager
def _file_of(data: bytes) -> Iterator[str]:
    """A file of this process that holds `data`, on no disk."""
    with open(os.memfd_create("insert", os.MFD_CLOEXEC), "wb") as file:  # noqa: PTH123 - it has no path
        file.write(data)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _split_settings(header: str) -> tuple[str, str]:
    """`INSERT INTO t (a) SETTINGS b = 1` before and from its settings: where the rows come from stands in between."""
    for found in _SETTINGS.finditer(header):
        if found[1]:
            return header[: found.start()], header[found.start() :]
    return header, ""


def quote_name(name: str) -> str:
    """A name as SQL."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _assignments(settings: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} = {'DEFAULT' if value is None else _quote(value)}" for name, value in settings.items())


def _lower(names: frozenset[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


@contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise read_error(str(error)) from None


def read_error(text: str) -> EngineError:
    """ClickHouse's code and words out of what chDB raises, which sometimes wraps them twice."""
    match = re.search(r"Code: (\d+)\. DB::\w*Exception: ", text)
    if match is None:
        return EngineError(1001, text)
    rest = text[match.end() :]
    while (again := re.match(r"Code: \d+\. DB::\w*Exception: ", rest)) is not None:
        rest = re.sub(r"(\([A-Z_]+\)) \(version [^)]*\)\. \1$", r"\1", rest[again.end() :].rstrip())
    return EngineError(int(match.group(1)), rest.strip())

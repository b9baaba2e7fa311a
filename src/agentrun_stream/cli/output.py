"""How things are printed: tables, JSON, CSV, amounts, times. Everything from a record goes through `clean`.

Must not live here: where the values come from.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentrun_stream.cli.common import printable
from agentrun_stream.telemetry.logs import clean

UNKNOWN: Final = "-"
PIPE_WIDTH: Final = 400
_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?([Ee][+-]?\d+)?\Z")
Rows = Sequence[Mapping[str, Any]]

_STATUS_STYLE: Final = {
    "completed": "green",
    "success": "green",
    "ok": "green",
    "failed": "red",
    "fail": "red",
    "timeout": "yellow",
    "cancelled": "yellow",
    "warn": "yellow",
    "running": "cyan",
    "pending": "cyan",
}


class Output(StrEnum):
    """How a command prints its answer."""

    TABLE = "table"
    JSON = "json"


class QueryOutput(StrEnum):
    """How `query` prints rows."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print.")]


def console(*, err: bool = False) -> Console:
    """A console for one command, made when it is used, so that a test's stdout is the one that is written to."""
    made = Console(stderr=err, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = PIPE_WIDTH  # grep and less want whole lines
    return made


def say(text: str) -> None:
    """One line of progress on stderr."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def write(text: str) -> None:
    """Text on stdout as it stands."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def as_json(value: object) -> None:
    """JSON on stdout, exact but in ASCII: what could steer a terminal is an escape."""
    write(json.dumps(value, default=_plain, indent=2, ensure_ascii=True).replace("\x7f", "\\u007f"))


def as_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """CSV on stdout, without anything that could steer a terminal or a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if columns:
        writer.writerow(columns)
        writer.writerows([_csv_cell(value) for value in row] for row in rows)
        write(out.getvalue())


def csv_line(cells: Sequence[Any]) -> str:
    """One line of CSV, as safe as `as_csv`."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([_csv_cell(value) for value in cells])
    return out.getvalue()


Formats = Mapping[str, Callable[[Any], str]]


def table(title: str, columns: Mapping[str, str], rows: Rows, formats: Formats | None = None) -> None:
    """A table on stdout. `columns` maps a row's keys to headings; unknown values show as a dash, never as 0."""
    console().print(make_table(title, columns, rows, formats))


def make_table(title: str, columns: Mapping[str, str], rows: Rows, formats: Formats | None = None) -> Table:
    """The table itself, for those who print several at once."""
    made = Table(title=Text(title, style="bold") if title else None, title_justify="left", box=None, pad_edge=False)
    cells = [[cell(row.get(name), (formats or {}).get(name)) for name in columns] for row in rows]
    for at, (name, heading) in enumerate(columns.items()):
        numeric = bool(rows) and all(isinstance(row.get(name), int | float | Decimal | None) for row in rows)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        # The first is what a person copies (a run id, a place, a name): on a narrow terminal the others are broken first.
        made.add_column(Text(heading), justify=justify, no_wrap=at == 0, overflow="fold")
    for line in cells:
        made.add_row(*line)
    return made


def cell(value: Any, form: Callable[[Any], str] | None = None) -> Text:
    """One value as text that can steer neither rich nor the terminal."""
    shown = UNKNOWN if value is None else form(value) if form else _shown(value)
    text = clean(shown)
    return Text(text, style=_STATUS_STYLE.get(text, ""))


def money(value: Any) -> str:
    """An amount of dollars as its digits say, at least two after the point."""
    digits = f"{Decimal(str(value)):f}"
    whole, _, fraction = digits.partition(".")
    return f"${whole}.{fraction.rstrip('0').ljust(2, '0')}"


def milliseconds(value: Any) -> str:
    """A duration for people: 340 ms, 12.4 s, 3 m 20 s."""
    ms = float(value)
    if ms < 1_000:  # noqa: PLR2004
        return f"{ms:.0f} ms"
    if ms < 120_000:  # noqa: PLR2004
        return f"{ms / 1_000:.1f} s"
    minutes, seconds = divmod(round(ms / 1_000), 60)
    return f"{minutes} m {seconds:02d} s"


def moment(value: Any) -> str:
    """A time of ISO 8601, to the second."""
    return str(value).replace("T", " ")[:19]


def minute(value: Any) -> str:
    """A time of ISO 8601, to the minute."""
    return moment(value)[:16]


def moment_ms(value: Any) -> str:
    """A time given as milliseconds since 1970."""
    return datetime.fromtimestamp(int(value) / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | dict):
        return json.dumps(value, default=_plain, ensure_ascii=False)
    return _plain(value)


def _csv_cell(value: Any) -> str:
    return "" if value is None else _csv_text(_shown(value))


@lru_cache(maxsize=1024)  # a file says the same again and again
def _csv_text(text: str) -> str:
    safe = printable(text)
    # A spreadsheet would run it, if it is no plain number.
    return f"'{safe}" if safe[:1] in {"=", "+", "-", "@"} and not _NUMBER.match(safe) else safe


def _plain(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)  # never 1E-12

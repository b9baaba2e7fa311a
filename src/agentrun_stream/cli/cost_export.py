"""`agentrun cost export` and `agentrun cost check`: charges as a FOCUS file, and whether a file keeps FOCUS's rules.

Must not live here: what is charged (runtime/charges.py), the rows (runtime/focus.py), the rules (pricing/focus.py).
"""

import asyncio
import csv
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Annotated, Final

import typer

from agentrun_stream.cli.common import DataOption, printable, since, store_for
from agentrun_stream.cli.output import Output, OutputOption, as_json, csv_line, say, table, write
from agentrun_stream.errors import ConfigError, UsageError
from agentrun_stream.store import charges, invoices, prices
from agentrun_stream.store.charges import Span
from agentrun_stream.store.client import connect

app = typer.Typer()

_MONTH: Final = re.compile(r"(\d{4})-(\d\d)\Z")
_LONGEST_MONTH: Final = timedelta(days=31)
_SHOWN_MAX: Final = 20
_PARTIAL: Final = ".partial"
_CELL_CHARS_MAX: Final = 1024 * 1024

SinceOption = Annotated[str | None, typer.Option("--since", help="Runs that settled from then on: 7d, 2026-01-01.")]
UntilOption = Annotated[str | None, typer.Option("--until", help="Runs that settled before: 1d, 2026-02-01.")]
MonthOption = Annotated[str | None, typer.Option("--month", help="Runs that settled in this month: 2026-01.")]


@app.command(epilog="Example: agentrun cost export --focus --month 2026-01 --to january.csv")
def export(
    data: DataOption = None,
    focus: Annotated[bool, typer.Option("--focus", help="As rows of FOCUS 1.2, in CSV.")] = False,
    since_text: SinceOption = None,
    until_text: UntilOption = None,
    month: MonthOption = None,
    workspace: Annotated[str | None, typer.Option(help="Runs of this workspace.")] = None,
    hourly: Annotated[bool, typer.Option("--hourly", help="A row for each hour instead of each day.")] = False,
    to: Annotated[
        Path | None, typer.Option(help="The file to write, replaced when it is whole; default: stdout.")
    ] = None,
) -> None:
    """Export what closed runs are charged for: a row for each meter, price, agent and day (UTC). Unknown stays empty."""
    if not focus:
        raise UsageError("There is one form of export.", "Add --focus.")
    from agentrun_stream.proof import opinions_in_force  # noqa: PLC0415 - the prices take 0.2 s; only this needs them
    from agentrun_stream.runtime import focus as form  # noqa: PLC0415 - as above
    from agentrun_stream.runtime.charges import DAY_S, HOUR_S, Books, charged  # noqa: PLC0415 - as above

    every_s = HOUR_S if hourly else DAY_S
    span = span_of((since_text, until_text, month), workspace, every_s)
    settings, address = store_for(data)
    client = connect(address)
    opinions, covered = asyncio.run(opinions_in_force(settings)), invoices.covered(client)
    books = Books(prices.contents(client))
    before, told = charges.digest(client, span), Counter[str]()
    with _file(to) as out:
        out.write(csv_line(form.HEADER))
        for period in charged(charges.settled(client, span), books, opinions, every_s):
            for row in form.rows(period, every_s, covered):
                out.write(csv_line([row.get(name) for name in form.HEADER]))
                told["rows"] += 1
            for sums in period.values():
                told.update({"runs": sums.runs, "without": sums.unpriced})
    say(f"{told['rows']} rows of {told['runs']} runs, {told['without']} of them without a cost.")
    if charges.digest(client, span) != before:
        say("Runs settled or changed meanwhile, so the file may hold some as they were: export again for one state.")


def span_of(texts: tuple[str | None, str | None, str | None], workspace: str | None, every_s: int) -> Span:
    """The span that `--since`, `--until` and `--month` name, in whole periods. Raises UsageError."""
    since_text, until_text, month = texts
    if month is not None:
        if since_text is not None or until_text is not None:
            raise UsageError("A month has its own beginning and end.", "Leave out --since and --until.")
        return Span(*_month(month), workspace)
    now = datetime.now(UTC)
    first, last = (since(text, now) for text in (since_text, until_text))
    span = Span(workspace=workspace)
    if first is not None:
        span = span._replace(since_s=max(0, int(first.timestamp()) // every_s * every_s))
    if last is not None:
        span = span._replace(until_s=-(-int(last.timestamp()) // every_s) * every_s)
    if span.since_s >= span.until_s:
        raise UsageError("--until is not after --since.", "Name a later --until.")
    return span


def _month(text: str) -> tuple[int, int]:
    found = _MONTH.match(text)
    try:
        first = datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC) if found else None
        after = (first + _LONGEST_MONTH).replace(day=1) if first else None
    except (ValueError, OverflowError):
        first = after = None
    if first is None or after is None:
        raise UsageError(f"{printable(text)!r} is no month.", "Try 2026-01.")
    return max(0, int(first.timestamp())), int(after.timestamp())


@contextmanager
def _file(to: Path | None) -> Iterator[IO[str]]:
    """Where rows go: stdout, or a file that stands under its name only when it is whole."""
    if to is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    partial = to.with_name(to.name + _PARTIAL)
    try:
        with partial.open("w", encoding="utf-8", newline="") as out:
            yield out
        os.replace(partial, to)  # noqa: PTH105 - atomic, and says so
    except OSError as error:
        raise UsageError(f"{to} can't be written: {error.strerror}.", "Check the path.") from None
    finally:
        partial.unlink(missing_ok=True)


@app.command(epilog="Example: agentrun cost check january.csv")
def check(
    file: Annotated[Path, typer.Argument(help="A FOCUS file in CSV; `-` reads stdin.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Check a FOCUS file by FOCUS's column rules, row by row. Exit code 3 where anything is wrong.

    A cost may be empty only where x_PriceStatus says why there is no price, which is ours: FOCUS knows no unpriced usage.
    """
    from agentrun_stream.pricing import focus as rules  # noqa: PLC0415 - only this needs them

    shown: list[Mapping[str, object]] = []
    count = without = rows = 0

    def counted(
        found: Iterator[tuple[int, Mapping[str, str | None]]],
    ) -> Iterator[tuple[int, Mapping[str, str | None]]]:
        nonlocal rows, without
        for line, row in found:
            rows += 1
            without += row.get("BilledCost") is None
            yield line, row

    with opened(file) as source:
        header, found = read_rows(source)
        for problem in rules.check(header, counted(found)):
            count += 1
            if len(shown) < _SHOWN_MAX:
                shown.append(problem._asdict())
    result = {"ok": not count, "rows": rows, "rows_without_cost": without, "problems": count, "first_problems": shown}
    if output is Output.JSON:
        as_json(result)
    elif count:
        table("", {"line": "line", "column": "column", "text": "what is wrong"}, shown)
    else:
        write(f"{rows} rows keep the rules, {without} of them without a cost.")
    if count:
        raise ConfigError(
            f"The file breaks {count} rules.", "See the lines above." if count <= _SHOWN_MAX else "The first are above."
        )


@contextmanager
def opened(file: Path) -> Iterator[IO[str]]:
    """A CSV file to read; `-` is stdin. Raises UsageError."""
    csv.field_size_limit(_CELL_CHARS_MAX)
    try:
        if str(file) == "-":
            yield sys.stdin
            return
        with file.open(encoding="utf-8-sig", newline="") as source:
            yield source
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}.", "Check the path.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is no UTF-8 text.", "Save it as UTF-8.") from None


def read_rows(source: IO[str]) -> tuple[list[str], Iterator[tuple[int, Mapping[str, str | None]]]]:
    """The header of a CSV file, and its rows with their line; an empty cell is None. Raises UsageError."""
    reader = csv.reader(source, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
    except StopIteration:
        raise UsageError("The file is empty.", "Its first line is the header.") from None
    except csv.Error as error:
        raise UsageError(f"Line 1 is no CSV: {error}.", "Save the file as CSV with commas.") from None

    def rows() -> Iterator[tuple[int, Mapping[str, str | None]]]:
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise UsageError(f"Line {reader.line_num} is no CSV: {error}.", "Mend the line.") from None
            if not cells:
                continue
            if len(cells) != len(header):
                said = f"Line {reader.line_num} has {len(cells)} cells, the header {len(header)}."
                raise UsageError(said, "Mend the line; a cell with a comma stands in quotes.")
            yield reader.line_num, {name: cell or None for name, cell in zip(header, cells, strict=True)}

    return header, rows()

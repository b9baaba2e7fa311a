"""`agentrun publish`: files of events or bare runs to the log, every record's acknowledgement counted.

Only what has no run id is kept back; whether an event is valid is the pipeline's business. No schema lives here.
"""

import asyncio
import glob
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from agentrun_stream import limits, topics
from agentrun_stream.broker.bulk import ENVELOPE_BYTES_MAX, BulkProducer
from agentrun_stream.cli.common import EXIT_NO, DataOption, complain, kafka_for, run
from agentrun_stream.cli.output import Output, OutputOption, as_json, console, write
from agentrun_stream.errors import UsageError
from agentrun_stream.model.event import PATCH, RUN, TYPE_OF_KIND

BAD_LINES_SHOWN_MAX: Final = 50
LINE_BYTES_MAX: Final = limits.EVENTS_MESSAGE_BYTES_MAX - ENVELOPE_BYTES_MAX
CHUNK_RECORDS: Final = 500
PACE_S: Final = 0.02  # a rate is kept to this: a flush for each record would be slower than most rates
STDIN_CHUNK_BYTES: Final = 1 * limits.MIB
STDIN_CHUNKS_MAX: Final = 8
_WITH_ID: Final = {TYPE_OF_KIND[RUN], TYPE_OF_KIND[PATCH]}

Line = tuple[str, int, bytes]  # file, line number, what stands there

app = typer.Typer()


@dataclass(slots=True)
class Told:
    """What became of the lines: acknowledged, bad (file, line, why), and how long it took."""

    lines: int = 0
    acknowledged: int = 0
    seconds: float = 0.0
    bad: int = 0
    shown: list[dict[str, object]] = field(default_factory=list)


@app.command(epilog="Example: agentrun publish runs.events.jsonl 'archive/**/*.jsonl' --rate 5000")
def publish(
    files: Annotated[list[str], typer.Argument(help="JSONL files or patterns; - reads stdin.", metavar="FILE...")],
    data: DataOption = None,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Records per second; default: as fast as it goes.")
    ] = None,
    topic: Annotated[str, typer.Option(help="Topic to publish to.")] = topics.EVENTS,
    output: OutputOption = Output.TABLE,
) -> None:
    """Publish JSONL of events or bare runs. A bad line is reported with its number, and the rest goes on."""
    paths = expand(files)
    _, address = kafka_for(data)
    total = None if "-" in paths else sum(Path(path).stat().st_size for path in paths)
    told = run(_publish(BulkProducer(address, topic), paths, rate, total))
    if output is Output.JSON:
        said = {"lines": told.lines, "acknowledged": told.acknowledged, "bad": told.bad, "bad_lines": told.shown}
        as_json({**said, "seconds": round(told.seconds, 3)})
    else:
        speed = told.acknowledged / told.seconds if told.seconds else 0
        text = f"{told.acknowledged} records acknowledged in {told.seconds:.1f} s ({speed:,.0f} a second)"
        write(text + (f", {told.bad} bad lines left out." if told.bad else "."))
    if told.bad:
        raise typer.Exit(EXIT_NO)


def expand(files: Sequence[str]) -> list[str]:
    """The files that names and patterns mean, each once. Raises UsageError for what names none."""
    found: dict[str, None] = {}
    for name in files:
        if name == "-" or Path(name).is_file():
            found[name] = None
            continue
        # Path.glob takes no absolute pattern.
        matches = [m for m in sorted(glob.glob(name, recursive=True)) if Path(m).is_file()]  # noqa: PTH207
        if not matches:
            what = "is a folder" if Path(name).is_dir() else "is not there"
            raise UsageError(
                f"{name} {what}, so nothing was published.",
                f"Name files, or a pattern such as '{name.rstrip('/')}/**/*.jsonl'.",
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def key_of(line: bytes) -> bytes | str:
    """The Kafka key of a line, its run id; or, as text, why the line is bad."""
    if len(line) > LINE_BYTES_MAX:
        return f"larger than a record can be ({LINE_BYTES_MAX} bytes)"
    try:
        obj = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return f"not JSON ({error.msg.partition(':')[0]} at column {error.colno})"
    if not isinstance(obj, dict):
        return "not an object"
    run_id = _run_id(obj)
    if not isinstance(run_id, str) or not run_id:
        return "no run id: an event has it in `subject`, a bare run in `id`"
    return run_id.encode()


def _run_id(obj: dict[str, Any]) -> object:
    if "specversion" not in obj:
        return obj.get("id") if "agent_id" in obj else None
    if (subject := obj.get("subject")) is not None:
        return subject
    inside = obj.get("data")
    return inside.get("id") if isinstance(inside, dict) and obj.get("type") in _WITH_ID else None


async def _publish(producer: BulkProducer, paths: Sequence[str], rate: float | None, total: int | None) -> Told:
    told, started = Told(), time.monotonic()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[sent]:,} records"),
        TimeElapsedColumn(),
        console=console(err=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    with bar:
        task = bar.add_task("publishing", total=total, sent=0)
        try:
            async with producer:
                async for item in _lines(paths, rate):
                    if item is None:
                        await producer.flush()
                        bar.update(task, sent=producer.acknowledged)
                        continue
                    path, number, line = item
                    told.lines += 1
                    key = key_of(line)
                    if isinstance(key, str):
                        _report(told, path, number, key)
                    else:
                        await producer.send(key, line)
                    bar.advance(task, len(line) + 1)
                    if told.lines % CHUNK_RECORDS == 0:
                        bar.update(task, sent=producer.acknowledged)
                        await asyncio.sleep(0)  # the broker's answers want to be heard
        finally:
            told.acknowledged = producer.acknowledged
            told.seconds = time.monotonic() - started
    return told


def _report(told: Told, path: str, number: int, why: str) -> None:
    told.bad += 1
    if told.bad <= BAD_LINES_SHOWN_MAX:
        told.shown.append({"file": path, "line": number, "why": why})
        complain(f"{path}:{number}: {why}")
    elif told.bad == BAD_LINES_SHOWN_MAX + 1:
        complain("Further bad lines are counted, not shown.")


async def _lines(paths: Sequence[str], rate: float | None) -> AsyncIterator[Line | None]:
    """Every line that is not blank, at most `rate` a second; None where what was sent should go out first."""
    started, sent = time.monotonic(), 0
    for path in paths:
        async for line in _stdin() if path == "-" else _file(path):
            yield line
            sent += line is not None
            ahead = started + sent / rate - time.monotonic() if rate is not None else 0.0
            if ahead > PACE_S:
                yield None
                await asyncio.sleep(ahead)


async def _file(path: str) -> AsyncIterator[Line]:
    try:
        with open(path, "rb") as file:  # noqa: ASYNC230, PTH123 - lines of a local file come faster than any hand-over
            for number, line in enumerate(file, 1):
                if stripped := line.strip():
                    yield path, number, stripped
    except OSError as error:
        raise UsageError(
            f"{path} can't be read: {error.strerror}.", "Check its rights; what came before was published."
        ) from None


async def _stdin() -> AsyncIterator[Line | None]:
    """Lines as they come: a pipe may be quiet for hours, and what it said before must not wait for that."""
    loop, chunks = asyncio.get_running_loop(), asyncio.Queue[bytes](STDIN_CHUNKS_MAX)
    stdin = sys.stdin.buffer.raw if hasattr(sys.stdin.buffer, "raw") else sys.stdin.buffer

    def read() -> None:
        with suppress(RuntimeError, CancelledError):  # the command ended first
            while True:
                chunk = stdin.read(STDIN_CHUNK_BYTES) or b""
                asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()
                if not chunk:
                    return

    # A daemon: nothing can wake it from its read when the command is interrupted.
    threading.Thread(target=read, name="stdin", daemon=True).start()
    number, rest = 0, b""
    while chunk := await chunks.get():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            number += 1
            if stripped := line.strip():
                yield "stdin", number, stripped
        if chunks.empty():
            yield None
    if stripped := rest.strip():
        yield "stdin", number + 1, stripped

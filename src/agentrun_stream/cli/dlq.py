"""`agentrun dlq list|show|replay`: what was refused, and a second chance for it.

A payload is printed only when asked for. Must not live here: why records are refused.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from agentrun_stream import limits, topics
from agentrun_stream.broker.admin import show_topics
from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.broker.scan import read_topic
from agentrun_stream.broker.transact import Transactions
from agentrun_stream.cli.common import DataOption, YesOption, client_for, kafka_for, place, run, since
from agentrun_stream.cli.output import Output, OutputOption, as_json, moment_ms, say, table, write
from agentrun_stream.config import Settings
from agentrun_stream.errors import UsageError
from agentrun_stream.model.event import REASONS
from agentrun_stream.runtime.letters import PREFIX
from agentrun_stream.runtime.second_chance import (
    REPLAYED,
    WAITING,
    Judged,
    Stored,
    Wanted,
    chunks,
    judge,
    letter_of,
    object_of,
    set_aside_newer,
    transaction,
)
from agentrun_stream.store.queries import Connection, objects_at
from agentrun_stream.telemetry.logs import clean
from agentrun_stream.wiring import routes

PAYLOAD_CHARS_MAX: Final = 20_000
_OBJECTS_MAX: Final = 1_000
_SHOWN_MAX: Final = 50

app = typer.Typer(name="dlq", help="Refused records: listed, shown, published again.", no_args_is_help=True)

SinceOption = Annotated[
    str | None, typer.Option("--since", help="Only those refused since: 15m, 2h, 7d, or a date or time.")
]
ReasonOption = Annotated[str | None, typer.Option(help="Only those with this reason.")]


@app.command("list", epilog="Example: agentrun dlq list --reason schema")
def list_(
    data: DataOption = None,
    reason: ReasonOption = None,
    since_text: SinceOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """List refused records: why, and where they stand on the log."""
    _, address = kafka_for(data)
    wanted = Wanted(_reason(reason), since(since_text, datetime.now(UTC)))
    letters = run(judged_letters(address, wanted, limits.REPLAY_ATTEMPTS_MAX))
    rows = [one.row() for one in reversed(letters[-limit:])]
    if output is Output.JSON:
        as_json(rows)
    elif not rows:
        write("No record was refused." if reason is None else f"No record was refused for {reason}.")
    else:
        columns = {
            "reason": "reason",
            "detail": "detail",
            "place": "place",
            "attempt": "attempt",
            "state": "state",
            "refused_at": "refused",
        }
        table("", columns, rows, {"refused_at": moment_ms})
        if len(letters) > limit:
            say(f"{len(letters) - limit} older ones are not shown; see them with --limit {len(letters)}.")


@app.command(epilog="Example: agentrun dlq show agentrun.events.v1:0:42 --payload")
def show(
    where: Annotated[str, typer.Argument(help="Where it stands on the log.", metavar="TOPIC:PARTITION:OFFSET")],
    data: DataOption = None,
    payload: Annotated[bool, typer.Option("--payload", help="Print its value too.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one refused record; its payload only with --payload."""
    part, offset = place(where)
    _, address = kafka_for(data)
    wanted = f"{part.topic}:{part.partition}:{offset}"
    found = run(judged_letters(address, Wanted(places=frozenset({wanted})), limits.REPLAY_ATTEMPTS_MAX))
    if not found:
        raise UsageError(f"No dead letter is about {wanted}.", "See `agentrun dlq list`.")
    letter = found[-1].letter
    value = (letter.record.value or b"").decode("utf-8", "backslashreplace")
    row = found[-1].row() | {"headers": {k: v.decode("utf-8", "backslashreplace") for k, v in letter.record.headers}}
    if output is Output.JSON:
        as_json(row | ({"payload": value} if payload else {}))
        return
    lines = [{"name": name, "value": text} for name, text in row.items() if name != "headers"]
    lines += [{"name": name, "value": text} for name, text in row["headers"].items() if not name.startswith(PREFIX)]
    table("", {"name": "", "value": ""}, lines)
    if payload:
        write(clean(value, PAYLOAD_CHARS_MAX))


@app.command(epilog="Example: agentrun dlq replay --reason unknown_type --yes")
def replay(
    data: DataOption = None,
    reason: ReasonOption = None,
    since_text: SinceOption = None,
    where: Annotated[
        list[str] | None, typer.Option("--place", help="Only this TOPIC:PARTITION:OFFSET; may be repeated.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Records a second.")] = 100.0,
    attempts_max: Annotated[
        int, typer.Option("--attempts-max", min=1, help="What was refused so often stays where it is: parked.")
    ] = limits.REPLAY_ATTEMPTS_MAX,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Publish refused records again, each with its own key, value and headers. A dry run unless --yes is given.

    May be stopped or killed at any point and run again: what was published is known and not published twice. Left out is
    what was replayed already, what is parked, and what the store holds something newer of.
    """
    settings, address = kafka_for(data)
    places = frozenset(f"{p.topic}:{p.partition}:{offset}" for p, offset in map(place, where or ()))
    wanted = Wanted(_reason(reason), since(since_text, datetime.now(UTC)), places)
    judged = run(judged_letters(address, wanted, attempts_max))
    _set_aside_newer(client_for(data), settings, judged)
    told = [one for one in judged if one.state != REPLAYED]
    chosen = [one for one in told if one.state == WAITING]
    acknowledged = run(_send(address, settings.worker.group, judged, rate)) if yes and chosen else 0
    if output is Output.JSON:
        rows = [one.row() for one in told]
        as_json({"chosen": len(chosen), "acknowledged": acknowledged, "dry_run": not yes, "records": rows})
        return
    _print_states(told)
    if yes:
        write(
            f"{acknowledged} records were published again; what is still wrong comes back with its attempt one higher."
        )
    else:
        write(f"A dry run: {len(chosen)} records would be published again. Do it with --yes.")


async def judged_letters(address: KafkaAddress, wanted: Wanted, attempts_max: int) -> list[Judged]:
    """The letters that are asked for, each once, oldest first, with what became of them."""
    letters = []
    async for _, records in read_topic(address, topics.DEAD_LETTERS):
        letters += [letter for letter in map(letter_of, records) if wanted.takes(letter)]
    receipts = set()
    known = {state.name for state in await show_topics(address) if state.partitions is not None}
    if topics.REPLAYS in known:
        async for _, records in read_topic(address, topics.REPLAYS):
            receipts |= {(record.key or b"").decode("utf-8", "replace") for record in records}
    return judge(letters, frozenset(receipts), attempts_max)


def _set_aside_newer(client: Connection, settings: Settings, judged: Sequence[Judged]) -> None:
    mapped, default = routes(settings)
    for at in range(0, len(judged), _OBJECTS_MAX):
        some = [one for one in judged[at : at + _OBJECTS_MAX] if one.state == WAITING]
        abouts = {one.letter.identity: object_of(one.letter, mapped.get(one.letter.topic, default)) for one in some}
        objects = {identity: about for identity, about in abouts.items() if about is not None}
        found = objects_at(client, [key for key, _ in objects.values()])
        set_aside_newer(some, objects, {key: Stored(*when) for key, when in found.items()})


async def _send(address: KafkaAddress, group: str, judged: Sequence[Judged], rate: float) -> int:
    """Publish the waiting ones, transaction by transaction, no faster than `rate`."""
    acknowledged, began = 0, time.monotonic()
    names = sorted({one.letter.topic for one in judged if one.state == WAITING} | {topics.REPLAYS})
    async with Transactions(address, f"{group}-dlq-replay", names) as transactions:
        for letters in chunks(judged, rate):
            await asyncio.sleep(max(0.0, began + acknowledged / rate - time.monotonic()))
            await transactions.commit(transaction(letters, time.time_ns() // 1_000_000))
            acknowledged += len(letters)
    return acknowledged


def _print_states(judged: Sequence[Judged]) -> None:
    counts: dict[tuple[str, str], int] = {}
    for one in judged:
        key = (one.state, one.letter.said.get("reason", "?"))
        counts[key] = counts.get(key, 0) + 1
    if counts:
        rows = [{"state": state, "reason": reason, "records": n} for (state, reason), n in sorted(counts.items())]
        table("", {"state": "state", "reason": "reason", "records": "records"}, rows)
    kept = [one.row() for one in judged if one.state != WAITING]
    if kept:
        columns = {"state": "left out", "place": "place", "attempt": "attempt", "reason": "reason"}
        table("", columns, kept[:_SHOWN_MAX])
        if len(kept) > _SHOWN_MAX:
            say(f"{len(kept) - _SHOWN_MAX} more are left out; see them all with -o json.")


def _reason(text: str | None) -> str | None:
    if text is not None and text not in REASONS:
        raise UsageError(f"{clean(text)!r} is no reason to refuse.", f"Reasons: {', '.join(REASONS)}.")
    return text

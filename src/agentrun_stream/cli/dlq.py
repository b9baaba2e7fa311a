"""`agentrun dlq list|show|replay`: what was refused, and a second chance for it.

A payload is printed only when asked for. Must not live here: why records are refused.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from agentrun_stream import topics
from agentrun_stream.broker.bulk import BulkProducer
from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.broker.scan import read_topic
from agentrun_stream.cli.common import DataOption, YesOption, kafka_for, place, run
from agentrun_stream.cli.output import Output, OutputOption, as_json, moment_ms, say, table, write
from agentrun_stream.errors import UsageError
from agentrun_stream.model.event import REASONS
from agentrun_stream.ports import Record
from agentrun_stream.telemetry.logs import clean

PREFIX: Final = "agentrun.dlq."
PAYLOAD_CHARS_MAX: Final = 20_000
_KEPT: Final = f"{PREFIX}first_seen"

app = typer.Typer(name="dlq", help="Refused records: listed, shown, published again.", no_args_is_help=True)

ReasonOption = Annotated[str | None, typer.Option(help="Only those with this reason.")]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: what was refused, and what its headers say about that."""

    record: Record
    said: dict[str, str]

    @property
    def place(self) -> str:
        """Where the refused record stands on the log."""
        return f"{self.said.get('topic', '?')}:{self.said.get('partition', '?')}:{self.said.get('offset', '?')}"

    @property
    def attempt(self) -> int:
        """How many times it was sent."""
        text = self.said.get("attempt", "1")
        return int(text) if text.isdigit() else 1

    @property
    def size(self) -> int:
        """Bytes of its value."""
        return len(self.record.value or b"")

    def row(self) -> dict[str, Any]:
        """What is told of it without its payload."""
        names = ("reason", "detail")
        return {name: self.said.get(name) for name in names} | {
            "place": self.place,
            "attempt": self.attempt,
            "size": self.size,
            "key": None if self.record.key is None else self.record.key.decode("utf-8", "backslashreplace"),
            "refused_at": self.record.timestamp,
        }


@app.command("list", epilog="Example: agentrun dlq list --reason schema")
def list_(
    data: DataOption = None,
    reason: ReasonOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """List refused records: why, and where they stand on the log."""
    _, address = kafka_for(data)
    letters = run(read_letters(address, _reason(reason)))
    rows = [letter.row() for letter in reversed(letters[-limit:])]
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
    found = [letter for letter in run(read_letters(address, None)) if letter.place == wanted]
    if not found:
        raise UsageError(f"No dead letter is about {wanted}.", "See `agentrun dlq list`.")
    letter = found[-1]
    value = (letter.record.value or b"").decode("utf-8", "backslashreplace")
    row = letter.row() | {"headers": {k: v.decode("utf-8", "backslashreplace") for k, v in letter.record.headers}}
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
    where: Annotated[
        list[str] | None, typer.Option("--place", help="Only this TOPIC:PARTITION:OFFSET; may be repeated.")
    ] = None,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Publish refused records again, each with its own key, value and headers. A dry run unless --yes is given."""
    _, address = kafka_for(data)
    places = {f"{p.topic}:{p.partition}:{offset}" for p, offset in map(place, where or ())}
    letters = newest_attempts(run(read_letters(address, _reason(reason))))
    chosen = [letter for letter in letters if not places or letter.place in places]
    acknowledged = run(_send(address, chosen)) if yes and chosen else 0
    if output is Output.JSON:
        as_json(
            {
                "chosen": len(chosen),
                "acknowledged": acknowledged,
                "dry_run": not yes,
                "records": [c.row() for c in chosen],
            }
        )
        return
    counts: dict[str, int] = {}
    for letter in chosen:
        counts[letter.said.get("reason", "?")] = counts.get(letter.said.get("reason", "?"), 0) + 1
    if counts:
        rows = [{"reason": r, "records": n} for r, n in counts.items()]
        table("", {"reason": "reason", "records": "records"}, rows)
    if yes:
        write(
            f"{acknowledged} records were published again; what is still wrong comes back with its attempt one higher."
        )
    else:
        write(f"A dry run: {len(chosen)} records would be published again. Do it with --yes.")


async def read_letters(address: KafkaAddress, reason: str | None) -> list[Letter]:
    """Every dead letter, oldest first."""
    found = []
    async for _, records in read_topic(address, topics.DEAD_LETTERS):
        for record in records:
            said = {
                k.removeprefix(PREFIX): v.decode("utf-8", "replace") for k, v in record.headers if k.startswith(PREFIX)
            }
            if reason is None or said.get("reason") == reason:
                found.append(Letter(record, said))
    return sorted(found, key=lambda letter: letter.record.timestamp)


def newest_attempts(letters: Sequence[Letter]) -> list[Letter]:
    """Each refused record once, as last refused: a crash may write a letter twice, a replay may have failed."""
    newest: dict[tuple[str, bytes | None, bytes], Letter] = {}
    for letter in letters:
        digest = hashlib.sha256(letter.record.value or b"").digest()
        identity = (letter.said.get("topic", ""), letter.record.key, digest)
        held = newest.get(identity)
        if held is None or letter.attempt >= held.attempt:
            newest[identity] = letter
    return list(newest.values())


def again(letter: Letter) -> list[tuple[str, bytes]]:
    """The headers with which a record is published again: its own, and the attempt one higher."""
    own = [(k, v) for k, v in letter.record.headers if not k.startswith(PREFIX) or k == _KEPT]
    return [*own, (f"{PREFIX}attempt", str(letter.attempt + 1).encode())]


async def _send(address: KafkaAddress, letters: Sequence[Letter]) -> int:
    acknowledged = 0
    for topic in sorted({letter.said.get("topic", topics.EVENTS) for letter in letters}):
        async with BulkProducer(address, topic) as producer:
            for letter in letters:
                if letter.said.get("topic", topics.EVENTS) == topic:
                    await producer.send(letter.record.key, letter.record.value, again(letter))
                    await asyncio.sleep(0)
        acknowledged += producer.acknowledged
    return acknowledged


def _reason(text: str | None) -> str | None:
    if text is not None and text not in REASONS:
        raise UsageError(f"{clean(text)!r} is no reason to refuse.", f"Reasons: {', '.join(REASONS)}.")
    return text

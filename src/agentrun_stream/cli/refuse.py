"""`agentrun refuse PLACE`: sets an event aside that the store won't take, so that its partition goes on."""

import time
from typing import Annotated, Any, Final

import orjson
import typer

from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.broker.scan import Span, read_partition
from agentrun_stream.cli.common import DataOption, YesOption, confirm, kafka_for, place, run
from agentrun_stream.cli.output import Output, OutputOption, as_json, write
from agentrun_stream.codec.cloudevents import DEFAULT_WORKSPACE, Route, attempt_of, decode
from agentrun_stream.errors import UsageError
from agentrun_stream.model.event import Refusal
from agentrun_stream.model.ledger import named_objects
from agentrun_stream.ports import Part, Record
from agentrun_stream.store import rows
from agentrun_stream.store.client import connect
from agentrun_stream.store.queries import accruals_at, refused_at
from agentrun_stream.store.reader import set_aside
from agentrun_stream.store.writer import insert
from agentrun_stream.telemetry.logs import clean
from agentrun_stream.wiring import routes, store_address

REASON: Final = "sink_rejected"
TEXT_CHARS_MAX: Final = 60

app = typer.Typer()


@app.command(epilog="Example: agentrun refuse agentrun.events.v1:0:42 --reason 'date beyond the column'")
def refuse(
    where: Annotated[str, typer.Argument(help="Where the record stands on the log.", metavar="TOPIC:PARTITION:OFFSET")],
    reason: Annotated[str, typer.Option(help="Why, in your words; it stands in the dead letter.")],
    data: DataOption = None,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Refuse the record that a store won't take, so that its partition goes on. It goes to the dead letters, whole."""
    part, offset = place(where)
    keyword = clean(reason, TEXT_CHARS_MAX)
    if not keyword:
        raise UsageError("The reason is empty.", "Say why with --reason 'in your words'.")
    settings, address = kafka_for(data)
    if part.topic not in settings.events_topics:
        raise UsageError(f"Workers do not read {part.topic}.", f"They read {', '.join(settings.events_topics)}.")
    record = run(_record(address, part, offset))
    client = connect(store_address(settings))
    stands = refused_at(client, part, offset)
    if stands is not None:
        raise UsageError(
            f"{where} is refused already ({stands['reason']}).", "The worker goes on by itself; see `agentrun status`."
        )
    confirm(f"Set {where} ({len(record.value or b'')} bytes) aside for good?", yes=yes)
    mapped, default = routes(settings)
    workspace, run_id, named = _identity(record, mapped.get(part.topic, default))
    # The ledger first: the other way round, a crash in between would leave its amounts without an event. Above every
    # version that a worker books this event with: the number of those set aside before.
    ledger = {(object_id, workspace, run_id, basis) for object_id, basis in named}
    booked = accruals_at(client, part, offset)
    ledger |= {(r["object_id"], r["workspace"], r["run_id"], r["basis"]) for r in booked}
    version = max([len(set_aside(client, part)), *(r["_version"] for r in booked)]) + 1
    zeros = [_zero(part, record, name, version) for name in sorted(ledger)]
    insert(client, "accruals", [_encoded("accruals", zero) for zero in zeros])
    insert(client, "refused", [_encoded("refused", _refused(part, record, workspace, keyword))])
    if output is Output.JSON:
        as_json(
            {"refused": where, "reason": REASON, "text": keyword, "workspace": workspace, "ledger_rows": len(zeros)}
        )
    else:
        write(f"{where} is refused ({REASON}: {keyword}). The worker tries its partition again within seconds.")


async def _record(address: KafkaAddress, part: Part, offset: int) -> Record:
    async for records in read_partition(address, part, Span(offset, offset + 1)):
        return records[0]
    raise UsageError(
        f"There is no record at {part.topic}:{part.partition}:{offset}.",
        "The message of the stopped partition names the place.",
    )


def _identity(record: Record, route: Route) -> tuple[str, str, list[tuple[str, str]]]:
    """Workspace and run of an event, and the objects (id, basis) that it may have booked."""
    event = decode(record.value, record.key, record.headers, record.timestamp, route)
    if isinstance(event, Refusal):
        return event.workspace or DEFAULT_WORKSPACE, (record.key or b"").decode("utf-8", "replace"), [("", "run")]
    return event.workspace, event.run_id, [*named_objects(event), ("", "run")]


def _encoded(table: str, values: dict[str, Any]) -> bytes:
    """One row as `insert` takes it; what is not named is unknown."""
    columns = rows.ARRAY_TABLES.get(table)
    return orjson.dumps(values if columns is None else [values.get(name) for name in columns])


def _zero(part: Part, record: Record, name: tuple[str, str, str, str], version: int) -> dict[str, Any]:
    object_id, workspace, run_id, basis = name
    return {
        "minute": record.timestamp // 60_000 * 60,
        "topic": part.topic,
        "partition": part.partition,
        "offset": record.offset,
        "object_id": object_id,
        "workspace": workspace,
        "run_id": run_id,
        "basis": basis,
        "appended_at": record.timestamp / rows.MS,
        "_version": version,
    }


def _refused(part: Part, record: Record, workspace: str, keyword: str) -> dict[str, Any]:
    return {
        "topic": part.topic,
        "partition": part.partition,
        "offset": record.offset,
        "workspace": workspace,
        "reason": REASON,
        "pointer": "",
        "keyword": keyword,
        "size": len(record.value or b""),
        "attempt": attempt_of(record.headers),
        "appended_at": record.timestamp / rows.MS,
        "refused_at": time.time(),
        "_version": 1,
    }

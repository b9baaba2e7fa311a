"""`agentrun reprice`: what the price book in force makes of stored runs; with --yes their owners project them again.

Must not live here: prices, which run gets another row.
"""

import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from agentrun_stream import limits
from agentrun_stream.cli.common import DataOption, printable, run, since, store_for
from agentrun_stream.cli.output import Output, OutputOption, as_json, console, money, say, table, write
from agentrun_stream.config import Settings
from agentrun_stream.errors import ConfigError, UsageError
from agentrun_stream.store import prices, reader, reprice
from agentrun_stream.store.client import connect
from agentrun_stream.store.queries import Connection
from agentrun_stream.store.reprice import Beside, Request, Wanted

app = typer.Typer()

_POLL_S: Final = 0.5
_PAGE: Final = 50_000
_MICRO: Final = 1_000_000
_MODEL: Final = {
    "model": "model",
    "runs": "runs",
    "changed": "changed",
    "before": "before",
    "after": "after",
    "difference": "difference",
    "unknown_before": "unknown before",
    "unknown_after": "unknown after",
}
_RUN: Final = {
    "run": "run",
    "workspace": "workspace",
    "model": "model",
    "before": "before",
    "after": "after",
    "difference": "difference",
    "price_status": "status",
}
_MONEY: Final = dict.fromkeys(("before", "after", "difference"), money)


@app.command("reprice", epilog="Example: agentrun reprice --since 2026-02-01 --yes")
def reprice_(
    since_text: Annotated[
        str | None, typer.Option("--since", help="Runs that had not ended then: 15m, 2h, 7d, or a date or time.")
    ] = None,
    data: DataOption = None,
    workspace: Annotated[str | None, typer.Option(help="Only this workspace.")] = None,
    request: Annotated[str | None, typer.Option(help="Wait for an earlier request instead, and report it.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it, and wait until it is done.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Price stored runs again by the prices in force, and report what changes. A dry run unless --yes is given.

    The owners of the partitions do it; a run whose figures stay the same keeps its row. Expired runs keep what they have. May
    be stopped or killed at any point: what was asked for goes on.
    """
    settings, address = store_for(data)
    client = connect(address)
    if request is None:
        wanted = Wanted(_since_us(since_text), workspace or "")
        asked = _asked(client, wanted)
        if not yes:
            _report(asked, _foreseen(settings, client, asked), output, dry_run=True)
            return
        reprice.ask_for(client, asked, "agentrun reprice")
        say(f"Request {asked.id}: the workers do it beside their other work; Ctrl-C leaves it going.")
    else:
        found = reprice.request_of(client, request)
        if found is None:
            raise UsageError(f"There is no request {printable(request)!r}.", "Ask with --since and --yes.")
        asked = found
    _wait(client, asked, settings.events_topics)
    _report(asked, reprice.beside(client, asked.id, _PAGE), output, dry_run=False)


def _since_us(text: str | None) -> int:
    moment = since(text, datetime.now(UTC))
    if moment is None:
        raise UsageError("Since when?", "Give --since, such as 7d or 2026-02-01.")
    return int(moment.timestamp()) * _MICRO + moment.microsecond


def _asked(client: Connection, wanted: Wanted) -> Request:
    held = prices.in_force(client)
    if held is None:
        raise ConfigError("No prices are in force.", "Start a worker, or run `agentrun prices apply`.")
    return Request(secrets.token_hex(4), wanted, held.ordinal, held.digest)


def _foreseen(settings: Settings, client: Connection, asked: Request) -> Iterator[Beside]:
    """What would change, without writing anything."""
    from agentrun_stream.proof import opinions_in_force  # noqa: PLC0415 - the prices take 0.2 s; only this needs them
    from agentrun_stream.runtime.repriced import foreseen  # noqa: PLC0415 - as above

    opinions = run(opinions_in_force(settings))
    for page in reprice.concerned(client, asked.wanted, asked.price_book, limits.LOOKUP_IDS_MAX):
        states = reader.load_runs(client, [row.key for row in page])
        yield from foreseen(page, states, opinions, lambda key, version: reader.evidence(client, key, version))


def _wait(client: Connection, asked: Request, topics: Sequence[str]) -> None:
    """Until every partition is done; whoever waits may go, the owners go on."""
    again = f"see `agentrun reprice --request {asked.id}`"
    try:
        with console(err=True).status("reprice") as line:
            while True:
                left, parts = reprice.undone(client, asked.id, topics)
                if not left:
                    return
                if sys.stderr.isatty():
                    line.update(f"{parts - len(left)} of {parts} partitions are done")
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        say(f"The workers go on with it: {again}.")
        raise


def _report(asked: Request, runs: Iterator[Beside], output: Output, *, dry_run: bool) -> None:
    from agentrun_stream.runtime.repriced import Repriced  # noqa: PLC0415 - as above

    found = Repriced()
    for one in runs:
        found.add(one)
    told = found.told()
    if output is Output.JSON:
        names = {"since": _moment(asked.wanted.since_us), "workspace": asked.wanted.workspace or None}
        said = {"dry_run": dry_run, "request": None if dry_run else asked.id, "price_book": asked.price_book}
        as_json(said | names | told)
        return
    _print(told)
    if dry_run:
        write(f"A dry run by price book {asked.price_book[:12]}: nothing was changed. Do it with --yes.")
    else:
        write(f"Done: request {asked.id}, price book {asked.price_book[:12]}.")


def _print(told: Mapping[str, Any]) -> None:
    if told["by_model"]:
        table("", _MODEL, told["by_model"], _MONEY)
    if told["biggest"]:
        table("Biggest changes of the computed cost", _RUN, told["biggest"], _MONEY)
    write(
        f"{told['runs']} runs are not priced by the book in force; the figures of {told['changed']} change: "
        f"{told['newly_priced']} are newly priced, {told['no_longer_priced']} no longer."
    )
    for name in ("computed", "effective"):
        sums = told[name]
        unknown = f"unknown of {sums['unknown_before']} runs, then of {sums['unknown_after']}"
        write(f"{name}: {money(sums['before'])}, then {money(sums['after'])} ({unknown})")
    if told["expired"]:
        write(f"{told['expired']} expired runs keep the prices that they have.")
    if told["moved_on"]:
        write(f"{told['moved_on']} runs changed meanwhile; they are not in these sums.")


def _moment(since_us: int) -> str:
    return datetime.fromtimestamp(since_us / _MICRO, UTC).isoformat()

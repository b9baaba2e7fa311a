"""`agentrun signals`: what the detectors say of each agent now. Must not live here: judging (processors/signals/)."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import orjson
import typer

from agentrun_stream.cli.common import DataOption, client_for
from agentrun_stream.cli.output import UNKNOWN, Output, OutputOption, as_json, moment, money, table, write
from agentrun_stream.store.queries import ask
from agentrun_stream.store.sql import literal

app = typer.Typer()

_LEVELS: Final = ("over", "warn", "ok")
_ALL_AGENTS: Final = "(all)"
_COLUMNS: Final = {
    "workspace": "workspace",
    "agent": "agent",
    "signal": "signal",
    "level": "level",
    "says": "what it says",
    "refreshed_at": "said at",
}
# A signal without a state is void: nobody has it any more.
_HELD: Final = """
SELECT workspace, agent_id, signal, value, level, state, refreshed_at FROM signals_latest
WHERE state != '{{}}' {where} ORDER BY workspace, agent_id, signal
"""
_PASSES: Final = "SELECT count() AS n FROM signal_progress"


@app.command(epilog="Example: agentrun signals --workspace default --level over")
def signals(
    data: DataOption = None,
    workspace: Annotated[str | None, typer.Option(help="Of this workspace.")] = None,
    agent: Annotated[str | None, typer.Option(help="Of this agent id.")] = None,
    level: Annotated[str | None, typer.Option(help="Of this level: ok, warn or over.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what the detectors say of each agent: failures, velocity, loops, burn rates, budgets."""
    client = client_for(data)
    wanted = (("workspace", workspace), ("agent_id", agent), ("level", level))
    where = "".join(f" AND {column} = {literal(value)}" for column, value in wanted if value is not None)
    rows = [row | {"state": orjson.loads(row["state"])} for row in ask(client, _HELD.format(where=where))]
    if output is Output.JSON:
        as_json({"refreshed": _refreshed(rows, client), "signals": rows})
        return
    if not _refreshed(rows, client):
        write("The refresher has not run yet: it does in the worker that owns partition 0, once runs have closed.")
        return
    if not rows:
        write("No signal matches.")
        return
    rows.sort(key=lambda row: (_LEVELS.index(row["level"]) if row["level"] in _LEVELS else 0, row["workspace"]))
    table("", _COLUMNS, [_shown(row) for row in rows], {"refreshed_at": moment})


def _refreshed(rows: list[dict[str, Any]], client: Any) -> bool:
    """Whether a pass was ever made."""
    return bool(rows) or ask(client, _PASSES)[0]["n"] > 0


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    says = _SAYS[str(row["signal"]).partition("_")[0]]
    return {**row, "agent": row["agent_id"] or _ALL_AGENTS, "says": says(row["value"], row["state"])}


def _failures(value: float, state: Mapping[str, Any]) -> str:
    versions = sorted(state["versions"], key=lambda version: -version["evalue"])
    said = f"e-value {value:.3g}, baseline {state['baseline']:.1%} ({state['basis']})"
    if not versions:
        return said
    worst = versions[0]
    low, high = worst["rate_95"]
    named = " ".join(filter(None, (worst["git_commit"], worst["config_hash"])))
    rate = f"{worst['failed']} of {worst['runs']} runs failed, 95 % between {low:.1%} and {high:.1%}"
    return f"{said}; {rate}{f', version {named}' if named else ''}"


def _velocity(_value: float, state: Mapping[str, Any]) -> str:
    runaways = [f"{run['run_id']} at {money(run['cost'])}" for run in state["runaways"]]
    said = f"{money(state['five_minutes'])} in 5 minutes, {money(state['hour'])} in an hour"
    said = (
        f"{said}; a run may cost {money(state['run_limit'])}{'; over it: ' + ', '.join(runaways) if runaways else ''}"
    )
    return _without_price(said, state)


def _without_price(said: str, state: Mapping[str, Any]) -> str:
    unknown = state.get("unpriced_runs")
    return f"{said}; {unknown} runs without a price" if unknown else said


def _loops(value: float, state: Mapping[str, Any]) -> str:
    return f"{value:g} runs: " + ", ".join(
        f"{run['run_id']} calls {run['tool']} {run['times']} times" for run in state["runs"]
    )


def _burn(_value: float, state: Mapping[str, Any]) -> str:
    return ", ".join(f"rate {rule['rate']} of {rule['threshold']}" for rule in state["rules"])


def _budget(_value: float, state: Mapping[str, Any]) -> str:
    projected = UNKNOWN if state["projected"] is None else money(state["projected"])
    said = f"{money(state['spent'])} of {money(state['limit'])} spent, {projected} projected"
    return _without_price(said, state)


_SAYS: Final[Mapping[str, Callable[[float, Mapping[str, Any]], str]]] = {
    "failures": _failures,
    "velocity": _velocity,
    "loops": _loops,
    "burn": _burn,
    "budget": _budget,
}

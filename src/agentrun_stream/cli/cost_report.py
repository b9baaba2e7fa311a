"""The report of `agentrun cost`: put together, and printed as a table, JSON or CSV.

Must not live here: sums (store/reports.py), what a person means by a period (period.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

from agentrun_stream.cli.output import QueryOutput, as_csv, as_json, console, moment_ms, money, table, write
from agentrun_stream.cli.period import Period
from agentrun_stream.errors import UsageError
from agentrun_stream.store import reports
from agentrun_stream.store.finality import last_audit
from agentrun_stream.store.queries import Connection
from agentrun_stream.store.reports import Asked
from agentrun_stream.telemetry.logs import clean

WIDE: Final = 150
NEVER: Final = "never audited"
_COMPARED: Final = ("previous_runs", "previous_unpriced", "previous_effective", "difference")
_STATE: Final = ("state", "watermark", "late_runs", "late_unpriced", "late_amount", "revision", "open_runs")
_AUDIT: Final = ("audited_at", "audit_residual")
_HEADINGS: Final = {
    "runs": "runs",
    **{status: status for status in reports.STATUSES},
    "input_tokens": "input",
    "output_tokens": "output",
    "cache_read_tokens": "cache read",
    "cache_write_tokens": "cache write",
    "cost_reported": "reported",
    "cost_computed": "computed",
    "cost_effective": "effective",
    "unpriced": "unpriced",
    "unpriced_share": "share",
    "previous_effective": "before",
    "previous_unpriced": "unpriced before",
    "difference": "difference",
}
_ONLY_WIDE: Final = (*reports.STATUSES, *reports.TOKENS, "cost_reported", "cost_computed")
_MONEY: Final = (*reports.AMOUNTS, "previous_effective", "difference")
_MICRO: Final = Decimal("0.000001")

Row = dict[str, Any]


def build(client: Connection, asked: Asked, by: Sequence[str], tz: str, before: Asked | None) -> Row:
    """Everything that a report says. Raises UsageError where no run settled in the period."""
    rows = reports.costs(client, asked, by, tz)
    if not rows:
        open_runs = reports.finality(client, asked)["open_runs"]
        waiting = f" {open_runs} have begun and not ended." if open_runs else ""
        raise UsageError(
            f"There are no runs between {Period(asked.since, asked.until)}.{waiting}",
            "Give another --since, --until or --month, or leave out --workspace and --agent; `agentrun runs` lists runs.",
        )
    total = reports.added(rows)
    told: Row = {"since": _iso(asked.since), "until": _iso(asked.until), "tz": tz, "by": list(by), "compared": None}
    if before is not None:
        theirs = reports.costs(client, before, by, tz)
        rows = reports.compared(rows, theirs, by)
        total = reports.beside(total, reports.added(theirs))
        told["compared"] = {"since": _iso(before.since), "until": _iso(before.until)}
    audit = last_audit(client)
    return told | {
        "rows": [_shared(row) for row in rows],
        "total": _shared(total),
        "finality": reports.finality(client, asked),
        "audit": None if audit is None else asdict(audit) | {"ended_at": _iso_ms(audit.ended_ms)},
    }


def _shared(row: Row) -> Row:
    return row | {"unpriced_share": row["unpriced"] / row["runs"] if row["runs"] else None}


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _iso_ms(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")


def show(report: Row, output: QueryOutput) -> None:
    """Print it."""
    _SHOWN[output](report)


def _csv(report: Row) -> None:
    """One line for each group, and one for the total that also says how final it is: `row` tells them apart."""
    by, beside = report["by"], _COMPARED if report["compared"] else ()
    columns = (*by, *reports.MEASURES, "unpriced_share", *beside, *_STATE, *_AUDIT)
    audit = report["audit"] or {}
    end = report["finality"] | {"audited_at": audit.get("ended_at", NEVER), "audit_residual": audit.get("residual")}
    lines = [("group", row) for row in report["rows"]] + [("total", report["total"] | end)]
    as_csv(("row", *columns), [(kind, *(row.get(name) for name in columns)) for kind, row in lines])


def _table(report: Row) -> None:
    by, rows = report["by"], report["rows"]
    names = [name for name in _HEADINGS if name in report["total"]]
    if console().width < WIDE:
        names = [name for name in names if name not in _ONLY_WIDE]
    first = by[0] if by else "total"
    formats: dict[str, Callable[[Any], str]] = dict.fromkeys(_MONEY, rounded) | {"unpriced_share": _percent}
    # A group's name may be `total` as well, so its line is apart by being the last one.
    columns = {name: name for name in by or [first]} | {name: _HEADINGS[name] for name in names}
    table("", columns, [*(rows if by else ()), report["total"] | {first: "total"}], formats)
    write(_ending(report))


def rounded(value: Any) -> str:
    """An amount for people, rounded half-even to a millionth of a dollar; this is the only place that rounds."""
    amount = Decimal(value).quantize(_MICRO, ROUND_HALF_EVEN)
    return f"-{money(-amount)}" if amount < 0 else money(amount)


def _percent(value: Any) -> str:
    return f"{100 * value:.1f} %"


def _ending(report: Row) -> str:
    """What ends every report: how much is unknown, how final it is, what the last audit found."""
    total, state, audit = report["total"], report["finality"], report["audit"]
    unknown = f"{total['unpriced']} of {total['runs']} runs have no known cost"
    lines = [f"Unpriced: {unknown}; amounts are the known part." if total["unpriced"] else "Unpriced: none."]
    lines += [f"State: {_state(state)}", f"Late: {_late(state)}"]
    if audit is None:
        lines.append(f"Audit: {NEVER}; run `agentrun audit`.")
    else:
        limited = "" if audit["since_ms"] is None else f", only since {moment_ms(audit['since_ms'])}"
        found = f"residual {audit['residual']} over {audit['records']:,} records{limited}"
        lines.append(f"Audit: {audit['ended_at']}, {found}.")
    return "\n".join(lines)


def _state(state: Mapping[str, Any]) -> str:
    mark = state["watermark"]
    stored = "no watermark yet" if mark is None else f"everything appended before {str(mark)[:19]}Z is stored"
    own = {row["state"] for row in state["workspaces"]}
    each = ", ".join(f"{clean(row['workspace'])} {row['state']}" for row in state["workspaces"])
    apart = f" ({each})" if len(own) > 1 else ""
    still = f"; {state['open_runs']} open runs are not in it" if state["open_runs"] else ""
    return f"{state['state']}{apart}; {stored}{still}."


def _late(state: Mapping[str, Any]) -> str:
    if not state["revision"]:
        return "nothing came after its window was final."
    amount = "an unknown amount" if state["late_amount"] is None else rounded(state["late_amount"])
    more = (
        f" and {state['late_unpriced']} unpriced" if state["late_unpriced"] and state["late_amount"] is not None else ""
    )
    runs = f"{state['late_runs']} runs with {amount}{more}"
    return f"{runs} came after their window was final, revision {state['revision']} ({moment_ms(state['revision'])})."


_SHOWN: Final[dict[QueryOutput, Callable[[Row], None]]] = {
    QueryOutput.TABLE: _table,
    QueryOutput.JSON: as_json,
    QueryOutput.CSV: _csv,
}

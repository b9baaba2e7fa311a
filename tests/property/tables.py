"""The tables of a store and the oracle's reading of the same log, both in one plain shape, so that they can be compared.

Must not live here: how either of them came about.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Protocol

import orjson

from agentrun_stream import limits
from agentrun_stream.ports import Part
from agentrun_stream.store.memory import Row
from property import proofs, verdicts
from property.oracle import Json, Oracle, Run, Told, seconds
from property.sums import TOKENS, Amounts, settlements, stated_by, step_sums
from property.verdicts import Opinion, RunKey

Shape = dict[str, dict[Any, Any]]
_STEP_COLUMNS = (
    *("type", "tool_name", "mcp_server", "input_preview", "output_preview", "success", "error"),
    *("started_at", "ended_at", "duration_ms", "tokens_used"),
)
_TOLD = ("_offset", "_source", "_event_time", "_first_appended_at", "_appended_at")
_COUNTS = ("steps", "tool_calls", "failed_tool_calls", "failed_steps", *(f"step_{name}" for name in TOKENS[:4]))
_RUN_MEMBERS = ("agent_id", "model", "provider", "outcome", "duration_ms")

_MORE_MEMBERS = ("error", "parent_run_id")

_SHOWN = (
    *("status", "evals", "evals_passed", "steps_refused", "closed_by", "reopened", "corrections", "revision", "tags"),
    *("first_event_at", "last_event_at", "started_at", "ended_at"),
    *(*_RUN_MEMBERS, *TOKENS, *_COUNTS),
    *(*_MORE_MEMBERS, "run_hash", "lineage"),
)
_VERDICT = (
    *("verdict", "verdict_hash", "verdict_chain", "verdict_signature", "verdict_lineage", "verdict_log"),
    *("kid", "signed_rev", "claims", "claims_differ", "genesis", "run_digest", "flag", "judged_at"),
)
_NOT_SAID = Opinion()


class Rows(Protocol):
    """Any store whose current rows can be had by table, by column name."""

    def rows(self, table: str) -> list[Row]: ...


def differences(store: Rows, *oracles: Oracle, parts: Sequence[Part] = (), opinion: Opinion = _NOT_SAID) -> list[str]:
    """What the tables hold and what they should hold, line by line where they differ. One oracle for each partition."""
    numbers = [part.partition for part in parts] or range(len(oracles))
    got, wanted = of_store(store), of_oracle(oracles[0], numbers[0], opinion)
    for partition, oracle in zip(numbers[1:], oracles[1:], strict=True):
        for table, rows in of_oracle(oracle, partition, opinion).items():
            wanted[table] |= rows
    wanted["verdicts"] = _verdicts(oracles, opinion)
    return [
        f"{table} {key!r}:\n  is     {got[table].get(key)}\n  should {wanted[table].get(key)}"
        for table in wanted
        for key in sorted(got[table].keys() | wanted[table].keys(), key=repr)
        if got[table].get(key) != wanted[table].get(key)
    ]


# ---- the store


def of_store(store: Rows) -> Shape:
    return {
        "objects": _objects(store.rows("run_objects")),
        "runs": {(row["workspace"], row["run_id"]): _run_row(row) for row in store.rows("runs")},
        "settlements": {
            (row["workspace"], row["run_id"], row["minute"]): _settlement_row(row) for row in store.rows("settlements")
        },
        "accrued": _accrued(store),
        "refused": {(row["partition"], row["offset"]): row["reason"] for row in store.rows("refused")},
        "verdicts": {(row["workspace"], row["run_id"]): _verdict_row(row) for row in store.rows("runs")},
        "evidence": {(r["workspace"], r["run_id"], r["offset"]): _signed(r["raw"]) for r in store.rows("evidence")},
    }


def _verdict_row(row: Row) -> Json:
    found = {name: row.get(name) for name in _VERDICT}
    return found | ({"claims_differ": "forgotten"} if row.get("expired_at") is not None else {})


def _signed(raw: str) -> Json:
    value: Json = orjson.loads(raw)
    return value["data"] if "specversion" in value else value


def _objects(rows: list[Row]) -> dict[Any, Any]:
    """Of an expired run the `expired` object alone: the others go at some time."""
    expired = {(r["workspace"], r["run_id"]) for r in rows if r["kind"] == "expired"}
    kept = [r for r in rows if r["kind"] == "expired" or (r["workspace"], r["run_id"]) not in expired]
    return {_object_key(row): _object(row) for row in kept}


def _object_key(row: Row) -> tuple[Any, ...]:
    object_id = row["object_id"]
    if row["kind"] == "eval":
        object_id = tuple(orjson.loads(object_id))
    return row["workspace"], row["run_id"], row["kind"], object_id


def _object(row: Row) -> Any:
    if row["kind"] == "expired":
        return row["_offset"]
    told = tuple(row[name] for name in _TOLD)
    if row["kind"] == "step":
        members = {name: row[name] for name in _STEP_COLUMNS if row[name] is not None}
        return _without_null(members | _json(row["extra"]) | {"metadata": _json(row["metadata"])}), told
    if row["kind"] == "mark":
        seen = _json(row["doc"])
        return tuple(seen[name] for name in ("digest", "conflict", "bare", "origin")), told
    if row["kind"] == "claim":
        extra = _json(row["extra"])
        return row["doc"] and _json(row["doc"]), extra["at"], extra["fork"], told
    return _json(row["doc"]), _json(row["extra"]).get("settled"), told


def _json(text: str | None) -> Json:
    return {} if text is None else orjson.loads(text)


def _without_null(members: Json) -> Json:
    return {k: v for k, v in members.items() if v is not None and v != {}}


def _run_row(row: Row) -> Json:
    shown = {name: row.get(name) for name in _SHOWN}
    shown["cost_reported"] = _money(row.get("cost_reported"))
    shown["eval"] = _json(row.get("eval"))
    return shown


def _money(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _amounts(row: Row, *more: str) -> Amounts:
    names = (*more, *TOKENS, "cost_reported")
    return {name: Decimal(row[name]) for name in names if row.get(name) is not None}


def _settlement_row(row: Row) -> Amounts:
    return _amounts(row, "runs") if row["runs"] else {}


def _accrued(store: Rows) -> dict[Any, Amounts]:
    found: dict[Any, Amounts] = {}
    for row in store.rows("accruals"):
        thing = f"step {row['object_id']}" if row["basis"] == "step" else "run"
        key = (row["minute"], row["workspace"], row["run_id"], row["basis"], thing)
        sums = found.setdefault(key, {})
        for name, amount in _amounts(row).items():
            sums[name] = sums.get(name, Decimal(0)) + amount
    return _without_zeros(found)


def _without_zeros(found: dict[Any, Amounts]) -> dict[Any, Amounts]:
    cleaned = {key: {n: a for n, a in amounts.items() if a} for key, amounts in found.items()}
    return {key: amounts for key, amounts in cleaned.items() if amounts}


# ---- the oracle


def of_oracle(oracle: Oracle, partition: int = 0, opinion: Opinion = _NOT_SAID) -> Shape:
    shape: Shape = {"objects": {}, "runs": {}, "settlements": {}}
    shape["refused"] = {(partition, offset): reason for offset, reason in oracle.refused.items()}
    for (workspace, run_id), run in oracle.runs.items():
        for kind, key, found in _objects_of(run):
            shape["objects"][workspace, run_id, kind, key] = found
        members = verdicts.shown(run, workspace, opinion).members
        if run.told is not None or run.evals:
            shape["runs"][workspace, run_id] = _shown(run, members)
        for minute, amounts in settlements(run, members).items():
            shape["settlements"][workspace, run_id, minute] = amounts
    shape["accrued"] = _without_zeros(oracle.accrued)
    shape["evidence"] = dict(oracle.evidence)
    return shape


def _verdicts(oracles: Sequence[Oracle], opinion: Opinion) -> dict[Any, Any]:
    """Of all partitions at once: parents are anywhere."""
    runs = {k: run for oracle in oracles for k, run in oracle.runs.items() if run.told is not None or run.evals}
    rows: dict[RunKey, proofs.Row] = {k: verdicts.row_of(run, k[0], opinion) for k, run in runs.items()}
    return {key: verdicts.verdict(key, run, rows, opinion) for key, run in runs.items()}


def _objects_of(run: Run) -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    if run.expired_at is not None:
        return [("expired", "", run.expired_at)]
    for step_id, step in run.steps.items():
        members = {k: v for k, v in step.data.items() if k != "id"}
        for name in ("started_at", "ended_at"):
            members[name] = seconds(members.get(name))
        members["extra_member"] = members.get("extra_member")
        found.append(("step", step_id, (_without_null(members), _place(step.told))))
    for key, judged in run.evals.items():
        found.append(("eval", key, (judged.data, None, _place(judged.told))))
    for number, (claim_id, claim) in enumerate(run.claims.items()):
        whole = claim.data if number < limits.CLAIMS_WHOLE_MAX else None
        found.append(("claim", claim_id, (whole, claim.at, claim.fork, _place(claim.told))))
    found += [("mark", step_id, (mark.summary, _place(mark.told))) for step_id, mark in run.marks.items()]
    if run.told is not None:
        found.append(("run", "", (run.members, run.settled, _place(run.told))))
    return found


def _place(told: Told) -> tuple[Any, ...]:
    return told.offset, told.source, told.time, told.first_ms / 1000, told.append_ms / 1000


def _shown(run: Run, members: Json) -> Json:
    """`members` are those of the claim that is shown, or the merged ones."""
    get = members.get
    told = [e.told for e in run.evals.values()] + [c.told for c in run.claims.values()]
    told += [run.told] if run.told else []
    told = run.every_told if run.closed_by else told
    last_offset = max([t.offset for t in told] + ([run.expired_at] if run.expired_at is not None else []))
    stated, provenance = stated_by(members), get("provenance") or {}
    judged = max(run.evals.values(), key=lambda e: e.told.offset, default=None)
    return {
        "status": run.status if members is run.members else get("status"),
        **{name: get(name) for name in _RUN_MEMBERS},
        **{name: None if run.expired_at is not None and name == "error" else get(name) for name in _MORE_MEMBERS},
        "run_hash": provenance.get("run_hash"),
        "lineage": provenance.get("lineage") or [],
        **{name: stated.get(name) for name in TOKENS},
        "cost_reported": stated.get("cost_reported"),
        **_counted(run),
        "evals": len(run.evals),
        "evals_passed": sum(e.data["pass"] for e in run.evals.values()),
        "eval": judged.data if judged and run.expired_at is None else {},
        "steps_refused": run.steps_refused,
        "closed_by": run.closed_by,
        "reopened": run.reopened,
        "corrections": run.corrections,
        "revision": last_offset,
        "first_event_at": min(t.first_ms for t in told) / 1000,
        "last_event_at": max(t.append_ms for t in told) / 1000,
        "started_at": seconds(get("started_at")),
        "ended_at": seconds(get("ended_at")),
        "tags": [] if run.expired_at is not None else get("tags") or [],
    }


def _counted(run: Run) -> Json:
    """Counts and sums of steps, which only a closed run shows."""
    if not run.closed_by:
        return dict.fromkeys(_COUNTS)
    steps = [thing.data for thing in run.steps.values()]
    failed = [s for s in steps if s.get("success") is False]
    sums = step_sums(run)
    counts = (
        len(steps),
        sum(s["type"] == "tool_call" for s in steps),
        sum(s["type"] == "tool_call" for s in failed),
        len(failed),
    )
    return dict(zip(_COUNTS, (*counts, *(sums.get(name) for name in TOKENS[:4])), strict=True))

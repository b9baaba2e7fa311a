"""A run's steps as their signed bytes have them: places in the chain, and the columns that people read.

Must not live here: the chain axis (model/chain.py), columns of runs.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from agentrun_stream.codec.arsig import step_link
from agentrun_stream.codec.cloudevents import time_s
from agentrun_stream.model.chain import Link, Seen
from agentrun_stream.model.dossier import Dossier, Finding, Row, StoredStep
from agentrun_stream.model.run import ClaimFact, MarkFact, StepFact
from agentrun_stream.processors.verify import read_step

_PLAIN: Final = ("type", "tool_name", "mcp_server", "input_preview", "output_preview", "success", "error")
_NUMBERS: Final = ("duration_ms", "tokens_used")
_TIMES: Final = ("started_at", "ended_at")
_KNOWN: Final = frozenset((*_PLAIN, *_NUMBERS, *_TIMES, "id", "metadata"))
_MICRO: Final = 1_000_000


def steps_in(dossier: Dossier, claims: Mapping[str, ClaimFact], findings: list[Finding]) -> dict[str, StepFact]:
    """The steps, each with the place that its bytes have."""
    inside = {key: _inside(claim) for key, claim in claims.items()}
    found = {}
    for step in dossier.steps:
        link = _link(step, findings)
        origin = (step.chain or {}).get("origin") or ""
        signed = inside.get(origin, {}).get(step.id)
        if origin and signed is None:
            findings.append(Finding("step_not_signed", f"step {step.id}"))
            origin = ""
        if signed is None and link is not None and step.doc is not None:
            signed = orjson.loads(step.doc)
        if signed is not None:
            names = ", ".join(_differing(step, signed))
            findings += [Finding("step_columns_differ", f"step {step.id}", names)] if names else []
        columns = step.columns
        found[step.id] = StepFact(0, "", 0.0, 0, 0, columns["type"], columns["success"], None, link, origin)
    return found


def marks_in(dossier: Dossier) -> dict[str, MarkFact]:
    """What other versions of steps left behind. No bytes of these are kept."""
    return {step: MarkFact(0, "", 0.0, 0, 0, Seen(**seen)) for step, seen in dossier.marks.items()}


def _inside(claim: ClaimFact) -> dict[str, Row]:
    """The steps inside a signed snapshot, under the ids that they are stored by."""
    run = orjson.loads(claim.doc or b"{}")
    return {step.get("id") or f"#{at}": step for at, step in enumerate(run.get("steps") or ())}


def _link(step: StoredStep, findings: list[Finding]) -> Link | None:
    """The place of a step by its bytes, held against what its row says."""
    told = step.chain or {}
    arrived = None if step.doc is None else read_step(step.doc.encode())
    link = None if arrived is None else arrived.link
    if step.doc is None and (told.get("digest") is not None or _names_a_place(step)):
        findings.append(Finding("step_bytes_missing", f"step {step.id}"))
    elif (link or (None, None, None)) != tuple(told.get(name) for name in ("seq", "prev", "digest")):
        place = "" if told.get("seq") is None else f"seq {told['seq']}"
        findings.append(Finding("step_bytes_differ", f"step {step.id}", place))
    return link


def _names_a_place(step: StoredStep) -> bool:
    """Whether a step without a place in its row says in its metadata that it has one."""
    metadata = _read(step.columns["metadata"])
    return isinstance(metadata, dict) and step_link({"metadata": metadata}) is not None


def _differing(step: StoredStep, signed: Row) -> Iterator[str]:
    """The columns of a step that show something else than its signed object."""
    columns = step.columns
    if signed.get("id", step.id) != step.id:
        yield "id"
    yield from (name for name in (*_PLAIN, *_NUMBERS) if columns[name] != signed.get(name))
    for name in _TIMES:
        moment = time_s(signed.get(name))
        if columns[name] != (None if moment is None else round(moment * _MICRO)):
            yield name
    if _read(columns["metadata"]) != signed.get("metadata"):
        yield "metadata"
    extra = _read(columns["extra"]) or {}
    if _given(extra) != _given({name: value for name, value in signed.items() if name not in _KNOWN}):
        yield "extra"


def _read(text: str | None) -> Any:
    try:
        return None if text is None else orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _given(members: Any) -> Any:
    return {k: v for k, v in members.items() if v is not None} if isinstance(members, dict) else members

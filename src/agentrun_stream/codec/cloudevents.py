"""Kafka records to events: structured and binary CloudEvents, and bare objects.

The order of the checks is the order of the reasons in the wire contract. Must not live here: Kafka clients, the fold, or
anything that remembers an earlier record.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from agentrun_stream import limits
from agentrun_stream.codec import json_codec, schemas
from agentrun_stream.codec.fast import RUN_ID_CHARS_MAX, WORKSPACE
from agentrun_stream.model.event import EVAL, KIND_OF_TYPE, PATCH, RUN, STEP, Event, Refusal, Times

Headers = Sequence[tuple[str, bytes]]

DEFAULT_WORKSPACE: Final = "default"
ATTEMPT_HEADER: Final = "agentrun.dlq.attempt"
FIRST_SEEN_HEADER: Final = "agentrun.dlq.first_seen"

_STORE_S_MIN: Final = -2_208_988_800.0  # 1900-01-01, the first instant a DateTime64 column holds
_STORE_S_MAX: Final = 10_413_791_999.0  # 2299-12-31T23:59:59, its last second
_DATE_TIME_CHARS: Final = 19
_VALID: Final = {kind: schemas.validator(kind) for kind in schemas.KINDS}
_ENVELOPE_KEYS: Final = ("specversion", "id", "source", "type")  # in this order, so that a refusal is always the same


@dataclass(frozen=True, slots=True)
class Route:
    """What the settings say of a topic: the workspace it maps to, and whether unmapped topics are refused."""

    workspace: str | None = None
    refuse_unmapped: bool = False


NO_ROUTE: Final = Route()


class _RefusedError(Exception):
    def __init__(self, reason: str, pointer: str = "", keyword: str = "") -> None:
        self.refusal = Refusal(reason, pointer, keyword)


def time_s(text: object) -> float | None:
    """Seconds since 1970 of an RFC 3339 time with offset; None where it is not one. Digits below microseconds are dropped."""
    if not isinstance(text, str) or len(text) <= _DATE_TIME_CHARS or text[10] != "T" or text[13] != ":":
        return None
    try:
        moment = datetime.fromisoformat(text)
        return None if moment.tzinfo is None else min(max(moment.timestamp(), _STORE_S_MIN), _STORE_S_MAX)
    except ValueError:
        return None


def decode(value: bytes | None, key: bytes | None, headers: Headers, append_ms: int, route: Route) -> Event | Refusal:
    """Turn one record into its event, or say why it is refused.

    `append_ms` is the broker's append time: it bounds the times inside the object, and is the event time where nothing
    else is. An event whose record came without a key has its run id from subject or object.
    """
    workspace = route.workspace
    try:
        if value is None or not value:
            return Refusal("malformed", keyword="empty", workspace=workspace)
        if len(value) > limits.VALUE_BYTES_MAX:
            return Refusal("oversize", workspace=workspace)
        obj, exact = json_codec.parse(value)
        deep = json_codec.may_be_deep(value)
        if headers and (binary := _binary_attributes(headers)) is not None:
            attributes: dict[str, Any] | None = binary
            data = obj
        elif type(obj) is dict and "specversion" in obj and "type" in obj:
            attributes = obj
            data = obj.get("data")
        else:
            attributes = None
            data = obj
        if deep and json_codec.too_deep(data):
            return Refusal("malformed", keyword="depth", workspace=workspace)
        claimed = attributes.get("workspaceid") if attributes is not None else None
        if claimed is not None and (type(claimed) is not str or not WORKSPACE.match(claimed)):
            raise _RefusedError("schema", "/workspaceid", "pattern")  # noqa: TRY301
        workspace = workspace or claimed or DEFAULT_WORKSPACE
        event = _event(attributes, data, key, workspace)
        event.enveloped = data is not obj
        _check_times(event, attributes, append_ms)
        _check_workspace(event, claimed, route)
        if event.kind in (RUN, PATCH):
            event.cost_raw = _cost_text(event.obj, value, exact=exact, enveloped=event.enveloped)
    except json_codec.MalformedError:
        return Refusal("malformed", keyword="json", workspace=workspace)
    except _RefusedError as refused:
        refused.refusal.workspace = workspace
        return refused.refusal
    return event


def workspace_of(value: bytes | None, headers: Headers, route: Route) -> str:
    """The workspace under which `decode` will put this record, for look-ups ahead; any name where it will be refused."""
    if route.workspace is not None:
        return route.workspace
    claimed: object = None
    if headers:
        claimed = next((v.decode("utf-8", "replace") for k, v in headers if k == "ce_workspaceid" and v), None)
    if claimed is None and value and b"workspaceid" in value:
        try:
            obj, _ = json_codec.parse(value)
        except json_codec.MalformedError:
            return DEFAULT_WORKSPACE
        claimed = obj.get("workspaceid") if isinstance(obj, dict) and "specversion" in obj else None
    return claimed if isinstance(claimed, str) and claimed else DEFAULT_WORKSPACE


def attempt_of(headers: Headers) -> int:
    """How many times this record was sent to the events topic: 1, or what a replay of dead letters wrote."""
    for name, value in headers:
        if name == ATTEMPT_HEADER and value and value.isdigit() and len(value) < 5:  # noqa: PLR2004
            return int(value)
    return 1


def _binary_attributes(headers: Headers) -> dict[str, Any] | None:
    """The `ce_` headers of the Kafka binding as CloudEvents attributes; None where the record is not in binary mode."""
    found = {k[3:]: v for k, v in headers if k.startswith("ce_") and v is not None}
    if "specversion" not in found:
        return None
    try:
        return {k: v.decode() for k, v in found.items()}
    except UnicodeDecodeError:
        raise _RefusedError("malformed", keyword="headers") from None


def _event(attributes: dict[str, Any] | None, data: Any, key: bytes | None, workspace: str) -> Event:
    kind: Any = _bare_kind(data) if attributes is None else _enveloped_kind(attributes)
    if type(data) is not dict:
        raise _RefusedError("schema", "/data" if attributes is not None else "", "type")
    if not _VALID[kind](data):
        rejection = schemas.explain(kind, data)
        raise _RefusedError("schema", rejection.pointer if rejection else "", rejection.keyword if rejection else "")
    event = Event(kind, workspace, _run_id(kind, attributes, data, key), data)
    if attributes is not None:
        event.source = attributes["source"]
    return event


def _enveloped_kind(attributes: dict[str, Any]) -> str:
    for name in _ENVELOPE_KEYS:
        if type(attributes.get(name)) is not str or not attributes[name]:
            raise _RefusedError("schema", f"/{name}", "required")
    kind = KIND_OF_TYPE.get(attributes["type"])
    if attributes["specversion"] != "1.0" or kind is None:
        raise _RefusedError("unknown_type")
    return kind


def _bare_kind(data: Any) -> str:
    if type(data) is dict:
        if "agent_id" in data:
            return RUN
        if "pass" in data and "score" in data:
            return EVAL
        if "type" in data:
            return STEP
    raise _RefusedError("unknown_type")


def _run_id(kind: str, attributes: dict[str, Any] | None, data: dict[str, Any], key: bytes | None) -> str:
    """The run id, on which key, subject and the object's own id must agree where they are given."""
    run_id: str | None = None
    if key is not None:
        try:
            run_id = key.decode()
        except UnicodeDecodeError:
            raise _RefusedError("key_mismatch", keyword="key") from None
    subject = attributes.get("subject") if attributes is not None else None
    own = data["id"] if kind in (RUN, PATCH) else None
    for pointer, name in (("/subject", subject), ("/id", own)):
        if name is None:
            continue
        if run_id is not None and name != run_id:
            raise _RefusedError("key_mismatch", pointer)
        run_id = name
    if not run_id or type(run_id) is not str:
        raise _RefusedError("key_mismatch", keyword="key")
    if len(run_id) > RUN_ID_CHARS_MAX:
        raise _RefusedError("schema", "/subject" if attributes is not None else "", "maxLength")
    return run_id


def _check_times(event: Event, attributes: dict[str, Any] | None, append_ms: int) -> None:
    """Read every time of the object once, hold it against the contract's bounds, and set the event time."""
    obj, latest = event.obj, (append_ms + limits.FUTURE_MS_MAX) / 1000
    if event.kind in (RUN, PATCH, STEP):  # in the other kinds, members of these names are unknown members
        event.times = _span(obj, latest, "")
    times = event.times
    if event.kind in (RUN, PATCH):
        event.step_times = [_span(step, latest, f"/steps/{i}") for i, step in enumerate(obj.get("steps") or ())]
        created = (obj.get("provenance") or {}).get("created_at")
        if created is not None:
            _instant(created, latest, "/provenance/created_at")
    stamp = attributes.get("time") if attributes is not None else None
    if stamp is not None:
        # Most steps end when they are reported: the same text need not be read twice.
        moment = times[1] if times[1] is not None and stamp == obj["ended_at"] else time_s(stamp)
        if moment is None:
            raise _RefusedError("schema", "/time", "format")
        event.time_s, event.stamped = moment, True
    else:
        event.time_s = times[1] or times[0] or append_ms / 1000


def _span(obj: dict[str, Any], latest: float, pointer: str) -> Times:
    started, ended = obj.get("started_at"), obj.get("ended_at")
    return (
        None if started is None else _instant(started, latest, f"{pointer}/started_at"),
        None if ended is None else _instant(ended, latest, f"{pointer}/ended_at"),
    )


def _instant(text: object, latest: float, pointer: str) -> float:
    moment = time_s(text)
    if moment is None:
        raise _RefusedError("schema", pointer, "format")
    if moment < limits.EARLIEST_TIME_S or moment > latest:
        raise _RefusedError("time_out_of_range", pointer)
    return moment


def _check_workspace(event: Event, claimed: str | None, route: Route) -> None:
    if route.refuse_unmapped and route.workspace is None:
        raise _RefusedError("workspace_mismatch", keyword="unmapped_topic")
    if claimed is None or event.kind not in (RUN, PATCH):
        return
    own = event.obj.get("workspace_id")
    if own is not None and str(own) != claimed:
        raise _RefusedError("workspace_mismatch", "/workspace_id")


def _cost_text(obj: dict[str, Any], value: bytes, *, exact: bool, enveloped: bool) -> str | None:
    """The digits of `cost.cost_usd`. Where the bytes are proved to be written as we would, writing the float gives them."""
    number = (obj.get("cost") or {}).get("cost_usd")
    if number is None:
        return None
    if type(number) is int:
        return str(number)
    if exact:
        return json_codec.dumps(number).decode()
    path = ("data", "cost", "cost_usd") if enveloped else ("cost", "cost_usd")
    return json_codec.number_text(value, path)

"""The fast way for the commonest record: a step in a structured envelope, with nothing unusual in it.

It only ever accepts: whatever it is not sure of goes to `cloudevents.decode`, which alone knows how to refuse. A property
test holds the two together. Must not live here: any rule that `decode` does not have.
"""

import re
from datetime import datetime
from sys import intern
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import orjson

from agentrun_stream import limits
from agentrun_stream.codec import schemas
from agentrun_stream.model.event import STEP, TYPE_OF_KIND, Event, Times

# A run that no AgentRun could name is none: the schema's bound holds for every kind of event.
RUN_ID_CHARS_MAX: Final[int] = schemas.load_schemas()["agent-run.json"]["properties"]["id"]["maxLength"]
WORKSPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_MEMBERS: Final[dict[str, Any]] = schemas.load_schemas()["step.json"]["properties"]
STEP_MEMBERS: Final = tuple(_MEMBERS)
_TIME: Final = re.compile(_MEMBERS["ended_at"]["pattern"].removesuffix("$") + r"\Z")
_STEP_TYPE: Final = TYPE_OF_KIND[STEP]
_STEP_MARK: Final = f'"{_STEP_TYPE}"'.encode()
_EARLIEST_S: Final = limits.EARLIEST_TIME_S
_LATEST_STAMP_S: Final = 10_000_000_000.0
_SORTED: Final = orjson.OPT_SORT_KEYS
_SECOND_CHARS: Final = 19
_KEPT_MAX: Final = 4_096
_NULL: Final = msgspec.Raw(b"null")
_PLAIN_TYPES: Final[dict[str, Any]] = {"string": str, "integer": int, "boolean": bool}
_BOUNDS: Final = {"minLength": "min_length", "maxLength": "max_length", "minimum": "ge", "maximum": "le"}

_loads, _dumps, _new = orjson.loads, orjson.dumps, tuple.__new__


def _member(name: str, rules: dict[str, Any]) -> tuple[Any, ...]:
    """A member of the step's schema as a field: (name, type, default). What nests stays bytes."""
    if "object" in rules["type"]:
        return name, msgspec.Raw, _NULL
    if "enum" in rules:
        return name, Literal[tuple(rules["enum"])]
    kind = next(_PLAIN_TYPES[t] for t in _PLAIN_TYPES if t in rules["type"])
    bounds = {ours: rules[theirs] for theirs, ours in _BOUNDS.items() if theirs in rules}
    bounded = Annotated[kind, msgspec.Meta(**bounds)] if bounds else kind
    return (name, bounded) if name == "id" else (name, bounded | None, None)


_text = Annotated[str, msgspec.Meta(min_length=1)]
_Step: Final[Any] = msgspec.defstruct(
    "_Step",
    [_member(name, rules) for name, rules in _MEMBERS.items()],
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,
)
_Envelope: Final[Any] = msgspec.defstruct(
    "_Envelope",
    [
        ("specversion", Literal["1.0"]),
        ("id", _text),
        ("source", _text),
        ("type", Literal[_STEP_TYPE]),
        ("subject", Annotated[str, msgspec.Meta(min_length=1, max_length=RUN_ID_CHARS_MAX)]),
        ("time", str),
        ("data", _Step),
        ("datacontenttype", str, ""),
        ("workspaceid", str | None, None),
    ],
    forbid_unknown_fields=True,
    gc=False,
)
_decode = msgspec.json.Decoder(_Envelope).decode
_members = msgspec.structs.astuple

# The members of a step, in the order of the schema: as they came, what nests as bytes.
Body = tuple[Any, ...]
ID, TYPE, SUCCESS, STARTED_AT, ENDED_AT, DURATION_MS, TOKENS_USED, METADATA = map(
    STEP_MEMBERS.index,
    ("id", "type", "success", "started_at", "ended_at", "duration_ms", "tokens_used", "metadata"),
)


class PlainStep(NamedTuple):
    """A decoded step. `workspace` is what the envelope claims; `metadata` is there as an object and as canonical JSON.

    `read` is what the decoder made of the object, for whoever writes it again.
    """

    run_id: str
    workspace: str | None
    source: str
    time_s: float
    body: Body
    times: Times
    metadata: dict[str, Any] | None
    metadata_json: str | None
    read: Any

    def event(self, workspace: str) -> Event:
        """The same for the general fold; what is null is left out."""
        obj = {name: value for name, value in zip(STEP_MEMBERS, self.body, strict=True) if value is not None}
        obj.pop("metadata", None)
        if self.metadata is not None:
            obj["metadata"] = self.metadata
        event = Event(STEP, workspace, self.run_id, obj, self.source)
        event.time_s, event.stamped, event.times = self.time_s, True, self.times
        return event


# RFC 3339 times in two halves, up to the second and behind it: records come many to a second, so both are mostly known.
_seconds: Final[dict[str, int]] = {}
_fractions: Final[dict[str, float]] = {}


def _instant(text: str) -> float:
    """Seconds since 1970. Raises ValueError for what the schema's pattern refuses.

    The sum is the float that `datetime.timestamp` gives: digits below microseconds are dropped, and a fraction's own error
    (1e-17) is far below the distance of any microsecond from the middle between two floats.
    """
    try:
        return _seconds[text[:_SECOND_CHARS]] + _fractions[text[_SECOND_CHARS:]]
    except KeyError:
        return _learn(text)


def _learn(text: str) -> float:
    if not _TIME.match(text):
        raise ValueError
    moment = datetime.fromisoformat(text)
    if text.endswith("Z"):
        for kept in (_seconds, _fractions):
            if len(kept) >= _KEPT_MAX:
                kept.clear()
        _seconds[text[:_SECOND_CHARS]] = int(moment.replace(microsecond=0).timestamp())
        _fractions[text[_SECOND_CHARS:]] = moment.microsecond / 1_000_000
    return moment.timestamp()


def plain_step(value: bytes | None, key: bytes | None, latest_s: float) -> PlainStep | None:  # noqa: C901, PLR0911, PLR0912
    """The step of a plain record, or None where the record is not one. The caller has made sure that it has no headers.

    `latest_s` is the latest time that the object may state. One function with few calls, because it runs once for almost
    every record. A typed decoder reads and checks the record in one pass: half the cost of parsing, validating by schema
    and writing again to see that no number lost a digit.
    """
    if value is None or key is None or len(value) > limits.VALUE_BYTES_MAX or _STEP_MARK not in value:
        return None
    try:
        envelope = _decode(value)
        run_id, workspace = envelope.subject, envelope.workspaceid
        if run_id.encode() != key or (workspace is not None and not WORKSPACE.match(workspace)):
            return None
        body = _members(read := envelope.data)
        started, ended, stamp = body[STARTED_AT], body[ENDED_AT], envelope.time
        started_s = ended_s = None
        if started is not None:
            started_s = _instant(started)
            if not _EARLIEST_S <= started_s <= latest_s:
                return None
        if ended is not None:
            ended_s = _instant(ended)
            if not _EARLIEST_S <= ended_s <= latest_s:
                return None
        time_s: float = ended_s if stamp == ended else _instant(stamp)  # type: ignore[assignment]
        if not _EARLIEST_S <= time_s <= _LATEST_STAMP_S:
            return None
        metadata, metadata_json = body[METADATA], None
        if metadata is _NULL:
            metadata = None
        else:
            metadata = _loads(raw := bytes(metadata))
            # Written again it is the same: no number lost a digit, no name came twice. Most signers send it sorted already.
            ordered = _dumps(metadata, option=_SORTED)
            if ordered != raw and _dumps(metadata) != raw:
                return None
            if metadata is not None:
                if type(metadata) is not dict:
                    return None
                metadata_json = ordered.decode()
                # The only member that nests: few brackets show that it is not deep.
                if metadata_json.count("{") + metadata_json.count("[") >= limits.OBJECT_DEPTH_MAX:
                    return None
    except (msgspec.DecodeError, ValueError, TypeError):
        return None
    step: PlainStep = _new(
        PlainStep,
        (run_id, workspace, intern(envelope.source), time_s, body, (started_s, ended_s), metadata, metadata_json, read),
    )
    return step

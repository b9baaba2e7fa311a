"""The fast way for the commonest record: a step in a structured envelope, written compactly, with nothing unusual in it.

It only ever accepts: whatever it is not sure of goes to `cloudevents.decode`, which alone knows how to refuse. A property
test holds the two together. Must not live here: any rule that `decode` does not have.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson

from agentrun_stream import limits
from agentrun_stream.codec import schemas
from agentrun_stream.model.event import STEP, TYPE_OF_KIND, Event

STEP_MEMBERS: Final = frozenset(schemas.load_schemas()["step.json"]["properties"])
# A run that no AgentRun could name is none: the schema's bound holds for every kind of event.
RUN_ID_CHARS_MAX: Final[int] = schemas.load_schemas()["agent-run.json"]["properties"]["id"]["maxLength"]
_STEP_TYPE: Final = TYPE_OF_KIND[STEP]
_STEP_MARK: Final = f'"{_STEP_TYPE}"'.encode()
_EARLIEST_S: Final = limits.EARLIEST_TIME_S
_SORTED: Final = orjson.OPT_SORT_KEYS
_valid = schemas.validator(STEP)
_loads, _dumps, _instant, _new = orjson.loads, orjson.dumps, datetime.fromisoformat, tuple.__new__


class PlainStep(NamedTuple):
    """A decoded step: what an Event says of it, as a tuple, because making one costs a tenth."""

    run_id: str
    obj: dict[str, Any]
    source: str
    time_s: float
    times: tuple[float | None, float | None]
    metadata_json: str | None

    def event(self, workspace: str) -> Event:
        """The same as an Event, for the general fold."""
        event = Event(STEP, workspace, self.run_id, self.obj, self.source)
        event.time_s, event.stamped, event.times, event.metadata_json = (
            self.time_s,
            True,
            self.times,
            self.metadata_json,
        )
        return event


def plain_step(value: bytes | None, key: bytes | None, latest_s: float) -> PlainStep | None:  # noqa: C901, PLR0911, PLR0912
    """The step of a plain record, or None where the record is not one. The caller has made sure that it has no headers.

    `latest_s` is the latest time that the object may state. One function with few calls, because it runs once for almost
    every record: measured at two thirds of the general way.
    """
    if value is None or key is None or len(value) > limits.VALUE_BYTES_MAX or _STEP_MARK not in value:
        return None
    try:
        envelope = _loads(value)
        # Written again it is the same: no number lost a digit, no name came twice.
        if type(envelope) is not dict or _dumps(envelope) != value:
            return None
        get = envelope.get
        if get("type") != _STEP_TYPE or get("specversion") != "1.0" or "workspaceid" in envelope:
            return None
        source, event_id, run_id = get("source"), get("id"), get("subject")
        data: Any = get("data")
        if not source or not event_id or not run_id or type(source) is not str or type(event_id) is not str:
            return None
        if type(run_id) is not str or run_id.encode() != key or len(run_id) > RUN_ID_CHARS_MAX:
            return None
        if not _valid(data) or not STEP_MEMBERS.issuperset(data):
            return None
        member = data.get
        metadata, metadata_json = member("metadata"), None
        if metadata is not None:
            # The only member that nests: few brackets show that it is not deep.
            metadata_json = _dumps(metadata, option=_SORTED).decode()
            if metadata_json.count("{") + metadata_json.count("[") >= limits.OBJECT_DEPTH_MAX:
                return None
        started, ended, stamp = member("started_at"), member("ended_at"), get("time")
        started_s = ended_s = None
        if started is not None:
            started_s = _instant(started).timestamp()
            if not _EARLIEST_S <= started_s <= latest_s:
                return None
        if ended is not None:
            ended_s = _instant(ended).timestamp()
            if not _EARLIEST_S <= ended_s <= latest_s:
                return None
        if stamp is None:
            return None
        if stamp == ended:
            time_s = ended_s
        elif stamp == started:
            time_s = started_s
        else:
            return None
    except (ValueError, TypeError):
        return None
    step: PlainStep = _new(PlainStep, (run_id, data, source, time_s, (started_s, ended_s), metadata_json))
    return step

"""The fast way and the general way of decoding say the same, whatever the record; and neither ever raises."""

import json
from random import Random
from typing import Any

import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentrun_stream import limits
from agentrun_stream.codec.cloudevents import Route, decode, workspace_of
from agentrun_stream.codec.fast import METADATA, plain_step
from agentrun_stream.codec.schemas import load_schemas
from agentrun_stream.model.event import Event, Refusal
from property.stories import START_MS, Storyteller, text

FUTURE_S = limits.FUTURE_MS_MAX / 1000
MEMBERS = tuple(load_schemas()["step.json"]["properties"])
TIMES = st.sampled_from(
    [
        text(START_MS),
        text(START_MS + limits.FUTURE_MS_MAX),
        text(START_MS + limits.FUTURE_MS_MAX + 1),
        "2026-01-01T12:00:00.1234567Z",
        "2026-01-01T14:00:00+02:00",
        "2019-12-31T23:59:59Z",
        "2020-01-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-01-01T12:00:00",
        "2026-01-01 12:00:00Z",
        "1970-01-01T00:00:00.000001Z",
        "",
        5,
        None,
    ]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 3),
    st.sampled_from([10**12, 10**12 + 1, 2**63, 2**64 - 1]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
    st.sampled_from(["tool_call", "message", "1.0", "agentrun.step.v1", "x" * 513]),
    TIMES,
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)


@st.composite
def envelopes(draw: st.DrawFn) -> dict[str, Any]:
    """A plain step's envelope, with up to three members of it or of its object replaced, removed or added."""
    ended = draw(TIMES)
    data: dict[str, Any] = {
        "id": "s",
        "type": "tool_call",
        "ended_at": ended,
        "metadata": {"usage": {"input_tokens": 3}},
    }
    envelope: dict[str, Any] = {
        "specversion": "1.0",
        "id": "e",
        "source": "/a",
        "type": "agentrun.step.v1",
        "subject": "run-1",
    }
    envelope |= {"time": ended, "data": data}
    names = ("id", "type", "success", "started_at", "ended_at", "tokens_used", "metadata", "unknown", "tool_name")
    for _ in range(draw(st.integers(0, 3))):
        target, known = draw(st.sampled_from([(data, names), (envelope, (*envelope, "workspaceid", "extension"))]))
        name = draw(st.sampled_from(known))
        if draw(st.booleans()):
            target[name] = draw(JSON)
        else:
            target.pop(name, None)
    return envelope


@st.composite
def records(draw: st.DrawFn) -> tuple[bytes | None, bytes | None]:
    """An envelope written compactly or not, sometimes with a byte changed; and a key that mostly fits."""
    envelope = draw(envelopes())
    style = draw(st.integers(0, 9))
    value = bytearray(json.dumps(envelope).encode() if style == 7 else orjson.dumps(envelope))
    if style > 7:
        value[draw(st.integers(0, len(value) - 1))] = draw(st.integers(0, 255))
    return bytes(value), draw(st.sampled_from([b"run-1", b"run-1", b"run-1", b"run-2", b"\xff", b"", None]))


def agree(value: bytes | None, key: bytes | None, append_ms: int = START_MS) -> bool:
    """Whether the fast way took the record; where it does, the general way must say the same."""
    plain = plain_step(value, key, append_ms / 1000 + FUTURE_S)
    general = decode(value, key, (), append_ms, Route())
    if plain is None:
        return False
    assert isinstance(general, Event), general
    assert (general.kind, general.stamped, general.workspace) == ("step", True, plain.workspace or "default")
    assert (general.run_id, general.source) == (plain.run_id, plain.source)
    assert (general.time_s, general.times) == (plain.time_s, plain.times)
    metadata = general.obj.get("metadata")
    assert plain.metadata == metadata
    assert plain.metadata_json == (
        None if metadata is None else orjson.dumps(metadata, option=orjson.OPT_SORT_KEYS).decode()
    )
    assert plain.body[:METADATA] == tuple(map(general.obj.get, MEMBERS[:METADATA]))
    assert set(general.obj) <= set(MEMBERS)
    assert plain.event("w").obj == {name: value for name, value in general.obj.items() if value is not None}
    return True


@settings(max_examples=1_500)
@given(records())
@example((b'{"specversion":"1.0","type":"agentrun.step.v1","data":null}', b"k"))
@example((b'{"specversion":"1.0","type":"agentrun.step.v1","subject":"\\ud800"}', b"k"))
@example((b"\xef\xbb\xbf{}", b"k"))
@example((b"[" * 2_000, b"k"))
@example((b'{"a":' * 500 + b"1" + b"}" * 500, b"k"))
@example(
    (
        b'{"specversion":"1.0","type":"agentrun.run.v1","x":' + b"[" * 250 + b"]" * 250 + b', "cost":{"cost_usd":1.0}}',
        b"k",
    )
)
@example((None, None))
def test_the_fast_way_agrees_or_stands_back(record: tuple[bytes | None, bytes | None]) -> None:
    """On valid, nearly valid and broken records."""
    agree(*record)


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_every_made_up_event_decodes(seed: int) -> None:
    """And most of the plain steps among them go the fast way."""
    story, taken, steps = Storyteller(Random(seed), workspaces=1), 0, 0
    for event in story.log(20):
        envelope: dict[str, Any] = {"specversion": "1.0", "id": "e", "source": event.source}
        envelope |= {"type": f"agentrun.{event.kind}.v1", "subject": event.run_id, "data": event.data}
        envelope |= {"time": event.time} if event.time else {}
        took = agree(orjson.dumps(envelope), event.run_id.encode(), event.append_ms)
        assert not (took and event.kind != "step")
        plain = "extra_member" not in event.data and not isinstance(event.data.get("tokens_used"), float)
        wanted = event.kind == "step" and event.time is not None and plain
        steps, taken = steps + wanted, taken + took
    assert taken == steps


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_workspaceid", "x"]
        ),
        st.one_of(st.none(), st.binary(max_size=4), st.sampled_from([b"1.0", b"agentrun.step.v1", b"run-1", b"w"])),
    ),
    max_size=8,
)


@settings(max_examples=500)
@given(
    value=st.one_of(st.binary(max_size=40), JSON.map(orjson.dumps)),
    headers=HEADERS,
    key=st.sampled_from([None, b"run-1"]),
)
@example(value=b'{"pass":true,"score":1}', headers=[("ce_specversion", b"1.0"), ("ce_type", None)], key=b"run-1")
def test_decoding_never_raises(value: bytes, headers: list[tuple[str, Any]], key: bytes | None) -> None:
    """Whatever the bytes, also headers without a value: bad input is a value on its way to the dead letters."""
    assert isinstance(decode(value, key, headers, START_MS, Route()), Event | Refusal)
    assert workspace_of(value, headers, Route())


def test_a_run_id_that_no_run_could_have_is_refused() -> None:
    """For every kind of event, and by the fast way too: the published key and record must fit."""
    for length, taken in ((512, True), (513, False)):
        run_id = "r" * length
        data = {"id": "s", "type": "error", "ended_at": text(START_MS)}
        envelope = {"specversion": "1.0", "id": "e", "source": "/a", "type": "agentrun.step.v1", "subject": run_id}
        value = orjson.dumps(envelope | {"time": text(START_MS), "data": data})
        assert agree(value, run_id.encode()) == taken
        refused = decode(value, run_id.encode(), (), START_MS, Route())
        assert taken or (isinstance(refused, Refusal) and (refused.reason, refused.keyword) == ("schema", "maxLength"))

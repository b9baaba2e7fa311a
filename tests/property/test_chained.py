"""The fast way for chained steps: where it takes a record, the strict reader says the same of it; else it stands back."""

from typing import Any

import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentrun_stream.codec.chained import chained_plainly
from agentrun_stream.codec.fast import plain_step
from agentrun_stream.processors.verify import read_step

LATEST_S = 4e9
SORTED = orjson.OPT_SORT_KEYS
NUMBERS = st.one_of(st.integers(-(2**63), 2**63), st.floats(), st.sampled_from([1.0, 1e16, 1e-5, 2**53, -0.0, 1e21]))
NAMES = st.sampled_from(["a", "usage", "é", "\ue000", "\U0001f600", "\u2028", '"', "arsig", "type"])
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5))
OPEN = st.dictionaries(NAMES, LEAVES | st.dictionaries(NAMES, LEAVES, max_size=2), max_size=3)
LINKS = st.one_of(
    st.fixed_dictionaries({"seq": st.integers(0, 3), "prev": st.sampled_from(["0" * 64, "", "\u2028"])}),
    st.fixed_dictionaries({"seq": LEAVES, "prev": LEAVES}),
    LEAVES,
)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A step with something for a chain in its metadata, written as producers and as attackers do."""
    step: dict[str, Any] = {"id": "s", "type": "message", "started_at": "2026-01-01T12:00:00Z"}
    step["metadata"] = {**draw(OPEN), "arsig": draw(LINKS)}
    step["output_preview"] = draw(st.text(max_size=6) | st.none())
    if draw(st.booleans()):
        step["tokens_used"] = draw(st.integers(0, 9))
    data = orjson.dumps(step, option=SORTED if draw(st.integers(0, 3)) else 0, default=str)
    head = (
        b'{"specversion":"1.0","id":"e","source":"/a","type":"agentrun.step.v1","subject":"r",'
        b'"time":"2026-01-01T12:00:00Z","data":'
    )
    raw = bytearray(head + data + b"}")
    trick = draw(st.integers(0, 10))
    if trick == 10:
        raw = raw.replace(b'"id":"e","source"', b'"id":"datacontenttype","source":"/b","source"', 1)
    elif trick == 0:
        raw = raw.replace(b'"id":"e"', b'"id":"e","id":"f"', 1)
    elif trick == 1:
        raw = raw.replace(b'"type":"message"', b'"type":"error","type":"message"', 1)
    elif trick == 2:
        raw = raw.replace(b'"data":', b'"data":null,"data":', 1)
    elif trick == 3:
        raw = raw.replace(b",", b", ", 1)
    elif trick == 4:
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw)


PLAIN = (
    b'{"specversion":"1.0","id":"e","source":"/a","type":"agentrun.step.v1","subject":"r","time":"2026-01-01T12:00:00Z",'
    b'"data":{"id":"s","metadata":{"arsig":{"prev":"00","seq":1}},"type":"message"}}'
)


@settings(max_examples=1_500)
@given(records())
@example(PLAIN)
@example(PLAIN.replace(b'"id":"e","source"', b'"id":"datacontenttype","source":"/b","source"'))
def test_the_fast_way_agrees_or_stands_back(raw: bytes) -> None:
    step = plain_step(raw, b"r", LATEST_S)
    if step is None or step.metadata is None or "arsig" not in step.metadata:
        return
    found = chained_plainly(raw, step)
    if found is not None:
        assert read_step(raw) == (found,)


def test_what_our_own_signer_sends_goes_the_fast_way() -> None:
    step = plain_step(PLAIN, b"r", LATEST_S)
    assert step is not None
    assert chained_plainly(PLAIN, step) is not None

"""Canonical bytes are RFC 8785's whichever way they are made: by the fast path, by rfc8785, by JavaScript itself."""

import json
import os
import shutil
import subprocess
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentrun_stream.codec.canonical import jcs
from agentrun_stream.codec.strict_json import UnreadableError, read

SAFE = 2**53 - 1
# Names around the places where UTF-8 and UTF-16 sort apart, and what a run really has.
NAMES = st.text(max_size=6) | st.sampled_from(
    ["id", "é", "\u20ac", "\ud7ff", "\ue000", "\uffff", "\U0001f600", "__proto__"]
)
NUMBERS = (
    st.integers(-SAFE, SAFE)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, 1.0, 1e-4, 9.999e-5, 1e-6, 1e-7, 1e15, 1e16, 1e20, 1e21, 5e-324, 0.1, 2e-05, 1200.0])
    | st.floats(1e-5, 1e17)
)
TEXTS = st.text(max_size=12) | st.sampled_from(
    [":1.5", '",1e9', "[0.1", '":1.5', "\u2028", "\x7f", "\x00\x1f", "\\u0041"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=6)

JCS_IN_JAVASCRIPT = """
const write = v => v === null || typeof v !== 'object' ? JSON.stringify(v)
  : Array.isArray(v) ? '[' + v.map(write).join(',') + ']'
  : '{' + Object.keys(v).sort().map(k => JSON.stringify(k) + ':' + write(v[k])).join(',') + '}';
const lines = require('fs').readFileSync(0, 'utf8').split('\\n').slice(0, -1);
process.stdout.write(lines.map(line => write(JSON.parse(line)) + '\\n').join(''));
"""

# Each is written differently by sorted orjson and by RFC 8785: what the guard of the fast path is there for.
ONLY_THE_GUARD_SAVES: tuple[Any, ...] = (
    {"\ue000": 1, "\U0001f600": 2},
    {"a": {"\uffee": 1, "\U00010000": 2}},
    {"a": 1.0},
    {"a": -0.0},
    {"a": [1.0]},
    {"a": ["x", 1200.0]},
    {"a": 1e16},
    {"a": 1e20},
    {"a": [[-1e17]]},
)


@settings(max_examples=500)
@given(VALUES)
@example({"a": [0, 1.5, -2.5e-3]})
def test_the_fast_path_writes_what_rfc8785_writes(value: Any) -> None:
    assert jcs(value) == rfc8785.dumps(value)


@settings(max_examples=300)
@given(OBJECTS, st.booleans())
def test_a_document_that_is_plain_is_canonical_in_all_its_parts(value: dict[str, Any], compact: bool) -> None:  # noqa: FBT001
    """Where the reader says `plain`, sorted orjson is used without another look at any part."""
    raw = orjson.dumps(value) if compact else json.dumps(value).encode()
    try:
        document = read(raw)
    except UnreadableError:
        pytest.fail("strict JSON was refused")
    assert rfc8785.dumps(document.obj) == rfc8785.dumps(value)
    if document.plain:
        for part in [document.obj, *document.obj.values()]:
            if isinstance(part, dict | list):
                assert orjson.dumps(part, option=orjson.OPT_SORT_KEYS) == rfc8785.dumps(part)


@pytest.mark.parametrize("value", ONLY_THE_GUARD_SAVES, ids=repr)
def test_without_its_guard_the_fast_path_would_be_wrong(value: Any) -> None:
    assert orjson.dumps(value, option=orjson.OPT_SORT_KEYS) != rfc8785.dumps(value)
    assert jcs(value) == rfc8785.dumps(value)
    assert not read(orjson.dumps(value)).plain


@settings(max_examples=500)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,\\u019aAdDeE.- ntf', max_size=40).map(str.encode))
def test_strict_reading_is_never_laxer_than_two_other_readers(raw: bytes) -> None:
    """What is accepted, both orjson and json accept, as the same value."""
    try:
        found = read(raw).obj
    except UnreadableError:
        return
    assert found == orjson.loads(raw) == json.loads(raw)


@settings(max_examples=200)
@given(OBJECTS)
def test_layout_and_order_do_not_matter(value: dict[str, Any]) -> None:
    turned = json.dumps(dict(reversed(value.items())), indent=1, ensure_ascii=False).encode()
    assert jcs(read(turned).obj) == jcs(read(orjson.dumps(value)).obj)


def test_javascript_writes_the_same_bytes() -> None:
    """The number format and the order of names are JavaScript's, so JavaScript is asked."""
    node = shutil.which("node")
    if node is None and os.environ.get("CI") != "true":
        pytest.skip("Node is not installed")
    assert node is not None, "Node is not installed"
    values: list[Any] = list(ONLY_THE_GUARD_SAVES)

    @settings(max_examples=200, database=None)
    @given(VALUES)
    def gather(value: Any) -> None:
        values.append(value)

    gather()
    lines = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    done = subprocess.run([node, "-e", JCS_IN_JAVASCRIPT], input=lines, capture_output=True, check=True)
    # No control character is written as it is, so a line is a value.
    written = done.stdout.split(b"\n")[:-1]
    assert written == [jcs(value) for value in values]

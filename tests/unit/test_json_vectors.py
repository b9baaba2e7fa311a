"""Strict JSON and RFC 8785: the shared files are accepted, refused and written as their authors say."""

import base64

import pytest

from agentrun_stream.codec.canonical import jcs
from agentrun_stream.codec.strict_json import UnreadableError, read
from shared_vectors import MISSING, VECTORS, load, needed

DUPLICATES = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}
HARMLESS = {"i_number_double_huge_neg_exp.json", "i_number_real_underflow.json"}
SUITE: dict[str, str] = {} if MISSING else load("jsontestsuite/test_parsing.json")


def accepted(raw: bytes) -> bool:
    try:
        read(raw, 1_000)
    except UnreadableError:
        return False
    return True


@needed
def test_all_files_are_there() -> None:
    assert len(SUITE) == 318
    assert len(list((VECTORS / "jcs/input").glob("*.json"))) == 6


@pytest.mark.parametrize("name", sorted(SUITE))
def test_strict_json_takes_what_is_one_object_to_every_reader(name: str) -> None:
    wanted = (name.startswith("y_") and name not in DUPLICATES) or name in HARMLESS
    assert accepted(base64.b64decode(SUITE[name])) == wanted


@pytest.mark.parametrize("name", [] if MISSING else sorted(p.name for p in (VECTORS / "jcs/input").glob("*.json")))
def test_canonical_bytes_are_those_of_the_reference(name: str) -> None:
    document = read((VECTORS / "jcs/input" / name).read_bytes())
    assert jcs(document.obj) == (VECTORS / "jcs/output" / name).read_bytes()


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\xff", "not_utf8"),
        (b"\xef\xbb\xbf{}", "bad_json"),
        ('{"a":1}'.encode("utf-16"), "not_utf8"),
        ('{"a":1}'.encode("utf-16-le"), "bad_json"),
        ('{"a":1}'.encode("utf-32-le"), "bad_json"),
        (b"", "bad_json"),
        (b"{} {}", "bad_json"),
        (b'{"a":NaN}', "bad_json"),
        (b'{"a":-Infinity}', "bad_json"),
        (b'{"a":01}', "bad_json"),
        (b'{"a":"\x01"}', "bad_json"),
        (b'{"a":1,"a":1}', "duplicate_member"),
        (rb'{"a":1,"\u0061":2}', "duplicate_member"),
        (rb'[{"x":{"a":1,"a":2}}]', "duplicate_member"),
        (rb'{"a":"\ud800"}', "lone_surrogate"),
        (rb'{"\udc00":1}', "lone_surrogate"),
        (rb'{"a":"\udc00\ud800"}', "lone_surrogate"),
        (b'{"a":9007199254740992}', "number_out_of_range"),
        (b'{"a":-9007199254740992}', "number_out_of_range"),
        (b'{"a":18446744073709551615}', "number_out_of_range"),
        (b"[9007199254740993]", "number_out_of_range"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "number_out_of_range"),
        (b'{"a":1e400}', "number_out_of_range"),
        (b'{"a":-1e400}', "number_out_of_range"),
        (b"[" * 65 + b"]" * 65, "too_deep"),
        (b"[" * 100_000, "too_deep"),
        (b'{"a":' * 100_000, "too_deep"),
    ],
)
def test_a_refusal_says_why(raw: bytes, code: str) -> None:
    with pytest.raises(UnreadableError) as refused:
        read(raw)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 64 + b"]" * 64,
        b'{"a":9007199254740991,"b":-9007199254740991}',
        b'{"a":9007199254740993.0}',
        b'{"a":1e-400}',
        rb'{"a":"\uffff\ud83d\ude00"}',
        b'["' + b"[" * 100 + b'"]',
        rb'["\"' + b"[" * 100 + b'"]',
        b' {"a" : 1 }\n',
    ],
)
def test_what_is_within_the_limits_is_read(raw: bytes) -> None:
    assert read(raw).obj is not None


def test_awkward_bytes_cost_linear_time() -> None:
    """A million escaped quotes or brackets take no longer than a million letters."""
    for raw in (b'"' + b'\\"' * 500_000, b'["' * 300_000, b'{"a":"' + b"[" * 1_000_000 + b'"', b"-" * 1_000_000):
        assert not accepted(raw)

"""Strict I-JSON: bytes that two readers could take for two objects are refused, with a code that says why.

Must not live here: runs, signatures, or how an object is written again (canonical.py).
"""

import json
import re
from itertools import accumulate
from typing import Any, Final, NamedTuple, NoReturn

import orjson

from agentrun_stream import limits
from agentrun_stream.codec.json_codec import too_deep

_BOM: Final = b"\xef\xbb\xbf"
_DIGITS_MAX: Final = len(str(limits.SAFE_INTEGER_MAX))
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NOT_OPENING: Final = bytes(i for i in range(256) if i not in b"[{")
_NOT_BRACKETS: Final = bytes(i for i in range(256) if i not in _STEP)
# A long integer or a float, as a member, after a comma, first in a list. The possessive count makes a look at an ordinary
# integer end at its last digit; a pattern for each place lets the search jump to it.
_LONG: Final = rb"([0-9-]{1,15}+[.eE0-9][.eE0-9+-]*)"
_LONG_NUMBERS: Final = tuple(re.compile(place + _LONG).findall for place in (rb'":', rb",", rb"\["))
_FAR: Final = bytes(range(0xEE, 0xF5))
_FLOAT_MIN: Final = 1e-4
_FLOAT_MAX: Final = 1e16
_new: Final = tuple.__new__  # a NamedTuple's own constructor takes three times as long


class UnreadableError(ValueError):
    """The bytes are not strict I-JSON, or no object; `code` is the reason code of the verdict."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Document(NamedTuple):
    """What strict bytes hold. With `plain`, sorted orjson writes any part of it as RFC 8785 does.

    Unless `bushy`, it has so few brackets that no part nests too deeply.
    """

    obj: Any
    plain: bool
    bushy: bool


def read(raw: bytes, depth_max: int = limits.OBJECT_DEPTH_MAX) -> Document:
    """The value of strict I-JSON bytes. Raises UnreadableError.

    Two cheap proofs spare most documents the strict reader: what orjson writes again byte for byte is compact, has no
    duplicate names and lost no digit; and `is_plain` rules out integers beyond 2^53.
    """
    bushy = len(raw.translate(None, _NOT_OPENING)) > limits.OBJECT_DEPTH_MAX
    try:
        obj = orjson.loads(raw)
        if orjson.dumps(obj) == raw and is_plain(raw) and not (bushy and too_deep(obj, depth_max)):
            return _new(Document, (obj, True, bushy))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        pass  # the strict reader decides, and knows why
    return Document(_read_strictly(raw, depth_max), plain=False, bushy=bushy)


def is_plain(compact: bytes) -> bool:
    """Whether sorted orjson is RFC 8785 for these bytes, which orjson wrote, and for any part of them.

    Not so where members might sort differently (names beyond the plain BMP), and for numbers that the two write
    differently. A look-alike inside a string only costs time.
    """
    if not compact.startswith((b"{", b"[")):
        return False
    if not compact.isascii() and len(compact.translate(None, _FAR)) != len(compact):
        return False
    for find in _LONG_NUMBERS:
        for text in find(compact):
            if not _is_plain_number(text):
                return False
    return True


def _is_plain_number(text: bytes) -> bool:
    """Whether the two write a long integer or a float alike."""
    try:
        number = float(text)
    except ValueError:
        return False  # it stands inside a string
    if _FLOAT_MIN <= abs(number) < _FLOAT_MAX and not number.is_integer():
        return True
    if text.removeprefix(b"-").isdigit():
        return abs(number) <= limits.SAFE_INTEGER_MAX  # a float tells 2^53 - 1 from 2^53
    import rfc8785  # noqa: PLC0415 - an extra, asked about rare numbers only

    return rfc8785.dumps(number) == text


def _deeper(raw: bytes, depth_max: int) -> bool:
    """Whether the brackets outside of strings nest deeper than `depth_max`; in linear time, whatever the bytes are."""
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(bare.split(b'"')[::2]).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, outside)), default=0) > depth_max


def _read_strictly(raw: bytes, depth_max: int) -> Any:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise UnreadableError("not_utf8") from None
    if raw.startswith(_BOM):
        raise UnreadableError("bad_json")
    if _deeper(raw, depth_max):
        raise UnreadableError("too_deep")
    try:
        obj = _STRICT.decode(text)
    except json.JSONDecodeError:
        raise UnreadableError("bad_json") from None
    try:
        orjson.dumps(obj)
    except orjson.JSONEncodeError:
        raise UnreadableError("lone_surrogate") from None
    return obj


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UnreadableError("duplicate_member")
    return found


def _integer(text: str) -> int:
    # int() of a very long text costs quadratic time.
    if len(text) > _DIGITS_MAX + 1 or abs(number := int(text)) > limits.SAFE_INTEGER_MAX:
        raise UnreadableError("number_out_of_range")
    return number


def _float(text: str) -> float | int:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise UnreadableError("number_out_of_range")
    # RFC 8785 knows numbers, not spellings: 2.0 is 2. As an integer, orjson writes it so too.
    return int(number) if number.is_integer() and abs(number) <= limits.SAFE_INTEGER_MAX else number


def _constant(_: str) -> NoReturn:
    raise UnreadableError("bad_json")


_STRICT: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_float, parse_constant=_constant
)

"""Native blocks as clients of a newer protocol revision expect them (the Go client, and with it Grafana's plugin).

chDB writes revision 0. From revision 54454 on, a block starts with its block info and every column says whether
its serialization is special (never, here). To find the columns, their data is stepped over, not decoded.
"""

from collections.abc import Callable
from typing import Final

REVISION_WITH_CUSTOM_SERIALIZATION: Final = 54454
# Not an overflow block, no bucket, end of info.
_BLOCK_INFO: Final = b"\x01\x00\x02\xff\xff\xff\xff\x00"

_WIDTHS: Final = {
    **dict.fromkeys(("Int8", "UInt8", "Bool", "Enum8", "Nothing"), 1),
    **dict.fromkeys(("Int16", "UInt16", "Date", "Enum16", "BFloat16"), 2),
    **dict.fromkeys(("Int32", "UInt32", "Float32", "Date32", "DateTime", "IPv4", "Decimal32", "Time"), 4),
    **dict.fromkeys(("Int64", "UInt64", "Float64", "DateTime64", "Decimal64", "Time64"), 8),
    **dict.fromkeys(("Int128", "UInt128", "UUID", "IPv6", "Decimal128"), 16),
    **dict.fromkeys(("Int256", "UInt256", "Decimal256"), 32),
}
_LOW_CARDINALITY_KEYS: Final = 1 << 9


class UnknownLayoutError(Exception):
    """A type whose bytes this module can't step over."""


def with_revision(body: bytes) -> bytes:
    """The same blocks, written for a client of at least revision 54454."""
    out: list[bytes] = []
    at = 0
    while at < len(body):
        out.append(_BLOCK_INFO)
        start = at
        columns, at = _varint(body, at)
        rows, at = _varint(body, at)
        out.append(body[start:at])
        for _ in range(columns):
            start = at
            at = _string_end(body, at)
            type_start, at = at, _string_end(body, at)
            length, name_at = _varint(body, type_start)
            type_name = body[name_at : name_at + length].decode()
            out += (body[start:at], b"\0")
            start = at
            if rows:
                at = _skip(type_name, body, _skip_prefix(type_name, at), rows)
            out.append(body[start:at])
    return b"".join(out)


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = body[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return value, at
        shift += 7


def _string_end(body: bytes, at: int) -> int:
    length, at = _varint(body, at)
    return at + length


def _uint64(body: bytes, at: int) -> int:
    return int.from_bytes(body[at : at + 8], "little")


def _parts(type_name: str) -> tuple[str, list[str]]:
    """`Map(String, Array(UInt8))` -> `Map`, [`String`, `Array(UInt8)`]; names of tuple elements are dropped."""
    head, found, rest = type_name.partition("(")
    arguments: list[str] = []
    depth = start = 0
    inner = rest[:-1] if found else ""
    for index, char in enumerate(inner):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and depth == 0:
            arguments.append(inner[start:index].strip())
            start = index + 1
    if inner:
        arguments.append(inner[start:].strip())
    if head in {"Tuple", "Nested"}:
        arguments = [_without_name(argument) for argument in arguments]
    return head, arguments


def _without_name(argument: str) -> str:
    head = argument.partition("(")[0]
    return argument.rpartition(" ")[2] if "(" not in argument else argument[head.rfind(" ") + 1 :]


def _skip_prefix(type_name: str, at: int) -> int:
    """Every LowCardinality inside the column starts with 8 bytes, all of them before any data."""
    return at + 8 * type_name.count("LowCardinality(")


def _skip(type_name: str, body: bytes, at: int, rows: int) -> int:
    head, arguments = _parts(type_name)
    if (width := _WIDTHS.get(head)) is not None or head.startswith("Interval"):
        return at + rows * (width or 8)
    if (step := _STEPS.get(head)) is None:
        raise UnknownLayoutError(head)
    return step(arguments, body, at, rows)


def _skip_strings(_: list[str], body: bytes, at: int, rows: int) -> int:
    for _row in range(rows):
        at = _string_end(body, at)
    return at


def _skip_fixed(arguments: list[str], _: bytes, at: int, rows: int) -> int:
    return at + int(arguments[0]) * rows


def _skip_decimal(arguments: list[str], _: bytes, at: int, rows: int) -> int:
    width = next(width for digits, width in ((9, 4), (18, 8), (38, 16), (76, 32)) if int(arguments[0]) <= digits)
    return at + width * rows


def _skip_nullable(arguments: list[str], body: bytes, at: int, rows: int) -> int:
    return _skip(arguments[0], body, at + rows, rows)


def _skip_array(arguments: list[str], body: bytes, at: int, rows: int) -> int:
    at += 8 * rows
    elements = _uint64(body, at - 8)
    return _skip(arguments[0], body, at, elements) if elements else at


def _skip_tuple(arguments: list[str], body: bytes, at: int, rows: int) -> int:
    for argument in arguments:
        at = _skip(argument, body, at, rows)
    return at


def _skip_map(arguments: list[str], body: bytes, at: int, rows: int) -> int:
    return _skip_array([f"Tuple({', '.join(arguments)})"], body, at, rows)


def _skip_aggregate(arguments: list[str], body: bytes, at: int, rows: int) -> int:
    return _skip(arguments[1], body, at, rows)


def _skip_low_cardinality(arguments: list[str], body: bytes, at: int, _: int) -> int:
    flags = _uint64(body, at)
    at += 8
    if flags & _LOW_CARDINALITY_KEYS:
        keys = _uint64(body, at)
        inner = arguments[0].removeprefix("Nullable(")
        inner = inner if inner == arguments[0] else inner[:-1]
        at = _skip(inner, body, at + 8, keys)
    indexes = _uint64(body, at)
    return at + 8 + indexes * (1 << (flags & 0xFF))


_STEPS: Final[dict[str, Callable[[list[str], bytes, int, int], int]]] = {
    "String": _skip_strings,
    "FixedString": _skip_fixed,
    "Decimal": _skip_decimal,
    "Nullable": _skip_nullable,
    "Array": _skip_array,
    "Nested": lambda arguments, body, at, rows: _skip_array([f"Tuple({', '.join(arguments)})"], body, at, rows),
    "Tuple": _skip_tuple,
    "Map": _skip_map,
    "SimpleAggregateFunction": _skip_aggregate,
    "LowCardinality": _skip_low_cardinality,
}

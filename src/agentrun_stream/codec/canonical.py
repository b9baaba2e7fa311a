"""Canonical text: the bytes that a hash is made of. Must not live here: what is signed (arsig.py), keys, verdicts."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from agentrun_stream.codec.strict_json import is_plain


def canonical_json(obj: object) -> bytes:
    """Return compact JSON with sorted member names: the same bytes for the same object, for our own comparisons.

    Not RFC 8785: names are sorted by UTF-8 bytes, and numbers are written as orjson writes them.
    """
    return orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)


def jcs(obj: object) -> bytes:
    """RFC 8785 bytes of an object that came out of the strict reader.

    orjson writes most objects the same, twenty times as fast; where its own bytes do not show that, rfc8785 writes them.
    """
    written = orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)
    if is_plain(written):
        return written
    import rfc8785  # noqa: PLC0415 - an extra; who only wants a run_hash does without

    return rfc8785.dumps(obj)  # type: ignore[arg-type]


def run_hash(run: Mapping[str, Any]) -> str:
    """Return the protocol's fingerprint of the configuration of a run; what is missing or null counts as empty."""
    provenance: Mapping[str, Any] = run.get("provenance") or {}
    parts = (
        run.get("agent_id") or "",
        run.get("model") or "",
        _tools_text(run.get("tools_available") or ()),
        provenance.get("config_hash") or "",
        run.get("trigger") or "",
    )
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def hash_axis(run: Mapping[str, Any]) -> str:
    """Return whether the fingerprint that a run states is that of its members: match, mismatch or absent."""
    stated = (run.get("provenance") or {}).get("run_hash")
    if stated is None:
        return "absent"
    return "match" if stated == run_hash(run) else "mismatch"


def utf16_order(text: str) -> bytes:
    """Return the sort key of JavaScript: UTF-16 code units. It differs from Python's beyond U+FFFF only."""
    return text.encode("utf-16-be")


def utf16_sorted(texts: Sequence[str]) -> list[str]:
    """The texts in JavaScript's order, which is Python's where all is ASCII."""
    return sorted(texts) if "".join(texts).isascii() else sorted(texts, key=utf16_order)


def _tools_text(tools: Sequence[str]) -> str:
    # orjson escapes exactly what JSON.stringify escapes, in the same spelling.
    return orjson.dumps(utf16_sorted(tools)).decode()

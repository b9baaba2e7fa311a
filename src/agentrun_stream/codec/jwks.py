"""A JWK Set as the registry of a workspace: each entry becomes a key, or a refusal that says why it counts as not there.

Must not live here: files (trust/), what a key is trusted for (model/trust.py).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import orjson

from agentrun_stream.codec import edwards, keynames
from agentrun_stream.model.trust import STATUSES, Key, Registry

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)\Z", re.ASCII)
_TWICE: Final = "its kid is there twice with different members"
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})  # of any kind of key (RFC 7518)


class EntryError(ValueError):
    """An entry of a JWK Set that counts as not there; the text says why."""


def registry_of(jwks: Mapping[str, Any], digest: str = "") -> Registry:
    """The registry that a JWK Set describes; `digest` names its bytes. Raises ValueError where it is no JWK Set at all."""
    entries, version = jwks.get("keys"), jwks.get("version", 0)
    if not isinstance(entries, list | tuple):
        raise ValueError("it has no list `keys`, so it is no JWK Set")  # noqa: TRY004 - the caller's one error
    if type(version) is not int or version < 0:
        raise ValueError("its `version` is not a whole number")
    keys: dict[str, Key] = {}
    refused: dict[str, str] = {}
    warnings: list[str] = []
    for at, entry in enumerate(entries):
        try:
            key = key_of(entry)
            if keys.setdefault(key.kid, key) != key:
                raise EntryError(_TWICE)  # noqa: TRY301
        except EntryError as error:
            refused |= dict.fromkeys(_names(entry), str(error))
            warnings.append(f"keys[{at}] ({_shown(entry)}) counts as not there: {error}.")
    for kid in [kid for kid in keys if refused.get(kid) == _TWICE]:
        del keys[kid]  # nobody knows which of the two is meant
    return Registry(version, digest, keys, refused, tuple(warnings))


def key_of(entry: object) -> Key:
    """One entry as a key. Raises EntryError."""
    if not isinstance(entry, Mapping):
        raise EntryError("it is not an object")
    if (entry.get("kty"), entry.get("crv")) != ("OKP", "Ed25519"):
        raise EntryError("it is not an Ed25519 key (kty OKP, crv Ed25519)")
    try:
        public = keynames.public_of_x(str(entry.get("x", "")))
    except ValueError as error:
        raise EntryError(f"its x is {error}") from None
    flaw = edwards.flaw(public)
    if flaw is not None:
        raise EntryError(flaw)
    kid = keynames.kid_of(public)
    if entry.get("kid") != kid:
        raise EntryError(f"its kid is not the RFC 7638 thumbprint, {kid}")
    if "d" in entry:
        raise EntryError("it holds the private key, which belongs into no registry")
    if entry.get("status") not in STATUSES:
        raise EntryError(f"its status is not one of {', '.join(STATUSES)}")
    reason = entry.get("reason")
    return Key(
        kid=kid,
        public=public,
        status=str(entry["status"]),
        agents=_agents(entry),
        nbf=_numeric_date(entry, "nbf"),
        exp=_numeric_date(entry, "exp"),
        revoked_at=_moment(entry, "revoked_at"),
        compromised_since=_moment(entry, "compromised_since"),
        reason=None if reason is None else str(reason),
    )


def public_content(jwks: Mapping[str, Any]) -> bytes:
    """A JWK Set as canonical JSON without anything private. What was private is empty, so that its entry stays refused."""
    entries = [
        {name: "" if name in _PRIVATE else value for name, value in entry.items()}
        if isinstance(entry, Mapping)
        else None
        for entry in jwks["keys"]
    ]
    return orjson.dumps({"version": jwks.get("version", 0), "keys": entries}, option=orjson.OPT_SORT_KEYS)


def differing(sets: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The kids whose entries are not the same in all of these JWK Sets: what a key is trusted for may differ."""
    by_kid = [_entries_by_kid(jwks.get("keys", ())) for jwks in sets]
    first = by_kid[0]
    return frozenset(kid for found in by_kid for kid in found.keys() | first.keys() if found.get(kid) != first.get(kid))


def _entries_by_kid(entries: Iterable[object]) -> dict[str, list[bytes]]:
    """Everything that says something of a kid, in order."""
    found: dict[str, list[bytes]] = {}
    for entry in entries:
        for kid in dict.fromkeys(_names(entry)):
            found.setdefault(kid, []).append(orjson.dumps(entry, option=orjson.OPT_SORT_KEYS))
    return found


def _agents(entry: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "agents" not in entry:
        return None
    agents = entry["agents"]
    if not isinstance(agents, list | tuple) or not all(isinstance(scope, str) for scope in agents):
        raise EntryError("its agents is not a list of names; leave it out for every agent")
    return tuple(agents)


def _numeric_date(entry: Mapping[str, Any], name: str) -> float | None:
    value = entry.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EntryError(f"its {name} is not a NumericDate (seconds since 1970)")
    return float(value)


def _moment(entry: Mapping[str, Any], name: str) -> float | None:
    value = entry.get(name)
    if value is None:
        return None
    try:
        if not isinstance(value, str) or not _TIME.match(value):
            raise ValueError  # noqa: TRY301
        return datetime.fromisoformat(value).timestamp()
    except ValueError:
        raise EntryError(f"its {name} is not an RFC 3339 time with an offset") from None


def _names(entry: object) -> list[str]:
    """The kids under which somebody may look for a refused entry: the stated one, and that of its point."""
    if not isinstance(entry, Mapping):
        return []
    names = [kid] if isinstance(kid := entry.get("kid"), str) else []
    with suppress(ValueError):
        names.append(keynames.kid_of(keynames.public_of_x(str(entry.get("x", "")))))
    return names


def _shown(entry: object) -> str:
    kid = entry.get("kid") if isinstance(entry, Mapping) else None
    return kid[:64] if isinstance(kid, str) else "no kid"

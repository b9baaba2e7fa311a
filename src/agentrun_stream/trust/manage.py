"""Key operations: make, add, revoke, list, export. Each change raises the registry's version and leaves a line in the log.

Must not live here: what is printed, flags.
"""

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from agentrun_stream.codec import ed25519, edwards, keynames
from agentrun_stream.codec.jwks import EntryError, key_of
from agentrun_stream.errors import UsageError
from agentrun_stream.model.trust import ACTIVE, REVOKED
from agentrun_stream.trust.folder import changing, note, read_jwks, registry_path
from agentrun_stream.trust.pem import read_public


@dataclass(frozen=True, slots=True)
class Scope:
    """For whom and how long a key is registered, and why."""

    agents: tuple[str, ...] = ()
    nbf: datetime | None = None
    exp: datetime | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Revocation:
    """From when on a key is refused: `at`, or already `compromised_since`; and why."""

    at: datetime
    compromised_since: datetime | None = None
    why: str | None = None


def new_seed() -> bytes:
    """A new private key; one whose kid does not begin like a flag, so that it can be named on a command line."""
    while True:
        seed = os.urandom(32)
        if not keynames.kid_of(public_of_seed(seed)).startswith("-"):
            return seed


def entry_of(public: bytes, scope: Scope) -> dict[str, Any]:
    """The entry of a registry for a public key."""
    entry: dict[str, Any] = {
        "kty": "OKP",
        "crv": "Ed25519",
        "alg": "Ed25519",
        "use": "sig",
        "x": keynames.base64url(public),
        "kid": keynames.kid_of(public),
        "status": ACTIVE,
    }
    if scope.agents:
        entry["agents"] = list(scope.agents)
    entry |= {name: int(moment.timestamp()) for name, moment in (("nbf", scope.nbf), ("exp", scope.exp)) if moment}
    return entry


def public_of_seed(seed: bytes) -> bytes:
    """The public half of a private key."""
    return ed25519.public_of(seed)


def public_of_text(text: str) -> bytes:
    """The public key in a did:key, a JWK or a PEM file's text. Raises UsageError, also for a point that can't be registered."""
    text = text.strip()
    try:
        public = _public_of(text)
    except ValueError as error:
        raise UsageError(
            f"That is no Ed25519 public key: {error}.", "Give a did:key, a JWK or a public key in PEM."
        ) from None
    flaw = edwards.flaw(public)
    if flaw is not None:
        raise UsageError(f"That key can't be registered: {flaw}.", "Make one with `agentrun keys new`.")
    return public


def _public_of(text: str) -> bytes:
    if text.startswith("did:"):
        return keynames.named_by_did(text).public
    if text.startswith("-----BEGIN"):
        if "PRIVATE KEY" in text.partition("\n")[0]:
            raise ValueError("it is a private key, which belongs to its owner alone")
        public = read_public(text.encode())
        if public is None:
            raise ValueError("the PEM text holds another kind of key")
        return public
    jwk = json.loads(text)
    if not isinstance(jwk, dict) or "d" in jwk or (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
        raise ValueError("the JSON is no public JWK with kty OKP and crv Ed25519")
    return keynames.public_of_x(str(jwk.get("x", "")))


def add(folder: Path, workspace: str, public: bytes, scope: Scope) -> dict[str, Any]:
    """Register a public key; its entry. Raises UsageError where it is registered already."""
    entry = entry_of(public, scope)
    try:
        key_of(entry)
    except EntryError as error:
        raise UsageError(f"That key can't be registered: {error}.", "Make one with `agentrun keys new`.") from None
    with changing(folder, workspace) as jwks:
        if any(isinstance(held, dict) and held.get("kid") == entry["kid"] for held in jwks["keys"]):
            raise UsageError(f"{entry['kid']} is registered already.", "See `agentrun keys list`.")
        jwks["keys"].append(entry)
        _note(folder, "add", workspace, jwks, entry | {"why": scope.why})
    return entry


def revoke(folder: Path, workspace: str, kid: str, revocation: Revocation) -> dict[str, Any]:
    """Revoke a key; its entry. A revocation only ever reaches further back, never less far."""
    with changing(folder, workspace) as jwks:
        entry: dict[str, Any] = _found(jwks, kid)
        entry["status"] = REVOKED
        for name, moment in (("revoked_at", revocation.at), ("compromised_since", revocation.compromised_since)):
            if moment is not None and not _is_before(entry.get(name), moment):
                entry[name] = _rfc3339(moment)
        if revocation.why is not None:
            entry["reason"] = revocation.why
        _note(folder, "revoke", workspace, jwks, entry | {"why": revocation.why})
    return entry


def export(folder: Path, workspace: str) -> dict[str, Any]:
    """The JWK Set of a workspace as it stands; it holds public keys only."""
    path = registry_path(folder, workspace)
    try:
        return read_jwks(path)[0]
    except FileNotFoundError:
        raise UsageError(
            f"The workspace {workspace} has no registry ({path}).", "Make a key with `agentrun keys new`."
        ) from None


def _found(jwks: dict[str, Any], kid: str) -> dict[str, Any]:
    """The one entry whose kid is, or starts with, this text; or that of a did:key."""
    if kid.startswith("did:"):
        kid = keynames.kid_of(public_of_text(kid))
    held = [entry for entry in jwks["keys"] if isinstance(entry, dict) and isinstance(entry.get("kid"), str)]
    exact = [entry for entry in held if entry["kid"] == kid]
    found = exact or [entry for entry in held if kid and entry["kid"].startswith(kid)]
    if len(found) != 1:
        what = "no key" if not found else f"{len(found)} keys"
        raise UsageError(f"The registry has {what} by this kid.", "See `agentrun keys list`.")
    return found[0]


def _note(folder: Path, what: str, workspace: str, jwks: dict[str, Any], entry: dict[str, Any]) -> None:
    told = {name: entry.get(name) for name in ("kid", "agents", "nbf", "exp", "revoked_at", "compromised_since", "why")}
    kept = {name: value for name, value in told.items() if value is not None}
    note(folder, what, workspace=workspace, version=jwks["version"] + 1, **kept)


def _is_before(text: object, moment: datetime) -> bool:
    """Whether a time in the registry is a good one, and not after `moment`."""
    try:
        return datetime.fromisoformat(str(text)) <= moment
    except (ValueError, TypeError):  # not a time, or one without a zone
        return False


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")

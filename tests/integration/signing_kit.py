"""Honest signed runs and the keys of a workspace, for tests that attack them. Must not live here: attacks (attacks.py)."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from agentrun_stream.codec.keynames import signature_bytes
from agentrun_stream.sdk.signing import RunSigner, SignedUnder, SigningKey
from agentrun_stream.testing.events import cloud_event
from agentrun_stream.trust.manage import Scope, entry_of

Json = dict[str, Any]
NOW: Final = datetime.now(UTC).replace(microsecond=0)
PAST, FUTURE = NOW - timedelta(days=1), NOW + timedelta(days=1)
START: Final = "2026-01-01T12:00:00Z"
AGENT: Final = "team/agent"


def key(number: int) -> SigningKey:
    return SigningKey(bytes([number]) * 32)


TRUSTED, SECOND, FOREIGN, SCOPED, REVOKED, COMPROMISED, EXPIRED, EARLY = map(key, range(1, 9))


def rfc(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def registry() -> Json:
    """The keys of the workspace."""
    entries = [
        entry_of(TRUSTED.public, Scope(agents=("team/*",))),
        entry_of(SECOND.public, Scope()),
        entry_of(SCOPED.public, Scope(agents=("elsewhere",))),
        entry_of(REVOKED.public, Scope()) | {"status": "revoked", "revoked_at": rfc(PAST)},
        entry_of(COMPROMISED.public, Scope()) | {"status": "revoked", "compromised_since": rfc(PAST)},
        entry_of(EXPIRED.public, Scope(exp=PAST)),
        entry_of(EARLY.public, Scope(nbf=FUTURE)),
    ]
    return {"version": 1, "keys": entries}


class Events(NamedTuple):
    """What is published of one run, in order; `value` as it goes on the wire."""

    run_id: str
    values: Sequence[bytes]


class Honest:
    """An honest run of three chained steps, signed at its end; every event as an object, so that it can be attacked."""

    def __init__(self, run_id: str, by: SigningKey = TRUSTED, under: SignedUnder | None = None, **members: Any) -> None:
        self.run_id = run_id
        self.begin: Json = {
            "id": run_id,
            "agent_id": AGENT,
            "model": "m",
            "status": "running",
            "started_at": START,
            "steps": [],
            "cost": {},
            "provenance": {},
        } | members
        self.signer = RunSigner(by, self.begin, under)
        self.steps = [self.signer.chain(step(i)) for i in range(3)]
        self.end = self.signer.sign(finished(self.begin))

    def events(self, steps: Sequence[Json] | None = None, end: Json | None = None) -> list[bytes]:
        """The run as it is published, with other steps or another end."""
        streamed = [self.step(one) for one in (self.steps if steps is None else steps)]
        return [self.run(self.begin), *streamed, self.run(self.end if end is None else end)]

    def run(self, obj: Json, **envelope: object) -> bytes:
        return cloud_event("run", self.run_id, f"run/{obj.get('status')}", obj, envelope)

    def step(self, obj: Json, **envelope: object) -> bytes:
        return cloud_event("step", self.run_id, f"step/{obj.get('id')}", obj, envelope)

    def signed_by(self, by: SigningKey, *, rev: int = 1, **members: object) -> bytes:
        """An end of this run that somebody else signs, with other members."""
        signer = RunSigner(by, self.begin)
        for one in self.steps:
            signer.chain({k: v for k, v in one.items() if k != "metadata"})
        return self.run(signer.sign(finished(self.begin) | members, rev=rev))


def step(number: int) -> Json:
    return {
        "id": f"s{number}",
        "type": "tool_call",
        "tool_name": "search",
        "input_preview": f"question {number}",
        "output_preview": f"answer {number}",
        "success": True,
        "started_at": START,
    }


def finished(begin: Json) -> Json:
    return begin | {
        "status": "completed",
        "outcome": "success",
        "ended_at": "2026-01-01T12:01:00Z",
        "cost": {"input_tokens": 10, "output_tokens": 5, "cost_usd": 0.25},
        "tags": ["nightly"],
        "metadata": {"ticket": {"id": 7}},
    }


def altered(obj: Json, *path: str | int, to: object) -> Json:
    """A deep copy with another value at a path."""
    copy: Json = json.loads(json.dumps(obj))
    at: Any = copy
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = to
    return copy


def with_signature(obj: Json, text: str) -> Json:
    return altered(obj, "provenance", "signature", to=text)


def signature(obj: Json) -> bytes:
    return signature_bytes(obj["provenance"]["signature"])


def revoked_later(entries: Mapping[str, Any], kid: str, since: datetime) -> Json:
    """The registry with a key that turns out to be stolen."""
    keys = [
        e | ({"status": "revoked", "compromised_since": rfc(since)} if e["kid"] == kid else {}) for e in entries["keys"]
    ]
    return {"version": entries["version"] + 1, "keys": keys}

"""Signing for producers: steps are chained as they end, and one signature at the end covers them all.

Needs the extra `signing` (PyNaCl, rfc8785). Must not live here: how events are sent, registries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from agentrun_stream import limits
from agentrun_stream.codec import arsig as suite
from agentrun_stream.codec import ed25519, keynames
from agentrun_stream.codec.canonical import run_hash
from agentrun_stream.codec.strict_json import UnreadableError, read
from agentrun_stream.errors import UsageError
from agentrun_stream.model.facts import HOLDS, Parent
from agentrun_stream.processors.verify import facts_of
from agentrun_stream.trust.pem import read_private

_SEED_BYTES: Final = 32


class SigningKey:
    """A private key, and the names of its public half. `kid` is what registries know it by."""

    __slots__ = ("_seed", "did", "kid", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != _SEED_BYTES:
            raise UsageError("A private key has 32 bytes.", "Make one with `agentrun keys new`.")
        self._seed = seed
        self.public = ed25519.public_of(seed)
        self.did = keynames.did_of(self.public)
        self.kid = keynames.kid_of(self.public)

    @classmethod
    def load(cls, path: Path | str, passphrase: str | None = None) -> "SigningKey":
        """The key in a PEM file, such as `agentrun keys new` makes."""
        return cls(read_private(Path(path), passphrase.encode() if passphrase else None))

    def sign(self, message: bytes) -> bytes:
        """The signature of a message."""
        return ed25519.sign(self._seed, message)

    def __repr__(self) -> str:
        return f"SigningKey({self.kid})"


@dataclass(frozen=True, slots=True)
class SignedUnder:
    """What a signature says besides the run: the workspace it is meant for, and the runs that started this one."""

    tenant: str = "default"
    parents: Sequence[Parent] = ()


class RunSigner:
    """Signs one run: give it the run as it starts, each step as it ends, and the terminal snapshot.

    Example: signer = RunSigner(key, run, SignedUnder("acme")); send(signer.chain(step)); send(signer.sign(finished))

    What the genesis is made of (id, agent, start, and the configuration behind `run_hash`) may not change until the end.
    """

    def __init__(self, key: SigningKey, run: Mapping[str, Any], under: SignedUnder | None = None) -> None:
        self._key = key
        self._under = under or SignedUnder()
        self._parents = tuple(sorted(self._under.parents, key=lambda parent: parent.run_id))
        self.genesis = self._genesis(run)
        self._head = self.genesis
        self._steps = 0

    def chain(self, step: Mapping[str, Any]) -> dict[str, Any]:
        """The step with its place in the chain, to be sent once, unchanged. Steps are chained in the order they end."""
        metadata = dict(step.get("metadata") or {})
        arsig = {**(metadata.get("arsig") or {}), "seq": self._steps, "prev": self._head}
        chained = {**step, "metadata": {**metadata, "arsig": arsig}}
        obj = _as_received(chained)
        self._head = suite.step_digest(obj)
        self._steps += 1
        return obj

    def sign(self, run: Mapping[str, Any], *, rev: int = 1, signed_at: datetime | None = None) -> dict[str, Any]:
        """The terminal snapshot, signed. A correction is signed again, with a higher `rev`.

        Raises UsageError where the run can't be signed: it is still open, a member has a wrong type, or it is no longer the
        run that was started.
        """
        signed = self._with_arsig(run, rev, signed_at or datetime.now(UTC))
        arsig = suite.arsig_of(signed)
        if arsig.flaw is not None:
            raise UsageError(f"The run can't be signed: {arsig.flaw}.", "See metadata.arsig of the suite arsig1.")
        if self._genesis(signed) != self.genesis:
            raise UsageError(
                "The run is not the one that was started.", "Id, agent, start and configuration stay as they were."
            )
        statement = suite.statement_of(signed, arsig, self.genesis, suite.run_digest(signed))
        signature = self._key.sign(suite.message_of(statement))
        signed["provenance"]["signature"] = keynames.signature_text(signature)
        facts = facts_of(orjson.dumps(signed))  # what a verifier will say, before anybody else hears of it
        if facts.signature != HOLDS:
            raise UsageError(f"The run can't be signed: {', '.join(facts.reasons)}.", "Mend the run, then sign it.")
        return signed

    def _with_arsig(self, run: Mapping[str, Any], rev: int, signed_at: datetime) -> dict[str, Any]:
        if signed_at.tzinfo is None:
            raise UsageError("signed_at has no time zone.", "Give it one, such as datetime.now(UTC).")
        provenance, metadata = dict(run.get("provenance") or {}), dict(run.get("metadata") or {})
        if provenance.get("run_hash") is None:
            provenance["run_hash"] = run_hash(run)
        provenance |= {"signed_by": self._key.did, "signature": None}
        arsig: dict[str, Any] = {
            "v": 1,
            "tenant": self._under.tenant,
            "rev": rev,
            "signed_at": signed_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        if self._parents:
            arsig["parents"] = [parent._asdict() for parent in self._parents]
        # A chain that is too long to be committed to is left open: the run is signed, its streamed steps are not covered.
        if 0 < self._steps <= limits.SIGNED_STEPS_MAX:
            arsig["steps"] = {"count": self._steps, "head": self._head}
        return _as_received({**run, "provenance": provenance, "metadata": {**metadata, "arsig": arsig}})

    def _genesis(self, run: Mapping[str, Any]) -> str:
        stated = (run.get("provenance") or {}).get("run_hash")
        try:
            return suite.genesis_of(run, run_hash(run) if stated is None else stated, self._under.tenant, self._parents)
        except (KeyError, TypeError) as error:
            raise UsageError(f"The run has no usable {error}.", "It needs id, agent_id and started_at.") from None


def _as_received(obj: Mapping[str, Any]) -> dict[str, Any]:
    """The object as its readers will have it, so that what is hashed here is what they hash; members in canonical order.

    In that order it is sent, and workers read it at half the cost.
    """
    try:
        found: dict[str, Any] = read(orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)).obj
    except orjson.JSONEncodeError as error:
        raise UsageError(f"The object is not JSON: {error}.", "Give numbers, texts, lists and objects alone.") from None
    except UnreadableError as error:
        raise UsageError(f"The object can't be signed: {error.code}.", "It must be strict I-JSON.") from None
    return found

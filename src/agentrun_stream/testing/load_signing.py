"""Signatures of the fast load: steps chained as the bytes they are, one signature a run, some runs tampered with.

Must not live here: what else is in the records (`load.py`).
"""

import hashlib
from functools import cache
from typing import Any, Final

import orjson

from agentrun_stream.codec import arsig, keynames
from agentrun_stream.codec.canonical import run_hash
from agentrun_stream.testing.keys import WORKSPACE, made_up_entry, made_up_key

AGENTS: Final = tuple(f"agent-{n}" for n in range(12))
# What is done to a run, and the headline that it leads to. None changes how many records there are.
TAMPERS: Final = {
    "step_altered": "rejected",
    "wrong_hash": "mismatch",
    "foreign_key": "unverifiable",
    "end_altered": "rejected",
}
_KINDS: Final = tuple(TAMPERS)
_OUTPUT: Final = b'"output_preview":"'


def bench_registry(seed: int) -> dict[str, Any]:
    """The JWK Set of the load of this seed: a key for each agent."""
    return {"version": 1, "keys": [made_up_entry(made_up_key(seed, agent), agent) for agent in AGENTS]}


def tamper_of(number: int, share: float) -> str | None:
    """What is done to the run of this number, so that `share` of all are tampered with, in each way in turn."""
    before = int(number * share)
    return _KINDS[before % len(_KINDS)] if int((number + 1) * share) > before else None


class Chain:
    """The signature of one run, from its first bytes to its last."""

    __slots__ = ("_count", "_genesis", "_head", "_key", "_tamper", "run_hash")

    def __init__(self, seed: int, run: dict[str, str], tamper: str | None) -> None:
        agent = run["agent_id"]
        self._tamper = tamper
        self._key = made_up_key(seed, f"{agent}/foreign" if tamper == "foreign_key" else agent)
        self.run_hash = _hash_of(agent, "another-model" if tamper == "wrong_hash" else run["model"], run["trigger"])
        self._genesis = arsig.genesis_of(run, self.run_hash, WORKSPACE)
        self._head = self._genesis
        self._count = 0

    def place(self) -> bytes:
        """The next step's place in the chain, as its member `arsig`."""
        return b'"arsig":{"prev":"%b","seq":%d}' % (self._head.encode(), self._count)

    def add(self, step: bytes) -> bytes:
        """Chain a step's canonical bytes; returns those that are sent."""
        self._head = hashlib.sha256(step).hexdigest()
        self._count += 1
        if self._tamper == "step_altered" and self._count == 1:
            return step.replace(_OUTPUT, _OUTPUT + b"Approved. ", 1)
        return step

    def sign(self, end: bytes) -> bytes:
        """The signed end of the run."""
        run = orjson.loads(end)
        steps = {"count": self._count, "head": self._head}
        members = {"rev": 1, "signed_at": run["ended_at"], "steps": steps, "tenant": WORKSPACE, "v": 1}
        run["metadata"] = {"arsig": members}
        run["provenance"]["signed_by"] = self._key.did
        statement = arsig.statement_of(run, arsig.arsig_of(run), self._genesis, arsig.run_digest(run))
        run["provenance"]["signature"] = keynames.signature_text(self._key.sign(arsig.message_of(statement)))
        if self._tamper == "end_altered":
            run["cost"]["output_tokens"] += 1
        return orjson.dumps(run)


@cache
def _hash_of(agent: str, model: str, trigger: str) -> str:
    return run_hash({"agent_id": agent, "model": model, "trigger": trigger})

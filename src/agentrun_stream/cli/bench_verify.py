"""What one core verifies a second, beside libsodium alone on the same signatures, measured in turns in the same run.

Must not live here: the rules of verification, printing.
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from nacl.signing import VerifyKey

from agentrun_stream.codec.jwks import registry_of
from agentrun_stream.model.chain import NO_MARKS, Link, Marks
from agentrun_stream.model.facts import Seal
from agentrun_stream.model.judgement import Judgement, judge
from agentrun_stream.processors.verify import facts_of, marks_of, read_facts, read_step
from agentrun_stream.sdk.signing import RunSigner, SignedUnder, SigningKey
from agentrun_stream.trust.manage import Scope, entry_of

TENANT: Final = "bench"
STEPS: Final = 20
_TURN_S: Final = 0.05
_SEED: Final = bytes(range(32))  # a made-up key, registered nowhere else
_AT_S: Final = 1_800_000_000.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One signed run as it is on the wire; `links` of its streamed steps, folded when they came, and their bytes."""

    raw: bytes
    seal: Seal
    key: VerifyKey
    links: tuple[Link, ...] = ()
    marks: Marks = NO_MARKS
    steps: tuple[bytes, ...] = ()


def measure(seconds: float) -> dict[str, Any]:
    """The figures: each job's best of many short turns, since whatever else the machine does only ever slows it down."""
    key = SigningKey(_SEED)
    registry = registry_of({"version": 1, "keys": [entry_of(key.public, Scope())]})
    judgement = Judgement(TENANT, registry, _AT_S)
    terminals = [_signed(key, n, streamed=True) for n in range(50)]
    embedded = [_signed(key, n, streamed=False) for n in range(50)]
    steps = [step for sample in terminals for step in sample.steps]
    jobs: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
        "raw": (lambda sample: sample.key.verify(sample.seal.message, sample.seal.signature), terminals),
        "terminal": (lambda sample: _verify(sample, judgement), terminals),
        "embedded": (lambda sample: _verify(sample, judgement), embedded),
        "step": (read_step, steps),
    }
    turns = _turns(jobs, seconds)
    rates = {name: max(turn[name] for turn in turns) for name in jobs}
    return {
        "raw_verify_per_second": round(rates["raw"]),
        "terminal_per_second": round(rates["terminal"]),
        "terminal_of_raw": round(rates["terminal"] / rates["raw"], 3),
        "terminal_bytes": len(terminals[0].raw),
        "embedded_per_second": round(rates["embedded"]),
        "embedded_of_raw": round(rates["embedded"] / rates["raw"], 3),
        "embedded_bytes": len(embedded[0].raw),
        "chained_steps_per_second": round(rates["step"]),
        "steps_per_run": STEPS,
    }


def _turns(jobs: Mapping[str, tuple[Callable[[Any], object], list[Any]]], seconds: float) -> list[dict[str, float]]:
    """The rate of each job, turn by turn, on one thread's own time and, as in a worker, without the cycle collector."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        turns = max(1, round(seconds / _TURN_S))
        return [{name: _rate(*job, _TURN_S) for name, job in jobs.items()} for _ in range(turns)]
    finally:
        if collecting:
            gc.enable()


def _rate(work: Callable[[Any], object], samples: list[Any], seconds: float) -> float:
    started, done = time.thread_time(), 0
    while (spent := time.thread_time() - started) < seconds:
        for sample in samples:
            work(sample)
        done += len(samples)
    return done / spent


def _verify(sample: Sample, judgement: Judgement) -> None:
    """Everything that a terminal snapshot costs, and a look at the answer, so that no figure stands for a wrong verdict."""
    verdict = judge(facts_of(sample.raw), judgement, sample.links, sample.marks)
    if verdict.headline != "verified":
        raise AssertionError(f"a good run was judged {verdict.headline}: {verdict.reasons}")


def _signed(key: SigningKey, n: int, *, streamed: bool) -> Sample:
    run = _run(n)
    signer = RunSigner(key, run, SignedUnder(TENANT))
    steps = [signer.chain(_step(at)) for at in range(STEPS)]
    signed = signer.sign(
        run | {"status": "completed", "ended_at": _time(STEPS)} | ({} if streamed else {"steps": steps})
    )
    raw = orjson.dumps(_envelope("run", run["id"], signed))
    wire = tuple(orjson.dumps(_envelope("step", run["id"], step)) for step in steps) if streamed else ()
    seal = read_facts(raw).seal
    if seal is None:
        raise AssertionError("the benchmark's own run is not signed")
    links, marks = marks_of(map(read_step, wire))
    return Sample(raw, seal, VerifyKey(seal.public), tuple(links), marks, wire)


def _run(n: int) -> dict[str, Any]:
    return {
        "id": f"bench-run-{n:06}",
        "agent_id": "bench-agent",
        "model": "bench-model",
        "trigger": "cron",
        "status": "running",
        "started_at": _time(0),
        "steps": [],
        "tools_available": ["search", "fetch", "write"],
        "cost": {"input_tokens": 24_000, "output_tokens": 6_000, "cost_usd": 0.0123, "model": "bench-model"},
        "provenance": {"config_hash": "c" * 64, "created_at": _time(0)},
    }


def _step(at: int) -> dict[str, Any]:
    return {
        "id": f"step-{at:04}",
        "type": "tool_call",
        "tool_name": "search",
        "input_preview": f"what happened at {at}? " * 3,
        "output_preview": 'found: "something", [1, 2, 3], and more of it. ' * 3,
        "success": True,
        "started_at": _time(at),
        "ended_at": _time(at + 1),
        "duration_ms": 1_000,
        "tokens_used": 1_500,
    }


def _time(second: int) -> str:
    return f"2026-05-01T10:00:{second:02}.000Z"


def _envelope(kind: str, run_id: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{run_id}-{kind}",
        "source": "bench",
        "type": f"agentrun.{kind}.v1",
        "subject": run_id,
        "workspaceid": TENANT,
        "data": data,
    }

"""The slow, obvious reading of the wire contract, section 3: a list of events to runs, sums, settlements, accrued totals.

Written from the page alone and knows nothing of the product's fold; what bytes prove says proofs.py. Must not live here:
speed, rows, anything imported from the package.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from property.proofs import Said, Version, said, says_something, summary, version
from property.sums import Amounts, usages

TERMINAL = ("completed", "failed", "cancelled", "timeout")
MERGED = ("cost", "provenance", "metadata")
HOUR_MS = 3_600_000

Json = dict[str, Any]


class Logged(NamedTuple):
    """One event as it stands on the log. `time` is the envelope's, as text."""

    offset: int
    append_ms: int
    workspace: str
    kind: str
    run_id: str
    source: str
    time: str | None
    data: Json


@dataclass
class Told:
    """Which event an object is of: the last one that changed it."""

    offset: int
    source: str
    time: float
    first_ms: int
    append_ms: int


@dataclass
class Thing:
    """A step or an eval, as it was last told."""

    data: Json
    told: Told


@dataclass
class Claim:
    """A validly signed snapshot, as it came first. `fork`: its key gave its revision to another content as well."""

    data: Json
    said: Said
    at: int
    told: Told
    fork: bool = False


@dataclass
class Mark:
    """What stays of all versions of a step that ever came."""

    summary: tuple[Any, ...]
    told: Told


@dataclass
class Run:
    """One run. `settled` lists minutes in the order in which the run first settled in them."""

    steps: dict[str, Thing] = field(default_factory=dict)
    evals: dict[tuple[Any, ...], Thing] = field(default_factory=dict)
    members: Json = field(default_factory=dict)
    told: Told | None = None
    seen: bool = False
    closed_by: str | None = None
    closed_at: float = 0.0
    basis: str | None = None
    settled: list[int] = field(default_factory=list)
    reopened: int = 0
    reopened_ms: int = 0
    corrections: int = 0
    steps_refused: int = 0
    expired_at: int | None = None
    claims: dict[str, Claim] = field(default_factory=dict)
    versions: dict[str, list[Version]] = field(default_factory=dict)
    stands: dict[str, Version] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    proof: Json | None = None  # the last snapshot, where it is signed or chained and nothing was said since

    @property
    def status(self) -> str | None:
        return "timeout" if self.closed_by == "lease" else self.members.get("status")

    @property
    def every_told(self) -> list[Told]:
        things: list[Thing | Claim | Mark] = [*self.steps.values(), *self.evals.values()]
        things += [*self.claims.values(), *self.marks.values()]
        found = [thing.told for thing in things]
        return [*found, self.told] if self.told else found

    @property
    def last_ms(self) -> int:
        return max((t.append_ms for t in self.every_told), default=0)

    @property
    def first_ms(self) -> int:
        return min((t.first_ms for t in self.every_told), default=0)


class Oracle:
    """Folds a log, event by event. `refused` are the offsets that are refused, with the reason."""

    def __init__(self, steps_max: int = 100_000) -> None:
        self.runs: dict[tuple[str, str], Run] = {}
        self.refused: dict[int, str] = {}
        self.accrued: dict[tuple[int, str, str, str, str], Amounts] = {}
        self.evidence: dict[tuple[str, str, int], Json] = {}
        self._steps_max = steps_max

    def fold(self, events: Iterable[Logged]) -> "Oracle":
        for event in events:
            run = self.runs.setdefault((event.workspace, event.run_id), Run())
            before = usages(run)
            self._apply(run, event)
            self._accrue(event, before, usages(run))
        self.runs = {key: run for key, run in self.runs.items() if run.every_told}
        return self

    def _apply(self, run: Run, event: Logged) -> None:
        if run.expired_at is not None:
            self.refused[event.offset] = "expired"
        elif event.kind == "step":
            self._step(run, event)
        elif event.kind == "eval":
            judge(run, event, event.data)
        elif event.kind == "lease":
            lease(run, event)
        elif event.kind == "expire":
            expire(run, event)
        else:
            self._snapshot(run, event)

    def _step(self, run: Run, event: Logged) -> None:
        if event.data["id"] not in run.steps and len(run.steps) >= self._steps_max:
            self._too_large(run, event)
        elif put_step(run, event.data["id"], event.data, event, "") and run.closed_by == "lease":
            assert run.told is not None
            reopen(run, event)
            run.told.offset, run.told.append_ms = event.offset, event.append_ms

    def _snapshot(self, run: Run, event: Logged) -> None:
        """Rules 1 to 6: an AgentRun or a patch."""
        proof = said(event.data) if event.kind == "run" and says_something(event.data) else None
        signed = proof is not None and proof.signature == "holds"
        steps = {s.get("id") or f"#{i}": s for i, s in enumerate(event.data.get("steps") or [])}
        applies = self._applies(run, event)
        if (applies or signed) and len(run.steps.keys() | steps.keys()) > self._steps_max:
            self._too_large(run, event)
            if proof is not None and not signed:
                self._keep(event, proof)
            return
        if applies:
            repeated = run.told is not None and same_stamp(event, run.told)
            merge(run, event)
            tell(run, event)
            move(run, event, repeated=repeated)
            run.proof = event.data if proof is not None else None
        changed = applies
        for step_id, step in steps.items():
            by = proof.claim_id if proof is not None and signed else ""
            if applies or (signed and step_id not in run.steps):
                changed = put_step(run, step_id, step, event, by) or changed
            elif step_id in run.steps:
                changed = heard(run, step_id, version(step, by), event) or changed
        if applies and event.data.get("eval") is not None:
            judge(run, event, event.data["eval"])
        if proof is not None and ((signed and claim(run, event, proof)) or (not signed and changed)):
            self._keep(event, proof)

    def _applies(self, run: Run, event: Logged) -> bool:
        """Rules 3 and 5."""
        if run.seen and run.told is not None and is_late(event, run.told):
            return False
        status = event.data.get("status")
        return not (run.closed_by == "runtime" and status is not None and status not in TERMINAL)

    def _keep(self, event: Logged, proof: Said) -> None:
        if proof.signature != "unsigned":
            self.evidence[event.workspace, event.run_id, event.offset] = event.data

    def _too_large(self, run: Run, event: Logged) -> None:
        self.refused[event.offset] = "run_too_large"
        run.steps_refused += 1
        if run.told is None:
            tell(run, event)
        assert run.told is not None
        run.told.offset = event.offset

    def _accrue(self, event: Logged, before: dict[str, Amounts], after: dict[str, Amounts]) -> None:
        """What an event brought: the run's stated amounts after it, less those before it."""
        for thing in before.keys() | after.keys():
            old, new = before.get(thing, {}), after.get(thing, {})
            basis = "step" if thing.startswith("step ") else "run"
            booked = (event.append_ms // 60_000 * 60, event.workspace, event.run_id, basis, thing)
            for name in old.keys() | new.keys():
                if difference := new.get(name, Decimal(0)) - old.get(name, Decimal(0)):
                    amounts = self.accrued.setdefault(booked, {})
                    amounts[name] = amounts.get(name, Decimal(0)) + difference


def seconds(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()


def event_time(event: Logged) -> float:
    """Section 2: the envelope's `time`, else the object's `ended_at`, else `started_at`, else append time."""
    texts = [event.time]
    if event.kind in ("run", "patch", "step"):
        texts += [event.data.get("ended_at"), event.data.get("started_at")]
    found = next((t for t in texts if t is not None), None)
    return event.append_ms / 1000 if found is None else seconds(found) or 0.0


def is_late(event: Logged, told: Told) -> bool:
    """Rule 5."""
    return event.time is not None and event.source == told.source and event_time(event) < told.time


def same_stamp(event: Logged, told: Told) -> bool:
    return event.time is not None and event.source == told.source and event_time(event) == told.time


def put(things: dict[Any, Thing], key: Any, data: Json, event: Logged) -> bool:
    """Add an object or replace the whole of it, unless the event is a late repeat."""
    old = things.get(key)
    if old is not None and is_late(event, old.told):
        return False
    first = old.told.first_ms if old else event.append_ms
    things[key] = Thing(data, Told(event.offset, event.source, event_time(event), first, event.append_ms))
    return True


def put_step(run: Run, step_id: str, data: Json, event: Logged, by: str) -> bool:
    """Rule 1, and what the chain remembers: every version that came counts, also one that is too late to be shown."""
    new = version(data, by)
    if put(run.steps, step_id, data, event):
        run.versions.setdefault(step_id, []).append(new)
        run.stands[step_id] = new._replace(by=summary(run.versions[step_id])[-1])
        note(run, step_id, event)
        return True
    heard(run, step_id, new, event)
    return False


def heard(run: Run, step_id: str, new: Version, event: Logged) -> bool:
    """A version that is not shown; whether it left a mark."""
    run.versions[step_id].append(new)
    return note(run, step_id, event)


def note(run: Run, step_id: str, event: Logged) -> bool:
    """All that ever came of a step is marked where the version that is shown does not say it by itself."""
    known, old = summary(run.versions[step_id]), run.marks.get(step_id)
    if known == (old.summary if old else summary([run.stands[step_id]])):
        return False
    first = old.told.first_ms if old else event.append_ms
    run.marks[step_id] = Mark(known, Told(event.offset, event.source, event_time(event), first, event.append_ms))
    return True


def claim(run: Run, event: Logged, proof: Said) -> bool:
    """Rule 4: kept whole, once; whether it is news."""
    old = run.claims.get(proof.claim_id)
    if old is None:
        told = Told(event.offset, event.source, event_time(event), event.append_ms, event.append_ms)
        run.claims[proof.claim_id] = Claim(event.data, proof, event.offset, told)
        return True
    if old.said.digest == proof.digest or old.fork:
        return False
    old.fork, old.told.offset, old.told.append_ms = True, event.offset, event.append_ms
    return True


def judge(run: Run, event: Logged, data: Json) -> None:
    """Rule 6. An eval says nothing of whether the agent lives: it does not reopen."""
    scorer = (data.get("metadata") or {}).get("scorer")
    put(run.evals, (data.get("eval_layer"), data.get("benchmark_id"), scorer), data, event)


def tell(run: Run, event: Logged) -> None:
    first = run.told.first_ms if run.told else event.append_ms
    run.told = Told(event.offset, event.source, event_time(event), first, event.append_ms)


def merge(run: Run, event: Logged) -> None:
    """Rule 2. A patch for a run without a snapshot lies under the first one."""
    for name, value in event.data.items():
        if value is None or name in ("steps", "eval"):
            continue
        under_first = not run.seen and name in run.members
        if name in MERGED and (event.kind == "patch" or under_first):
            run.members[name] = (run.members.get(name) or {}) | {k: v for k, v in value.items() if v is not None}
        else:
            run.members[name] = value


def move(run: Run, event: Logged, *, repeated: bool) -> None:
    """Rules 3 and 8: close, correct, or reopen what a lease had closed."""
    if event.kind == "run":
        run.seen = True
    ends = run.seen and run.members.get("status") in TERMINAL
    if not ends and run.closed_by == "lease":
        reopen(run, event)
    elif ends:
        was_closed = run.closed_by == "runtime"
        run.corrections += was_closed and not repeated
        run.closed_by = "runtime"
        moment, basis = ending(run, event)
        if event.data.get("status") is not None or not was_closed or basis != "closing_event":
            settle(run, moment, basis)


def ending(run: Run, event: Logged) -> tuple[float, str]:
    """Of the cost page, 5: `ended_at`, else `started_at` + `duration_ms`, else the closing event's time."""
    latest = (event.append_ms + HOUR_MS) / 1000
    ended, started = seconds(run.members.get("ended_at")), seconds(run.members.get("started_at"))
    if ended is not None:
        return ended, "ended_at"
    duration = run.members.get("duration_ms")
    if started is not None and duration is not None and started + duration / 1000 <= latest:
        return started + duration / 1000, "duration"
    moment = event_time(event)
    return (moment if 1_577_836_800 <= moment <= latest else event.append_ms / 1000), "closing_event"


def settle(run: Run, moment: float, basis: str) -> None:
    run.closed_at, run.basis = moment, basis
    minute = int(moment) // 60 * 60
    if minute not in run.settled:
        run.settled.append(minute)


def reopen(run: Run, event: Logged) -> None:
    run.closed_by, run.closed_at, run.basis = None, 0.0, None
    run.reopened += 1
    run.reopened_ms = event.append_ms


def lease(run: Run, event: Logged) -> None:
    """Rule 8: too early, already closed, or below the contract's minimum has no effect."""
    idle_ms, age_ms = event.data["idle_timeout"] * 1000, event.data["max_age"] * 1000
    if not run.every_told or run.closed_by or idle_ms < 60_000 or age_ms < HOUR_MS:
        return
    began = run.reopened_ms if run.reopened else run.first_ms
    if event.append_ms - run.last_ms < idle_ms and event.append_ms - began <= age_ms:
        return
    kept = run.told
    tell(run, event)
    assert run.told is not None
    if kept is not None:
        run.told.source, run.told.time = kept.source, kept.time
    run.closed_by = "lease"
    settle(run, event.append_ms / 1000, "closing_event")


def expire(run: Run, event: Logged) -> None:
    """Rule 9."""
    horizon_ms = event.data["horizon"] * 1000
    if run.closed_by and horizon_ms >= 24 * HOUR_MS and event.append_ms - run.last_ms > horizon_ms:
        run.expired_at = event.offset

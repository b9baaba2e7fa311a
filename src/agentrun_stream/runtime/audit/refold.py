"""One partition of the log folded again, some runs at a time, by the product's own fold.

Must not live here: what is compared with it (compare.py).
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from agentrun_stream.codec.cloudevents import Route
from agentrun_stream.model.event import Event, Refusal
from agentrun_stream.model.opinions import NO_OPINIONS, Opinions
from agentrun_stream.model.run import RunState, position, row_version
from agentrun_stream.model.trust import Registry
from agentrun_stream.pipeline import fold, read, settle
from agentrun_stream.ports import Part, Record, RunKey
from agentrun_stream.processors.fold import Folded, Place, is_evidence
from agentrun_stream.processors.project import missing_claim
from agentrun_stream.processors.verify import claim_of
from agentrun_stream.store import rows
from agentrun_stream.store.audit import Slice

ObjectKey = tuple[str, str, str, str]
_STORED_AT: Final = frozenset({"_ingested_at"})


_KINDS: Final[tuple[tuple[str, Callable[[RunState], Mapping[str, Any]]], ...]] = (
    ("step", lambda state: state.steps),
    ("eval", lambda state: state.evals),
    ("claim", lambda state: state.claims),
    ("mark", lambda state: state.marks),
)
_ROWS: Final = {"eval": rows.eval_row, "claim": rows.claim_row, "mark": rows.mark_row}


@dataclass(frozen=True, slots=True)
class Reach:
    """What of a partition is audited: from the log start up to the group's commit; `since` is where its news begin."""

    part: Part
    start: int
    committed: int
    partitions: int
    since: int = 0

    @property
    def news_only(self) -> bool:
        """Whether only the runs are judged that something was said about since."""
        return self.since > self.start


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides how records are read: route of each topic, topic epoch, partitioner, whose dead letters count.

    `opinions` are those in force; `registries` are all that ever were, by workspace and version, and `books` the contents of
    all price books, by digest.
    """

    route: Callable[[str], Route]
    epoch: int
    partition_of: Callable[[bytes, int], int]
    group: str
    opinions: Opinions = NO_OPINIONS
    registries: Mapping[tuple[str, int], Registry] = field(default_factory=dict)
    books: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Choice:
    """Which records are folded: those of a slice of the runs, and with `keys` those under one of these keys alone."""

    some: Slice = field(default_factory=Slice)
    keys: frozenset[bytes] | None = None

    def takes(self, key: bytes | None) -> bool:
        """Whether a record under this key is folded."""
        if self.keys is not None and (key or b"") not in self.keys:
            return False
        return self.some.count == 1 or zlib.crc32(key or b"") % self.some.count == self.some.number


class Refold:
    """The runs of a partition as the log says they are. With `deep` also the rows of their objects, as bytes."""

    def __init__(self, reach: Reach, rules: Rules, rejected: frozenset[int], *, deep: bool) -> None:
        self._reach = reach
        self._rules = rules
        self._rejected = rejected  # set aside by an operator
        self._origin = rows.Origin(*reach.part, 0) if deep else None
        self._route = rules.route(reach.part.topic)
        self.states: dict[RunKey, RunState] = {}
        self.accruals: dict[tuple[int, str], bytes] = {}
        self.refused: dict[int, tuple[str, int]] = {}
        self.steps: dict[ObjectKey, bytes] = {}
        self.evidence: dict[tuple[RunKey, int], bytes] = {}  # of claims that are not kept whole
        self.signed: dict[tuple[str, str, int], tuple[int, str]] = {}  # offset and digest of the bytes of signed events
        self.records = 0
        self.first_ms = 0
        self._ledger_origin = rows.Origin(*reach.part, 0)

    def take(self, records: Sequence[Record], choice: Choice) -> None:
        """Fold the chosen ones of these records, in order."""
        epoch = self._rules.epoch
        if not self.first_ms:
            self.first_ms = records[0].timestamp
        for record in records:
            if not choice.takes(record.key):
                continue
            self.records += 1
            event = read(record, self._route)
            if isinstance(event, Refusal):
                self.refused[record.offset] = event.reason, record.timestamp
            elif record.offset in self._rejected:
                self.refused[record.offset] = "sink_rejected", record.timestamp
            elif not self._misplaced(record):
                self._fold(record, event, Place(position(epoch, record.offset), record.timestamp))

    def _misplaced(self, record: Record) -> bool:
        reach = self._reach
        return record.key is None or self._rules.partition_of(record.key, reach.partitions) != reach.part.partition

    def _fold(self, record: Record, event: Event, at: Place) -> None:
        if event.facts is not None:
            settle(event.facts)  # looked at again, on the bytes of the log
        key = (event.workspace, event.run_id)
        state = self.states.get(key)
        if state is None:
            state = self.states[key] = RunState(*key)
        folded = fold(state, event, at)
        if record.value is not None and is_evidence(event, folded):
            self.signed[(*key, row_version(at.pos))] = record.offset, hashlib.sha256(record.value).hexdigest()
        if record.value is not None and any(state.claims[claim].doc is None for claim in folded.claims):
            self.evidence[key, at.pos] = record.value
        for accrual in folded.accruals:
            row = rows.accrual_row(state, accrual, (record.offset, record.timestamp, 0), self._ledger_origin)
            self.accruals[record.offset, accrual.object_id] = row
        if folded.refusal is not None:
            self.refused[record.offset] = folded.refusal.reason, record.timestamp
        if self._origin is not None:
            self._keep(state, folded)

    def _keep(self, state: RunState, folded: Folded) -> None:
        """Steps are encoded as they pass: their payload is in no state."""
        assert self._origin is not None
        for step in folded.steps:
            row = rows.step_row(state, step, self._origin)
            self.steps[state.workspace, state.run_id, "step", step[0]] = row

    def made_whole(self, state: RunState) -> RunState:
        """The state with the claim that is to be shown put back, where it is not kept whole."""
        wanted = missing_claim(state, self._rules.opinions) if state.claims else None
        raw = None if wanted is None else self.evidence.get(((state.workspace, state.run_id), wanted[1]))
        if wanted is None or raw is None:
            return state
        claims = {**state.claims, wanted[0]: claim_of(state.claims[wanted[0]], raw)}
        return replace(state, claims=claims)

    def expired(self, run: RunKey) -> bool:
        """Whether a run is past retention."""
        state = self.states.get(run)
        return state is not None and state.expired is not None

    def objects(self) -> Iterator[tuple[ObjectKey, int]]:
        """(key, version) of every object; an expired run has one."""
        for (workspace, run_id), state in self.states.items():
            if state.snap is not None:
                yield (workspace, run_id, "run", ""), row_version(state.snap.pos)
            for kind, facts in _KINDS:
                for object_id, fact in facts(state).items():
                    yield (workspace, run_id, kind, object_id), row_version(fact.pos)
            if state.expired is not None:
                yield (workspace, run_id, "expired", ""), row_version(state.pos)

    def columns(self, key: ObjectKey) -> dict[str, Any]:
        """Every column of an object that is a function of the log."""
        workspace, run_id, kind, object_id = key
        state, origin = self.states[workspace, run_id], self._origin
        assert origin is not None
        if kind == "step":
            encoded = self.steps[key]
        elif kind == "run":
            encoded = rows.snapshot_row(state, origin)
        elif kind in _ROWS:
            encoded = _ROWS[kind](state, object_id, origin)
        else:
            encoded = rows.expired_row(state, state.pos, origin)
        named = zip(rows.OBJECT_COLUMNS, orjson.loads(encoded), strict=True)
        return {name: value for name, value in named if name not in _STORED_AT}

    def accrual(self, key: tuple[int, str]) -> dict[str, Any]:
        """Every column of a row of the ledger, but for its version: an operator's refusal writes a higher one."""
        named = zip(rows.ACCRUAL_COLUMNS, orjson.loads(self.accruals[key]), strict=True)
        return {name: value for name, value in named if name != "_version"}

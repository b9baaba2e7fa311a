"""One slice of a partition: what the store holds beside what the log says. Rows beyond the commit are let be.

Must not live here: reading the log (refold.py), topics (outside.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from itertools import groupby
from typing import Any, Final

from agentrun_stream import limits
from agentrun_stream.errors import ConfigError
from agentrun_stream.model import lineage
from agentrun_stream.model.lineage import Child, Lineage
from agentrun_stream.model.opinions import Pricing
from agentrun_stream.model.projection import FIGURES, OPINION_COLUMNS, PRICED_COLUMNS, Projection
from agentrun_stream.model.run import RunState, offset_of, position, row_version
from agentrun_stream.pipeline import project
from agentrun_stream.ports import Part, RunKey
from agentrun_stream.pricing.books import book_of
from agentrun_stream.pricing.price import pricing_by
from agentrun_stream.processors.project import child_of
from agentrun_stream.processors.project.cost import CLAIM_COLUMNS
from agentrun_stream.runtime.audit.findings import Findings, Where, equal
from agentrun_stream.runtime.audit.outside import Expected, expected
from agentrun_stream.runtime.audit.refold import ObjectKey, Reach, Refold, Rules
from agentrun_stream.store.rows import ACCRUAL_COLUMNS

# A counter of the owner's, and when: no functions of the log.
_RUN_OPINIONS: Final = frozenset({"projected_at", "projection", "_version", "trust_version", "verifier"})
# Also which book a row names: one whose figures are the same under the book in force keeps its own.
_AGREED: Final = (*OPINION_COLUMNS, "price_book")
_AMOUNTS: Final = ACCRUAL_COLUMNS[13:19]
_NO_CLAIM: Final[dict[str, Any]] = dict.fromkeys(CLAIM_COLUMNS)
Row = Mapping[str, Any]


class Comparison:
    """Compares one refolded slice. Every row of the store is either beyond the commit, or exactly as folded."""

    def __init__(self, reach: Reach, refold: Refold, rules: Rules, findings: Findings) -> None:
        self._reach = reach
        self._refold = refold
        self._rules = rules
        self.limit = row_version(position(rules.epoch, reach.committed))
        self._findings = findings
        # Runs that began before the log: what is left of it can't say what they are.
        self.older: set[RunKey] = set()
        self.published: dict[RunKey, Expected] = {}
        self._pricings: dict[str, Pricing | None] = {}
        self.children: dict[RunKey, tuple[Child, Lineage]] = {}
        self._accrued: dict[RunKey, Decimal] = {}  # reported cost

    def _where(self, offset: int | None, run: RunKey | None, thing: str = "") -> Where:
        return Where(self._reach.part, offset, run, thing)

    @property
    def part(self) -> Part:
        """The partition that is compared."""
        return self._reach.part

    @property
    def states(self) -> Mapping[RunKey, RunState]:
        """The runs as the log says they are."""
        return self._refold.states

    def judged(self, run: RunKey, offset: int) -> bool:
        """Whether a row that stands at this offset is judged."""
        return offset < self._reach.committed and self._ours(run, offset)

    def _ours(self, run: RunKey, offset: int) -> bool:
        """Whether a stored row is judged: not one of a run from before the log, nor of one that `since` leaves out."""
        if run in self.older:
            return False
        return not self._reach.news_only or run in self._refold.states or offset >= self._reach.since

    # ---- refused

    def refused(self, stored: Mapping[int, Row]) -> None:
        """Every record is accepted, or refused for its reason."""
        reach, expected = self._reach, self._refold.refused
        for offset in sorted(expected.keys() | stored.keys()):
            if not max(reach.start, reach.since) <= offset < reach.committed:
                continue
            wanted, found = expected.get(offset), stored.get(offset)
            reason, said = wanted[0] if wanted else "accepted", found["reason"] if found else "no row"
            if reason != said:
                self._findings.differ("records", "refused", self._where(offset, None), reason, said)

    # ---- objects

    def objects(self, stored: Iterable[Row], *, deep: bool) -> None:
        """Every object is there, in its version; its row adds up to its checksum, and with `deep` is as folded."""
        expected = dict(self._refold.objects())
        self._findings.objects += len(expected)
        for run, group in groupby(stored, key=lambda row: (row["workspace"], row["run_id"])):
            rows = list(group)
            if self._from_before(rows):
                self.older.add(run)
            for row in rows:
                self._object(row, expected, deep=deep)
        for (workspace, run_id, kind, object_id), version in expected.items():
            run = (workspace, run_id)
            if run not in self.older:
                where = self._where(_offset(version), run, f"{kind} {object_id}".strip())
                self._findings.differ("digests", "run_objects", where, "a row", "no row")

    def _from_before(self, rows: Iterable[Row]) -> bool:
        if not self._reach.start:
            return False
        first_ms = self._refold.first_ms
        return not first_ms or any(float(row["_first_appended_at"]) * 1000 < first_ms for row in rows)

    def _object(self, row: Row, expected: dict[ObjectKey, int], *, deep: bool) -> None:
        key = (row["workspace"], row["run_id"], row["kind"], row["object_id"])
        found = int(row["_version"])
        version = expected.pop(key, None)
        where = self._where(_offset(found if version is None else version), key[:2], f"{key[2]} {key[3]}".strip())
        if not row["holds"]:
            self._findings.differ("digests", "run_objects", where, "a row that adds up to its checksum", "it does not")
        if found >= self.limit or not self._ours(key[:2], _offset(found)):
            return  # changed since the commit: the next audit looks at it
        if version is None:
            if not self._refold.expired(key[:2]):  # else it may await its removal
                self._findings.differ("digests", "run_objects", where, "no row", "a row")
        elif found != version:
            self._findings.differ("digests", "run_objects", where._replace(column="_version"), version, found)
        elif deep:
            self._findings.differ_columns("digests", "run_objects", where, (self._refold.columns(key), row))

    # ---- the ledger

    def accruals(self, stored: Iterable[Row]) -> None:
        """Every difference along the log is booked, once."""
        reach, missing = self._reach, set(self._refold.accruals)
        seen: set[tuple[int, str]] = set()
        for row in stored:
            run, key = (row["workspace"], row["run_id"]), (row["offset"], row["object_id"])
            if not reach.start <= key[0] < reach.committed or not self._ours(run, key[0]):
                continue
            self._accrued[run] = self._accrued.get(run, Decimal(0)) + Decimal(row["cost_reported"] or 0)
            where = self._where(key[0], run, key[1])
            if key in seen:
                self._findings.differ("accruals", "accruals", where, "one row", "a second one")
            elif key in self._refold.accruals:
                self._findings.differ_columns("accruals", "accruals", where, (self._refold.accrual(key), row))
            elif any(row[name] is not None for name in _AMOUNTS):
                # Without amounts it would be one that was taken back when an event before it was set aside.
                self._findings.differ("accruals", "accruals", where, "no row", "a row")
            seen.add(key)
            missing.discard(key)
        for key in sorted(missing):
            row = self._refold.accrual(key)
            run = (row["workspace"], row["run_id"])
            if run not in self.older:
                self._findings.differ("accruals", "accruals", self._where(key[0], run, key[1]), "a row", "no row")

    # ---- evidence

    def evidence(self, stored: Iterable[Row]) -> None:
        """The bytes of every signed event are kept as they arrived; of an expired run they go."""
        missing = dict(self._refold.signed)
        for row in stored:
            run, offset = (row["workspace"], row["run_id"]), row["offset"]
            if not self._reach.start <= offset < self._reach.committed or not self._ours(run, offset):
                continue
            wanted = missing.pop((*run, int(row["version"])), None)
            where = self._where(offset, run)
            if wanted is None:
                self._findings.differ("signatures", "evidence", where, "no row", "a row")
            elif wanted[1] != row["sha256"]:
                self._findings.differ("signatures", "evidence", where, "the bytes of the record", "other bytes")
        for (*key, _), (offset, _) in missing.items():
            run = (key[0], key[1])
            if run not in self.older and not self._refold.expired(run):
                self._findings.differ("signatures", "evidence", self._where(offset, run), "a row", "no row")

    # ---- projections

    def projections(self, runs: Iterable[Row], settlements: Iterable[Row]) -> None:
        """Every run's row, its settlements and its record are the projection of its objects."""
        stored: dict[RunKey, Row | None] = {(r["workspace"], r["run_id"]): r for r in runs}
        settled: dict[RunKey, dict[int, Row]] = {}
        for found in settlements:
            settled.setdefault((found["workspace"], found["run_id"]), {})[found["minute"]] = found
        for key, state in self._refold.states.items():
            row = stored.pop(key, None)
            minutes = settled.pop(key, {})
            projection = self._projected(key, state, row)
            if key in self.older:
                continue
            if projection is not None:
                self._findings.runs += 1
                self._run(key, projection, row)
                self._settlements(key, projection, minutes)
                if projection.announced:
                    projection.count(int(row["projection"]) if row is not None else 0)
                    self.published[key] = expected(self._reach, projection)
            else:
                self._nothing(key, row, minutes)
        for key in stored.keys() | settled.keys():
            if self._ours(key, -1):
                self._nothing(key, stored.get(key), settled.get(key, {}))

    def _projected(self, key: RunKey, state: RunState, row: Row | None) -> Projection | None:
        """The projection under the opinions in force, or under the older ones that the row was made with and says so.

        What parents showed is taken as the row has it; `Lineages` holds that against the parents.
        """
        opinions, part, state = self._rules.opinions, self._reach.part, self._refold.made_whole(state)
        if row is not None and row["parents"]:
            reasons = tuple(code for code in row["verdict_reasons"] if code in lineage.REASONS)
            recorded = Lineage(row["verdict_lineage"], reasons, tuple(row["parents_seen"]))
            opinions = replace(opinions, lineage={key: recorded})
            child = child_of(state, opinions)
            if child is not None and key not in self.older:
                self.children[key] = (child, recorded)
        projection = project(state, *part, opinions)
        if projection is None or row is None or _agree(projection, row):
            return projection
        older = self._rules.registries.get((key[0], int(row["trust_version"])))
        if older is not None:
            opinions = replace(opinions, registry=lambda _workspace: older)
        made = project(state, *part, replace(opinions, price=self._priced_by(row)))
        if made is None or not _agree(made, row):
            return projection
        if any(made.row[name] != projection.row[name] for name in FIGURES):
            self._findings.note("some runs are priced by an earlier price book: see `agentrun reprice`")
        elif not _agree(projection, row, OPINION_COLUMNS):
            self._findings.note("some runs are still to be judged again under the registry in force")
        return made

    def _priced_by(self, row: Row) -> Pricing:
        """By the book that the row names. The amounts of one that can't be opened any more are taken as they stand."""
        digest = row["price_book"]
        if digest not in self._pricings:
            content = self._rules.books.get(digest)
            try:
                self._pricings[digest] = self._rules.opinions.price if content is None else pricing_by(book_of(content))
            except ConfigError:
                self._pricings[digest] = None
        found = self._pricings[digest]
        if found is not None:
            return found
        self._findings.note(
            "some runs are priced by a book that this version can't open: their amounts are not compared"
        )
        return lambda _bill: {name: row[name] for name in PRICED_COLUMNS}

    def _run(self, key: RunKey, projection: Projection, row: Row | None) -> None:
        where = self._where(projection.row["revision"], key)
        if row is None:
            self._findings.differ("projections", "runs", where, "a row", "no row")
        elif int(row["revision"]) < self._reach.committed:
            wanted = {name: value for name, value in projection.row.items() if name not in _RUN_OPINIONS}
            self._findings.differ_columns("projections", "runs", where, (wanted, row))

    def _settlements(self, key: RunKey, projection: Projection, minutes: dict[int, Row]) -> None:
        for wanted in projection.settlements:
            found = minutes.pop(wanted["minute"], None)
            where = self._where(wanted["revision"], key, f"minute {wanted['minute']}")
            if found is None:
                self._findings.differ("settlements", "settlements", where, "a row", "no row")
            elif int(found["revision"]) < self._reach.committed:
                facts = {name: value for name, value in (_NO_CLAIM | wanted).items() if name != "_version"}
                self._findings.differ_columns("settlements", "settlements", where, (facts, found))
                self._adds_up(key, where, found)
        self._nothing(key, None, minutes)

    def _adds_up(self, key: RunKey, where: Where, found: Row) -> None:
        """What a run settles with is what it accrued, and what a shown claim says otherwise."""
        settled = Decimal(found["cost_reported"] or 0) - Decimal(found["claim_difference"] or 0)
        accrued = self._accrued.get(key, Decimal(0))
        if found["runs"] and settled != accrued:
            told = where._replace(column="cost_reported")
            self._findings.differ("settlements", "settlements", told, f"{accrued} accrued", f"{settled} settled")

    def _nothing(self, key: RunKey, row: Row | None, minutes: Mapping[int, Row]) -> None:
        """What is left over must be newer than the commit, or from before the log."""
        if row is not None and self._old(row):
            self._findings.differ("projections", "runs", self._where(row["revision"], key), "no row", "a row")
        for minute, found in minutes.items():
            if self._old(found):
                where = self._where(found["revision"], key, f"minute {minute}")
                self._findings.differ("settlements", "settlements", where, "no row", "a row")

    def _old(self, row: Row) -> bool:
        return self._reach.start <= int(row["revision"]) < self._reach.committed


def _agree(projection: Projection, row: Row, columns: Iterable[str] = _AGREED) -> bool:
    """Whether a row shows what opinions decide in the projection."""
    return all(equal(projection.row[name], row.get(name)) for name in columns)


def _offset(version: int) -> int:
    return offset_of(version >> limits.MAINTENANCE_BITS)

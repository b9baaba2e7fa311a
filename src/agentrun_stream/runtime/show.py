"""What a batch shows of the runs that it changed, or was asked about: rows, settlements, records, counts.

Must not live here: what a projection is (processors/project/), folding, writes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agentrun_stream.model.lineage import Child
from agentrun_stream.model.opinions import Opinions
from agentrun_stream.model.projection import AXES, COUNTER_BITS, OPINION_COLUMNS, Projection
from agentrun_stream.model.run import RunState, row_version
from agentrun_stream.pipeline import announcements, project
from agentrun_stream.ports import RunKey, Stored
from agentrun_stream.processors.project import child_of, missing_claim
from agentrun_stream.processors.verify import claim_of
from agentrun_stream.runtime.batch import Batch, PartBatch
from agentrun_stream.runtime.lookup import Lookups
from agentrun_stream.store import rows

_COUNTER: Final = (1 << COUNTER_BITS) - 1

Shown = tuple[int, tuple[Any, ...] | None]


@dataclass(slots=True)
class Touched:
    """A run that a batch has to do with: which of its objects changed, and why it is shown.

    `again` says that what stands of it is looked at first; `told` that an event of it was folded before, perhaps without being
    shown; `asked` that opinions on it may have changed.
    """

    state: RunState
    was_closed: bool
    changed: bool = False
    run: bool = False
    again: bool = False
    told: bool = False
    asked: bool = False
    evals: set[str] = field(default_factory=set)
    claims: set[str] = field(default_factory=set)
    marks: set[str] = field(default_factory=set)

    @property
    def key(self) -> RunKey:
        """The run."""
        return self.state.workspace, self.state.run_id

    @property
    def only_asked(self) -> bool:
        """Whether nothing on the log makes its next owner show it again, should this one die."""
        return self.asked and not self.told and not self.changed

    def object_rows(self, origin: rows.Origin) -> Iterator[bytes]:
        """The rows of its objects other than steps. What expired in this same batch has none besides its sums."""
        state = self.state
        if self.run and state.snap is not None:
            yield rows.snapshot_row(state, origin)
        for ids, held, row_of in (
            (self.evals, state.evals, rows.eval_row),
            (self.claims, state.claims, rows.claim_row),
            (self.marks, state.marks, rows.mark_row),
        ):
            for object_id in sorted(ids & held.keys()):
                yield row_of(state, object_id, origin)


async def show(batch: Batch, part: PartBatch, touched: Mapping[RunKey, Touched], lookups: Lookups) -> None:
    """Project every run and put what is shown of it into the batch.

    The row of a run that was not changed is looked at first: where opinions make another one of the same revision, its counter
    goes up by one. So the newest row and the newest record are always the same.
    """
    await _make_whole(touched, lookups)
    again = [key for key, one in touched.items() if one.again]
    stored = await lookups.projected(again)
    children = _children(touched, again, lookups.opinions)
    opinions = replace(lookups.opinions, lineage=await lookups.lineage(children))
    place = part.assigned.part
    for key, one in touched.items():
        projection = project(one.state, place.topic, place.partition, opinions)
        if projection is not None and (not one.again or _count(projection, stored.get(key), one)):
            _put(batch, part, one, projection)


async def _make_whole(touched: Mapping[RunKey, Touched], lookups: Lookups) -> None:
    """Put back the claims that are to be shown but are not kept whole, from the bytes that arrived."""
    for key, one in touched.items():
        wanted = missing_claim(one.state, lookups.opinions) if one.state.claims else None
        if wanted is None:
            continue
        claim_id, at = wanted
        raw = await lookups.evidence(key, row_version(at))
        if raw is not None:
            claims = one.state.claims
            one.state.claims = {**claims, claim_id: claim_of(claims[claim_id], raw)}


def _children(touched: Mapping[RunKey, Touched], again: list[RunKey], opinions: Opinions) -> dict[RunKey, Child]:
    found = ((key, child_of(touched[key].state, opinions)) for key in again)
    return {key: child for key, child in found if child is not None}


def _count(projection: Projection, stored: Stored | None, one: Touched) -> bool:
    """Set the counter by what stands; whether there is anything to show."""
    shown = _standing(one.state.shown, stored)
    if shown is None or shown[0] >> COUNTER_BITS < projection.pos:
        return True
    counter = shown[0] & _COUNTER
    differs = shown[1] != _opinions(projection.row)
    projection.count(counter + differs)
    return differs or one.told


def _standing(mine: Shown | None, stored: Stored | None) -> Shown | None:
    """What stands of a run: what this worker showed last may not be in the store yet.

    An owner before us may have shown other opinions under the same version, later than we did: then neither counts.
    """
    theirs = None if stored is None else (stored.version, _opinions(stored.opinions))
    if mine is None or theirs is None:
        return mine or theirs
    if mine[0] == theirs[0] and mine[1] != theirs[1]:
        return mine[0], None
    return max(mine, theirs, key=lambda shown: shown[0])


def _opinions(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(tuple(v) if type(v := row.get(name)) is list else v for name in OPINION_COLUMNS)


def _put(batch: Batch, part: PartBatch, one: Touched, projection: Projection) -> None:
    row = projection.row
    one.state.shown = int(row["_version"]), _opinions(row)
    row["projected_at"] = batch.started_ms / rows.MS
    batch.put("runs", rows.row(row), judged=one.only_asked)
    for settlement in projection.settlements:
        batch.put("settlements", rows.row(settlement), judged=one.only_asked)
    if projection.announced:
        again = one.again or one.was_closed or row["reopened"] > 0  # one that is open again was told as such
        for topic, record in announcements(projection, again=again):
            part.runs.setdefault(topic, []).append(record)
    if projection.closed and not one.was_closed:
        end = (row["status"], row["outcome"] or "none")
        batch.ended[end] = batch.ended.get(end, 0) + 1
        if row["detected_after_ms"] is not None:
            batch.detected_ms.append(row["detected_after_ms"])
    if projection.closed:
        for axis, column in AXES:
            verdict = (axis, row[column])
            batch.verdicts[verdict] = batch.verdicts.get(verdict, 0) + 1
        if row["verdict_lineage"] == "pending" and not one.again:
            part.assigned.again[one.key] = None  # its parents may be there already

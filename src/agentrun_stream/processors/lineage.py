"""The lineage axis of a run, from what it says itself and from the rows of its ancestors. Pure.

Must not live here: look-ups (runtime/lineage.py), and when a run is looked at again.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from agentrun_stream import limits
from agentrun_stream.model import lineage as words
from agentrun_stream.model.lineage import Child, Kin, Lineage, parents_of

Rows = Mapping[str, Kin | None]  # by run id; None: looked up, and not there
_Finding = tuple[str, str]  # axis, reason

_WORST_FIRST: Final = (words.CYCLE, words.MISMATCH, words.TOO_DEEP, words.ORPHANED, words.PENDING)


def wanted(named_by: Iterable[Child | Kin], rows: Rows) -> set[str]:
    """The runs one level up that nobody looked up yet: all parents of a child, of its ancestors the one they name."""
    found: set[str] = set()
    for some in named_by:
        if isinstance(some, Child):
            found.update(parents_of(some))
        elif some.parent_run_id is not None:
            found.add(some.parent_run_id)
    return found.difference(rows)


def judge_lineage(child: Child, rows: Rows, now_ms: int, orphan_after_ms: int) -> Lineage:
    """Hold a run against its ancestors' rows; the worst that is found counts.

    What can still come (a parent, its end, its claim) is `pending`, and `orphaned` from `orphan_after_ms` on. Reasons are
    given for what is found, and for what did not come in time; not for what is waited for.
    """
    parents = parents_of(child)
    found = set(_findings(child, rows))
    if now_ms - child.since_ms >= orphan_after_ms:
        found = {(words.ORPHANED if axis == words.PENDING else axis, reason) for axis, reason in found}
    axes = {axis for axis, _ in found}
    good = words.LINKED if parents else words.ROOT
    return Lineage(
        next((axis for axis in _WORST_FIRST if axis in axes), good),
        tuple(sorted({reason for axis, reason in found if axis != words.PENDING})),
        tuple(kin.version if (kin := rows.get(run_id)) is not None else "" for run_id in parents),
    )


def _findings(child: Child, rows: Rows) -> Iterator[_Finding]:
    if len(child.lineage) > limits.ANCESTORS_MAX:
        yield words.TOO_DEEP, words.LINEAGE_TOO_DEEP
    if child.parent_run_id is not None:
        yield from _parent(child, rows.get(child.parent_run_id))
        yield from _ancestors(child, rows)
    elif child.parent_run_hash is not None or child.lineage:
        yield words.MISMATCH, words.PARENT_UNNAMED
    for run_id, genesis in child.parents:
        yield from _genesis(genesis, rows.get(run_id))


def _parent(child: Child, kin: Kin | None) -> Iterator[_Finding]:
    """Hold `parent_run_hash` and `lineage` against the parent; where neither is given, that it exists is enough."""
    if kin is None:
        yield words.PENDING, words.PARENT_UNKNOWN
        return
    differs = []
    if child.parent_run_hash is not None and child.parent_run_hash != kin.run_hash:
        differs.append(words.PARENT_HASH_MISMATCH)
    stated = bool(child.lineage) or (child.parent_run_hash is not None and bool(kin.lineage))
    if stated and (kin.run_hash is None or child.lineage != (*kin.lineage, kin.run_hash)):
        differs.append(words.LINEAGE_MISMATCH)
    if not differs:
        return
    if not kin.closed:
        yield words.PENDING, words.PARENT_OPEN
    elif kin.expired and kin.run_hash is None:
        yield words.PENDING, words.PARENT_EXPIRED  # what it would be held against is gone
    else:
        yield from ((words.MISMATCH, reason) for reason in differs)


def _genesis(stated: str, kin: Kin | None) -> Iterator[_Finding]:
    """Hold a signed parent against the claim that it shows."""
    if kin is None:
        yield words.PENDING, words.PARENT_UNKNOWN
    elif not kin.closed:
        yield words.PENDING, words.PARENT_OPEN
    elif kin.genesis is None:
        yield words.PENDING, words.PARENT_EXPIRED if kin.expired else words.PARENT_UNPROVED
    elif kin.genesis != stated:
        yield words.MISMATCH, words.PARENT_GENESIS_MISMATCH


def _ancestors(child: Child, rows: Rows) -> Iterator[_Finding]:
    """Walk up by run ids, never by hashes: equal hashes along a lineage are legitimate.

    An ancestor that is `linked` is walked through as well: another run may close a cycle, or make the line longer, above it.
    """
    at, passed = child.parent_run_id, set[str]()
    while at is not None:
        if at == child.run_id:
            yield words.CYCLE, words.LINEAGE_CYCLE
            return
        if at in passed:  # others go round in a circle, and this run hangs below them
            yield words.TOO_DEEP, words.ANCESTOR_CYCLE
            return
        if len(passed) == limits.ANCESTORS_MAX:
            yield words.TOO_DEEP, words.LINEAGE_TOO_DEEP
            return
        passed.add(at)
        kin = rows.get(at)
        at = None if kin is None else kin.parent_run_id

"""Bugs as somebody could write them: a place in the product's text, what stands there, and what would stand there.

Must not live here: mechanisms that are switched off whole (mechanisms.py).
"""

from typing import Final, NamedTuple


class Bug(NamedTuple):
    """`wrong` instead of `right`, which stands exactly once in `file`."""

    file: str
    right: str
    wrong: str


BUGS: Final = {
    "the guard is off by one": Bug(
        "runtime/folder.py",
        "        if pos <= state.pos:\n            self._batch.count(ALREADY)",
        "        if pos < state.pos:\n            self._batch.count(ALREADY)",
    ),
    "a failed write is not noticed": Bug(
        "runtime/checkpoint.py", "    if failures:\n        raise failures[0]", "    if failures:\n        return"
    ),
    "a parked cache that is ahead is taken": Bug(
        "runtime/membership.py", "folded == assigned.folded", "folded >= assigned.folded"
    ),
    "what was told twice counts as late": Bug(
        "processors/fold/outcome.py", "event.time_s < old.time_s and", "event.time_s <= old.time_s and"
    ),
    "a replaced step is booked whole": Bug(
        "model/ledger.py", "said[2:7] if old is None else", "said[2:7] if new is not None else"
    ),
    "a minute left keeps its amounts": Bug(
        "processors/project/__init__.py",
        "if not state.closed or int(snap.closed_s) // 60 * 60 != minute:",
        "if not state.closed:",
    ),
    "a reopened run is not announced": Bug(
        "model/projection.py", "        return bool(self.settlements)", "        return self.closed"
    ),
    "the first append time moves": Bug(
        "processors/fold/steps.py", "first = append_ms if old is None else old[3]", "first = append_ms"
    ),
    "the journal stops at the last record": Bug(
        "runtime/checkpoint.py", '"last": entry.last,', '"last": max(entry.first, entry.last_offset + 1),'
    ),
    "a step inside a run is always news": Bug(
        "processors/fold/steps.py", "if old is None or not is_late(event, old):", "if old is None or old is not None:"
    ),
    "the newest step is believed, not the newest object": Bug(
        "model/run.py",
        "for others in (self.evals, self.claims, self.marks):\n"
        "            times += [fact.append_ms for fact in others.values()]\n"
        "        if self.snap is not None:\n            times.append(self.snap.append_ms)\n        return max",
        "return max",
    ),
    "the commit is believed, not the journal": Bug(
        "runtime/resume.py",
        "offset = known if bounds.committed is None else min(known, bounds.committed)",
        "offset = known if bounds.committed is None else max(known, bounds.committed)",
    ),
    "the newest claim is shown": Bug(
        "processors/project/shown.py",
        "kid = min(trusted.values(), key=lambda claim: claim.at).facts.kid",
        "kid = max(trusted.values(), key=lambda claim: claim.at).facts.kid",
    ),
    "the first revision stays": Bug(
        "processors/project/shown.py",
        "return max((key for key in trusted if trusted[key].facts.kid == kid)",
        "return min((key for key in trusted if trusted[key].facts.kid == kid)",
    ),
    "a claim is judged when it came last": Bug(
        "processors/project/shown.py",
        "if signature_axis(claim.facts, Judgement(workspace, registry, claim.first_append_ms / 1000))",
        "if signature_axis(claim.facts, Judgement(workspace, registry, claim.append_ms / 1000))",
    ),
    "a run that is open again leaves no tombstone": Bug("runtime/show.py", ' or row["reopened"] > 0  # one', "  # one"),
    "the fingerprint of an expired run is made anew": Bug(
        "processors/project/shown.py",
        'hash_axis(shown.snap.doc) if state.expired is None else state.expired["hash"]',
        "hash_axis(shown.snap.doc)",
    ),
}

# What no twin plays: (the bug, the test on the real store that must notice).
STORE_BUGS: Final = {
    "touched windows are found by a high-water mark": (
        Bug(
            "store/windows.py",
            "if minus([part.blocks], joined(self.seen.get(place, ())))",
            "if part.blocks.last > max((i.last for i in self.seen.get(place, ())), default=0)",
        ),
        "integration/test_windows.py::test_a_block_that_becomes_visible_late_is_found",
    ),
    "an old version of an object is looked up": (
        Bug("store/reader.py", "ORDER BY _version\n", "ORDER BY _version DESC\n"),
        "contract/test_store_contract.py",
    ),
}

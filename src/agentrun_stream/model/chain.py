"""The chain of steps: what a signature commits to, what arrived, and what is wrong between the two.

Must not live here: digests (codec/arsig.py), signatures, trust.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple


class Link(NamedTuple):
    """A chained step: its place, the digest of the step before it (for 0 the genesis), its own digest."""

    seq: int
    prev: str
    digest: str


class Commitment(NamedTuple):
    """`arsig.steps` of a terminal snapshot: its `count` of steps, and the digest of the last one."""

    length: int
    head: str


class Marks(NamedTuple):
    """What streamed steps left behind besides links: some arrived, one without a link, two versions of one, a broken one."""

    streamed: bool = False
    unchained: bool = False
    conflict: bool = False
    broken: bool = False


class Seen(NamedTuple):
    """All that ever came of one step, whatever the order: a function of the set of its versions, so no repeat changes it.

    `digest` is that of its chained versions, `conflict` that they had two. `bare` says who brought a version without a link:
    None nobody, a claim's id that claim alone, '' others too. `origin` says the same of any version.
    """

    digest: str | None
    conflict: bool
    bare: str | None
    origin: str

    def and_(self, other: "Seen") -> "Seen":
        """Both together."""
        two = self.digest is not None and other.digest is not None and self.digest != other.digest
        conflict = self.conflict or other.conflict or two
        bare = self.bare if other.bare is None else other.bare if self.bare in {None, other.bare} else ""
        origin = self.origin if self.origin == other.origin else ""
        return Seen(None if conflict else self.digest or other.digest, conflict, bare, origin)


def seen_of(link: Link | None, origin: str) -> Seen:
    """What one version of a step says of how it came: by a claim, or `origin` ''."""
    digest, bare = (None, origin) if link is None else (link.digest, None)
    return Seen(digest=digest, conflict=False, bare=bare, origin=origin)


class ChainAxis(NamedTuple):
    """The chain axis, its reason codes (sorted), and where each was found, for people."""

    axis: str
    reasons: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


NO_MARKS: Final = Marks()
_INTACT: Final = ChainAxis("intact")
_AXIS_OF: Final = {
    "genesis_mismatch": "wrong_run",
    "seq_conflict": "fork",
    "prev_mismatch": "fork",
    "head_mismatch": "fork",
    "seq_beyond_count": "fork",
    "step_unchained": "fork",
    "seq_missing": "gap",
    "tail_missing": "truncated",
}
_FIRST: Final = ("wrong_run", "fork", "gap", "truncated")
_DETAILS_MAX: Final = 20

_Versions = dict[int, dict[str, str]]  # seq -> digest -> prev
_Finding = tuple[str, str]


def judge_chain(
    links: Iterable[Link], commitment: Commitment | None, genesis: str | None, marks: Marks = NO_MARKS
) -> ChainAxis:
    """Hold what arrived, in any order and any number of times, against what was signed."""
    broken = ("step_malformed",) if marks.broken else ()
    if commitment is None or genesis is None:
        return ChainAxis("absent", broken + (("steps_uncovered",) if marks.streamed else ()))
    found = tuple(links)
    marked = marks.unchained or marks.conflict
    if not marked and (_is_whole(found, commitment, genesis) or _is_whole(sorted(found), commitment, genesis)):
        return ChainAxis("intact", broken) if broken else _INTACT
    versions: _Versions = {}
    for link in found:
        versions.setdefault(link.seq, {})[link.digest] = link.prev
    findings = [*_marked(marks), *_differences(versions, commitment, genesis), *_holes(versions, commitment.length)]
    axes = {_AXIS_OF[code] for code, _ in findings}
    return ChainAxis(
        next((axis for axis in _FIRST if axis in axes), "intact"),
        tuple(sorted({code for code, _ in findings}.union(broken))),
        tuple(f"{code}: {where}" for code, where in findings[:_DETAILS_MAX]),
    )


def _is_whole(found: Sequence[Link], commitment: Commitment, genesis: str) -> bool:
    """Whether every step is there once, in order, and follows from the one before: what most chains are."""
    if len(found) != commitment.length:
        return False
    expected = genesis
    for at, (seq, prev, digest) in enumerate(found):
        if seq != at or prev != expected:
            return False
        expected = digest
    return expected == commitment.head


def _marked(marks: Marks) -> Iterator[_Finding]:
    if marks.conflict:
        yield "seq_conflict", "a chained step arrived with two contents"
    if marks.unchained:
        yield "step_unchained", "a streamed step has no seq and prev"


def _differences(versions: _Versions, commitment: Commitment, genesis: str) -> Iterator[_Finding]:
    for seq, steps in sorted(versions.items()):
        before = versions.get(seq - 1)
        if len(steps) > 1:
            yield "seq_conflict", f"step {seq} arrived with {len(steps)} contents"
        if seq == 0 and any(prev != genesis for prev in steps.values()):
            yield "genesis_mismatch", "step 0 names another run's genesis"
        if before is not None and any(prev not in before for prev in steps.values()):
            yield "prev_mismatch", f"step {seq} does not follow from the step {seq - 1} that arrived"
        if seq >= commitment.length:
            yield "seq_beyond_count", f"step {seq}, where the run commits to {commitment.length}"
    last = versions.get(commitment.length - 1) if commitment.length else {genesis: ""}
    if last is not None and commitment.head not in last:
        yield "head_mismatch", "the last step is not the one the run commits to"


def _holes(versions: _Versions, count: int) -> Iterator[_Finding]:
    top = max(versions, default=-1)
    for seq in range(count):
        if seq not in versions:
            yield ("seq_missing" if seq < top else "tail_missing"), f"step {seq} did not arrive"

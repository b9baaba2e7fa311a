"""The lineage axis by named cases: what makes a child linked, pending, orphaned, wrong, endless."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from agentrun_stream import limits
from agentrun_stream.model.facts import Parent
from agentrun_stream.model.lineage import Child, Kin, Lineage, parents_of
from agentrun_stream.ports import RunKey
from agentrun_stream.processors.lineage import judge_lineage
from agentrun_stream.runtime.lineage import resolve

SINCE_MS, AFTER_MS = 1_000_000, 5_000
SOON, LATE = SINCE_MS + AFTER_MS - 1, SINCE_MS + AFTER_MS
G, OTHER = "g" * 64, "0" * 64


def child(parent: str | None = "p", **said: Any) -> Child:
    told: dict[str, Any] = {"parent_run_hash": None, "lineage": (), "parents": ()} | said
    return Child("c", parent, since_ms=SINCE_MS, **told)


def kin(run_id: str = "p", **says: Any) -> Kin:
    shown: dict[str, Any] = {"closed": True, "run_hash": "h", "lineage": (), "genesis": None, "axis": "root"}
    more: dict[str, Any] = {"parent_run_id": None, "version": "7"}
    return Kin(run_id, **(shown | more | says))


def judged(of: Child, *rows: Kin, now_ms: int = SOON) -> Lineage:
    return judge_lineage(of, {row.run_id: row for row in rows}, now_ms, AFTER_MS)


def test_a_run_that_names_nobody_is_a_root() -> None:
    assert judged(child(None), now_ms=LATE) == Lineage("root")


@pytest.mark.parametrize("said", [{"parent_run_hash": "h"}, {"lineage": ("h",)}], ids=["hash", "lineage"])
def test_ancestors_without_a_parent_are_a_mismatch(said: dict[str, Any]) -> None:
    assert judged(child(None, **said)) == Lineage("mismatch", ("parent_unnamed",))


@pytest.mark.parametrize(
    ("said", "parent", "axis", "reasons"),
    [
        ({}, {}, "linked", ()),
        ({}, {"closed": False, "run_hash": None}, "linked", ()),
        ({}, {"run_hash": None}, "linked", ()),
        ({"parent_run_hash": "h"}, {}, "linked", ()),
        ({"parent_run_hash": "h"}, {"closed": False}, "linked", ()),
        ({"parent_run_hash": "h", "lineage": ("h",)}, {}, "linked", ()),
        ({"lineage": ("h",)}, {}, "linked", ()),
        ({"lineage": ("r", "h")}, {"lineage": ("r",)}, "linked", ()),
        ({"lineage": ("h", "h", "h")}, {"lineage": ("h", "h")}, "linked", ()),
        ({"parent_run_hash": "x"}, {}, "mismatch", ("parent_hash_mismatch",)),
        ({"parent_run_hash": "x"}, {"closed": False}, "pending", ()),
        ({"parent_run_hash": "h"}, {"run_hash": None}, "mismatch", ("parent_hash_mismatch",)),
        ({"parent_run_hash": "h"}, {"run_hash": None, "closed": False}, "pending", ()),
        ({"parent_run_hash": "h"}, {"lineage": ("r",)}, "mismatch", ("lineage_mismatch",)),
        ({"lineage": ("h",)}, {"lineage": ("r",)}, "mismatch", ("lineage_mismatch",)),
        ({"lineage": ("h", "r")}, {"lineage": ("r",)}, "mismatch", ("lineage_mismatch",)),
        ({"lineage": ("r",)}, {"lineage": ("r",), "run_hash": None}, "mismatch", ("lineage_mismatch",)),
        ({"lineage": ("h",)}, {"lineage": ("r",), "closed": False}, "pending", ()),
        (
            {"parent_run_hash": "x", "lineage": ("x",)},
            {},
            "mismatch",
            ("lineage_mismatch", "parent_hash_mismatch"),
        ),
        ({}, {"run_hash": None, "expired": True}, "linked", ()),
        ({"parent_run_hash": "h", "lineage": ("h",)}, {"run_hash": None, "expired": True}, "pending", ()),
        ({"parent_run_hash": "x"}, {"expired": True}, "mismatch", ("parent_hash_mismatch",)),
    ],
)
def test_what_a_child_says_is_held_against_its_parent(
    said: dict[str, Any], parent: dict[str, Any], axis: str, reasons: tuple[str, ...]
) -> None:
    """Only what it says; an open parent may still come to say the same; equal hashes are as good as any."""
    assert judged(child(**said), kin(**parent)) == Lineage(axis, reasons, ("7",))


@pytest.mark.parametrize(
    ("parent", "axis", "reasons", "orphaned_for"),
    [
        ({"genesis": G}, "linked", (), None),
        ({"genesis": OTHER}, "mismatch", ("parent_genesis_mismatch",), None),
        ({"genesis": None}, "pending", (), "parent_unproved"),
        ({"genesis": OTHER, "closed": False}, "pending", (), "parent_open"),
        ({"genesis": None, "expired": True}, "pending", (), "parent_expired"),
        (None, "pending", (), "parent_unknown"),
    ],
    ids=["same", "other", "no-claim", "open", "expired", "unknown"],
)
def test_signed_parents_are_held_against_the_genesis_of_their_claim(
    parent: dict[str, Any] | None, axis: str, reasons: tuple[str, ...], orphaned_for: str | None
) -> None:
    """A signature may name more parents than the run does; each is looked at, also where it is the same one."""
    for of in (child(None, parents=(Parent("p", G),)), child("p", parents=(Parent("p", G),))):
        rows = () if parent is None else (kin(**parent),)
        seen = ("",) if parent is None else ("7",)
        assert judged(of, *rows) == Lineage(axis, reasons, seen)
        if orphaned_for is not None:
            assert judged(of, *rows, now_ms=LATE) == Lineage("orphaned", (orphaned_for,), seen)


def test_the_worst_result_counts() -> None:
    parents = (Parent("good", G), Parent("late", G), Parent("bad", G))
    rows = [kin(), kin("good", genesis=G, version="8"), kin("late", closed=False, version="9")]
    assert judged(child(parents=parents[:1]), *rows) == Lineage("linked", (), ("7", "8"))
    assert judged(child(parents=parents[:2]), *rows) == Lineage("pending", (), ("7", "8", "9"))
    assert judged(child(parents=parents[:2]), *rows, now_ms=LATE).axis == "orphaned"
    rows.append(kin("bad", genesis=OTHER))
    assert judged(child(parents=parents), *rows).axis == "mismatch"
    own = kin(parent_run_id="c")
    assert judged(child(parents=parents), *rows[1:], own).axis == "cycle"
    too_long = ("h",) * (limits.ANCESTORS_MAX + 1)
    assert judged(child("unknown", lineage=too_long), now_ms=LATE).axis == "too_deep"
    assert judged(child("p", lineage=too_long), kin()).axis == "mismatch"


def test_a_parent_that_never_comes_makes_an_orphan_and_may_still_come() -> None:
    of = child(parent_run_hash="h")
    assert judged(of) == Lineage("pending", (), ("",))
    assert judged(of, now_ms=LATE) == Lineage("orphaned", ("parent_unknown",), ("",))
    assert judged(of, kin(closed=False, run_hash=None), now_ms=LATE) == Lineage("orphaned", ("parent_open",), ("7",))
    assert judged(of, kin(), now_ms=LATE) == Lineage("linked", (), ("7",))


def test_parents_are_named_once_the_run_s_own_first() -> None:
    assert parents_of(child("p", parents=(Parent("a", G), Parent("p", G), Parent("b", G)))) == ("p", "a", "b")
    assert parents_of(child(None, parents=(Parent("b", G), Parent("a", G)))) == ("b", "a")
    assert parents_of(child(None)) == ()


# ---- walking up


def line(length: int, **says: Any) -> list[Kin]:
    """Ancestors above `c`: a1 is its parent, and so on. All with the same hash, as of an agent that starts itself."""
    return [
        kin(
            f"a{i}",
            parent_run_id=f"a{i + 1}" if i < length else None,
            lineage=("h",) * (length - i),
            axis="linked" if i < length else "root",
            **says,
        )
        for i in range(1, length + 1)
    ]


@pytest.mark.parametrize(("length", "axis"), [(1, "linked"), (255, "linked"), (256, "linked"), (257, "too_deep")])
@pytest.mark.parametrize("says", [True, False], ids=["declared", "by-ids-alone"])
def test_256_ancestors_are_the_most(length: int, axis: str, *, says: bool) -> None:
    """Whether the line is declared or only walked, of agents that start themselves with equal hashes."""
    said: dict[str, Any] = {"parent_run_hash": "h", "lineage": ("h",) * length} if says else {}
    of = child("a1", **said)
    expected = Lineage(axis, ("lineage_too_deep",) if axis == "too_deep" else (), ("7",))
    assert judged(of, *line(length)) == expected
    assert looked_up(of, line(length)) == expected


def test_a_line_that_is_not_known_to_its_end_is_linked_as_far_as_it_goes() -> None:
    """What the parent's parent is worth is the parent's own matter."""
    assert judged(child("a1"), *line(5)[:2]).axis == "linked"


def circle(size: int) -> list[Kin]:
    names = ["c", *(f"a{i}" for i in range(1, size))]
    return [kin(name, parent_run_id=names[(i + 1) % size], axis="linked") for i, name in enumerate(names)]


@pytest.mark.parametrize("size", [1, 2, 5, 256, 257])
def test_who_descends_from_itself_is_a_cycle(size: int) -> None:
    """Also where every other run of the circle says of itself that it is linked."""
    rows = circle(size)
    of = child(rows[0].parent_run_id)
    assert judged(of, *rows).axis == "cycle"
    assert "lineage_cycle" in judged(of, *rows).reasons
    assert looked_up(of, rows).axis == "cycle"


def test_who_hangs_below_a_circle_is_no_part_of_it() -> None:
    rows = [row._replace(run_id="x") if row.run_id == "c" else row for row in circle(3)]
    rows[-1] = rows[-1]._replace(parent_run_id="x")
    assert judged(child("x"), *rows) == Lineage("too_deep", ("ancestor_cycle",), ("7",))
    assert looked_up(child("x"), rows).axis == "too_deep"


def looked_up(of: Child, rows: Sequence[Kin]) -> Lineage:
    """The same through the look-ups: the run's own row is in the store as well."""
    stored = {("w", row.run_id): row for row in rows}

    async def load(keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
        return {key: stored[key] for key in keys if key in stored}

    return asyncio.run(resolve(load, {("w", "c"): of}, SOON, AFTER_MS))["w", "c"]

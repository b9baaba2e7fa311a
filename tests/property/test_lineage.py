"""Lineage over made-up families: true ones are linked whatever order they come in, and every lie shows."""

import asyncio
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from agentrun_stream.model.facts import Parent
from agentrun_stream.model.lineage import Child, Kin
from agentrun_stream.ports import RunKey
from agentrun_stream.processors.lineage import judge_lineage
from agentrun_stream.runtime.lineage import resolve

AFTER_MS = 1_000
HASHES = ("h1", "h2")  # few, so that equal ones are common


@st.composite
def family(draw: st.DrawFn) -> tuple[list[Kin], list[Child]]:
    """Runs that say the truth of their parents, oldest first, and their rows."""
    rows: list[Kin] = []
    children: list[Child] = []
    for i in range(draw(st.integers(1, 12))):
        parent = draw(st.sampled_from([None, *rows])) if rows else None
        lineage = () if parent is None or parent.run_hash is None else (*parent.lineage, parent.run_hash)
        also = draw(st.lists(st.sampled_from(rows), max_size=2, unique=True)) if rows else []
        states_hash = draw(st.booleans()) or bool(lineage)
        rows.append(
            Kin(
                f"r{i}",
                closed=True,
                run_hash=draw(st.sampled_from(HASHES)),
                lineage=lineage,
                genesis=f"genesis-{i}",
                parent_run_id=None if parent is None else parent.run_id,
                axis="",
                version=str(i),
            )
        )
        children.append(
            Child(
                f"r{i}",
                rows[-1].parent_run_id,
                parent.run_hash if parent is not None and states_hash else None,
                lineage,
                tuple(Parent(row.run_id, row.genesis or "") for row in also),
                0,
            )
        )
    return rows, children


@given(family(), st.data())
def test_true_families_are_linked_and_lies_are_not(made: tuple[list[Kin], list[Child]], data: st.DataObject) -> None:
    """Of the truth any part may be missing yet, which is pending; whatever is altered in a known one is a mismatch."""
    rows, children = made
    there = {row.run_id: row for row in rows}
    known = {name: there[name] for name in data.draw(st.sets(st.sampled_from(sorted(there))))}
    for of in children:
        names = {of.parent_run_id, *(p.run_id for p in of.parents)} - {None}
        assert judge_lineage(of, there, 10**9, AFTER_MS).axis == ("linked" if names else "root")
        axis = judge_lineage(of, known, 0, AFTER_MS).axis
        assert axis == ("root" if not names else "linked" if names <= known.keys() else "pending")
        for lie in lies(of):
            assert judge_lineage(lie, there, 10**9, AFTER_MS).axis == "mismatch", lie


def lies(of: Child) -> list[Child]:
    """The child with one thing altered."""
    told = []
    if of.parent_run_id is not None:
        told.append(of._replace(parent_run_hash="x"))
        told.append(of._replace(lineage=(*of.lineage, "x")))
        told += [of._replace(lineage=(*of.lineage[:i], "x", *of.lineage[i + 1 :])) for i in range(len(of.lineage))]
        if len(of.lineage) > 1:
            told.append(of._replace(lineage=of.lineage[1:]))
            told.append(of._replace(lineage=()))
    else:
        told += [of._replace(parent_run_hash="h1"), of._replace(lineage=("h1",))]
    for i, parent in enumerate(of.parents):
        told.append(
            of._replace(parents=(*of.parents[:i], parent._replace(genesis="x"), *of.parents[i + 1 :])),
        )
    return told


@given(st.lists(st.integers(-1, 14), min_size=1, max_size=12), st.data())
def test_circles_are_found_by_ids_and_each_row_is_looked_up_once(above: list[int], data: st.DataObject) -> None:
    """Whoever names whom (-1: nobody; some that do not exist), in two workspaces that know nothing of each other."""
    names = {f"r{i}": None if up < 0 else f"r{up}" for i, up in enumerate(above)}
    stored = {
        (workspace, name): Kin(
            name,
            closed=True,
            run_hash=None,
            lineage=(),
            genesis=None,
            parent_run_id=up,
            axis=data.draw(st.sampled_from(["linked", "pending"])),
            version="1",
        )
        for name, up in names.items()
        for workspace in ("w1", "w2")
    }
    lone = data.draw(st.sampled_from(sorted(names)))
    children = {
        key: Child(key[1], row.parent_run_id, None, (), (), 0)
        for key, row in stored.items()
        if key[0] == "w1" or key[1] == lone
    }
    asked: list[RunKey] = []

    async def load(keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
        asked.extend(keys)
        return {key: stored[key] for key in keys if key in stored}

    found = asyncio.run(resolve(load, children, 0, AFTER_MS))
    assert {key: lineage.axis for key, lineage in found.items()} == {key: walked(key[1], names) for key in children}
    assert len(asked) == len(set(asked))


def walked(name: str, names: Mapping[str, str | None]) -> str:
    """The slow, obvious way: a hundred steps up."""
    up = names[name]
    if up is None:
        return "root"
    above = [up]
    while above[-1] in names and len(above) < 100:
        following = names[above[-1]]
        if following is None:
            break
        above.append(following)
    if name in above:
        return "cycle"
    if len(above) == 100:
        return "too_deep"
    return "linked" if up in names else "pending"

"""The chain axis: the first that applies of wrong_run, fork, gap, truncated, intact, whatever order the steps arrive in."""

from itertools import permutations

import pytest

from agentrun_stream.model.chain import Commitment, Link, Marks, judge_chain

A, B, C = Link(0, "g", "a"), Link(1, "a", "b"), Link(2, "b", "c")
THREE = Commitment(3, "c")


@pytest.mark.parametrize(
    ("links", "commitment", "axis", "reasons"),
    [
        ((A, B, C), THREE, "intact", ()),
        ((A, A, B, C, C), THREE, "intact", ()),
        ((), Commitment(0, "g"), "intact", ()),
        ((), Commitment(0, "x"), "fork", ("head_mismatch",)),
        ((A,), Commitment(0, "g"), "fork", ("seq_beyond_count",)),
        ((Link(0, "x", "a"),), Commitment(0, "g"), "wrong_run", ("genesis_mismatch", "seq_beyond_count")),
        ((), THREE, "truncated", ("tail_missing",)),
        ((A, B), THREE, "truncated", ("tail_missing",)),
        ((A, C), THREE, "gap", ("seq_missing",)),
        ((B,), THREE, "gap", ("seq_missing", "tail_missing")),
        ((C,), THREE, "gap", ("seq_missing",)),
        ((A, Link(1, "x", "b"), C), THREE, "fork", ("prev_mismatch",)),
        ((A, B, Link(2, "b", "x")), THREE, "fork", ("head_mismatch",)),
        ((A, B, C, Link(1, "a", "x")), THREE, "fork", ("seq_conflict",)),
        ((A, B, C, Link(3, "c", "d")), THREE, "fork", ("seq_beyond_count",)),
        ((A, B, C, Link(2**53 - 1, "c", "d")), THREE, "fork", ("seq_beyond_count",)),
        ((Link(0, "x", "a"), B, C), THREE, "wrong_run", ("genesis_mismatch",)),
        ((A, Link(0, "x", "y"), B, C), THREE, "wrong_run", ("genesis_mismatch", "seq_conflict")),
        ((Link(0, "x", "a"), C), THREE, "wrong_run", ("genesis_mismatch", "seq_missing")),
        ((A, Link(2, "b", "x")), THREE, "fork", ("head_mismatch", "seq_missing")),
    ],
    ids=str,
)
def test_the_axis_and_its_reasons(
    links: tuple[Link, ...], commitment: Commitment, axis: str, reasons: tuple[str, ...]
) -> None:
    found = {judge_chain(order, commitment, "g", Marks(streamed=True))[:2] for order in permutations(links)}
    assert found == {(axis, reasons)}


@pytest.mark.parametrize(
    ("marks", "axis", "reasons"),
    [
        (Marks(streamed=True, unchained=True), "fork", ("step_unchained",)),
        (Marks(streamed=True, conflict=True), "fork", ("seq_conflict",)),
        (Marks(streamed=True, broken=True), "intact", ("step_malformed",)),
    ],
)
def test_marks_stay_whatever_the_links_say(marks: Marks, axis: str, reasons: tuple[str, ...]) -> None:
    assert judge_chain((A, B, C), THREE, "g", marks)[:2] == (axis, reasons)


def test_without_a_commitment_there_is_nothing_to_judge() -> None:
    assert judge_chain((A, B), None, "g", Marks(streamed=True))[:2] == ("absent", ("steps_uncovered",))
    assert judge_chain((A, B), None, "g")[:2] == ("absent", ())
    assert judge_chain((A, B), THREE, None, Marks(streamed=True, unchained=True)).axis == "absent"


def test_a_long_list_of_findings_is_cut_for_people() -> None:
    assert len(judge_chain((), Commitment(10_000, "x"), "g").details) == 20

"""Decisions of commands: which dead letters are sent again, what /metrics says, what doctor and demo call wrong."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agentrun_stream.cli.demo import Published, _problems
from agentrun_stream.cli.doctor import FAIL, OK, WARN, _clock, _room
from agentrun_stream.cli.scrape import ask_worker, parse
from agentrun_stream.runtime.second_chance import Letter, again, chunks, judge
from agentrun_stream.testing.fleet import FleetTotals


@dataclass
class Refused:
    """A record of the dead letters."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    offset: int = 0
    timestamp: int = 0


def letter(value: bytes, attempt: int, offset: int = 0, key: bytes = b"r") -> Letter:
    headers = (
        ("traceparent", b"00-1"),
        ("agentrun.dlq.reason", b"schema"),
        ("agentrun.dlq.attempt", str(attempt).encode()),
        ("agentrun.dlq.first_seen", b"123"),
        ("agentrun.dlq.offset", str(offset).encode()),
    )
    said = {"topic": "t", "partition": "0", "offset": str(offset), "attempt": str(attempt), "reason": "schema"}
    said["first_seen"] = "123"
    return Letter(Refused(key, value, headers), said)


def test_a_replayed_record_keeps_its_headers_and_counts_the_attempt() -> None:
    assert again(letter(b"x", 2)).headers == (
        ("traceparent", b"00-1"),
        ("agentrun.dlq.first_seen", b"123"),
        ("agentrun.dlq.attempt", b"3"),
    )


def test_a_letter_is_told_by_place_and_attempt_and_sent_once() -> None:
    """Written twice by a crash; published again, and back with the next attempt; refused too often."""
    first, twice, back, other, often = (
        letter(b"x", attempt, offset) for attempt, offset in ((1, 5), (1, 5), (2, 9), (1, 6), (5, 12))
    )
    judged = judge([first, twice, back, other, often], frozenset({"t:0:5:1"}), 5)
    assert [(one.letter.identity, one.state) for one in judged] == [
        ("t:0:5:1", "replayed"),
        ("t:0:9:2", "waiting"),
        ("t:0:6:1", "waiting"),
        ("t:0:12:5", "parked"),
    ]
    assert chunks(judged, 1) == [[back], [other]]
    assert chunks(judged, 1_000) == [[back, other]]


def test_a_letter_with_odd_headers_is_still_one() -> None:
    odd = Letter(Refused(None, None, ()), {"attempt": "many"})
    assert (odd.attempt, odd.place, odd.size) == (1, "?:?:?", 0)
    assert odd.row()["key"] is None


def test_a_metrics_page_is_read_with_its_labels() -> None:
    page = (
        "# HELP agentrun_lag_records x\n"
        'agentrun_lag_records{partition="0",topic="a\\"b"} 5.0\n'
        'agentrun_lag_records{partition="1",topic="t"} 7\n'
        "agentrun_cache_runs 3\n"
        "other_metric 9\nnonsense\n"
    )
    found = parse(page)
    assert sorted(found) == ["cache_runs", "lag_records"]
    assert [s.value for s in found["lag_records"]] == [5.0, 7.0]
    assert found["lag_records"][1].labels == {"partition": "1", "topic": "t"}


def test_a_worker_that_does_not_answer_is_an_answer() -> None:
    worker = ask_worker("http://127.0.0.1:1")
    assert worker.state == "down"
    assert worker.reasons
    assert worker.total("cache_runs") is None


def test_doctor_judges_room_and_clocks() -> None:
    assert [_room("d", free, "fix").verdict for free in (10**6, 2 * 10**9, 10**12)] == [FAIL, WARN, OK]
    assert _clock("c", None, "x").verdict == OK
    assert _clock("c", 0, "x").verdict == FAIL
    assert _clock("c", 0, "x", ahead_only=True).verdict == OK


def test_the_demo_names_what_is_not_as_the_fleet_says() -> None:
    totals = FleetTotals(records=10, runs=2, runs_by_verdict=Counter(verified=1, rejected=1))
    shown = {
        "audit_residual": 3,
        "records": 9,
        "totals": {"runs": 2, "steps": 0, "evals": 0},
        "runs_by_status": [{"status": None, "runs": 1}],
        "runs_by_verdict": [{"verdict": "verified", "found": 2}, {"verdict": "rejected", "found": 0}],
        "cost_by_agent": [{"cost": None, "cost_reported": None}],
        "refused": [],
    }
    found = _problems(shown, Published(totals, 9, 0.0), compare=True)
    assert [problem.partition(":")[0] for problem in found] == [
        "the audit found 3 differences",
        "records acknowledged",
        "runs by status",
        "runs by verdict",
    ]
    assert len(_problems(shown, Published(totals, 9, 0.0), compare=False)) == 2

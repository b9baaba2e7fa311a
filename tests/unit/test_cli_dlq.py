"""Decisions of commands: which dead letters are sent again, what /metrics says, what doctor and demo call wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

from agentrun_stream.cli.demo import Published, _problems
from agentrun_stream.cli.dlq import Letter, again, newest_attempts
from agentrun_stream.cli.doctor import FAIL, OK, WARN, _clock, _room
from agentrun_stream.cli.scrape import ask_worker, parse
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
    return Letter(Refused(key, value, headers), said)


def test_a_replayed_record_keeps_its_headers_and_counts_the_attempt() -> None:
    assert again(letter(b"x", 2)) == [
        ("traceparent", b"00-1"),
        ("agentrun.dlq.first_seen", b"123"),
        ("agentrun.dlq.attempt", b"3"),
    ]


def test_a_letter_written_twice_and_one_refused_again_are_sent_once() -> None:
    first, twice, again_refused, other = letter(b"x", 1, 5), letter(b"x", 1, 5), letter(b"x", 2, 9), letter(b"y", 1, 6)
    assert newest_attempts([first, twice, again_refused, other]) == [again_refused, other]
    assert len(newest_attempts([letter(b"x", 1, 1, b"r1"), letter(b"x", 1, 2, b"r2")])) == 2


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
    totals = FleetTotals(records=10, runs=2)
    shown = {
        "audit_residual": 3,
        "records": 9,
        "totals": {"runs": 2, "steps": 0, "evals": 0},
        "runs_by_status": [{"status": None, "runs": 1}],
        "cost_by_agent": [{"cost": None}],
        "refused": [],
    }
    found = _problems(shown, Published(totals, 9, 0.0), compare=True)
    assert [problem.partition(":")[0] for problem in found] == [
        "the audit found 3 differences",
        "records acknowledged",
        "runs by status",
    ]
    assert len(_problems(shown, Published(totals, 9, 0.0), compare=False)) == 2

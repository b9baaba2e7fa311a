"""Bad records, as real bytes through the real broker: each reason of the wire contract that one record alone decides."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream import limits
from agentrun_stream.testing.events import OMIT, eval_event, run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, Letter, Place, Sent, home, lane, run_on

pytestmark = pytest.mark.stack

CANARY = "canary-4f1d"
OWN_HEADERS = [("x-trace", b"\x00\xff" + CANARY.encode()), ("x-trace", b"twice"), ("agentrun", b"")]
DLQ_HEADERS = {"reason", "detail", "topic", "partition", "offset", "timestamp", "group", "attempt", "first_seen"}
LATER = (datetime.now(UTC) + timedelta(hours=3)).isoformat()


def run_of(name: str) -> str:
    return f"{CANARY}-{name}"


def step(name: str, **members: Any) -> bytes:
    return step_event(run_of(name), input_preview=CANARY, **members)


def run(name: str, **members: Any) -> bytes:
    return run_event(run_of(name), error=CANARY, **members)


def nested(levels: int) -> Any:
    """A map that is `levels` deep."""
    deep: dict[str, Any] = {"at": CANARY}
    for _ in range(levels - 1):
        deep = {"d": deep}
    return deep


def sized(name: str, size: int) -> bytes:
    """An event of exactly so many bytes."""
    plain = step(name, output_preview="")
    return step(name, output_preview="x" * (size - len(plain)))


@dataclass(frozen=True)
class Case:
    """A bad record and why it is refused. `key` False: none; None: the run id of its name."""

    name: str
    reason: str
    value: bytes | None
    pointer: str = ""
    keyword: str | None = None
    key: bytes | bool | None = None
    headers: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def sent(self) -> Sent:
        key = run_of(self.name).encode() if self.key is None else None if self.key is False else self.key
        assert not isinstance(key, bool)
        return Sent(self.value, key, [*OWN_HEADERS, *self.headers], home(run_of(self.name)))


def malformed(name: str, value: bytes | None, keyword: str | None = "json") -> Case:
    return Case(name, "malformed", value, keyword=keyword)


def schema(name: str, value: bytes, pointer: str, keyword: str) -> Case:
    return Case(name, "schema", value, pointer, keyword)


def in_metadata(name: str, text: bytes) -> bytes:
    """A step with this text as a JSON value somewhere inside."""
    return step(name, metadata={"v": "@"}).replace(b'"@"', text)


CASES = [
    malformed("not-utf8", b"\xff\xfe\x00" + CANARY.encode()),
    malformed("latin1-inside", step("latin1-inside").replace(b"search", b"caf\xe9")),
    malformed("not-json", b'{"id": ' + CANARY.encode()),
    malformed("two-values", step("two-values") + b"{}"),
    malformed("byte-order-mark", b"\xef\xbb\xbf" + step("byte-order-mark")),
    malformed("empty", b"", "empty"),
    malformed("tombstone", None, "empty"),
    malformed("depth-65", step("depth-65", metadata=nested(64)), "depth"),
    malformed("depth-100000", in_metadata("depth-100000", b"[" * 100_000 + b"]" * 100_000), None),
    malformed("depth-bare", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, None),
    malformed("lone-surrogate", in_metadata("lone-surrogate", b'"\\ud800 %s"' % CANARY.encode())),
    malformed("beyond-uint64", in_metadata("beyond-uint64", b"18446744073709551616")),
    malformed("below-int64", in_metadata("below-int64", b"-9223372036854775809")),
    malformed("huge-integer", in_metadata("huge-integer", b"9" * 100_000)),
    malformed("infinite", in_metadata("infinite", b"1e999")),
    malformed("nan", in_metadata("nan", b"NaN")),
    Case("one-byte-over", "oversize", sized("one-byte-over", limits.VALUE_BYTES_MAX + 1)),
    Case("as-large-as-it-gets", "oversize", sized("as-large-as-it-gets", limits.EVENTS_MESSAGE_BYTES_MAX - 2_000)),
    Case("other-type", "unknown_type", step("other-type", envelope={"type": f"agentrun.{CANARY}.v1"})),
    Case("other-version", "unknown_type", step("other-version", envelope={"specversion": "0.3"})),
    Case("bare-nothing", "unknown_type", orjson.dumps({"name": CANARY})),
    Case("bare-array", "unknown_type", orjson.dumps([CANARY])),
    Case("bare-string", "unknown_type", orjson.dumps(CANARY)),
    schema("no-status", run("no-status", status=OMIT), "/status", "required"),
    schema("no-step-id", step("no-step-id", id=OMIT), "/id", "required"),
    schema("null-status", run("null-status", status=None), "/status", "type"),
    schema("strange-type", step("strange-type", type=CANARY), "/type", "enum"),
    schema("negative-cost", run("negative-cost", cost={"cost_usd": -0.5}), "/cost/cost_usd", "minimum"),
    schema("half-a-token", run("half-a-token", cost={"input_tokens": 0.5}), "/cost/input_tokens", "type"),
    schema(
        "inside-a-step",
        run("inside-a-step", steps=[{"type": "message"}, {"type": CANARY}]),
        "/steps/1/type",
        "enum",
    ),
    schema("score", eval_event(run_of("score"), score=101, detail=CANARY), "/score", "maximum"),
    schema("no-offset", step("no-offset", started_at="2026-01-01T12:00:00"), "/started_at", "pattern"),
    schema("no-such-day", step("no-such-day", started_at="2026-02-30T12:00:00Z"), "/started_at", "format"),
    schema("no-source", step("no-source", envelope={"source": OMIT}), "/source", "required"),
    schema("bad-workspace", step("bad-workspace", envelope={"workspaceid": f"{CANARY}/x"}), "/workspaceid", "pattern"),
    schema("strange-time", step("strange-time", envelope={"time": CANARY}), "/time", "format"),
    schema("data-is-text", step("data-is-text", envelope={"data": CANARY}), "/data", "type"),
    Case("subject", "key_mismatch", step("subject", envelope={"subject": CANARY}), "/subject"),
    Case("own-id", "key_mismatch", run("own-id", id=CANARY), "/id"),
    Case("own-id-alone", "key_mismatch", run("own-id-alone", id=CANARY, envelope={"subject": OMIT}), "/id"),
    Case("key-not-utf8", "key_mismatch", step("key-not-utf8"), keyword="key", key=b"\xff"),
    Case(
        "nothing-says",
        "key_mismatch",
        step("nothing-says", envelope={"subject": OMIT}),
        keyword="key",
        key=False,
    ),
    Case("empty-key", "key_mismatch", step("empty-key", envelope={"subject": OMIT}), keyword="key", key=b""),
    Case(
        "two-workspaces",
        "workspace_mismatch",
        run("two-workspaces", workspace_id=CANARY, envelope={"workspaceid": "a"}),
        "/workspace_id",
    ),
    Case("before-2020", "time_out_of_range", step("before-2020", started_at="2019-12-31T23:59:59Z"), "/started_at"),
    Case("too-late", "time_out_of_range", step("too-late", ended_at=LATER), "/ended_at"),
    Case(
        "late-inside",
        "time_out_of_range",
        run("late-inside", steps=[{"type": "message"}, {"type": "message", "ended_at": LATER}]),
        "/steps/1/ended_at",
    ),
    Case(
        "late-proof", "time_out_of_range", run("late-proof", provenance={"created_at": LATER}), "/provenance/created_at"
    ),
    Case(
        "binary-no-type", "schema", b"{}", "/source", "required", headers=[("ce_specversion", b"1.0"), ("ce_id", b"1")]
    ),
    Case("binary-headers", "malformed", b"{}", keyword="headers", headers=[("ce_specversion", b"\xff")]),
]

# At the edge, and accepted.
GOOD = {
    "depth-64": step("depth-64", metadata=nested(63)),
    "exactly-1-mib": sized("exactly-1-mib", limits.VALUE_BYTES_MAX),
    "uint64": in_metadata("uint64", b"18446744073709551615"),
    "int64": in_metadata("int64", b"-9223372036854775808"),
    "same-workspace": run("same-workspace", workspace_id=7, envelope={"workspaceid": "7"}),
    "in-half-an-hour": step("in-half-an-hour", ended_at=(datetime.now(UTC) + timedelta(minutes=30)).isoformat()),
    "at-2020": step("at-2020", started_at="2020-01-01T00:00:00Z"),
    "pair-of-surrogates": in_metadata("pair-of-surrogates", b'"\\ud83d\\ude00"'),
    "repeated-name": in_metadata("repeated-name", b'1,"v":2'),
}


@dataclass
class Sink:
    """The lane after everything was sent, where each record stood, and every dead letter."""

    lane: Lane
    places: dict[str, Place]
    letters: dict[Place, Letter]
    metrics: str


@pytest.fixture(scope="module")
def sink(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    """Every bad record, and behind each a good one of its run on the same partition."""
    folder = tmp_path_factory.mktemp("refusals")
    with lane(agentrun_stack, folder, "refusals", AGENTRUN_WORKER__DLQ_STOP_RATIO="1") as made:
        made.start()
        records: list[Sent] = []
        for case in CASES:
            records += [case.sent, Sent(step_event(run_of(case.name), "after"), run_of(case.name).encode())]
        places = made.produce(records)
        made.produce(Sent(value, run_of(name).encode()) for name, value in GOOD.items())
        made.wait()
        letters: dict[Place, Letter] = {}
        for letter in made.letters():
            place = Place(*(int(letter.said[n]) for n in ("partition", "offset", "timestamp")))
            assert place not in letters, "one record, one dead letter"
            letters[place] = letter
        metrics = made.get("/metrics")[1]
        yield Sink(made, dict(zip([c.name for c in CASES], places[::2], strict=True)), letters, metrics)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_record_becomes_a_dead_letter(sink: Sink, case: Case) -> None:
    """Untouched, with every header; a row says why; and the next record of the partition is stored."""
    place = sink.places[case.name]
    letter, wanted = sink.letters[place], case.sent
    assert (letter.key, letter.value, letter.headers) == (wanted.key, wanted.value, list(wanted.headers))
    assert letter.said.keys() == DLQ_HEADERS
    size = len(case.value or b"")
    row = sink.lane.one(f"SELECT * FROM refused FINAL WHERE partition = {place.partition} AND offset = {place.offset}")
    assert (row["reason"], row["pointer"], row["size"], row["attempt"]) == (case.reason, case.pointer, size, 1)
    if case.keyword is not None:
        assert row["keyword"] == case.keyword
    told = " ".join(filter(None, (row["pointer"], row["keyword"], f"{size} bytes")))
    assert letter.said == {
        "reason": case.reason,
        "detail": told,
        "topic": sink.lane.topic,
        "partition": str(place.partition),
        "offset": str(place.offset),
        "timestamp": str(place.timestamp),
        "group": sink.lane.name,
        "attempt": "1",
        "first_seen": str(place.timestamp),
    }
    after = f"SELECT count() AS n FROM steps_latest WHERE run_id = '{run_of(case.name)}' AND id = 'after'"
    assert sink.lane.one(after)["n"] == 1


@pytest.mark.parametrize("name", GOOD)
def test_what_is_just_within_the_contract_is_stored(sink: Sink, name: str) -> None:
    """The last depth, the last byte, the last integer, the first and the last time."""
    found = sink.lane.one(f"SELECT count() AS n FROM run_objects FINAL WHERE run_id = '{run_of(name)}'")
    assert found["n"] == 1


def test_every_refusal_is_counted_by_reason(sink: Sink) -> None:
    """In the metric as in the table, and one dead letter each."""
    assert len(sink.letters) == len(CASES)
    for reason in {case.reason for case in CASES}:
        wanted = sum(case.reason == reason for case in CASES)
        assert sink.lane.metric("records_refused_total", reason=reason) == wanted
        found = sink.lane.one(f"SELECT count() AS n FROM refused FINAL WHERE reason = '{reason}'")
        assert found["n"] == wanted
    assert sink.lane.metric("dead_letters_total") == len(CASES)
    sink.lane.assert_exact()


def test_no_value_of_a_refused_record_leaks(sink: Sink) -> None:
    """Not into logs, metrics, readiness, the `refused` table, or what the worker adds to a dead letter."""
    made = sink.lane
    columns = "topic, reason, pointer, keyword, ifNull(workspace, '')"
    told = orjson.dumps(made.rows(f"SELECT {columns} FROM refused")).decode()
    places = [made.log(), sink.metrics, made.get("/readyz")[1], told]
    places += [str(letter.said) for letter in sink.letters.values()]
    for text in places:
        assert CANARY not in text


def test_a_topic_without_a_workspace_is_refused_where_topics_decide(agentrun_stack: Stack, tmp_path: Path) -> None:
    """With tenancy by topic a header is a claim: unmapped topics are refused whole; a mapped one ignores the claim."""
    run_id = run_on(0, "tenant")
    event = run_event(run_id, envelope={"workspaceid": "claimed"})
    with lane(agentrun_stack, tmp_path, "unmapped", AGENTRUN_TENANCY="topic") as made:
        made.start()
        (place,) = made.produce([event])
        made.wait()
        letter = made.letter_of(place)
        assert letter.said["reason"] == "workspace_mismatch"
        assert letter.said["detail"] == f"unmapped_topic {len(event)} bytes"
        assert made.one("SELECT count() AS n FROM runs")["n"] == 0
        made.assert_exact()
    mapped = orjson.dumps({"mapped.v1": "acme"}).decode()
    with lane(agentrun_stack, tmp_path, "mapped", AGENTRUN_TENANCY="topic", AGENTRUN_WORKSPACES=mapped) as made:
        made.start()
        made.produce([event])
        made.wait()
        assert made.run_row(run_id)["workspace"] == "acme"
        made.assert_exact()

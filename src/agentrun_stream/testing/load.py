"""A fast, plain, seeded load for benchmarks: templates of bytes instead of objects, about 700 bytes a step.

Every value is compact JSON exactly as orjson writes it. Must not live here: stories and their totals (`fleet.py`).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Final

import orjson

from agentrun_stream.testing.fleet import WINDOW_MS, Record
from agentrun_stream.testing.fleet_bad import bad_value
from agentrun_stream.testing.fleet_story import iso

POOL: Final = 509  # prime, so that pools of texts and numbers drift against each other
REPEAT_LAG_RECORDS: Final = 200

_HEAD: Final = (
    b'{"specversion":"1.0","id":"%b/%b","source":"/runtime/bench","type":"agentrun.%b.v1","subject":"%b",'
    b'"time":"%b","datacontenttype":"application/json","data":{"id":"%b",'
)
_TOOL: Final = _HEAD + (
    b'"type":"tool_call","tool_name":"%b","input_preview":"%b","output_preview":"%b","success":true,'
    b'"started_at":"%b","ended_at":"%b","duration_ms":%d}}'
)
_MESSAGE: Final = _HEAD + (
    b'"type":"message","output_preview":"%b","started_at":"%b","ended_at":"%b","duration_ms":%d,"metadata":{"usage":'
    b'{"provider":"anthropic","model":"%b","input_tokens":%d,"output_tokens":%d,"cache_read_tokens":%d}}}}'
)
_RUN: Final = _HEAD + (
    b'"agent_id":"%b","model":"%b","provider":"anthropic","runtime":"bench","trigger":"queue","status":"%b",'
    b'"started_at":"%b",%b"steps":[],"cost":{%b},"provenance":{}}}'
)
_MODELS: Final = (b"claude-sonnet-4-5-20250929", b"claude-haiku-4-5-20251001", b"claude-opus-4-5-20251101")
_TOOLS: Final = (b"read_file", b"search_code", b"run_tests", b"web_search", b"query_database")
_SENTENCE: Final = "the index holds every parcel that a customer sent back before noon été Zürich naïve 日本 quoted"
_WORDS: Final = tuple(_SENTENCE.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to generate. `steps` counts step events, without repeats; the shares are of step events.

    `late` steps arrive after the end of their run. Exactly `open_runs` runs are open at once until the steps run out.
    """

    steps: int
    open_runs: int
    seed: int
    now: datetime
    bad: float = 0.0
    repeated: float = 0.0
    late: float = 0.0
    steps_per_run: int = 20


class _Run:
    """One open run: how many steps it still has, its tokens so far, the steps held back until after its end."""

    __slots__ = ("agent", "done", "held", "id", "left", "model", "started", "tokens")

    def __init__(self, number: int, seed: int, steps: int, started: bytes) -> None:
        self.id = b"bench-%d-%08d" % (seed, number)
        self.agent = b"agent-%d" % (number % 12)
        self.model = _MODELS[number % 12 % len(_MODELS)]
        self.left = steps
        self.done = 0
        self.started = started
        self.tokens = [0, 0, 0]
        self.held: list[Record] = []

    def begin(self) -> Record:
        """Return the event that starts the run."""
        head = (self.id, b"run/running", b"run", self.id, self.started, self.id, self.agent, self.model)
        return Record(self.id, _RUN % (*head, b"running", self.started, b"", b""))

    def end(self, now: bytes) -> Record:
        """Return the event that ends the run, with the sums of its steps."""
        head = (self.id, b"run/completed", b"run", self.id, now, self.id, self.agent, self.model)
        fresh, output, cached = self.tokens
        usd = round(0.000003 * fresh + 0.000015 * output + 0.0000003 * cached, 8)
        cost = b'"input_tokens":%d,"output_tokens":%d,"cache_read_tokens":%d,"cost_usd":%b'
        costs = cost % (fresh, output, cached, orjson.dumps(usd))
        return Record(self.id, _RUN % (*head, b"completed", self.started, b'"ended_at":"%b",' % now, costs))


class _Pools:
    """What varies from record to record, drawn once."""

    def __init__(self, load: Load, rng: Random) -> None:
        begin_ms = int(load.now.timestamp()) * 1000 - WINDOW_MS
        self.seconds = [iso(begin_ms + s * 1000)[:-4].encode() for s in range(-1, WINDOW_MS // 1000 + 1)]
        self.texts = [_text(rng) for _ in range(POOL)]
        self.durations = [rng.randrange(1, 1000) for _ in range(POOL)]
        self.tokens = [(rng.randrange(200, 4000), rng.randrange(20, 900), rng.randrange(9000)) for _ in range(POOL)]
        self.odd = load.bad > 0 or load.repeated > 0 or load.late > 0

    def time(self, at_ms: int) -> bytes:
        """Return milliseconds since the begin of the window as RFC 3339."""
        second, ms = divmod(at_ms, 1000)
        return b"%b%03dZ" % (self.seconds[second + 1], ms)


def bench_load(load: Load) -> Iterator[Record]:
    """Yield the records of a load; times go evenly through the hour before `now`."""
    rng = Random(f"load/{load.seed}")
    pools = _Pools(load, rng)
    records = _rounds(load, pools, rng)
    return _disturbed(records, load, rng) if pools.odd else records


def _rounds(load: Load, pools: _Pools, rng: Random) -> Iterator[Record]:
    """Yield one step of every open run in turn; where a run ends, the next one begins in its place."""
    unassigned, number, done = load.steps, 0, 0
    slots: list[_Run] = []
    for slot in range(min(load.open_runs, load.steps)):
        # First runs of different lengths: otherwise all would end in the same round, for ever.
        reserve = min(load.open_runs, load.steps) - slot - 1
        length = min(1 + slot % load.steps_per_run, unassigned - reserve)
        slots.append(_Run(number, load.seed, length, pools.time(0)))
        unassigned -= length
        number += 1
        yield slots[-1].begin()
    while slots:
        over = False
        for slot, run in enumerate(slots):
            at_ms = done * WINDOW_MS // load.steps
            done += 1
            record = _step(run, pools, at_ms, done)
            if load.late and rng.random() < load.late:
                run.held.append(record)
            else:
                yield record
            if run.left:
                continue
            now = pools.time(at_ms)
            yield run.end(now)
            yield from run.held
            if unassigned:
                length = min(load.steps_per_run, unassigned)
                slots[slot] = _Run(number, load.seed, length, now)
                unassigned -= length
                number += 1
                yield slots[slot].begin()
            else:
                over = True
        if over:
            slots = [run for run in slots if run.left]


def _step(run: _Run, pools: _Pools, at_ms: int, draw: int) -> Record:
    """Return the next step of a run: tool calls and messages in turn."""
    index, run_id = run.done, run.id
    run.done += 1
    run.left -= 1
    step_id = b"s%d" % index
    now = pools.time(at_ms)
    duration = pools.durations[draw % POOL]
    started = pools.time(at_ms - duration)
    text = pools.texts[draw * 7 % POOL]
    head = (run_id, step_id, b"step", run_id, now, step_id)
    if index & 1:
        other = pools.texts[draw * 11 % POOL]
        return Record(run_id, _TOOL % (*head, _TOOLS[draw % 5], text, other, started, now, duration))
    usage = pools.tokens[draw * 3 % POOL]
    tokens = run.tokens
    tokens[0] += usage[0]
    tokens[1] += usage[1]
    tokens[2] += usage[2]
    return Record(run_id, _MESSAGE % (*head, text, started, now, duration, run.model, *usage))


def _disturbed(records: Iterator[Record], load: Load, rng: Random) -> Iterator[Record]:
    """Yield the records, with repeats some time later and records that are refused in between."""
    repeats: deque[tuple[int, Record]] = deque()
    for position, record in enumerate(records):
        while repeats and repeats[0][0] <= position:
            yield repeats.popleft()[1]
        yield record
        if b"/run/" in record.value[:100]:
            continue
        if rng.random() < load.repeated:
            repeats.append((position + REPEAT_LAG_RECORDS, record))
        if rng.random() < load.bad:
            key = record.key or b""
            yield Record(key, bad_value(rng, key.decode(), "2026-01-01T00:00:00Z")[1])
    for _, record in repeats:
        yield record


def _text(rng: Random) -> bytes:
    words = " ".join(rng.choice(_WORDS) for _ in range(60))
    return orjson.dumps(words[: rng.randrange(170, 230)])[1:-1]

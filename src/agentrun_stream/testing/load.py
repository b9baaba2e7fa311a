"""A fast, plain, seeded load for benchmarks: templates of bytes instead of objects, about 700 bytes a step.

Every value is compact JSON exactly as orjson writes it, and every object canonical as it stands. Must not live here: stories
and their totals (`fleet.py`), signatures (`load_signing.py`).
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Final

import orjson

from agentrun_stream.testing.fleet import WINDOW_MS, Record
from agentrun_stream.testing.fleet_bad import bad_value
from agentrun_stream.testing.fleet_story import iso
from agentrun_stream.testing.load_signing import AGENTS, TAMPERS, Chain, tamper_of

POOL: Final = 509  # prime, so that pools of texts and numbers drift against each other
REPEAT_LAG_RECORDS: Final = 200

_EVENT: Final = (
    b'{"specversion":"1.0","id":"%b/%b","source":"/runtime/bench","type":"agentrun.%b.v1","subject":"%b",'
    b'"time":"%b","datacontenttype":"application/json","data":%b}'
)
# Members in the order of RFC 8785, so that the bytes that are sent are those that are hashed.
_TOOL: Final = (
    b'{"duration_ms":%d,"ended_at":"%b","id":"%b","input_preview":"%b",%b"output_preview":"%b","started_at":"%b",'
    b'"success":true,"tool_name":"%b","type":"tool_call"}'
)
_TOOL_LINK: Final = b'"metadata":{%b},'
_MESSAGE: Final = (
    b'{"duration_ms":%d,"ended_at":"%b","id":"%b","metadata":{%b"usage":{"cache_read_tokens":%d,"input_tokens":%d,'
    b'"model":"%b","output_tokens":%d,"provider":"anthropic"}},"output_preview":"%b","started_at":"%b","type":"message"}'
)
_RUN: Final = (
    b'{"agent_id":"%b","cost":{%b},%b"id":"%b","model":"%b","provenance":{%b},"provider":"anthropic","runtime":"bench",'
    b'"started_at":"%b","status":"%b","steps":[],"trigger":"queue"}'
)
_COST: Final = b'"cache_read_tokens":%d,"cost_usd":%b,"input_tokens":%d,"output_tokens":%d'
_MODELS: Final = (b"claude-sonnet-4-5-20250929", b"claude-haiku-4-5-20251001", b"claude-opus-4-5-20251101")
_TOOLS: Final = (b"read_file", b"search_code", b"run_tests", b"web_search", b"query_database")
_SENTENCE: Final = "the index holds every parcel that a customer sent back before noon été Zürich naïve 日本 quoted"
_WORDS: Final = tuple(_SENTENCE.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to generate. `steps` counts step events, without repeats; the shares are of step events.

    `late` steps arrive after the end of their run. Exactly `open_runs` runs are open at once until the steps run out.
    `signed` runs chain their steps and sign their end, under `bench_registry`; `tampered` is the share of them that is wrong.
    """

    steps: int
    open_runs: int
    seed: int
    now: datetime
    bad: float = 0.0
    repeated: float = 0.0
    late: float = 0.0
    steps_per_run: int = 20
    signed: bool = False
    tampered: float = 0.0


class _Run:
    """One open run: how many steps it still has, its tokens so far, the steps held back until after its end."""

    __slots__ = ("agent", "chain", "done", "held", "id", "left", "model", "started", "tokens", "verdict")

    def __init__(self, number: int, load: Load, steps: int, started: bytes) -> None:
        self.id = b"bench-%d-%08d" % (load.seed, number)
        self.agent = AGENTS[number % len(AGENTS)].encode()
        self.model = _MODELS[number % len(AGENTS) % len(_MODELS)]
        self.left = steps
        self.done = 0
        self.started = started
        self.tokens = [0, 0, 0]
        self.held: list[Record] = []
        self.chain: Chain | None = None
        self.verdict = "unverifiable"
        if load.signed:
            tamper = tamper_of(number, load.tampered)
            self.chain = Chain(load.seed, self._configuration(), tamper)
            self.verdict = TAMPERS[tamper] if tamper else "verified"

    def _configuration(self) -> dict[str, str]:
        members = {"id": self.id, "agent_id": self.agent, "model": self.model, "started_at": self.started}
        return {name: value.decode() for name, value in members.items()} | {"trigger": "queue"}

    def begin(self) -> Record:
        """Return the event that starts the run."""
        return self._record(b"running", self.started, self._snapshot(b"running", b"", b""))

    def end(self, now: bytes) -> Record:
        """Return the event that ends the run, with the sums of its steps."""
        fresh, output, cached = self.tokens
        usd = round(0.000003 * fresh + 0.000015 * output + 0.0000003 * cached, 8)
        cost = _COST % (cached, orjson.dumps(usd), fresh, output)
        data = self._snapshot(b"completed", b'"ended_at":"%b",' % now, cost)
        return self._record(b"completed", now, data if self.chain is None else self.chain.sign(data))

    def _snapshot(self, status: bytes, ended: bytes, cost: bytes) -> bytes:
        stated = b"" if self.chain is None else b'"run_hash":"%b"' % self.chain.run_hash.encode()
        return _RUN % (self.agent, cost, ended, self.id, self.model, stated, self.started, status)

    def _record(self, status: bytes, now: bytes, data: bytes) -> Record:
        return Record(self.id, _EVENT % (self.id, b"run/" + status, b"run", self.id, now, data))


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


def bench_load(load: Load, verdicts: Counter[str] | None = None) -> Iterator[Record]:
    """Yield the records of a load; times go evenly through the hour before `now`.

    `verdicts` counts the headlines that a correct pipeline must show, as runs begin.
    """
    rng = Random(f"load/{load.seed}")
    pools = _Pools(load, rng)
    records = _rounds(load, pools, rng, Counter() if verdicts is None else verdicts)
    return _disturbed(records, load, rng) if pools.odd else records


def _rounds(load: Load, pools: _Pools, rng: Random, verdicts: Counter[str]) -> Iterator[Record]:
    """Yield one step of every open run in turn; where a run ends, the next one begins in its place."""
    unassigned, number, done = load.steps, 0, 0
    slots: list[_Run] = []
    for slot in range(min(load.open_runs, load.steps)):
        # First runs of different lengths: otherwise all would end in the same round, for ever.
        reserve = min(load.open_runs, load.steps) - slot - 1
        length = min(1 + slot % load.steps_per_run, unassigned - reserve)
        slots.append(_Run(number, load, length, pools.time(0)))
        unassigned -= length
        number += 1
        verdicts[slots[-1].verdict] += 1
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
                slots[slot] = _Run(number, load, length, now)
                unassigned -= length
                number += 1
                verdicts[slots[slot].verdict] += 1
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
    chain = run.chain
    link = b"" if chain is None else chain.place()
    if index & 1:
        other = pools.texts[draw * 11 % POOL]
        metadata = _TOOL_LINK % link if link else b""
        data = _TOOL % (duration, now, step_id, text, metadata, other, started, _TOOLS[draw % 5])
    else:
        fresh, output, cached = pools.tokens[draw * 3 % POOL]
        tokens = run.tokens
        tokens[0] += fresh
        tokens[1] += output
        tokens[2] += cached
        metadata = link + b"," if link else b""
        data = _MESSAGE % (duration, now, step_id, metadata, cached, fresh, run.model, output, text, started)
    if chain is not None:
        data = chain.add(data)
    return Record(run_id, _EVENT % (run_id, step_id, b"step", run_id, now, data))


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

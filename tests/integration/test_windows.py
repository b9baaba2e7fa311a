"""Cost windows: whatever is inserted, replaced, merged, refreshed or forgotten, readers see the exact sums."""

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import orjson
import pytest
from clickhouse_connect.driver.client import Client
from prometheus_client import CollectorRegistry

from agentrun_stream.errors import StoreError
from agentrun_stream.runtime.clock import SystemClock
from agentrun_stream.runtime.refresh import Refresher
from agentrun_stream.store import windows
from agentrun_stream.store.client import StoreAddress, connect, execute
from agentrun_stream.store.embedded import EmbeddedStore
from agentrun_stream.store.migrate import migrate
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.sql import INSERT_SETTINGS
from agentrun_stream.store.windows import ClickHouseWindows, Refreshed, refresh
from agentrun_stream.telemetry.metrics import Metrics

pytestmark = pytest.mark.stack

DIMENSIONS = ("workspace", "agent_id", "model", "provider", "runtime", "trigger", "status", "outcome", "basis")
COUNTS = ("runs", "unpriced", "timeouts", "steps", "tool_calls", "failed_tool_calls", "corrections")
AMOUNTS = ("duration_ms", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "total_tokens")
MINUTES = (1_767_225_600, 1_767_225_660, 1_767_229_200, 1_772_323_200)  # two of an hour, one of the next, one in March
KNOWN: dict[str, list[str | None]] = {"workspace": ["a", "b"], "agent_id": [None, "x"], "model": [None, "m", "n"]}

Sums = dict[tuple[Any, ...], list[Any]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def address(store: EmbeddedStore, request: pytest.FixtureRequest) -> StoreAddress:
    found = StoreAddress(store.url, "w_" + "".join(c if c.isalnum() else "_" for c in request.node.name))
    migrate(found)
    return found


@pytest.fixture
def client(address: StoreAddress) -> Client:
    return connect(address)


def add(left: Any, right: Any) -> Any:
    """Unknown is never zero."""
    return right if left is None else left if right is None else left + right


@dataclass
class Ledger:
    """The rows as a slow reader keeps them: by key, the higher version wins."""

    client: Client
    rng: random.Random
    rows: dict[str, dict[Any, dict[str, Any]]] = field(default_factory=lambda: {"accruals": {}, "settlements": {}})
    offset: int = 0

    def insert(self, table: str, *given: dict[str, Any]) -> None:
        for row in given:
            row = {name: value for name, value in row.items() if value is not None}  # noqa: PLW2901
            key = (row["minute"], row["offset"]) if table == "accruals" else (row["minute"], row["run_id"])
            held = self.rows[table].get(key)
            if held is None or row["_version"] >= held["_version"]:
                self.rows[table][key] = row
        block = b"\n".join(orjson.dumps(row) for row in given)
        self.client.raw_insert(table, insert_block=block, settings=INSERT_SETTINGS, fmt="JSONEachRow")

    def accrual(self, **given: Any) -> dict[str, Any]:
        self.offset += 1
        place = {
            "minute": self.rng.choice(MINUTES),
            "topic": "t",
            "partition": 0,
            "offset": self.offset,
            "object_id": "",
        }
        basis = self.rng.choice(["step", "run"])
        return self._amounts() | place | {"run_id": "r", "basis": basis, "appended_at": 0, "_version": 0, **given}

    def settlement(self, run_id: str, minute: int, **given: Any) -> dict[str, Any]:
        self.offset += 1
        cost, chance = self._amounts(), self.rng
        end = {"status": chance.choice(["completed", "timeout"]), "outcome": chance.choice([None, "success"])}
        counts = {"runs": 1, "unpriced": int(cost["cost_reported"] is None), "steps": chance.randint(0, 9)}
        times = {"closed_by": chance.choice(["event", "lease"]), "duration_ms": chance.choice([None, 5, 70])}
        key = {"minute": minute, "workspace": "a", "run_id": run_id, "revision": self.offset, "_version": self.offset}
        return cost | end | counts | times | key | given

    def _amounts(self) -> dict[str, Any]:
        chance = self.rng
        dimensions = {name: chance.choice(values) for name, values in KNOWN.items()}
        cost = chance.choice([None, "0.000000000001", "123456789012.345678901234", "-1"])
        return {**dimensions, "input_tokens": chance.choice([None, None, -3, 0, 2**40]), "cost_reported": cost}

    def sums(self) -> Sums:
        """What the windows must be."""
        found: Sums = {}
        for row in self.rows["accruals"].values():
            self._sum(found, "accrued", row, {"basis": row["basis"]})
        for row in self.rows["settlements"].values():
            if row["runs"]:
                lease = int(row.get("closed_by") == "lease")
                counts = {name: row.get(name, 0) for name in COUNTS} | {"timeouts": lease}
                places = {"status": row.get("status", ""), "outcome": row.get("outcome", "")}
                self._sum(found, "settled", row, places | counts | {"duration_ms": row.get("duration_ms")})
        return found

    def _sum(self, found: Sums, ledger: str, row: dict[str, Any], said: dict[str, Any]) -> None:
        plain = {name: row.get(name, "") for name in DIMENSIONS[:6]}
        key = (ledger, row["minute"], *((plain | said).get(name, "") for name in DIMENSIONS))
        cost = row.get("cost_reported")
        new = [*(said.get(name, 0) for name in COUNTS), *(said.get(name, row.get(name)) for name in AMOUNTS)]
        new += [None if cost is None else Decimal(cost), 1]
        held = found.setdefault(key, [0] * len(COUNTS) + [None] * (len(AMOUNTS) + 1) + [0])
        found[key] = [add(a, b) for a, b in zip(held, new, strict=True)]


def shown(client: Client, table: str = "cost_by_minute", time: str = "minute", where: str = "rows > 0") -> Sums:
    """A reader's sums. Two rows of one key would be a fault of their own."""
    names = (f"toUnixTimestamp({time})", *DIMENSIONS, *COUNTS, *AMOUNTS, "toString(cost_reported)", "rows")
    found: Sums = {}
    for row in rows_of(client, f"SELECT ledger, {', '.join(names)} FROM {table} WHERE {where}"):
        key = tuple(row[: 2 + len(DIMENSIONS)])
        assert key not in found, key
        found[key] = [*row[len(key) : -2], None if row[-2] is None else Decimal(row[-2]), row[-1]]
    return found


def longer(sums: Sums, seconds: int) -> Sums:
    """Sums by minute as sums by so many seconds."""
    found: Sums = {}
    for key, values in sums.items():
        at = (key[0], key[1] // seconds * seconds, *key[2:])
        held = found.get(at)
        found[at] = values if held is None else [add(a, b) for a, b in zip(held, values, strict=True)]
    return found


def grow_old(client: Client) -> None:
    """As if the last refresh was a minute ago, so that readers count on it."""
    sql = "ALTER TABLE window_progress UPDATE refreshed_at = refreshed_at - INTERVAL 1 MINUTE WHERE 1"
    execute(client, sql, {"mutations_sync": 1})


class Killed(BaseException):
    """The refresher's process is gone."""


class Stepped:
    """A refresher that does one statement of its pass at a time, so that others come in between."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._go = threading.Semaphore(0)
        self._waits = threading.Semaphore(0)
        self._killed = self.done = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._waits.acquire()

    def step(self, *, kill: bool = False) -> None:
        self._killed = kill
        self._go.release()
        self._waits.acquire()

    def command(self, *given: Any, **named: Any) -> Any:
        return self._gated(self._client.command, *given, **named)

    def raw_query(self, *given: Any, **named: Any) -> Any:
        return self._gated(self._client.raw_query, *given, **named)

    def _gated(self, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        self._waits.release()
        self._go.acquire()
        if self._killed:
            raise Killed
        return call(*given, **named)

    def _run(self) -> None:
        try:
            refresh(self, rows_max=3)  # type: ignore[arg-type]
        except Killed:
            pass
        finally:
            self.done = True
            self._waits.release()


class Play:
    """One seed: random steps, and after each of them the reader's view is compared."""

    def __init__(self, client: Client, seed: int) -> None:
        self.client = client
        self.rng = random.Random(seed)
        self.ledger = Ledger(client, self.rng)
        self.others: list[Stepped] = []
        self.settled_in: dict[str, int] = {}

    def act(self) -> None:
        acts: list[tuple[int, Callable[[], object]]] = [(5, self.accrue), (2, self.replace), (5, self.settle)]
        acts += [(1, self.merge), (1, self.restore), (2, self.begin), (12, self.step), (2, self.refresh)]
        acts += [(3, lambda: grow_old(self.client))]
        self.rng.choices([a for _, a in acts], [w for w, _ in acts])[0]()

    def accrue(self) -> None:
        self.ledger.insert("accruals", *(self.ledger.accrual() for _ in range(self.rng.randint(1, 3))))

    def replace(self) -> None:
        if held := list(self.ledger.rows["accruals"].values()):
            old = self.rng.choice(held)
            changed = {name: old[name] for name in ("minute", "offset")} | {"_version": old["_version"] + 1}
            self.ledger.insert("accruals", self.ledger.accrual(**changed))

    def settle(self) -> None:
        run, minute = f"r{self.rng.randint(0, 5)}", self.rng.choice(MINUTES)
        before = self.settled_in.get(run, minute)
        self.settled_in[run] = minute
        given = [self.ledger.settlement(run, minute)]
        if before != minute:
            given.append(self.ledger.settlement(run, before, runs=0, unpriced=0))
        self.ledger.insert("settlements", *given)

    def refresh(self) -> None:
        refresh(self.client, self.rng.choice([2, 1_000]))

    def merge(self) -> None:
        execute(
            self.client,
            f"OPTIMIZE TABLE {self.rng.choice(['accruals', 'settlements', 'cost_windows', 'cost_hours'])} FINAL",
        )

    def restore(self) -> None:  # it stops the workers and empties the progress
        for other in self.others:
            other.step(kill=True)
        self.others = []
        execute(self.client, "TRUNCATE TABLE window_progress")

    def begin(self) -> None:
        if len(self.others) < 3:
            self.others.append(Stepped(self.client))

    def step(self) -> None:
        if self.others:
            other = self.rng.choice(self.others)
            other.step(kill=self.rng.random() < 0.03)
            self.others = [o for o in self.others if not o.done]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_readers_see_the_exact_sums_at_every_moment(client: Client, seed: int) -> None:
    """Inserts, replaced rows, moved runs, merges, restores, and refreshers that stall, die and come late."""
    play = Play(client, seed)
    for number in range(100):
        play.act()
        sums = play.ledger.sums()
        assert shown(client) == sums, number
        assert shown(client, "cost_by_hour", "hour") == longer(sums, 3_600), number
    while play.others:
        play.step()
    refresh(client)
    grow_old(client)
    expected = play.ledger.sums()
    assert shown(client, "cost_windows FINAL") == expected
    assert shown(client) == expected
    assert shown(client, "cost_by_hour", "hour") == longer(expected, 3_600)
    assert refresh(client).windows == 0
    fresh = "SELECT (SELECT count() FROM window_fresh_accrued) + (SELECT count() FROM window_fresh_settled)"
    assert list(rows_of(client, fresh)) == [[0]]


@pytest.mark.parametrize(("view", "seconds"), [("cost_by_hour", 3_600), ("cost_by_day", 86_400)])
def test_hours_and_days_are_sums_of_minutes(client: Client, view: str, seconds: int) -> None:
    play = Play(client, 7)
    for _ in range(8):
        play.accrue()
        play.settle()
    refresh(client)
    grow_old(client)
    play.settle()
    assert shown(client, view, view.removeprefix("cost_by_")) == longer(play.ledger.sums(), seconds)


def test_a_block_that_becomes_visible_late_is_found(client: Client) -> None:
    """Progress is intervals: a number below the highest one read is new all the same."""
    ledger = Ledger(client, random.Random(1))
    for cost in ("1", "2", "4"):
        same = {"minute": MINUTES[0], "workspace": "a", "agent_id": None, "model": None, "basis": "run"}
        ledger.insert("accruals", ledger.accrual(**same))
        ledger.rows["accruals"][MINUTES[0], ledger.offset]["cost_reported"] = cost
    sql = "ALTER TABLE accruals UPDATE cost_reported = toDecimal64(exp2(offset - 1), 0) WHERE 1"
    execute(client, sql, {"mutations_sync": 1})
    refresh(client)
    grow_old(client)
    # As if the second block had been written by an insert that was still under way at that time.
    execute(client, "ALTER TABLE cost_windows UPDATE cost_reported = 5 WHERE workspace = 'a'", {"mutations_sync": 1})
    execute(client, "TRUNCATE TABLE window_progress")
    sql = "SELECT 1, 'accruals', '202601', arrayJoin([1, 3]) AS n, n, now64(3) - INTERVAL 1 MINUTE"
    execute(client, f"INSERT INTO window_progress {sql}")
    assert shown(client) == ledger.sums()
    assert refresh(client).windows == 1
    grow_old(client)
    assert shown(client) == ledger.sums() == shown(client, "cost_windows FINAL")


def test_an_unpriced_run_counts_as_unpriced_and_costs_null(client: Client) -> None:
    """Unknown is never zero, fresh or refreshed; beside a priced run the sum is the known part."""
    ledger = Ledger(client, random.Random(1))
    same = {"workspace": "a", "agent_id": "x", "model": "m", "status": "completed", "outcome": None}
    query = "SELECT runs, unpriced, toString(cost_reported), input_tokens FROM cost_by_day"
    unknown = {**same, "cost_reported": None, "unpriced": 1, "input_tokens": None}
    ledger.insert("settlements", ledger.settlement("u", MINUTES[0], **unknown))
    assert list(rows_of(client, query)) == [[1, 1, None, None]]
    refresh(client)
    grow_old(client)
    assert list(rows_of(client, query)) == [[1, 1, None, None]]
    free = {**same, "cost_reported": "0", "unpriced": 0, "input_tokens": 0}
    ledger.insert("settlements", ledger.settlement("p", MINUTES[0], **free))
    assert list(rows_of(client, query)) == [[2, 1, "0", 0]]


def test_progress_does_not_grow_for_ever(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours are joined once readers count on them, and what older epochs left is forgotten."""
    monkeypatch.setattr(windows, "PROGRESS_ROWS_MAX", 4)
    ledger = Ledger(client, random.Random(1))
    for _ in range(8):
        ledger.insert("accruals", ledger.accrual(minute=MINUTES[0]))
        refresh(client)
        grow_old(client)
    left = list(rows_of(client, "SELECT count() FROM window_progress WHERE source = 'accruals'"))
    assert left[0][0] <= 6
    assert shown(client) == ledger.sums()
    assert refresh(client).windows == 0


def test_a_numbering_that_went_back_starts_anew(client: Client) -> None:
    """A ledger that was emptied by hand and restarted gives old numbers to new rows; old sums must not win."""
    ledger = Ledger(client, random.Random(1))
    ledger.insert("settlements", ledger.settlement("r", MINUTES[0]))
    refresh(client)
    execute(client, "INSERT INTO window_progress SELECT 1, 'settlements', '202601', 2, 900, now64(3)")
    ledger.insert("settlements", ledger.settlement("r", MINUTES[0]))
    assert refresh(client).windows == 1
    grow_old(client)
    assert shown(client) == ledger.sums() == shown(client, "cost_windows FINAL")


def test_the_refresher_works_while_it_owns_and_once_more_at_the_end(
    client: Client, address: StoreAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors are survived, metrics tell, and a clean stop leaves nothing to sum."""
    monkeypatch.setattr("agentrun_stream.runtime.refresh.EVERY_S", 0.05)
    ledger, registry = Ledger(client, random.Random(1)), CollectorRegistry()
    own, real = [False], ClickHouseWindows(address)

    class Shaky:
        calls = 0

        async def refresh(self) -> Refreshed:
            self.calls += 1
            if self.calls == 1:
                raise StoreError("not now")
            return await real.refresh()

    async def play() -> None:
        shaky = Shaky()
        refresher = Refresher(shaky, lambda: own[0], SystemClock(), Metrics(registry))
        running = asyncio.create_task(refresher.run())
        await asyncio.sleep(0.2)
        assert shaky.calls == 0
        own[0] = True
        while shaky.calls < 3:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.05)
        ledger.insert("accruals", ledger.accrual())
        refresher.stop()
        await asyncio.wait_for(running, 30)

    asyncio.run(play())
    assert shown(client, "cost_windows FINAL") == ledger.sums()
    assert (registry.get_sample_value("agentrun_window_refresh_seconds_count") or 0) >= 2
    assert registry.get_sample_value("agentrun_rows_inserted_total", {"table": "cost_windows"}) == 2
    assert registry.get_sample_value("agentrun_window_age_seconds") is not None

"""The proof's wiring: audit, repair and replay on the real broker and store, beside workers.

Must not live here: what is compared (runtime/audit/), how rows are made again (runtime/repair.py, runtime/replay.py).
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from agentrun_stream import topics
from agentrun_stream.broker import admin
from agentrun_stream.broker.kafka import KafkaAddress, KafkaPublisher, partition_of
from agentrun_stream.broker.scan import Span, offsets_since, read_partition, read_topic
from agentrun_stream.config import Settings
from agentrun_stream.errors import AgentrunError, ConfigError
from agentrun_stream.model.opinions import Opinions, Pricing, no_prices
from agentrun_stream.model.trust import NOBODY, Registry
from agentrun_stream.ports import Part, Record
from agentrun_stream.pricing.books import book_of
from agentrun_stream.pricing.price import pricing_by
from agentrun_stream.runtime.audit import Audit, Findings, Reach, Rules, Scope
from agentrun_stream.runtime.clock import SystemClock
from agentrun_stream.runtime.repair import Plan, Repairer
from agentrun_stream.runtime.replay import Replay, ReplayOptions, Stretch
from agentrun_stream.store import migrate, prices, trust
from agentrun_stream.store.audit import AuditStore
from agentrun_stream.store.clickhouse import ClickHouseStore
from agentrun_stream.store.client import connect
from agentrun_stream.store.finality import Audited, note_audit
from agentrun_stream.store.queries import Connection
from agentrun_stream.store.repair import ClickHouseRepair
from agentrun_stream.store.shadow import Bounds, Compared, Shadow
from agentrun_stream.wiring import kafka_address, opinions_of, routes, store_address


class _Log:
    """`runtime.audit.AuditLog` over the broker."""

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address

    def records(self, part: Part, start: int, end: int) -> AsyncIterator[Sequence[Record]]:
        """See `AuditLog.records`."""
        return read_partition(self._address, part, Span(start, end))

    async def topic(self, name: str) -> AsyncIterator[Sequence[Record]]:
        """See `AuditLog.topic`."""
        async for _, records in read_topic(self._address, name):
            yield records


_SESSION_SLACK_S: Final = 3.0
_MEMBERS_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """How an audit is made: only of what was appended `since` (ms since 1970), with every column where it is `deep`.

    `at_once` is how many records are held folded, 0 for the usual number.
    """

    deep: bool = False
    since_ms: int | None = None
    at_once: int = 0


async def run_audit(
    settings: Settings, progress: Callable[[str], None] = lambda _text: None, options: AuditOptions | None = None
) -> Findings:
    """Audit everything that the group has committed."""
    options = options or AuditOptions()
    kafka, store = kafka_address(settings), store_address(settings)
    client = await asyncio.to_thread(connect, store)
    mapped, default = routes(settings)
    worker = settings.worker
    registries = await asyncio.to_thread(trust.registries, client)
    rules = Rules(
        lambda topic: mapped.get(topic, default),
        worker.topic_epoch,
        partition_of,
        worker.group,
        opinions_of(settings, _newest(registries), _pricing(await asyncio.to_thread(prices.in_force, client))),
        registries,
        await asyncio.to_thread(prices.contents, client),
    )
    audit = Audit(AuditStore(client), _Log(kafka), rules, Scope(options.deep, options.at_once))
    lags = await admin.group_lag(kafka, worker.group, settings.events_topics)
    since = await offsets_since(kafka, [lag.part for lag in lags], options.since_ms)
    for lag in lags:
        if lag.committed is None:
            if lag.lag:
                audit.findings.note(f"the group has committed nothing of {lag.part.topic}:{lag.part.partition} yet")
            continue
        progress(f"{lag.part.topic}:{lag.part.partition}, {lag.committed - lag.start} records")
        news = min(since.get(lag.part, 0), lag.committed)
        await audit.partition(Reach(lag.part, lag.start, lag.committed, _partitions(lags, lag.part.topic), news))
    progress("windows")
    await audit.across([lag.part for lag in lags])
    progress("published runs and dead letters")
    await audit.topics((topics.RUNS, topics.QUARANTINE), topics.DEAD_LETTERS)
    reach = {f"{lag.part.topic}:{lag.part.partition}": lag.committed for lag in lags if lag.committed is not None}
    await asyncio.to_thread(_keep, client, audit.findings, options, reach)
    return audit.findings


def _keep(client: Connection, found: Findings, options: AuditOptions, reach: Mapping[str, int]) -> None:
    """What was found, for reports. An audit may be made by somebody who may only read."""
    now_ms = SystemClock().now_ms()
    told = Audited(now_ms, found.total, found.records, found.runs, options.deep, options.since_ms, reach)
    try:
        note_audit(client, told)
    except AgentrunError as error:
        found.note(f"reports do not show this audit, as it could not be kept: {error.message}")


def _newest(registries: Mapping[tuple[str, int], Registry]) -> Callable[[str], Registry]:
    """Of each workspace the registry in force."""
    found: dict[str, Registry] = {}
    for (workspace, version), registry in registries.items():
        if workspace not in found or found[workspace].version < version:
            found[workspace] = registry
    return lambda workspace: found.get(workspace, NOBODY)


async def opinions_in_force(settings: Settings) -> Opinions:
    """The opinions in force now."""
    client = await asyncio.to_thread(connect, store_address(settings))
    registries = await asyncio.to_thread(trust.registries, client)
    return opinions_of(settings, _newest(registries), _pricing(await asyncio.to_thread(prices.in_force, client)))


def _pricing(held: prices.StoredBook | None) -> Pricing:
    """By the book in force. Raises ConfigError where the installed prices can't reproduce it."""
    return no_prices if held is None else pricing_by(book_of(held.content))


def _partitions(lags: Sequence[admin.GroupLag], topic: str) -> int:
    return sum(lag.part.topic == topic for lag in lags)


async def run_repair(settings: Settings, plan: Plan) -> list[str]:
    """Repair what a plan names; return what was left out and why."""
    kafka, store = kafka_address(settings), store_address(settings)
    client = await asyncio.to_thread(connect, store)
    await asyncio.to_thread(migrate.check_current, store)
    members = await admin.group_members(kafka, settings.worker.group)
    publisher = KafkaPublisher(kafka, settings.worker.group)
    try:
        repairer = Repairer(ClickHouseRepair(client), None if members else publisher, await opinions_in_force(settings))
        await repairer.repair(plan)
    finally:
        await publisher.close()
    if not members or not plan.runs:
        return []
    why = f"nothing was published while the group {settings.worker.group} has {members} members: a worker may be ahead"
    session_s = settings.worker.session_timeout_ms / 1000
    return [
        f"{why}; where published runs still differ, stop them, let their session end ({session_s:g} s), repair again"
    ]


@dataclass(slots=True)
class Replayed:
    """What a replay made, and how it compares with the live tables."""

    into: str
    bounds: list[Bounds] = field(default_factory=list)
    tables: list[Compared] = field(default_factory=list)
    records: int = 0
    seconds: float = 0.0
    left_out: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether no table differs."""
        return all(found.equal for found in self.tables)

    def overtaken(self, lags: Sequence[admin.GroupLag]) -> bool:
        """Whether the group has gone on since."""
        ends = {bounds.part: bounds.end for bounds in self.bounds}
        return any(lag.committed is not None and lag.committed != ends.get(lag.part) for lag in lags)


async def run_replay(
    settings: Settings, into: str, progress: Callable[[str], None] = lambda _text: None, *, swap: bool = False
) -> Replayed:
    """Make every table again from what the group has committed, and compare. With `swap`, refuse early what can't be."""
    kafka, store, worker = kafka_address(settings), store_address(settings), settings.worker
    shadow, done, started = Shadow(store, into), Replayed(into), time.monotonic()
    lags = await admin.group_lag(kafka, worker.group, settings.events_topics)
    if swap:
        progress("waiting until no worker is a member of the group")
        await _check_swap(settings, lags)
    await asyncio.to_thread(migrate.check_current, store)
    await asyncio.to_thread(shadow.prepare)
    mapped, default = routes(settings)
    options = ReplayOptions(
        lambda topic: mapped.get(topic, default),
        worker.topic_epoch,
        worker.group,
        partition_of,
        worker.cache_bytes,
        await opinions_in_force(settings),
    )
    replay = Replay(ClickHouseStore(shadow.address, worker.lookup_parallel), SystemClock(), options)
    with _no_collector():
        await _fold_again(kafka, replay, done, lags, progress)
    progress("windows")
    await asyncio.to_thread(shadow.sum_windows)
    progress("comparing")
    await _compare(settings, shadow, done)
    done.records, done.seconds = replay.records, time.monotonic() - started
    return done


@contextmanager
def _no_collector() -> Iterator[None]:
    """As in a worker: the fold makes no reference cycles, and looking for them costs a third of its speed."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _fold_again(
    kafka: KafkaAddress, replay: Replay, done: Replayed, lags: Sequence[admin.GroupLag], progress: Callable[[str], None]
) -> None:
    for lag in lags:
        if lag.committed is None:
            continue
        end, count = lag.committed, _partitions(lags, lag.part.topic)
        replay.told = lambda at=lag.part: progress(f"{at.topic}:{at.partition}, {replay.records:,} records")  # type: ignore[misc]
        log = read_partition(kafka, lag.part, Span(lag.start, end))
        await replay.partition(Stretch(lag.part, lag.start, end, count), log)
        done.bounds.append(Bounds(lag.part, lag.start, end, replay.first_ms.get(lag.part, 0)))
        if lag.start:
            done.notes.append(
                f"the log of {lag.part.topic}:{lag.part.partition} begins at {lag.start}: only that was made"
            )


async def _compare(settings: Settings, shadow: Shadow, done: Replayed) -> None:
    """Compare; beside workers again for a few times, as a query sees its tables at different moments."""
    for _ in range(5):
        lags = await admin.group_lag(kafka_address(settings), settings.worker.group, settings.events_topics)
        done.tables = await asyncio.to_thread(shadow.compare, done.bounds, moving=done.overtaken(lags))
        done.left_out = await asyncio.to_thread(shadow.left_out, done.bounds)
        members = await admin.group_members(kafka_address(settings), settings.worker.group)
        if done.equal or not members:
            return


async def swap_replayed(settings: Settings, done: Replayed) -> None:
    """Exchange the replayed tables with the live ones. Raises ConfigError where a worker runs or the log went on."""
    lags = await admin.group_lag(kafka_address(settings), settings.worker.group, settings.events_topics)
    await _check_swap(settings, lags)
    if done.overtaken(lags):
        raise ConfigError("The group went on while the log was replayed.", "Stop all workers, and replay again.")
    await asyncio.to_thread(Shadow(store_address(settings), done.into).swap)


async def _check_swap(settings: Settings, lags: Sequence[admin.GroupLag]) -> None:
    if late := [lag.part for lag in lags if lag.start]:
        names = ", ".join(f"{part.topic}:{part.partition}" for part in late)
        raise ConfigError(
            f"The log of {names} no longer holds its beginning, so the new tables lack what the live ones have.",
            "Compare without --swap; restore a backup where the live tables are wrong.",
        )
    worker = settings.worker
    # A worker that stopped counts as a member until its session ends, so that it may come back without a rebalance.
    patience = time.monotonic() + worker.session_timeout_ms / 1000 + _SESSION_SLACK_S
    while members := await admin.group_members(kafka_address(settings), worker.group):
        if time.monotonic() > patience:
            raise ConfigError(
                f"The group {worker.group} has {members} members: a worker's cache would outlive its tables.",
                "Stop all workers, then try again.",
            )
        await asyncio.sleep(_MEMBERS_POLL_S)

"""Builds each process from settings: the only place that knows everyone.

Must not live here: behaviour. What is built is started and stopped here, nothing else.
"""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from agentrun_stream.broker import admin
from agentrun_stream.broker.kafka import GroupOptions, KafkaAddress, KafkaPublisher, KafkaSource, partition_of
from agentrun_stream.codec.cloudevents import Route
from agentrun_stream.config import Settings, clickhouse_url, crash_point, kafka_bootstrap, load_budgets, load_rules
from agentrun_stream.errors import AgentrunError, ConfigError
from agentrun_stream.model.opinions import Opinions, Policy, Pricing
from agentrun_stream.model.trust import Registry
from agentrun_stream.ports import Part
from agentrun_stream.pricing.book import PriceBook
from agentrun_stream.pricing.books import open_book
from agentrun_stream.runtime import crash, tuning
from agentrun_stream.runtime.assigned import Assigned, RefusedLimit
from agentrun_stream.runtime.clock import SystemClock
from agentrun_stream.runtime.finality import Finality
from agentrun_stream.runtime.lineage import Kinship
from agentrun_stream.runtime.policy import Flags
from agentrun_stream.runtime.prices import PriceKeeper
from agentrun_stream.runtime.refresh import Refresher
from agentrun_stream.runtime.rejudge import Rejudge
from agentrun_stream.runtime.reprice import Reprice
from agentrun_stream.runtime.retention import Expiry, Removal
from agentrun_stream.runtime.signals.gauges import Gauges
from agentrun_stream.runtime.signals.refresher import Opinions as SignalOpinions
from agentrun_stream.runtime.signals.refresher import SignalRefresher
from agentrun_stream.runtime.sweep import Duty, LeaseRules, Leases, Sweeper, SweepReport
from agentrun_stream.runtime.trust import TrustKeeper
from agentrun_stream.runtime.worker import Worker, WorkerOptions, World
from agentrun_stream.store import migrate
from agentrun_stream.store import settings as stored_settings
from agentrun_stream.store.clickhouse import ClickHouseStore
from agentrun_stream.store.client import StoreAddress, connect
from agentrun_stream.store.finality import ClickHouseFinality
from agentrun_stream.store.lineage import ClickHouseLineages
from agentrun_stream.store.policy import ClickHousePolicies, InForce
from agentrun_stream.store.prices import ClickHousePrices
from agentrun_stream.store.reprice import ClickHouseReprices
from agentrun_stream.store.signals import ClickHouseSignals
from agentrun_stream.store.sweeps import Horizons
from agentrun_stream.store.trust import ClickHouseTrust
from agentrun_stream.store.windows import ClickHouseWindows
from agentrun_stream.telemetry.endpoint import Endpoint
from agentrun_stream.telemetry.logs import make_logger
from agentrun_stream.telemetry.metrics import Metrics

_DAY_S = 86_400
_GRACE_MARGIN_S = 10.0


def kafka_address(settings: Settings) -> KafkaAddress:
    """Where the broker is, by the settings or the running local stack."""
    kafka = settings.kafka
    security: dict[str, Any] = {"security_protocol": kafka.security_protocol}
    if kafka.security_protocol.endswith("SSL"):
        security["ssl_context"] = ssl.create_default_context()
    if kafka.password is not None:
        security |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.username,
            "sasl_plain_password": kafka.password.get_secret_value(),
        }
    return KafkaAddress(kafka_bootstrap(settings), kafka.client_id, kafka.request_timeout_ms, security)


def store_address(settings: Settings) -> StoreAddress:
    """Where the store is, by the settings or the running local stack."""
    store = settings.clickhouse
    return StoreAddress(
        clickhouse_url(settings),
        store.database,
        store.user,
        store.password.get_secret_value() if store.password is not None else "",
        store.connect_timeout_s,
        store.insert_timeout_s,
    )


def group_options(settings: Settings) -> GroupOptions:
    """How a worker is a member of its group."""
    worker = settings.worker
    return GroupOptions(
        worker.group,
        settings.events_topics,
        worker.instance_id,
        worker.session_timeout_ms,
        worker.rebalance_timeout_ms,
        worker.max_poll_interval_ms,
        worker.fetch_max_bytes,
        worker.fetch_partition_bytes,
        worker.fetch_wait_ms,
    )


def routes(settings: Settings) -> tuple[dict[str, Route], Route]:
    """The workspace of each mapped topic, and what holds for the others."""
    strict = settings.tenancy == "topic"
    return {topic: Route(name, strict) for topic, name in settings.workspaces.items()}, Route(None, strict)


def build_worker(
    settings: Settings,
    keepers: tuple[TrustKeeper, PriceKeeper],
    metrics: Metrics,
    log: FilteringBoundLogger,
    *,
    resume: bool = False,
) -> Worker:
    """A worker on the real broker and store."""
    kafka, options = kafka_address(settings), settings.worker
    mapped, default = routes(settings)
    world = World(
        KafkaSource(kafka, group_options(settings), log),
        KafkaPublisher(kafka, options.group),
        ClickHouseStore(store_address(settings), options.lookup_parallel),
        SystemClock(),
        metrics,
        partition_of,
        log,
    )
    if named := crash_point():
        world = _armed(world, named)
    return Worker(
        world,
        WorkerOptions(
            _name(settings),
            options.group,
            options.topic_epoch,
            options.batch_records_max,
            options.batch_wait_ms,
            options.cache_bytes,
            mapped,
            default,
            RefusedLimit(options.dlq_stop_ratio, options.dlq_stop_window),
            resume,
            opinions_of(settings, keepers[0].current, keepers[1].price),
            round(settings.trust.orphan_after_s * 1000),
        ),
    )


def opinions_of(settings: Settings, registry: Callable[[str], Registry], price: Pricing) -> Opinions:
    """What projections are made with: registries and prices in force, and the policies of the settings."""
    return Opinions(registry, policies_of(settings), price=price)


def policies_of(settings: Settings) -> Callable[[str], Policy]:
    """What each workspace does about bad verdicts."""
    trust = settings.trust
    policies = {
        name: Policy(mode, frozenset(trust.quarantine_on), trust.require_signed)
        for name, mode in {**trust.policies, "": trust.policy}.items()
    }
    return lambda workspace: policies.get(workspace, policies[""])


def _name(settings: Settings) -> str:
    return settings.worker.instance_id or f"{socket.gethostname()}-{os.getpid()}"


def build_keeper(settings: Settings, metrics: Metrics, log: FilteringBoundLogger) -> TrustKeeper:
    """What knows the registries in force; a worker loads them before it folds the first record of a partition."""
    trust = ClickHouseTrust(store_address(settings))
    keeper = TrustKeeper(trust, SystemClock(), log, settings.trust_folder, _name(settings))
    keeper.hear = lambda version: metrics.trust_version.set(version.version, workspace=version.workspace)
    return keeper


def own_book(settings: Settings) -> PriceBook:
    """The prices that are installed, below those of the price file. Raises ConfigError."""
    file = settings.prices.file
    if file is None:
        return open_book()
    try:
        text = file.expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The price file can't be read ({type(error).__name__}).", "Mend AGENTRUN_PRICES__FILE."
        ) from None
    return open_book(text)


def build_prices(settings: Settings, log: FilteringBoundLogger) -> PriceKeeper:
    """What knows the price book in force; a worker loads it before its first record."""
    store = ClickHousePrices(store_address(settings))
    return PriceKeeper(store, SystemClock(), log, lambda: own_book(settings), _name(settings))


def _armed(world: World, named: str) -> World:
    """The test seam: this worker dies at a named point."""
    point = crash.CrashPoint(named)
    if isinstance(world.publisher, KafkaPublisher):
        world.publisher.produced = lambda: point.reached(crash.IN_TRANSACTION)
    return crash.armed(world, point)


def build_sweeper(
    settings: Settings,
    worker: Worker,
    helpers: tuple[KafkaPublisher, TrustKeeper, PriceKeeper, InForce],
    metrics: Metrics,
    log: FilteringBoundLogger,
) -> Sweeper:
    """The duties of an owner beside a worker's loop: silent and old runs, retention, children, changed opinions."""
    (publisher, keeper, prices, in_force), clock, days = helpers, SystemClock(), settings.retention
    store, trust = ClickHouseLineages(store_address(settings)), ClickHouseTrust(store_address(settings))
    policies = ClickHousePolicies(store_address(settings))
    reprices = ClickHouseReprices(store_address(settings))
    policy = in_force, policies_of(settings)
    grace_s = settings.clickhouse.insert_timeout_s + _GRACE_MARGIN_S
    rules = LeaseRules(settings.leases.idle_timeout_s, settings.leases.max_age_s)
    general = None if days.horizon_days is None else round(days.horizon_days * _DAY_S)
    horizons = Horizons(general, {name: round(n * _DAY_S) for name, n in days.workspaces.items()})

    def duties(assigned: Assigned) -> list[Duty]:
        leases = Leases(assigned.part, rules, store, publisher, clock)
        leases.hear = metrics.leases_asked.inc
        removal = Removal(assigned, store, clock, days.remove_after_s)
        removal.hear = metrics.runs_removed.inc
        rejudge = Rejudge(assigned, keeper, trust, clock, grace_s)
        rejudge.hear = metrics.runs_rejudged.inc
        kinship = Kinship(assigned, store, clock, settings.trust.orphan_after_s)
        kinship.hear = metrics.lineage_again.inc
        flags = Flags(assigned, policies, clock, policy, grace_s)
        flags.hear = metrics.policy_again.inc
        reprice = Reprice(assigned, reprices, clock, lambda: prices.book, grace_s)
        reprice.hear = metrics.reprice_again.inc
        if not horizons:
            return [leases, removal, rejudge, kinship, flags, reprice]  # others may have asked
        expiry = Expiry(assigned.part, horizons, store, publisher, clock)
        expiry.hear = metrics.expiries_asked.inc
        return [leases, expiry, removal, rejudge, kinship, flags, reprice]

    sweeper = Sweeper(worker.members, worker.source, clock, duties, settings.leases.sweep_every_s)
    sweeper.hear = SweepReport(log, metrics).hear
    return sweeper


def build_signals(settings: Settings, publisher: KafkaPublisher, price: Pricing, metrics: Metrics) -> SignalRefresher:
    """What watches agents beside a worker's loop. Raises ConfigError where a rule or a budget is wrong."""
    options = settings.signals
    return SignalRefresher(
        ClickHouseSignals(store_address(settings)),
        publisher,
        SystemClock(),
        SignalOpinions(load_rules(options), load_budgets(options), options.every_s, price),
        Gauges(metrics, options.series_max),
    )


def build_finality(settings: Settings, metrics: Metrics) -> Finality:
    """What keeps the watermark. Raises ConfigError where a rule is wrong."""
    kafka, group, topics = kafka_address(settings), settings.worker.group, settings.events_topics
    return Finality(
        ClickHouseFinality(store_address(settings)),
        lambda: admin.group_lag(kafka, group, topics, uncommitted=True),
        load_rules(settings.signals),
        SystemClock(),
        metrics,
    )


def shared_settings(settings: Settings) -> dict[str, str]:
    """The settings that decide what is stored, as text: the same for every worker of a store."""
    mapping = ",".join(f"{topic}={name}" for topic, name in sorted(settings.workspaces.items()))
    trust = settings.trust
    policies = ",".join(f"{name}={mode}" for name, mode in sorted(trust.policies.items()))
    bad = ",".join(sorted(trust.quarantine_on)) + (",unverifiable" if trust.require_signed else "")
    return {
        "tenancy": settings.tenancy,
        "workspaces": mapping,
        "topic_epoch": str(settings.worker.topic_epoch),
        "policy": f"{trust.policy};{policies};{bad}",
    }


async def run_worker(
    settings: Settings,
    *,
    init: bool,
    resume: bool = False,
    beside: Callable[[Worker], Awaitable[None]] | None = None,
    costs: bool = True,
) -> None:
    """Run one worker until SIGTERM or SIGINT.

    For who measures it: `beside` runs next to it, and without `costs` it neither prices nor sums windows.
    Raises ConfigError or UnavailableError where it can't start.
    """
    log = make_logger(settings.log_level, settings.log_style)
    kafka, store = kafka_address(settings), store_address(settings)
    if init:
        await admin.apply_topics(kafka, admin.TopicOptions(inputs=settings.events_topics))
        await asyncio.to_thread(migrate.migrate, store)
    await asyncio.to_thread(migrate.check_current, store)
    shared = shared_settings(settings)
    ordinal = await asyncio.to_thread(lambda: stored_settings.check(connect(store), shared))
    in_force = InForce(ordinal, shared["policy"])
    await admin.check_input_topics(kafka, settings.events_topics)
    registry = CollectorRegistry()
    metrics = Metrics(registry, settings.events_topics)
    keeper = build_keeper(settings, metrics, log)
    prices = build_prices(settings, log)
    if costs:
        await prices.load()
    worker = build_worker(settings, (keeper, prices), metrics, log, resume=resume)
    worker.members.prepare = lambda: _opinions(keeper, prices)
    with contextlib.suppress(AgentrunError):  # a partition that is opened says so
        await keeper.turn()  # what the files propose is in force for the first record already
    first = Part(settings.events_topics[0], 0)

    def leads() -> bool:
        """Whether what is to be done once is done here."""
        return first in worker.members.parts

    questions = KafkaPublisher(kafka, settings.worker.group)
    signals, finality = build_signals(settings, questions, prices.price, metrics), build_finality(settings, metrics)
    refresher = Refresher(ClickHouseWindows(store), lambda: costs and leads(), SystemClock(), metrics)
    sweeper = build_sweeper(settings, worker, (questions, keeper, prices, in_force), metrics, log)
    endpoint = Endpoint(registry, worker.problems, settings.worker.metrics_host, settings.worker.metrics_port)
    url = endpoint.start()
    _on_signals(worker.stop)
    log.info("worker started", metrics=url, group=settings.worker.group)
    tuning.tune()
    background = asyncio.ensure_future(refresher.run())
    work: list[Awaitable[None]] = [signals.run(leads), finality.run(leads), sweeper.run(), keeper.run(), prices.run()]
    work += [tuning.collect(), *([] if beside is None else [beside(worker)])]
    try:
        async with _beside(work):
            await worker.run()
    finally:
        refresher.stop()
        await background
        await questions.close()
        endpoint.stop()
        log.info("worker stopped")


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


@contextlib.asynccontextmanager
async def _beside(work: Sequence[Awaitable[None]]) -> AsyncIterator[None]:
    """Do all of this meanwhile; what is left of it is cancelled at the end."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _opinions(keeper: TrustKeeper, prices: PriceKeeper) -> None:
    """Bring opinions up to date: no older than those under which an owner before us finished anything."""
    await keeper.load()
    await prices.follow()

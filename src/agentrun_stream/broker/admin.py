"""Topics and groups as an operator sees them: made, altered, described, and how far a group has come.

Every failure of the broker is an UnavailableError with the next step. Must not live here: records (scan.py, bulk.py).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError, for_code

from agentrun_stream import topics
from agentrun_stream.broker.kafka import KafkaAddress, unavailable
from agentrun_stream.errors import ConfigError, UnavailableError
from agentrun_stream.ports import Part
from agentrun_stream.topics import Topic

REPLICATION_MAX: Final = 3
TIMESTAMP_TYPE: Final = "message.timestamp.type"
APPEND_TIME: Final = "LogAppendTime"
_WAIT_POLL_S: Final = 0.25
_TOPIC_EXISTS: Final = 36
_SET_ON_TOPIC: Final = 1  # DescribeConfigs' source of a value that stands on the topic itself


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is, beside the row that says how it must be. `partitions` is None where there is no such topic."""

    wanted: Topic
    partitions: int | None = None
    replication: int = 0
    config: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The topic's name."""
        return self.wanted.name

    @property
    def differs(self) -> dict[str, tuple[str | None, str]]:
        """Settings that are not as they must be: (as it is, as it must be) by name."""
        return {k: (self.config.get(k), v) for k, v in self.wanted.config.items() if self.config.get(k) != v}


@dataclass(frozen=True, slots=True)
class Change:
    """What `apply_topics` did to one topic: `created`, `altered` or `unchanged`, and what in particular."""

    topic: str
    action: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TopicOptions:
    """How topics are made. `partitions` None: the table's number for a new topic, and whatever an existing one has."""

    partitions: int | None = None
    replication: int | None = None
    inputs: Sequence[str] = (topics.EVENTS,)


@dataclass(frozen=True, slots=True)
class GroupLag:
    """How far a group has come on one partition; `committed` is None where it never committed."""

    part: Part
    start: int
    end: int
    committed: int | None

    @property
    def lag(self) -> int:
        """Records (and control records) between what is committed and the end of the log."""
        return max(0, self.end - max(self.start, self.committed or 0))


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the broker says of itself."""

    brokers: int
    controller: int
    cluster_id: str


def wanted_topics(inputs: Sequence[str] = (topics.EVENTS,)) -> list[Topic]:
    """The rows of the table, the events' row once for each input topic."""
    events = topics.BY_NAME[topics.EVENTS]
    made = [Topic(name, events.key, events.meaning, events.partitions, events.config) for name in inputs]
    return made + [row for row in topics.TOPICS if row.name != topics.EVENTS]


async def apply_topics(address: KafkaAddress, options: TopicOptions | None = None) -> list[Change]:
    """Make the topics, or set them as they must be; doing it again changes nothing.

    Raises ConfigError where a partition count was asked for that an existing topic does not have.
    """
    options = options or TopicOptions()
    async with session(address) as client:
        states = await _states(client, wanted_topics(options.inputs))
        _refuse_other_counts(states, options.partitions)
        missing = [s.wanted for s in states if s.partitions is None]
        if missing:
            await _create(client, missing, options)
        for state in states:
            if state.partitions is not None and state.differs:
                await _alter(client, state)
    return [_change(state, options) for state in states]


async def show_topics(address: KafkaAddress, inputs: Sequence[str] = (topics.EVENTS,)) -> list[TopicState]:
    """The topics as they are, beside what they must be."""
    async with session(address) as client:
        return await _states(client, wanted_topics(inputs))


async def check_input_topics(address: KafkaAddress, names: Sequence[str]) -> None:
    """Raise ConfigError unless every input topic exists and has the broker's append time.

    Append time judges keys and leases, so it must not be the producer's own clock.
    """
    async with session(address) as client:
        states = await _states(client, wanted_topics(names)[: len(names)])
    for state in states:
        if state.partitions is None:
            raise ConfigError(f"The topic {state.name} does not exist.", "Run `agentrun topics apply`.")
        found = state.config.get(TIMESTAMP_TYPE)
        if found != APPEND_TIME:
            raise ConfigError(
                f"The topic {state.name} has {TIMESTAMP_TYPE}={found}, so its times are the producers' own claims.",
                f"Run `agentrun topics apply`, which sets it to {APPEND_TIME}.",
            )


async def group_lag(
    address: KafkaAddress, group: str, names: Sequence[str], *, uncommitted: bool = False
) -> list[GroupLag]:
    """How far a group has come on every partition of these topics. Topics that do not exist have none.

    With `uncommitted`, what a producer's transaction has not committed yet counts as there.
    """
    async with session(address) as client:
        found = await client.describe_topics(list(names))
        parts = [TopicPartition(t["topic"], p["partition"]) for t in found for p in t["partitions"]]
        offsets = await client.list_consumer_group_offsets(group, partitions=parts) if parts else {}
    if not parts:
        return []
    isolation = "read_uncommitted" if uncommitted else "read_committed"
    consumer = AIOKafkaConsumer(isolation_level=isolation, **address.common)
    try:
        await consumer.start()
        starts, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
    except (KafkaError, TimeoutError) as error:
        raise unavailable(error, address) from None
    finally:
        await consumer.stop()
    committed = {tp: meta.offset for tp, meta in offsets.items() if meta.offset >= 0}
    return [GroupLag(Part(*tp), starts[tp], ends[tp], committed.get(tp)) for tp in sorted(parts)]


async def group_members(address: KafkaAddress, group: str) -> int:
    """How many members a group has now; a worker that was killed counts until its session ends."""
    async with session(address) as client:
        found = 0
        for response in await client.describe_consumer_groups([group]):
            for code, *_, members in (entry[:6] for entry in response.groups):
                if code:
                    raise for_code(code)(group)
                found += len(members)
        return found


async def wait_stored(
    address: KafkaAddress,
    group: str,
    names: Sequence[str],
    timeout_s: float,
    hear: Callable[[int], None] | None = None,
) -> list[GroupLag]:
    """Return once the group has committed the end of every partition: the commit comes last, so all of it is stored.

    `hear` is told how many records there are to go. Raises UnavailableError when the time is up.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = await group_lag(address, group, names)
        if not found:
            raise ConfigError(f"There is no topic {', '.join(names)} on this broker.", "Run `agentrun topics apply`.")
        behind = [p for p in found if p.lag]
        if not behind:
            return found
        if hear is not None:
            hear(sum(p.lag for p in behind))
        if time.monotonic() >= deadline:
            where = ", ".join(f"{p.part.topic}:{p.part.partition} has {p.lag} to go" for p in behind[:4])
            raise UnavailableError(
                f"Not everything is stored after {timeout_s:g} s: {where}.",
                "See `agentrun status` for whether a worker runs and why it waits; or give a longer --timeout.",
            )
        await asyncio.sleep(_WAIT_POLL_S)


async def describe_cluster(address: KafkaAddress) -> Cluster:
    """What the broker says of itself."""
    async with session(address) as client:
        found = await client.describe_cluster()
    return Cluster(len(found["brokers"]), found["controller_id"], str(found.get("cluster_id", "")))


@asynccontextmanager
async def session(address: KafkaAddress) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client for a while. What the broker answers badly, or not at all, is an UnavailableError."""
    client = AIOKafkaAdminClient(**address.common)
    try:
        await client.start()
        yield client
    except (KafkaError, TimeoutError, OSError) as error:
        raise unavailable(error, address) from None
    finally:
        await client.close()


async def _states(client: AIOKafkaAdminClient, wanted: Sequence[Topic]) -> list[TopicState]:
    found = {t["topic"]: t for t in await client.describe_topics([t.name for t in wanted])}
    there = [t.name for t in wanted if _exists(found.get(t.name))]
    configs = await _configs(client, there) if there else {}
    states = []
    for topic in wanted:
        if topic.name not in configs:
            states.append(TopicState(topic))
            continue
        partitions = found[topic.name]["partitions"]
        entries = configs[topic.name]
        config = {name: value for name, value, _ in entries}
        own = {name: value for name, value, source in entries if source == _SET_ON_TOPIC}
        states.append(TopicState(topic, len(partitions), len(partitions[0]["replicas"]), config, own))
    return states


def _exists(topic: Mapping[str, Any] | None) -> bool:
    if topic is None:
        return False
    kind = for_code(topic["error_code"])
    if topic["error_code"] and not issubclass(kind, UnknownTopicOrPartitionError):
        raise kind(topic["topic"])
    return not topic["error_code"]


async def _configs(client: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, list[tuple[str, str, int]]]:
    """(name, value, where it is set) of every setting, by topic."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found: dict[str, list[tuple[str, str, int]]] = {}
    for response in await client.describe_configs(resources):
        for code, message, _kind, name, entries in response.resources:
            if code:
                raise for_code(code)(message)
            found[name] = [(entry[0], entry[1], entry[3]) for entry in entries]
    return found


def _refuse_other_counts(states: Sequence[TopicState], asked: int | None) -> None:
    for state in states:
        if asked is not None and state.partitions not in {None, asked}:
            raise ConfigError(
                f"The topic {state.name} has {state.partitions} partitions, not {asked}, and a count is never "
                "changed in place: keys would move, and with them the order of a run's events.",
                f"Keep it with `--partitions {state.partitions}`; or drain it, and go on with a new topic "
                "(AGENTRUN_EVENTS_TOPICS) and a topic epoch one higher (AGENTRUN_WORKER__TOPIC_EPOCH).",
            )


async def _create(client: AIOKafkaAdminClient, missing: Sequence[Topic], options: TopicOptions) -> None:
    brokers = len((await client.describe_cluster())["brokers"])
    copies = options.replication or min(brokers, REPLICATION_MAX)
    made = [NewTopic(t.name, options.partitions or t.partitions, copies, topic_configs=dict(t.config)) for t in missing]
    response = await client.create_topics(made)
    for name, code, message in response.topic_errors:
        if code and code != _TOPIC_EXISTS:  # somebody else made it in between
            raise ConfigError(
                f"The broker does not make the topic {name}: {message or for_code(code).__name__}.",
                "Mend what it names (too few brokers for --replication, missing rights), and run this again.",
            )


async def _alter(client: AIOKafkaAdminClient, state: TopicState) -> None:
    # The request replaces everything that stands on the topic, so what an operator set besides goes with it.
    config = {**state.own, **state.wanted.config}
    responses = await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, state.name, config)])
    for response in responses:
        for code, message, *_ in response.resources:
            if code:
                raise ConfigError(
                    f"The broker does not alter the topic {state.name}: {message or for_code(code).__name__}.",
                    "Give this user the right to alter topic settings, or set them by hand: `agentrun topics show`.",
                )


def _change(state: TopicState, options: TopicOptions) -> Change:
    if state.partitions is None:
        return Change(state.name, "created", f"{options.partitions or state.wanted.partitions} partitions")
    detail = ", ".join(f"{name}: {was} -> {now}" for name, (was, now) in state.differs.items())
    return Change(state.name, "altered" if detail else "unchanged", detail)

"""One seed, one play: machines with real workers on a shared broker and store, a log that grows, and chaos around them.

Must not live here: what the end should look like (the oracle says), faults of single calls (machine.py).
"""

import asyncio
from random import Random
from typing import Any

import orjson

from agentrun_stream import topics
from agentrun_stream.broker.kafka import partition_of
from agentrun_stream.broker.memory import MemoryBroker, MemoryRecord
from agentrun_stream.model.opinions import MODES, QUARANTINED, Policy
from agentrun_stream.ports import Part
from agentrun_stream.store.memory import MemoryStore, Row, Tables, kin_of
from agentrun_stream.store.memory_trust import MemoryTrust
from agentrun_stream.store.trust import Version
from property import tales
from property.oracle import Logged, Oracle
from property.stories import HOUR_MS, Storyteller, record, text
from property.tables import differences
from property.verdicts import Opinion
from simulation.machine import GROUP, Fate, Machine, Shared
from simulation.operator import POISON, Operator, is_poison
from simulation.virtual import VirtualLoop, play

BACKUP_ORDER = ("batches", "runs", "settlements", "run_objects", "accruals", "evidence", "refused")
QUIET_S_MAX = 4_000.0
REGISTRIES = 3
AXES = ("hash", "chain", "signature", "lineage", "log")
REFUSED = (
    (b"{", "malformed"),
    (b'{"specversion":"1.0","id":"i","source":"/a","type":"agentrun.step.v1","data":{}}', "schema"),
    (b'{"specversion":"1.0","id":"i","source":"/a","type":"agentrun.nothing.v1","data":{}}', "unknown_type"),
    (b'{"specversion":"1.0","id":"i","source":"/a","type":"agentrun.patch.v1","data":{"id":"other"}}', "key_mismatch"),
)


class Theatre:
    """A play of one seed. `differences` is empty when the store and the topics say what the oracle says."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.partitions = self.chance.choice((1, 1, 2, 3))
        self.story = Storyteller(self.chance)
        self.broker = MemoryBroker(lambda: self.story.now_ms)
        for topic in (topics.EVENTS, topics.RUNS, topics.QUARANTINE, topics.DEAD_LETTERS):
            self.broker.create(topic, self.partitions)
        self.shared = Shared(self.chance, self.broker, MemoryStore(is_poison))
        self.shared.policy = Policy(self.chance.choice(MODES))
        self.shared.longest_s = self.chance.choice((3.0, 30.0, 30.0, 300.0))
        self.registry = tales.registry(0, "") | {"keys": []}
        self.poison = self.chance.choice((0.0, 0.0, 0.0, 0.03))
        self.machines: list[Machine] = []
        self.names = 0
        self.everyone: list[Machine] = []
        self.operator = Operator(self.broker, self.shared.store)

    def run(self) -> list[str]:
        """Play it; what is wrong at the end."""
        return list(play(VirtualLoop(), self._scenes))

    async def _scenes(self) -> list[str]:
        try:
            self.start()
            await self._chaos()
            found = await self._calm()
        finally:
            self.shared.over = True
        if found:
            return found
        known = {"default": self.registry, "team-2": self.registry}
        opinion = Opinion(known, "orphaned", self.shared.policy.mode)
        return [*differences(self.shared.store, *self._oracles(), opinion=opinion), *self._topic_differences()]

    # ---- chaos

    async def _chaos(self) -> None:
        chance = self.chance
        before, after, flying, twice = (chance.choice((0.0, 0.02, 0.1)) for _ in range(4))
        kill, stall = chance.choice((0.0, 0.01, 0.04)), chance.choice((0.0, 0.02, 0.05))
        self.shared.fate = Fate(before, after, flying, twice, kill, stall)
        acts = (self._tell, self._tell, self._tell, self._stall, self._wake, self._rebalance, self._join, self._kill)
        if chance.random() < 0.7:
            await self._trust()
        for _ in range(chance.randint(10, 120)):
            await asyncio.sleep(chance.choice((0.0, 0.01, 0.3, 2.0, 12.0)))
            await chance.choice(acts)()
            if chance.random() < 0.02:
                await self._restore()
            if chance.random() < 0.05:
                await self._trust()
            await self.operator.look(self.machines)

    async def _tell(self) -> None:
        """Producers append: events, what is refused, what is misplaced, and markers of transactions."""
        chance = self.chance
        for event in self.story.log(chance.choice((1, 3, 10))):
            if event.kind == "step" and chance.random() < self.poison:
                # A run of its own: what is booked for later events must not depend on what is refused afterwards.
                data = {"id": "s", "type": "message", "output_preview": POISON}
                event = event._replace(run_id=f"poison-{chance.random()}", data=data)  # noqa: PLW2901
            sent = record(event, chance)
            if chance.random() < 0.05:
                sent = sent._replace(value=chance.choice(REFUSED)[0], headers=())
            at = chance.random()
            if at < 0.03 and sent.value not in dict(REFUSED):
                sent = sent._replace(key=None)
            elif at < 0.06:
                sent = sent._replace(partition=chance.randrange(self.partitions))
            self.broker.append(topics.EVENTS, [sent], control=chance.random() < 0.05, abort=chance.random() < 0.02)

    async def _trust(self) -> None:
        """The next registry is proposed: other keys, or one of them known to be compromised since a moment."""
        number = self.registry["version"] + 1
        if number > REGISTRIES:
            return
        since = text(self.story.now_ms - self.chance.choice((0, HOUR_MS, 40 * HOUR_MS)))
        self.registry = tales.registry(number, since)
        self.shared.note(f"registry {number}")
        for workspace in ("default", "team-2"):
            await MemoryTrust(self.shared.store).propose(
                Version(workspace, number, f"digest-{number}"), self.registry, "operator"
            )

    def start(self) -> None:
        """A new machine."""
        if self.shared.over:
            return
        self.names += 1
        self.shared.note(f"worker-{self.names} starts")
        machine = Machine(self.shared, f"worker-{self.names}", self)
        self.machines.append(machine)
        self.everyone.append(machine)  # the collector must not end a dead one, with all its clean-up

    def killed(self, machine: Machine) -> None:
        """Somebody starts it again after a while; the group notices after another."""
        if machine in self.machines:
            self.machines.remove(machine)
        self._later(self.chance.choice((0.1, 8.0)), lambda: self.broker.leave(GROUP, machine.name))
        self._later(self.chance.choice((0.0, 1.0, 10.0)), self.start)

    def stalled(self, machine: Machine) -> None:
        """After a while the group goes on without it; when it wakes it is a zombie."""
        if self.chance.random() < 0.8:
            self._later(self.chance.choice((0.0, 5.0)), lambda: self.broker.leave(GROUP, machine.name))
        self._later(min(self.shared.longest_s, self.chance.choice((0.2, 3.0, 30.0, 300.0))), machine.awake.set)

    def _later(self, seconds: float, act: Any) -> None:
        asyncio.get_running_loop().call_later(seconds, act)

    async def _kill(self) -> None:
        if self.machines:
            self.chance.choice(self.machines).kill()

    async def _stall(self) -> None:
        if self.machines:
            self.chance.choice(self.machines).stall()

    async def _wake(self) -> None:
        for machine in self.machines:
            if self.chance.random() < 0.7:
                machine.awake.set()

    async def _join(self) -> None:
        if len(self.machines) < 3:
            self.start()

    async def _rebalance(self) -> None:
        """Everybody joins again, and who comes first changes: A, B, and A again."""
        if self.machines:
            self.shared.note("the group rebalances")
            self.broker.rebalance(GROUP, self.chance.choice(self.machines).name)

    async def _restore(self) -> None:
        """A backup is taken while workers write, and put back when they are stopped."""
        self.shared.note("a backup is taken")
        backup: Tables = {}
        for table in BACKUP_ORDER:
            backup |= self.shared.store.backup(table)
            await asyncio.sleep(self.chance.choice((0.0, 0.5)))
        await asyncio.sleep(self.chance.choice((0.0, 5.0)))
        for machine in list(self.machines):
            machine.kill()
        for task in list(self.shared.flying):
            task.cancel()
        self.shared.note("the backup is put back")
        # As the operator is told to.
        self.shared.store.restore(backup | {"sweep_progress": {}, "trust_progress": {}})

    # ---- calm

    async def _calm(self) -> list[str]:
        """No more faults: within reasonable time everything must be folded, by whoever is still there."""
        self.shared.fate = Fate()
        if self.chance.random() < 0.3:
            await self._trust()  # when everything was told already
        loop = asyncio.get_running_loop()
        until = loop.time() + QUIET_S_MAX
        while not await self._finished():
            if loop.time() > until:
                return [f"not finished: {await self._state()}"]
            await self.operator.look(self.machines)
            for machine in self.machines:
                machine.awake.set()
                if machine.running.done():
                    return [f"{machine.name} ended: {machine.running.exception()!r}"]
            await asyncio.sleep(1.0)
        return []

    async def _finished(self) -> bool:
        committed = self.broker.group(GROUP).committed
        for partition in range(self.partitions):
            part = Part(topics.EVENTS, partition)
            end = len(self.broker.log(part).entries)
            if end and (committed.get(part) != end or await self.shared.store.journal_end(part) != (0, end)):
                return False
        return not self.shared.flying and bool(self.machines) and await self._settled()

    async def _settled(self) -> bool:
        """Whether the duties have nothing more to do: registries are followed, children know what their parents show."""
        assigned = [a for machine in self.machines for a in machine.worker.members.parts.values()]
        if any(a.again or a.again_written < a.again_taken for a in assigned):
            return False
        in_force = set(await MemoryTrust(self.shared.store).in_force())
        for partition in range(self.partitions):
            if not in_force <= await MemoryTrust(self.shared.store).progress(Part(topics.EVENTS, partition)):
                return False
        rows = {(row["workspace"], row["run_id"]): row for row in self.shared.store.rows("runs")}
        now = {key: kin_of(row).version for key, row in rows.items()}
        return all(
            row["verdict_lineage"] != "pending" and seen == now.get((workspace, parent), "")
            for (workspace, _), row in rows.items()
            for parent, seen in zip(row["parents"], row["parents_seen"], strict=True)
        )

    async def _state(self) -> dict[str, Any]:
        part = Part(topics.EVENTS, 0)
        return {
            "committed": self.broker.group(GROUP).committed,
            "journal": [
                await self.shared.store.journal_end(part._replace(partition=p)) for p in range(self.partitions)
            ],
            "ends": [len(self.broker.log(part._replace(partition=p)).entries) for p in range(self.partitions)],
            "problems": {m.name: m.worker.problems() for m in self.machines},
        }

    # ---- what the end should look like

    def _oracles(self) -> list[Oracle]:
        return [self._oracle(partition) for partition in range(self.partitions)]

    def _oracle(self, partition: int) -> Oracle:
        oracle = Oracle()
        events = []
        for found in self.broker.records(topics.EVENTS, partition):
            reason = dict(REFUSED).get(found.value or b"")
            event = None if reason else read(found)
            reason = reason or self.operator.refused.get((partition, found.offset))
            if reason is not None:
                oracle.refused[found.offset] = reason
            elif event and found.key is not None and partition_of(found.key, self.partitions) == partition:
                events.append(event)
        return oracle.fold(events)

    def _topic_differences(self) -> list[str]:
        """The last record of each key is the run's row; every refused offset has its dead letter."""
        rows = {f"{row['workspace']}/{row['run_id']}".encode(): row for row in self.shared.store.rows("runs")}
        settled = {f"{r['workspace']}/{r['run_id']}".encode() for r in self.shared.store.rows("settlements")}
        last, apart = self.broker.last_by_key(topics.RUNS), self.broker.last_by_key(topics.QUARANTINE)
        wrong = [f"topic: {sorted(last)} has not the keys {sorted(settled)}"] if last.keys() != settled else []
        for key in last:
            row = rows.get(key)
            if row is None:
                wrong.append(f"topic {key!r}: the store has no row of it")
                continue
            here, there = (apart, last) if row["flag"] == QUARANTINED else (last, apart)
            if key in there and there[key].value is not None:
                wrong.append(f"topic {key!r}: {row['flag']!r}, and a record stands on the other topic")
            told, shown = _told(here.get(key)), _row_told(row)
            if told != shown:
                wrong.append(f"topic {key!r}: {told} is not {shown}")
        letters = {_place(letter) for letter in self.broker.records(topics.DEAD_LETTERS)}
        refused = {(row["partition"], row["offset"]) for row in self.shared.store.rows("refused")}
        return wrong + ([f"dead letters {letters ^ refused}"] if letters != refused else [])


def _told(published: MemoryRecord | None) -> tuple[Any, ...]:
    if published is None or published.value is None:
        return ()
    value = orjson.loads(published.value)
    verdict, counts = value["verdict"], value["counts"]
    axes = tuple(verdict.get(name) for name in ("headline", *AXES, "kid", "signed_rev", "genesis"))
    return (value["revision"], value["status"], value["closed_by"], counts.get("steps"), value["projection"], *axes)


def _row_told(row: Row) -> tuple[Any, ...]:
    names = ("revision", "status", "closed_by", "steps", "projection", "verdict", *(f"verdict_{a}" for a in AXES))
    return tuple(row.get(name) for name in (*names, "kid", "signed_rev", "genesis"))


def _place(letter: MemoryRecord) -> tuple[int, int]:
    headers = dict(letter.headers)
    return int(headers["agentrun.dlq.partition"]), int(headers["agentrun.dlq.offset"])


def read(found: MemoryRecord) -> Logged:
    """A record as the event that was told with it."""
    headers = dict(found.headers)
    value = orjson.loads(found.value or b"")
    envelope = {k.removeprefix("ce_"): v.decode() for k, v in headers.items()} | {"data": value} if headers else value
    return Logged(
        found.offset,
        found.timestamp,
        envelope.get("workspaceid", "default"),
        envelope["type"].split(".")[1],
        envelope["subject"],
        envelope["source"],
        envelope.get("time"),
        envelope["data"],
    )

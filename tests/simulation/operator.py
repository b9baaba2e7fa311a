"""The operator of a play: reads what stopped, and sets aside the events whose rows the store does not take.

Must not live here: anything a person could not do with `agentrun refuse`.
"""

import re
from collections.abc import Iterable

import orjson

from agentrun_stream.broker.memory import MemoryBroker
from agentrun_stream.ports import Part
from agentrun_stream.store.memory import MemoryStore, Row
from agentrun_stream.store.rows import ARRAY_TABLES, MS
from simulation.machine import Machine

POISON = "poison"
REASON = "sink_rejected"
_WHERE = re.compile(r"refuses the rows of (\S+):(\d+):(\d+) ")


def is_poison(table: str, row: Row) -> bool:
    """What this store can't take."""
    return table == "run_objects" and row["output_preview"] == POISON


class Operator:
    """Refuses what the workers' problems name; `refused` remembers it, also where a backup forgets."""

    def __init__(self, broker: MemoryBroker, store: MemoryStore) -> None:
        self.refused: dict[tuple[int, int], str] = {}
        self._broker = broker
        self._store = store

    async def look(self, machines: Iterable[Machine]) -> None:
        for problem in [p for m in machines for p in m.worker.problems()]:
            if found := _WHERE.search(problem):
                await self._refuse(Part(found[1], int(found[2])), int(found[3]))

    async def _refuse(self, part: Part, offset: int) -> None:
        """The ledger first: the other way round, a crash in between would leave its amounts without an event."""
        record = self._broker.log(part).entries[offset]
        assert record is not None, "there is no record to refuse"
        assert POISON.encode() in (record.value or b""), "the store takes this one"
        columns = ARRAY_TABLES["accruals"]
        kept = columns[:8]
        version = len(await self._store.set_aside(part)) + 1
        for row in self._store.rows("accruals"):
            if (row["topic"], row["partition"], row["offset"]) == (*part, offset):
                zero = {name: row[name] for name in kept} | {"appended_at": row["appended_at"], "_version": version}
                await self._store.insert("accruals", [orjson.dumps([zero.get(name) for name in columns])])
        told = {"reason": REASON, "pointer": "", "keyword": "test", "size": 1, "attempt": 1, "refused_at": 1}
        place = {**part._asdict(), "offset": offset, "appended_at": record.timestamp / MS, "_version": 1}
        await self._store.insert("refused", [orjson.dumps(place | told)])
        self.refused[part.partition, offset] = REASON

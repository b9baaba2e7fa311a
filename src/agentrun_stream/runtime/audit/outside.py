"""What the pipeline published: the last record of every run on the compacted topic, and a dead letter for each refusal.

Must not live here: the tables (compare.py).
"""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agentrun_stream import topics
from agentrun_stream.codec import json_codec
from agentrun_stream.model.projection import Projection
from agentrun_stream.pipeline import announcements
from agentrun_stream.ports import Part, Record, RunKey
from agentrun_stream.processors.publish import run_key
from agentrun_stream.runtime.audit.findings import Findings, Where
from agentrun_stream.runtime.audit.refold import Reach
from agentrun_stream.runtime.audit.views import AuditReader
from agentrun_stream.runtime.second_chance import letter_of

Log = AsyncIterator[Sequence[Record]]
RefusedAt = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Expected:
    """The record that must be a run's last one: its topic, its order pair, the digest of its value.

    On the other one of the two topics there is a tombstone, or nothing where the run never was there.
    """

    reach: Reach
    topic: str
    order: tuple[int, int]
    digest: bytes


class Last(NamedTuple):
    """The last record of a key: its order pair, whether it is a tombstone, the digest of its value where that counts."""

    order: tuple[int, int]
    tombstone: bool
    digest: bytes


def expected(reach: Reach, projection: Projection) -> Expected:
    """What a projection's records must be."""
    (topic, record), *_ = announcements(projection, again=False)
    order = (projection.row["revision"], projection.row["projection"])
    return Expected(reach, topic, order, digest_of(record.value))


def digest_of(value: bytes | None) -> bytes:
    """The digest of a published value, whatever the order of its members."""
    try:
        text = json_codec.canonical(json_codec.parse(value or b"")[0]).encode()
    except ValueError:
        text = value or b""
    return hashlib.blake2b(text, digest_size=16).digest()


class Outside:
    """Gathers what the partitions expect on the two topics, then reads each of them once."""

    def __init__(self, findings: Findings, reader: AuditReader) -> None:
        self._findings = findings
        self._reader = reader
        self._expected: dict[bytes, tuple[RunKey, Expected]] = {}
        self._refused: dict[RefusedAt, int] = {}

    def expect(self, runs: Mapping[RunKey, Expected], refused: Mapping[RefusedAt, int]) -> None:
        """Expect a record of each of these runs, and a dead letter of each of these refusals (append time in ms)."""
        self._expected.update({run_key(*key): (key, expected) for key, expected in runs.items()})
        self._refused.update(refused)

    async def published(self, topic: str, records: Log, *, deep: bool) -> None:
        """Compare the last record of every run, as compaction and a new reader will find it."""
        last: dict[bytes, Last] = {}
        async for some in records:
            for record in some:
                if record.key in self._expected:
                    digest = digest_of(record.value) if deep else b""
                    last[record.key] = Last(_order(record), record.value is None, digest)
        since = self._shown_since(last)
        for name, (key, wanted) in self._expected.items():
            found = last.get(name)
            if name in since or (found is not None and found.order[0] >= wanted.reach.committed):
                continue  # announced since
            if wanted.topic == topic:
                self._here(topic, key, wanted, (found, deep))
            else:
                self._elsewhere(topic, key, wanted, found)

    def _shown_since(self, last: Mapping[bytes, Last]) -> set[bytes]:
        """The runs that were shown again while the audit went on: their rows have by now the counter that was told."""
        ahead = {
            name: key
            for name, (key, wanted) in self._expected.items()
            if name in last and last[name].order[0] == wanted.order[0] and last[name].order[1] > wanted.order[1]
        }
        now = self._reader.counters(list(ahead.values())) if ahead else {}
        return {name for name, key in ahead.items() if now.get(key, -1) >= last[name].order[1]}

    def _here(self, topic: str, key: RunKey, wanted: Expected, found: tuple[Last | None, bool]) -> None:
        where = Where(wanted.reach.part, wanted.order[0], key)
        last, deep = found
        if last is None or last.tombstone:
            self._findings.differ(
                "published", topic, where, _words(wanted.order), "no record" if last is None else "a tombstone"
            )
        elif last.order != wanted.order:
            self._findings.differ("published", topic, where, _words(wanted.order), _words(last.order))
        elif deep and last.digest != wanted.digest:
            self._findings.differ("published", topic, where._replace(column="value"), "the projection", "another")

    def _elsewhere(self, topic: str, key: RunKey, wanted: Expected, last: Last | None) -> None:
        where = Where(wanted.reach.part, wanted.order[0], key)
        if last is not None and not last.tombstone:
            self._findings.differ("published", topic, where, "a tombstone", "a record")
        elif topic == topics.RUNS and (last is None or last.order != wanted.order):
            found = "no record" if last is None else _words(last.order)
            self._findings.differ("published", topic, where, f"a tombstone of {_words(wanted.order)}", found)

    async def dead_letters(self, topic: str, records: Log, group: str) -> None:
        """Check that every refused record has its dead letter, as far back as there are any."""
        missing, first_ms, oldest = dict(self._refused), 0, 0
        async for some in records:
            for record in some:
                if not first_ms or record.timestamp < first_ms:
                    first_ms, oldest = record.timestamp, record.offset
                said = letter_of(record).said
                if said.get("group", "") == group and (about := _about(said)):
                    missing.pop(about, None)
        for (name, partition, offset), append_ms in sorted(missing.items()):
            if oldest and append_ms < first_ms:
                self._findings.note("dead letters older than that topic's retention can't be checked")
                continue
            where = Where(Part(name, partition), offset)
            self._findings.differ("records", topic, where, "a dead letter", "none")


def _about(said: Mapping[str, str]) -> RefusedAt | None:
    partition, offset = said.get("partition", ""), said.get("offset", "")
    if not (partition + offset).isascii() or not partition.isdigit() or not offset.isdigit():
        return None
    return said.get("topic", ""), int(partition), int(offset)


def _order(record: Record) -> tuple[int, int]:
    said = dict(record.headers)
    pair = said.get("revision", b""), said.get("projection", b"")
    return (int(pair[0]), int(pair[1])) if pair[0].isdigit() and pair[1].isdigit() else (-1, -1)


def _words(order: tuple[int, int]) -> str:
    return f"revision {order[0]}, projection {order[1]}"

"""Dead letters and what became of them: waiting, published again, parked, or overtaken by something newer.

A letter is told by (topic, partition, offset, attempt): a crash may write it twice. What was published again is known from
receipts (topics.REPLAYS) that are in the same transaction as the records. Must not live here: clients, printing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from agentrun_stream import topics
from agentrun_stream.codec.cloudevents import ATTEMPT_HEADER, FIRST_SEEN_HEADER, Route
from agentrun_stream.codec.json_codec import dumps
from agentrun_stream.model.event import EVAL, RUN, STEP, Refusal
from agentrun_stream.pipeline import read
from agentrun_stream.ports import Outgoing, Record
from agentrun_stream.processors.fold import eval_id
from agentrun_stream.runtime.letters import PREFIX

WAITING: Final = "waiting"
REPLAYED: Final = "replayed"
PARKED: Final = "parked"
NEWER: Final = "newer"
CHUNK_MAX: Final = 200  # records of one transaction

ObjectKey = tuple[str, str, str, str]


class Stored(NamedTuple):
    """When the object that the store holds was appended (ms), and its event time (s)."""

    appended_ms: int
    time_s: float


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: what was refused, and what its headers say about that."""

    record: Record
    said: Mapping[str, str]

    @property
    def place(self) -> str:
        """Where the refused record stands on the log."""
        return ":".join(self.said.get(name, "?") for name in ("topic", "partition", "offset"))

    @property
    def topic(self) -> str:
        """The topic it was refused on."""
        return self.said.get("topic", topics.EVENTS)

    @property
    def attempt(self) -> int:
        """How many times it was sent."""
        text = self.said.get("attempt", "1")
        return int(text) if text.isdecimal() else 1

    @property
    def identity(self) -> str:
        """What tells it from every other."""
        return f"{self.place}:{self.attempt}"

    @property
    def first_seen_ms(self) -> int:
        """The append time of the first attempt."""
        text = self.said.get("first_seen", "")
        return int(text) if text.isdecimal() else self.record.timestamp

    @property
    def size(self) -> int:
        """Bytes of its value."""
        return len(self.record.value or b"")

    def row(self) -> dict[str, Any]:
        """What is told of it without its payload."""
        names = ("reason", "detail")
        return {name: self.said.get(name) for name in names} | {
            "place": self.place,
            "attempt": self.attempt,
            "size": self.size,
            "key": None if self.record.key is None else self.record.key.decode("utf-8", "backslashreplace"),
            "refused_at": self.record.timestamp,
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters; None means any. `places` empty: everywhere."""

    reason: str | None = None
    since: datetime | None = None
    places: frozenset[str] = frozenset()

    def takes(self, letter: Letter) -> bool:
        """Whether it is one of these."""
        if self.since is not None and letter.record.timestamp < math.floor(self.since.timestamp() * 1000):
            return False
        if self.places and letter.place not in self.places:
            return False
        return self.reason is None or letter.said.get("reason") == self.reason


@dataclass(slots=True)
class Judged:
    """A letter, and what is to be done with it."""

    letter: Letter
    state: str

    def row(self) -> dict[str, Any]:
        """As it is listed."""
        return self.letter.row() | {"state": self.state}


def letter_of(record: Record) -> Letter:
    """A record of the dead letters as a letter."""
    said = {k.removeprefix(PREFIX): v.decode("utf-8", "replace") for k, v in record.headers if k.startswith(PREFIX)}
    return Letter(record, said)


def judge(letters: Iterable[Letter], receipts: frozenset[str], attempts_max: int) -> list[Judged]:
    """Each letter once, oldest first: published again already, parked, or waiting."""
    found: dict[str, Judged] = {}
    for letter in sorted(letters, key=lambda one: one.record.timestamp):
        parked = PARKED if letter.attempt >= attempts_max else WAITING
        found.setdefault(letter.identity, Judged(letter, REPLAYED if letter.identity in receipts else parked))
    return list(found.values())


def object_of(letter: Letter, route: Route) -> tuple[ObjectKey, float] | None:
    """The object that a letter is about, as the store's key, and its event time; None where it is still no event."""
    record = letter.record
    event = read(record, route, letter.first_seen_ms)
    if isinstance(event, Refusal):
        return None
    kind, object_id = RUN, ""  # of a patch or a lease, too
    if event.kind == STEP:
        kind, object_id = STEP, event.obj["id"]
    elif event.kind == EVAL:
        kind, object_id = EVAL, eval_id(event.obj)
    return (event.workspace, event.run_id, kind, object_id), event.time_s


def set_aside_newer(
    judged: Sequence[Judged], objects: Mapping[str, tuple[ObjectKey, float]], stored: Mapping[ObjectKey, Stored]
) -> None:
    """Mark the waiting letters whose object was changed after they were first refused, or tells of a later time."""
    for one in judged:
        about = objects.get(one.letter.identity)
        found = stored.get(about[0]) if about is not None else None
        if one.state == WAITING and about is not None and found is not None:
            newer = found.appended_ms > one.letter.first_seen_ms or found.time_s > about[1]
            one.state = NEWER if newer else WAITING


def again(letter: Letter) -> Outgoing:
    """The record as it is published again: its own key, value and headers, and the attempt one higher."""
    headers = [(k, v) for k, v in letter.record.headers if not k.startswith(PREFIX)]
    headers += [(FIRST_SEEN_HEADER, str(letter.first_seen_ms).encode())]
    headers += [(ATTEMPT_HEADER, str(letter.attempt + 1).encode())]
    return Outgoing(letter.record.key, letter.record.value, tuple(headers))


def receipt(letter: Letter, now_ms: int) -> Outgoing:
    """What says, in the same transaction, that a letter was published again."""
    return Outgoing(letter.identity.encode(), dumps({"letter": letter.identity, "replayed_at": now_ms}))


def transaction(letters: Sequence[Letter], now_ms: int) -> list[tuple[str, Outgoing]]:
    """The records of one transaction, each with its topic."""
    records = [(letter.topic, again(letter)) for letter in letters]
    return records + [(topics.REPLAYS, receipt(letter, now_ms)) for letter in letters]


def chunks(judged: Sequence[Judged], rate: float) -> list[list[Letter]]:
    """The waiting letters, in pieces of one transaction: small where the rate is."""
    waiting = [one.letter for one in judged if one.state == WAITING]
    size = max(1, min(CHUNK_MAX, int(rate / 4)))
    return [waiting[at : at + size] for at in range(0, len(waiting), size)]

"""What the audit asks of the store and of the log. Must not live here: implementations."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Protocol

from agentrun_stream.model.lineage import Kin
from agentrun_stream.ports import Part, Record, RunKey
from agentrun_stream.store.audit import Judged, Slice
from agentrun_stream.store.closings import AgentKey, History


class AuditReader(Protocol):
    """The store as the audit reads it: current rows, as dicts, times as seconds, money as text."""

    def objects(self, part: Part, some: Slice, *, deep: bool) -> Iterable[dict[str, Any]]:
        """The objects of a partition's runs: key, version, first append time, whether the checksum holds.

        With `deep` every column.
        """
        ...

    def rows(self, table: str, part: Part, some: Slice) -> Iterable[dict[str, Any]]:
        """The rows of a table that belong to a partition's runs; for `batches` all of the partition."""
        ...

    def counters(self, keys: Sequence[RunKey]) -> dict[RunKey, int]:
        """The projection counters of these runs as they are now."""
        ...

    def kin(self, keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
        """What the rows of these runs say of their lineage."""
        ...

    def windows(self) -> Iterable[dict[str, Any]]:
        """The windows that differ from the sums of their rows: ledger, minute, dimensions, and how much."""
        ...

    def closings(self, keys: Sequence[RunKey]) -> Iterable[dict[str, Any]]:
        """The closed runs among these, as `closings` has them."""
        ...

    def untaken(self, keys: Sequence[RunKey]) -> frozenset[RunKey]:
        """Those of these runs of which `closings` has still to take something in."""
        ...

    def untaken_agents(self) -> frozenset[AgentKey]:
        """The agents of such runs."""
        ...

    def agents(self) -> frozenset[AgentKey]:
        """The agents that `closings` knows."""
        ...

    def failures(self) -> dict[AgentKey, Judged]:
        """What stands in `signals` of their failures."""
        ...

    def histories(self, agents: Sequence[AgentKey], stretch: int, learn: int) -> Iterable[tuple[AgentKey, History]]:
        """The closed runs of these agents, in append order."""
        ...

    def strays(self, parts: Sequence[Part]) -> Iterable[Sequence[Any]]:
        """(table, topic, partition, rows) of rows under partitions of these topics that do not exist."""
        ...


class AuditLog(Protocol):
    """The log as the audit reads it."""

    def records(self, part: Part, start: int, end: int) -> AsyncIterator[Sequence[Record]]:
        """The committed records of a partition."""
        ...

    def topic(self, name: str) -> AsyncIterator[Sequence[Record]]:
        """The committed records of a whole topic, in order per partition."""
        ...

"""The twin in memory of who descends from whom: the same answers from the rows of a `MemoryStore`.

Its log of changes counts inserts where the real one counts minutes. Must not live here: when to look.
"""

from collections.abc import Iterator

from agentrun_stream.model.lineage import PENDING
from agentrun_stream.ports import Part
from agentrun_stream.store.lineage import Edge, Page
from agentrun_stream.store.memory import Row, kin_of
from agentrun_stream.store.memory_sweeps import MemorySweeps
from agentrun_stream.store.rows import MS


class MemoryLineages(MemorySweeps):
    """`runtime.lineage.Lineages` over a store in memory."""

    async def waiting(self, part: Part, after: Edge, before_ms: int, most: int) -> Page:
        """See `runtime.lineage.Lineages.waiting`."""
        old = [
            (edge, row)
            for edge, row, _ in self._edges(part)
            if row.get("verdict_lineage") == PENDING and round(row.get("judged_at", 0) * MS) < before_ms
        ]
        return _page([edge for edge, _ in old], after, most)

    async def outdated(self, part: Part, after: Edge, most: int) -> Page:
        """See `runtime.lineage.Lineages.outdated`."""
        return _page(
            [e for e, row, seen in self._edges(part) if row.get("verdict_lineage") != PENDING and self._old(e, seen)],
            after,
            most,
        )

    async def changes(self) -> tuple[int, int]:
        """See `runtime.lineage.Lineages.changes`."""
        minutes = [row["minute"] for row in self._store.rows("run_changes")]
        return min(minutes, default=0), max(minutes, default=0)

    async def changed(self, part: Part, after: Edge, most: int) -> Page:
        """See `runtime.lineage.Lineages.changed`."""
        minutes: dict[tuple[str, str], dict[int, str]] = {}
        for row in self._store.rows("run_changes"):
            minutes.setdefault((row["workspace"], row["run_id"]), {})[row["minute"]] = row["kin"]
        found = []
        for edge, _, seen in self._edges(part):
            for minute, kin in minutes.get(edge.parent_key, {}).items():
                if seen != kin and self._old(edge, seen):
                    found.append(edge._replace(minute=minute))
        return _page(found, after, most)

    def _edges(self, part: Part) -> Iterator[tuple[Edge, Row, str]]:
        """Each edge of a partition, the child's row, and what of the parent it looked at."""
        for row in self._store.rows("runs"):
            if (row["topic"], row["partition"]) == tuple(part):
                for parent, seen in zip(row.get("parents", ()), row.get("parents_seen", ()), strict=False):
                    yield Edge(0, row["workspace"], parent, row["run_id"]), row, seen

    def _old(self, edge: Edge, seen: str) -> bool:
        now = [r for r in self._store.rows("runs") if (r["workspace"], r["run_id"]) == edge.parent_key]
        return seen != (kin_of(now[0]).version if now else "")


def _page(found: list[Edge], after: Edge, most: int) -> Page:
    page = sorted(edge for edge in found if edge > after)[:most]
    return page, page[-1] if len(page) == most else None

"""The twin in memory of what the sweeper asks of the store: the same answers from the rows of a `MemoryStore`.

Must not live here: when a run is due.
"""

from collections.abc import Mapping, Sequence

from agentrun_stream.ports import Part, RunKey
from agentrun_stream.store.memory import MemoryStore, Row
from agentrun_stream.store.rows import MS
from agentrun_stream.store.sweeps import Age, Expired, Horizons, Touch


class MemorySweeps:
    """`runtime.retention.Retained` over a store in memory, which keeps the notes too."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def touched(self, part: Part, after: Touch, before_s: int, most: int) -> Sequence[Touch]:
        """See `runtime.sweep.Sweeps.touched`."""
        found = {
            Touch(int(r["_appended_at"]) // 60 * 60, r["workspace"], r["run_id"])
            for r in self._objects(part)
            if r["kind"] != "expired"
        }
        return sorted(t for t in found if t > after and t.minute < before_s)[:most]

    async def open_ages(self, keys: Sequence[RunKey]) -> Mapping[RunKey, Age]:
        """See `runtime.sweep.Sweeps.open_ages`."""
        runs = {(r["workspace"], r["run_id"]): r for r in self._store.rows("runs")}
        times: dict[RunKey, tuple[int, int]] = {}
        for row in self._store.rows("run_objects"):
            key = (row["workspace"], row["run_id"])
            last, first = times.get(key, (0, 1 << 62))
            times[key] = (
                max(last, round(row["_appended_at"] * MS)),
                min(first, round(row["_first_appended_at"] * MS)),
            )
        found = {}
        for key in set(keys) & times.keys():
            shown = runs.get(key, {})
            if shown.get("closed_by") is None:
                reopened = shown.get("reopened_at")
                found[key] = Age(times[key][0], round(reopened * MS) if reopened else times[key][1])
        return found

    async def reached(self, part: Part) -> Mapping[str, int]:
        """See `runtime.sweep.Sweeps.reached`."""
        return {r["walk"]: r["reached"] for r in self._store.rows("sweep_progress") if _of(r, part)}

    async def reach(self, part: Part, walk: str, value: int, now_ms: int) -> None:
        """See `runtime.sweep.Sweeps.reach`."""
        self._store.note("sweep_progress", {**part._asdict(), "walk": walk, "reached": value, "written_at": now_ms})

    async def past_horizon(
        self, part: Part, after: RunKey, horizons: Horizons, now_ms: int
    ) -> tuple[list[RunKey], RunKey | None]:
        """See `runtime.retention.Retained.past_horizon`."""
        due = []
        for row in self._store.rows("runs"):
            key, horizon = (row["workspace"], row["run_id"]), horizons.of(row["workspace"])
            kept = row.get("closed_by") is None or row.get("expired_at") is not None or not _of(row, part)
            if key <= after or kept or horizon is None:
                continue
            if now_ms - round(row["last_event_at"] * MS) > horizon * MS:
                due.append(key)
        return sorted(due), None

    async def expired(self, part: Part, span: tuple[int, int], stored_before_ms: int, most: int) -> Sequence[Expired]:
        """See `runtime.retention.Retained.expired`."""
        found = sorted(
            (r["_offset"], r["workspace"], r["run_id"], r["_version"], round(r["_ingested_at"] * MS))
            for r in self._objects(part)
            if r["kind"] == "expired" and span[0] <= r["_offset"] < span[1]
        )
        young = next((i for i, row in enumerate(found) if row[4] >= stored_before_ms), len(found))
        return [Expired(*row[:4]) for row in found[: min(young, most)]]

    async def remove(self, runs: Sequence[Expired]) -> None:
        """See `runtime.retention.Retained.remove`."""
        versions = {(r.workspace, r.run_id): r.version for r in runs}

        def gone(row: Row) -> bool:
            version = versions.get((row["workspace"], row["run_id"]), 0)
            return row["kind"] != "expired" and int(row["_version"]) < version

        self._store.delete("run_objects", gone)

    def _objects(self, part: Part) -> list[Row]:
        return [r for r in self._store.rows("run_objects") if (r["_topic"], r["_partition"]) == tuple(part)]


def _of(row: Row, part: Part) -> bool:
    return (row["topic"], row["partition"]) == tuple(part)

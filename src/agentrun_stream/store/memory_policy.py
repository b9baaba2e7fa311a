"""The twin in memory of how runs are flagged: the same answers from the rows of a `MemoryStore`.

Must not live here: what a policy says.
"""

from agentrun_stream.ports import Part, RunKey
from agentrun_stream.store.memory import MemoryStore
from agentrun_stream.store.policy import Flagged, FlaggedPage, InForce
from agentrun_stream.store.rows import MS


class MemoryPolicies:
    """`runtime.policy.Policies` over a store in memory, which keeps the notes too."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def flagged(self, part: Part, after: RunKey, most: int) -> FlaggedPage:
        """See `runtime.policy.Policies.flagged`."""
        rows = {(row["workspace"], row["run_id"]): row for row in self._store.rows("runs")}
        keys = sorted(key for key in rows if key > after)[:most]
        found = [
            Flagged(key, row.get("verdict", ""), row.get("flag", ""))
            for key in keys
            if ((row := rows[key])["topic"], row["partition"]) == tuple(part) and row.get("closed_by") is not None
        ]
        return found, keys[-1] if len(keys) == most else None

    async def followed(self, part: Part) -> frozenset[InForce]:
        """See `runtime.policy.Policies.followed`."""
        rows = self._store.rows("policy_progress")
        return frozenset(
            InForce(r["ordinal"], r["policy"]) for r in rows if (r["topic"], r["partition"]) == tuple(part)
        )

    async def note(self, part: Part, policy: InForce, now_ms: int) -> None:
        """See `runtime.policy.Policies.note`."""
        self._store.note("policy_progress", {**part._asdict(), **policy._asdict(), "done_at": now_ms / MS})

"""placeholder"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from agentrun_stream.model.lineage import Child, Kin, Lineage, parents_of
from agentrun_stream.ports import RunKey


async def resolve(
    load: Callable[[Sequence[RunKey]], Awaitable[dict[RunKey, Kin]]],
    children: Mapping[RunKey, Child],
    now_ms: int,
    orphan_after_ms: int,
) -> dict[RunKey, Lineage]:
    return {k: Lineage("pending", (), ("",) * len(parents_of(c))) for k, c in children.items()}

"""The lineage that rows show, held against what their parents show now.

A row names the versions of the parents' rows that it was made with: where these still stand, it must say what they give. Must
not live here: the rules (processors/lineage.py), when a child is looked at again (runtime/lineage.py).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from agentrun_stream.model import lineage
from agentrun_stream.model.lineage import Child, Kin, Lineage
from agentrun_stream.model.opinions import ORPHAN_AFTER_MS
from agentrun_stream.ports import Part, RunKey
from agentrun_stream.runtime.audit.findings import Findings, Where
from agentrun_stream.runtime.audit.views import AuditReader
from agentrun_stream.runtime.lineage import resolve

# Which of the two is a matter of the hour at which somebody looked.
_WAITS: Final = frozenset({lineage.PENDING, lineage.ORPHANED})


async def compare_lineages(
    reader: AuditReader, part: Part, children: Mapping[RunKey, tuple[Child, Lineage]], findings: Findings
) -> None:
    """Compare what these runs' rows say of their lineage."""

    async def kin(keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
        return reader.kin(keys)

    wanted = await resolve(kin, {key: child for key, (child, _) in children.items()}, 0, ORPHAN_AFTER_MS)
    for key, (_, shown) in children.items():
        found = wanted[key]
        if shown.seen != found.seen:
            if any(shown.seen):
                findings.note("some runs are still to be held against what their parents show now")
        elif shown.axis != found.axis and not {shown.axis, found.axis} <= _WAITS:
            where = Where(part, None, key, column="verdict_lineage")
            findings.differ("projections", "runs", where, found.axis, shown.axis)

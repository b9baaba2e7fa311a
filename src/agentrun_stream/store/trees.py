"""What runs cost together with those that they started: reading `run_tree_costs`.

Must not live here: the sums themselves (migrations/0014_invoices_and_trees.sql), printing.
"""

from typing import Final

from clickhouse_connect.driver.client import Client

from agentrun_stream.store.queries import Row, ask
from agentrun_stream.store.sql import literal

# The sums of a tree are made over all runs, once.
_SUBTREE: Final = """
SELECT * EXCEPT (mine)
FROM
(
    SELECT *, max(run_id = {run}) OVER (PARTITION BY workspace, root_run_id) AS mine
    FROM run_tree_costs WHERE workspace = {workspace}
)
WHERE mine ORDER BY depth, run_id
"""


def subtree(client: Client, workspace: str, run_id: str) -> list[Row]:
    """The run and all that descend from it, parents first and each run's children right below it; empty where it is unknown."""
    found = {
        row["run_id"]: row for row in ask(client, _SUBTREE.format(run=literal(run_id), workspace=literal(workspace)))
    }
    children: dict[str, list[Row]] = {}
    for row in found.values():
        if row["tree"] == "child":
            children.setdefault(row["parent_run_id"], []).append(row)
    made: list[Row] = []
    waiting = [found[run_id]] if run_id in found else []
    while waiting:
        row = waiting.pop()
        made.append(row)
        waiting += reversed(children.get(row["run_id"], ()))
    return made

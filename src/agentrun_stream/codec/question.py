"""The questions that the pipeline puts on the log itself, lease and expiry, as bytes of their events.

Must not live here: when they are asked (runtime/sweep.py), or what they do to a run (processors/fold.py).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from agentrun_stream.codec import json_codec
from agentrun_stream.model.event import TYPE_OF_KIND

SOURCE: Final = "/agentrun/sweeper"


def question(kind: str, run: tuple[str, str], data: Mapping[str, float], now_ms: int) -> bytes:
    """One question about a run, given as (workspace, run id)."""
    workspace, run_id = run
    asked = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return json_codec.dumps(
        {
            "specversion": "1.0",
            "id": f"{kind}/{run_id}/{now_ms}",
            "source": SOURCE,
            "type": TYPE_OF_KIND[kind],
            "subject": run_id,
            "time": asked,
            "workspaceid": workspace,
            "data": dict(data),
        }
    )

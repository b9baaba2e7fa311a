"""agentrun-stream: agent-run events on Kafka become exact runs in ClickHouse."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrun_stream.model.verdict import Verdict

__all__ = ["PROTOCOL_VERSION", "__version__", "verify_run"]
__version__ = "0.1.0"
PROTOCOL_VERSION = "0.1.0"


def verify_run(
    raw: bytes,
    *,
    steps: Sequence[bytes] = (),
    registry: Mapping[str, Any] | None = None,
    workspace: str = "default",
    judged_at: datetime | None = None,
) -> "Verdict":
    """The verdict on one AgentRun from its bytes, bare or in an envelope; no store and no broker takes part.

    `steps` are the bytes of its streamed Step events, in any order; `registry` is the JWK Set of the workspace (none: no
    key is trusted); `judged_at` stands for the broker's append time (none: now). The lineage axis is `pending` for a run
    with parents, which only a store can look up.

    Needs the extra `signing`; raises ConfigError where that is not installed.

    Example: verify_run(Path("run.json").read_bytes(), registry=json.load(open("acme.jwks.json")), workspace="acme").headline
    """
    try:
        from agentrun_stream.sdk.verifying import verify_run as verify  # noqa: PLC0415 - `import agentrun_stream` stays light

        return verify(raw, steps=steps, registry=registry, workspace=workspace, judged_at=judged_at)
    except ModuleNotFoundError as error:
        from agentrun_stream.errors import ConfigError  # noqa: PLC0415

        raise ConfigError(
            f"verify_run needs the package {error.name}, which is not installed.",
            "Run: pip install 'agentrun-stream[signing]'",
        ) from None

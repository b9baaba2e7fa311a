"""The protocol's objects as pydantic types, for producers and readers. Unknown members are kept.

Generated from schemas/ by `python -m agentrun_stream.codegen`: change the schemas, never this file.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

_TIME: Final = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
# The schema wants a number, and pydantic would write a decimal as text. 15 digits come out as they are.
_AS_NUMBER: Final = PlainSerializer(float, return_type=float, when_used="json-unless-none")


class Step(BaseModel):
    """One thing that a run did: a thought, a call of a tool, its result, a message, an error, a handoff. Optional members may be null; unknown members are kept."""

    model_config = ConfigDict(
        extra="allow",
        populate_by_name=True,
        use_attribute_docstrings=True,
    )
    id: Annotated[str | None, Field(max_length=512, min_length=1)] = None
    """Identity of the step in its run. A step that travels alone must have one; inside a run its position stands in."""
    type: Literal["reasoning", "tool_call", "tool_result", "message", "error", "handoff"]
    """What kind of step this is."""
    tool_name: Annotated[str | None, Field(max_length=512)] = None
    """The tool that was called."""
    mcp_server: Annotated[str | None, Field(max_length=512)] = None
    """The MCP server that offers the tool."""
    input_preview: str | None = None
    """The beginning of what went in."""
    output_preview: str | None = None
    """The beginning of what came out."""
    success: bool | None = None
    """Whether the step did what it was to do."""
    error: str | None = None
    """What went wrong, in words."""
    started_at: Annotated[
        str | None,
        Field(pattern=_TIME),
    ] = None
    """When the step started, RFC 3339 with an offset."""
    ended_at: Annotated[
        str | None,
        Field(pattern=_TIME),
    ] = None
    """When the step ended, RFC 3339 with an offset."""
    duration_ms: Annotated[int | None, Field(ge=0, le=1000000000000)] = None
    """How long the step took, in milliseconds."""
    tokens_used: Annotated[int | None, Field(ge=0, le=1000000000000)] = None
    """Tokens that the step used, in all."""
    metadata: dict[str, Any] | None = None
    """Anything else the producer wants to keep with the step; kept as it is. `usage` holds the tokens of the step's model call, for pricing."""


class Cost(BaseModel):
    """Tokens used and money spent. A missing or null member means not known, never zero; unknown members are kept."""

    model_config = ConfigDict(
        extra="allow",
        populate_by_name=True,
        use_attribute_docstrings=True,
    )
    input_tokens: Annotated[int | None, Field(ge=0, le=1000000000000)] = None
    """Tokens that went into the model."""
    output_tokens: Annotated[int | None, Field(ge=0, le=1000000000000)] = None
    """Tokens that the model wrote, its reasoning included."""
    cache_read_tokens: Annotated[int | None, Field(ge=0, le=1000000000000)] = None
    """Input tokens that were read from the provider's cache."""
    cache_write_tokens: Annotated[int | None, Field(ge=0, le=1000000000000)] = None
    """Input tokens that were written to the provider's cache."""
    total_tokens: Annotated[int | None, Field(ge=0, le=1000000000000)] = None
    """All tokens, as the producer counts them."""
    cost_usd: Annotated[Decimal | None, _AS_NUMBER, Field(ge=0, le=1000000000000)] = None
    """Money spent, in US dollars, as the producer knows it. A decimal: it is read digit by digit."""
    model: Annotated[str | None, Field(max_length=512)] = None
    """The model that the money went to, where it is not the run's."""
    metadata: dict[str, Any] | None = None
    """Anything else the producer wants to keep with the cost; kept as it is."""


class Provenance(BaseModel):
    """Where a run came from and who signed it. Optional members may be null; unknown members are kept."""

    model_config = ConfigDict(
        extra="allow",
        populate_by_name=True,
        use_attribute_docstrings=True,
    )
    run_hash: str | None = None
    """Fingerprint of the agent's configuration: hex SHA-256 of agent_id, model, tools, config_hash and trigger. Runs of one configuration share it."""
    parent_run_hash: str | None = None
    """The `run_hash` of the run that started this one."""
    lineage: list[str] | None = None
    """The `run_hash` of every ancestor, the first one first."""
    model_version: str | None = None
    """The exact version of the model."""
    config_hash: str | None = None
    """The producer's own hash of the agent's configuration; opaque."""
    runtime: str | None = None
    """The runtime that vouches for these values."""
    signed_by: str | None = None
    """Who signed the run: a `did:key` of an Ed25519 key."""
    signature: str | None = None
    """The signature of the run, with the name of its suite in front."""
    created_at: Annotated[
        str | None,
        Field(pattern=_TIME),
    ] = None
    """When this was recorded, RFC 3339 with an offset."""
    metadata: dict[str, Any] | None = None
    """Anything else the producer wants to keep with the provenance; kept as it is."""


class EvalResult(BaseModel):
    """One judgement of a run. Optional members may be null; unknown members are kept."""

    model_config = ConfigDict(
        extra="allow",
        populate_by_name=True,
        use_attribute_docstrings=True,
    )
    task_type: Annotated[str | None, Field(max_length=512)] = None
    """The kind of task that was judged."""
    eval_layer: Annotated[str | None, Field(max_length=512)] = None
    """The layer of the evaluation, such as `unit` or `regression`; part of the judgement's identity."""
    pass_: Annotated[bool, Field(alias="pass")]
    """Whether the run passed."""
    score: Annotated[float, Field(ge=0.0, le=100.0)]
    """How well it did, from 0 to 100."""
    expected_outcome: str | None = None
    """What should have come of the run."""
    actual_outcome: str | None = None
    """What did come of it."""
    metrics: dict[str, Any] | None = None
    """Named measurements behind the score."""
    regression_from: str | None = None
    """The run or version that did better before."""
    detail: str | None = None
    """The judgement in words."""
    benchmark_id: Annotated[str | None, Field(max_length=512)] = None
    """The benchmark that the run was part of; part of the judgement's identity."""
    metadata: dict[str, Any] | None = None
    """Anything else the producer wants to keep with the judgement; kept as it is. `scorer` names who or what judged."""


class AgentRun(BaseModel):
    """One run of an agent: what was asked of it, what it did, what it cost and where it came from. Optional members may be null; unknown members are kept."""

    model_config = ConfigDict(
        extra="allow",
        populate_by_name=True,
        use_attribute_docstrings=True,
    )
    id: Annotated[str, Field(max_length=512, min_length=1)]
    """Identity of the run, unique in its workspace; also the key of every event of the run."""
    agent_id: Annotated[str, Field(max_length=512, min_length=1)]
    """The agent that ran: stable across its runs."""
    agent_name: str | None = None
    """The agent's name for people."""
    model: Annotated[str | None, Field(max_length=512)] = None
    """The model that did most of the work, as its provider names it."""
    provider: Annotated[str | None, Field(max_length=512)] = None
    """Who serves the model, such as `anthropic` or `openai`."""
    runtime: Annotated[str | None, Field(max_length=512)] = None
    """The program that ran the agent."""
    runtime_version: Annotated[str | None, Field(max_length=512)] = None
    """The version of that program."""
    trigger: Literal["manual", "cron", "webhook", "agent", "pipeline", "queue"] | None = None
    """What started the run."""
    parent_run_id: Annotated[str | None, Field(max_length=512, min_length=1)] = None
    """The id of the run that started this one."""
    task_id: Annotated[str | None, Field(max_length=512)] = None
    """The task the run worked on; several runs may share one."""
    status: Literal["pending", "running", "completed", "failed", "cancelled", "timeout"]
    """Where the run stands. `completed`, `failed`, `cancelled` and `timeout` are terminal."""
    outcome: Literal["success", "failed", "partial", "abandoned"] | None = None
    """What came of it, judged apart from the status: a completed run may have failed its task."""
    started_at: Annotated[
        str,
        Field(pattern=_TIME),
    ]
    """When the run started, RFC 3339 with an offset."""
    ended_at: Annotated[
        str | None,
        Field(pattern=_TIME),
    ] = None
    """When the run ended, RFC 3339 with an offset."""
    duration_ms: Annotated[int | None, Field(ge=0, le=1000000000000)] = None
    """How long the run took, in milliseconds."""
    steps: list[Step]
    """What the run did, in order. Steps may also travel alone, so this may be empty."""
    tools_available: list[str] | None = None
    """The names of the tools that the agent could call."""
    cost: Cost
    """Tokens used and money spent so far: a running total, never a difference."""
    provenance: Provenance
    """Where the run came from, and who says so."""
    eval: EvalResult | None = None
    """A judgement of the run, when its runtime makes one."""
    error: str | None = None
    """What went wrong, in words."""
    git_branch: str | None = None
    """The branch of the code that the agent ran from or worked on."""
    git_commit: str | None = None
    """The commit of that code."""
    workspace_id: str | int | None = None
    """The producer's own name or number of its workspace. It is data and never decides where a run is stored."""
    tags: list[str] | None = None
    """Labels to find and group runs by."""
    metadata: dict[str, Any] | None = None
    """Anything else the producer wants to keep with the run; kept as it is. `token_convention`, `inclusive` or `exclusive`, says whether `input_tokens` includes cached tokens; `arsig` carries what a signature commits to."""

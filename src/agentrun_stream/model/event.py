"""An event as the pipeline sees it after decoding, and a refusal: bad input as a value on its way to the dead letters.

Must not live here: parsing, validation, or anything that knows Kafka.
"""

from collections.abc import Sequence
from typing import Any, Final

from agentrun_stream.model.chain import Link
from agentrun_stream.model.facts import Facts

RUN: Final = "run"
STEP: Final = "step"
EVAL: Final = "eval"
PATCH: Final = "patch"
LEASE: Final = "lease"
EXPIRE: Final = "expire"

TYPE_OF_KIND: Final = {k: f"agentrun.{k}.v1" for k in (RUN, STEP, EVAL, PATCH, LEASE, EXPIRE)}
KIND_OF_TYPE: Final = {t: k for k, t in TYPE_OF_KIND.items()}

# The closed list of reasons; the dead letters and the metric know no other.
REASONS: Final = (
    "malformed",
    "oversize",
    "unknown_type",
    "schema",
    "key_mismatch",
    "workspace_mismatch",
    "time_out_of_range",
    "run_too_large",
    "expired",
    "sink_rejected",
)

Times = tuple[float | None, float | None]


class Event:
    """One decoded, valid object with its envelope.

    Times are seconds since 1970 (UTC): a float tells microseconds apart, and is what the store reads. `time_s` is the event
    time of the wire contract; `stamped` says whether it is the envelope's own. `times` are (started, ended) of the object,
    `step_times` those of embedded steps, in their order. `cost_raw` is `cost.cost_usd` as its digits were sent. `enveloped`
    says that the object came inside a structured envelope.

    What a signed or chained object says by its bytes (processors/verify.py): `facts` of a run, `whole` the run as it was
    signed, `links` of its steps in their order, or of the step that the event is.
    """

    __slots__ = (
        "cost_raw",
        "enveloped",
        "facts",
        "kind",
        "links",
        "obj",
        "run_id",
        "source",
        "stamped",
        "step_times",
        "time_s",
        "times",
        "whole",
        "workspace",
    )

    def __init__(self, kind: str, workspace: str, run_id: str, obj: dict[str, Any], source: str = "") -> None:
        self.kind = kind
        self.workspace = workspace
        self.run_id = run_id
        self.obj = obj
        self.source = source
        self.time_s = 0.0
        self.stamped = False
        self.times: Times = (None, None)
        self.step_times: Sequence[Times] = ()
        self.cost_raw: str | None = None
        self.enveloped = True
        self.facts: Facts | None = None
        self.whole: dict[str, Any] | None = None
        self.links: Sequence[Link | None] = ()


class Refusal:
    """Why a record is refused: a reason of the closed list, a JSON pointer and a schema keyword; never a value of the record."""

    __slots__ = ("keyword", "pointer", "reason", "workspace")

    def __init__(self, reason: str, pointer: str = "", keyword: str = "", workspace: str | None = None) -> None:
        self.reason = reason
        self.pointer = pointer
        self.keyword = keyword
        self.workspace = workspace

    def __repr__(self) -> str:
        return f"Refusal({self.reason!r}, {self.pointer!r}, {self.keyword!r})"

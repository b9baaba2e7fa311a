"""Records that must be refused, one maker for each way to be wrong, with the reason that the dead letter must name."""

from collections.abc import Callable
from random import Random
from typing import Final

from agentrun_stream import limits
from agentrun_stream.testing import events

_Maker = Callable[[str, events.Envelope], bytes]


def _cut(run_id: str, envelope: events.Envelope) -> bytes:
    return events.step_event(run_id, "bad", envelope=envelope)[:-7]


def _not_utf8(run_id: str, envelope: events.Envelope) -> bytes:
    return events.step_event(run_id, "bad", envelope=envelope, input_preview="@@").replace(b"@@", b"\xff\xfe")


def _lone_surrogate(run_id: str, envelope: events.Envelope) -> bytes:
    return events.step_event(run_id, "bad", envelope=envelope, input_preview="@@").replace(b"@@", rb"\ud800")


def _step_type(run_id: str, envelope: events.Envelope) -> bytes:
    return events.step_event(run_id, "bad", envelope=envelope, type="thinking")


def _negative_tokens(run_id: str, envelope: events.Envelope) -> bytes:
    return events.run_event(run_id, envelope=envelope, cost={"input_tokens": -1})


def _no_agent(run_id: str, envelope: events.Envelope) -> bytes:
    return events.run_event(run_id, envelope=envelope, agent_id=events.OMIT)


def _unknown_type(run_id: str, envelope: events.Envelope) -> bytes:
    return events.step_event(run_id, "bad", envelope={**(envelope or {}), "type": "agentrun.thought.v1"})


def _other_id(run_id: str, envelope: events.Envelope) -> bytes:
    return events.run_event(run_id, envelope=envelope, id=f"not-{run_id}")


def _other_workspace(run_id: str, envelope: events.Envelope) -> bytes:
    return events.run_event(run_id, envelope={**(envelope or {}), "workspaceid": "red"}, workspace_id="blue")


def _too_early(run_id: str, envelope: events.Envelope) -> bytes:
    return events.step_event(run_id, "bad", envelope=envelope, started_at="1970-01-01T00:00:00Z")


def _oversize(run_id: str, envelope: events.Envelope) -> bytes:
    return events.step_event(run_id, "bad", envelope=envelope, output_preview="x" * limits.VALUE_BYTES_MAX)


MAKERS: Final[tuple[tuple[str, _Maker], ...]] = (
    ("malformed", _cut),
    ("malformed", _not_utf8),
    ("malformed", _lone_surrogate),
    ("schema", _step_type),
    ("schema", _negative_tokens),
    ("schema", _no_agent),
    ("unknown_type", _unknown_type),
    ("key_mismatch", _other_id),
    ("workspace_mismatch", _other_workspace),
    ("time_out_of_range", _too_early),
)


def bad_value(rng: Random, run_id: str, time: str, *, oversize: bool = False) -> tuple[str, bytes]:
    """Return a reason and a value that is refused for it. Oversize only when asked: it is a MiB a record."""
    reason, maker = rng.choice((*MAKERS, ("oversize", _oversize)) if oversize else MAKERS)
    return reason, maker(run_id, {"id": f"{run_id}/bad/{rng.getrandbits(32):08x}", "time": time})

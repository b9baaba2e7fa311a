"""`agentrun_stream.verify_run`: the verifier behind a plain function. Must not live here: rules, files, stores."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from agentrun_stream.codec.arsig import message_of
from agentrun_stream.codec.jwks import registry_of
from agentrun_stream.errors import UsageError
from agentrun_stream.model.facts import Facts
from agentrun_stream.model.judgement import Judgement, judge
from agentrun_stream.model.trust import NOBODY
from agentrun_stream.model.verdict import Verdict
from agentrun_stream.processors.verify import facts_of, marks_of, read_step


def verify_run(
    raw: bytes,
    *,
    steps: Sequence[bytes] = (),
    registry: Mapping[str, Any] | None = None,
    workspace: str = "default",
    judged_at: datetime | None = None,
) -> Verdict:
    """See `agentrun_stream.verify_run`. Raises UsageError for a registry that is no JWK Set, and a time without a zone."""
    moment = judged_at or datetime.now(UTC)
    if moment.tzinfo is None:
        raise UsageError("judged_at has no time zone.", "Give it one, such as datetime.now(UTC).")
    try:
        known = NOBODY if registry is None else registry_of(registry)
    except ValueError as error:
        raise UsageError(
            f"The registry can't be used: {error}.", 'A JWK Set looks like {"version": 1, "keys": []}.'
        ) from None
    facts = facts_of(raw)
    links, marks = marks_of(map(read_step, steps))
    verdict = judge(facts, Judgement(workspace, known, moment.timestamp()), links, marks)
    return with_digests(verdict, raw, facts)


def with_digests(verdict: Verdict, raw: bytes, facts: Facts) -> Verdict:
    """The verdict with the digests of its bytes, which say exactly what was looked at."""
    statement = facts.statement
    return verdict._replace(
        raw_sha256=hashlib.sha256(raw).hexdigest(),
        statement_sha256=None if statement is None else hashlib.sha256(statement).hexdigest(),
        message_sha256=None if statement is None else hashlib.sha256(message_of(statement)).hexdigest(),
    )

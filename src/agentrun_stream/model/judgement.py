"""The verdict on a run: its facts, the links of its steps, and the opinion of the workspace's registry.

Must not live here: bytes, cryptography, lineage look-ups.
"""

from collections.abc import Iterable
from typing import NamedTuple

from agentrun_stream.model.chain import NO_MARKS, Link, Marks, judge_chain
from agentrun_stream.model.facts import HOLDS, INVALID, Facts
from agentrun_stream.model.trust import Registry, judge_key
from agentrun_stream.model.verdict import STEPS_UNCOVERED, Axes, Verdict, headline


class Judgement(NamedTuple):
    """What an opinion is made with: the workspace, its keys, and the broker's append time in seconds since 1970."""

    workspace: str
    registry: Registry
    at_s: float


def signature_axis(facts: Facts, judgement: Judgement) -> tuple[str, str | None]:
    """The signature axis, and the reason code that trust adds."""
    if facts.signature != HOLDS or facts.kid is None:
        return facts.signature or INVALID, None
    if facts.tenant != judgement.workspace:
        return "tenant_mismatch", "tenant"
    return judge_key(judgement.registry, facts.kid, facts.agent_id, judgement.at_s)


def judge(facts: Facts, judgement: Judgement, links: Iterable[Link] = (), marks: Marks = NO_MARKS) -> Verdict:
    """The verdict on a run, from its facts, the links of its streamed steps, and the opinion of the registry.

    The lineage axis is what the run says itself: `root`, `mismatch`, or `pending` until its parents were looked up.
    """
    signature, doubt = signature_axis(facts, judgement)
    inside = [link for link in facts.links if link is not None]
    chain = judge_chain((*inside, *links) if inside else links, facts.commitment, facts.genesis, marks)
    axes = Axes(
        facts.hash, chain.axis, signature, facts.lineage, facts.closed, uncovered=STEPS_UNCOVERED in chain.reasons
    )
    return Verdict(
        headline(axes),
        facts.hash,
        chain.axis,
        signature,
        facts.lineage,
        reasons=_sorted((*facts.reasons, *chain.reasons, doubt)) if doubt or chain.reasons or facts.reasons else (),
        details=chain.details,
        run_digest=facts.run_digest,
        genesis=facts.genesis,
        kid=facts.kid,
        registry_version=judgement.registry.version,
        judged_at_s=judgement.at_s,
    )


def _sorted(reasons: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({reason for reason in reasons if reason is not None}))

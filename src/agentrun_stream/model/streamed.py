"""How the steps that arrived hold against what a signed snapshot commits to: the chain axis of a run's state.

Must not live here: the rules of the chain itself (chain.py), digests, trust.
"""

from agentrun_stream.model.chain import ChainAxis, Link, Marks, judge_chain
from agentrun_stream.model.facts import HOLDS, Facts, claim_id
from agentrun_stream.model.run import RunState


def chain_of(state: RunState, facts: Facts | None, claim: str | None) -> ChainAxis:
    """The chain axis of the run under these facts; `claim` is the id of the claim that they are of, None for no claim.

    A step brought by that claim alone is what it signs, and covered by it; any other counts as streamed.
    """
    if facts is None or facts.commitment is None or facts.genesis is None:
        return judge_chain((), None, None, Marks(streamed=_streamed(state, claim)))
    if claim is None and facts.signature == HOLDS:
        claim = claim_id(facts)
    whole = state.claims.get(claim or "")
    inside = () if whole is None else whole.facts.links
    links, marks = _streamed_links(state, claim)
    return judge_chain((*(link for link in inside if link is not None), *links), facts.commitment, facts.genesis, marks)


def _streamed(state: RunState, claim: str | None) -> bool:
    if claim is None:
        return bool(state.steps)
    return any(step.origin != claim for step in state.steps.values()) or any(
        mark.seen.origin != claim for mark in state.marks.values()
    )


def _streamed_links(state: RunState, claim: str | None) -> tuple[list[Link], Marks]:
    """The links of the steps that came otherwise than by the claim, and what other versions of them left behind."""
    if not state.marks:  # as in most runs: nothing came in two versions
        came = [step[8] for step in state.steps.values() if step[9] != claim]
        found = [link for link in came if link is not None]
        return found, Marks(streamed=bool(came), unchained=len(found) < len(came))
    links: list[Link] = []
    streamed = unchained = conflict = False
    for step_id, step in state.steps.items():
        mark = state.marks.get(step_id)
        seen = step.seen if mark is None else mark.seen
        conflict = conflict or seen.conflict
        unchained = unchained or (seen.bare is not None and seen.bare != claim)
        if seen.origin != claim:
            streamed = True
            if step.link is not None:
                links.append(step.link)
    return links, Marks(streamed=streamed, unchained=unchained, conflict=conflict)

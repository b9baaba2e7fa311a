"""The events of one planned run, put on the clock. Must not live here: what is drawn of the plot, other runs."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any, Final

from agentrun_stream.codec.canonical import run_hash
from agentrun_stream.testing import events
from agentrun_stream.testing.fleet_plan import USAGE, Plan, usage_of
from agentrun_stream.testing.fleet_signing import alter_end, alter_step, forge_correction, headline_of, signer_of

if TYPE_CHECKING:
    from agentrun_stream.testing.fleet import FleetTotals

Put = Callable[[int, bytes, bytes], None]

_ERRORS: Final = ("connection reset", "rate limited, try again", "no such file", "permission denied")
_TEXT: Final = (
    "Looked at the open ticket and compared it with the notes of last week. ",
    "Die Prüfung läuft noch; the second attempt needs the newer index. ",
    'Returned 3 rows: {"id": 17, "state": "open"} and two that are closed.\n',
    "The build is green again, the flaky test was put aside, see the log. ",
    "Customer asks for a refund of 49.90 € because the parcel never came. ",
)


def iso(at_ms: int) -> str:
    """Return milliseconds since 1970 as RFC 3339."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def traceparent(key: bytes) -> tuple[tuple[str, bytes], ...]:
    """Return the W3C trace header of a run."""
    digest = hashlib.sha256(key).hexdigest()
    return (("traceparent", f"00-{digest[:32]}-{digest[32:48]}-01".encode()),)


@dataclass(slots=True)
class Story:
    """Tells one run and, by its handoffs, its children: puts every event and counts it."""

    rng: Random
    totals: "FleetTotals"
    put: Put
    seed: int

    def tell(self, plan: Plan, at_ms: int) -> int:
        """Put the events of a run that starts at `at_ms`; return when it ends."""
        members = self._members(plan, at_ms)
        plan.signer = signer_of(self.seed, plan, members)
        self._snapshot(plan, at_ms, members | {"status": "running"})
        now_ms = self._steps(plan, at_ms, members)
        if "unfinished" not in plan.flags:
            self._end(plan, (at_ms, now_ms), members)
            self._judge(plan, now_ms)
        self._count(plan)
        return now_ms

    def _end(self, plan: Plan, when_ms: tuple[int, int], members: dict[str, Any]) -> None:
        """Put the end of a run, its corrections, and what is tampered with in it."""
        at_ms = when_ms[1]
        end = members | {"ended_at": iso(at_ms), "duration_ms": at_ms - when_ms[0], "status": plan.status}
        end |= {"outcome": plan.outcome or events.OMIT, "cost": self._cost(plan)}
        if plan.status in {"failed", "timeout"}:
            end["error"] = self.rng.choice(_ERRORS)
        later_ms = at_ms + self.rng.randint(1_000, 30_000)
        if "corrected" in plan.flags:
            self.totals.corrections += 1
            # Its other members are right: a snapshot that leaves one out keeps what an earlier one gave.
            wrong = end | {"status": "failed" if plan.status == "completed" else "completed", "cost": {}}
            self._snapshot(plan, at_ms, self._signed(plan, wrong, at_ms, 1))
            self._snapshot(plan, later_ms, self._signed(plan, end, later_ms, 2), "corrected")
            return
        signed = self._signed(plan, end, at_ms, 1)
        self._snapshot(plan, at_ms, alter_end(self.rng, plan, signed) if plan.tamper == "end_altered" else signed)
        if plan.tamper == "forged_correction":
            self._snapshot(plan, later_ms, forge_correction(plan, end), "forged")

    def _signed(self, plan: Plan, end: dict[str, Any], at_ms: int, rev: int) -> dict[str, Any]:
        """Return an end as its agent sends it: signed, if the agent signs."""
        signed_at = datetime.fromtimestamp(at_ms / 1000, UTC)
        return plan.signer.sign(events.present(end), rev=rev, signed_at=signed_at) if plan.signer else end

    def _steps(self, plan: Plan, at_ms: int, members: dict[str, Any]) -> int:
        """Put the steps, each when it ends; one of a `late` run only after the run has ended."""
        now_ms = at_ms
        ends_ms = at_ms + plan.span_ms()
        late = self.rng.randrange(len(plan.turns)) if "late" in plan.flags and "unfinished" not in plan.flags else -1
        altered = self.rng.randrange(len(plan.turns)) if plan.tamper == "step_altered" else -1
        halfway = len(plan.turns) // 2 if self.rng.random() < 0.15 else -1  # some runtimes report as they go
        for index, turn in enumerate(plan.turns):
            started_ms = now_ms = now_ms + turn.gap_ms
            child_id = turn.child.run_id if turn.child else None
            if turn.child:
                now_ms = self.tell(turn.child, now_ms)
            now_ms += turn.duration_ms
            step = events.present(self._step(plan, index, (started_ms, now_ms), child_id))
            chained = plan.signer.chain(step) if plan.signer else step
            if index not in plan.lost:
                sent_ms = ends_ms + self.rng.randint(2_000, 30_000) if index == late else now_ms
                self.totals.late_steps += index == late
                self._put_event(plan, sent_ms, "step", alter_step(chained) if index == altered else chained)
            if index == halfway:
                so_far = {"status": "running", "cost": self._tokens(plan, index + 1)}
                self._snapshot(plan, now_ms, members | so_far, "progress")
        return now_ms

    def _step(self, plan: Plan, index: int, when_ms: tuple[int, int], child_id: str | None) -> dict[str, object]:
        turn, model = plan.turns[index], plan.agent.model
        metadata: dict[str, object] = {}
        step: dict[str, object] = {
            "id": f"s{index:03d}",
            "type": turn.kind,
            "tool_name": turn.tool or events.OMIT,
            "success": turn.ok,
            "output_preview": self._text(),
            "started_at": iso(when_ms[0]),
            "ended_at": iso(when_ms[1]),
            "duration_ms": when_ms[1] - when_ms[0],
        }
        if turn.tool:
            step["input_preview"] = self._text()
        if not turn.ok:
            step["error"] = self.rng.choice(_ERRORS)
        if turn.retry:
            metadata["retry_of"] = f"s{index - 1:03d}"
        if turn.usage:
            step["tokens_used"] = turn.usage[0] + turn.usage[1]
            metadata["usage"] = {"provider": model.provider, "model": model.name} | dict(
                zip(USAGE, turn.usage, strict=True)
            )
        if child_id:
            metadata["child_run_id"] = child_id
        return step | {"metadata": metadata} if metadata else step

    def _members(self, plan: Plan, at_ms: int) -> dict[str, Any]:
        """Return the members that every snapshot of the run has."""
        agent, parent = plan.agent, plan.parent
        config = configuration(plan)
        plan.stated_hash = self._stated_hash(plan, config)
        members: dict[str, Any] = {
            "id": plan.run_id,
            **config,
            "agent_name": agent.name,
            "provider": agent.model.provider,
            "runtime": agent.runtime,
            "runtime_version": "1.4.2",
            "started_at": iso(at_ms),
            "steps": [],
            "cost": {},
            "tags": ["demo", agent.runtime],
            "provenance": config["provenance"] | {"runtime": agent.runtime},
        }
        if plan.stated_hash is not None:
            members["provenance"]["run_hash"] = plan.stated_hash
        if parent is not None:
            members["parent_run_id"] = parent.run_id
            members["provenance"] |= {"parent_run_hash": parent.stated_hash, "lineage": lineage(plan)}
        if agent.runtime == "helpdesk":
            members["task_id"] = f"ticket-{self.rng.randint(1, 500)}"
        if agent.runtime == "workbench":
            members |= {"git_branch": "main", "git_commit": hashlib.sha256(plan.run_id.encode()).hexdigest()[:40]}
        if self.rng.random() < 1 / 3:
            members["metadata"] = {"token_convention": "inclusive" if agent.model.inclusive else "exclusive"}
        return members

    def _stated_hash(self, plan: Plan, config: dict[str, Any]) -> str | None:
        """Return what the run says its hash is: nearly always the right one, and always for a parent."""
        draw = 0.5 if any(turn.child for turn in plan.turns) else self.rng.random()
        silent = 0.0 if plan.agent.signs else 0.15  # a signed run always states its hash
        word = "absent" if draw < silent else "mismatch" if draw > 0.98 else "match"
        self.totals.runs_by_hash[word] += 1
        plan.hash_word = word
        if word == "absent":
            return None
        return run_hash(config | {"model": "another-model"} if word == "mismatch" else config)

    def _snapshot(self, plan: Plan, at_ms: int, members: dict[str, Any], name: str = "") -> None:
        self._put_event(plan, at_ms, "run", members, name or members["status"])

    def _put_event(self, plan: Plan, at_ms: int, kind: str, data: dict[str, Any], name: str = "") -> None:
        suffix = f"{kind}/{name or data['id']}"
        value = events.cloud_event(kind, plan.run_id, suffix, data, self._envelope(plan, iso(at_ms)))
        self.put(at_ms, plan.run_id.encode(), value)

    def _cost(self, plan: Plan) -> dict[str, Any]:
        cost: dict[str, Any] = self._tokens(plan) | {"model": plan.agent.model.name}
        if plan.reported_usd is not None:
            # At most 15 digits, so the shortest text of the float has the digits of the decimal.
            cost["cost_usd"] = float(plan.reported_usd)
        return cost

    def _tokens(self, plan: Plan, turns: int | None = None) -> dict[str, int]:
        tokens = plan.tokens(turns)
        if tokens and plan.agent.model.inclusive:
            tokens["total_tokens"] = tokens["input_tokens"] + tokens["output_tokens"]
        return tokens

    def _judge(self, plan: Plan, ended_ms: int) -> None:
        """Put a judgement of some runs, seconds after they end."""
        if self.rng.random() >= 0.4:
            return
        good = plan.outcome == "success"
        score = self.rng.randint(70, 100) if good else self.rng.randint(0, 69)
        at_ms = ended_ms + self.rng.randint(500, 60_000)
        judgement: dict[str, Any] = {
            "passed": good,
            "score": score,
            "eval_layer": "outcome",
            "benchmark_id": f"{plan.agent.id}-daily",
        }
        envelope = self._envelope(plan, iso(at_ms)) | {"source": "/scorer/rubric"}
        value = events.eval_event(plan.run_id, envelope=envelope, **judgement, metadata={"scorer": "rubric"})
        self.put(at_ms, plan.run_id.encode(), value)
        self.totals.evals += 1
        self.totals.evals_passed += good

    def _count(self, plan: Plan) -> None:
        totals, finished = self.totals, "unfinished" not in plan.flags
        totals.runs += 1
        totals.child_runs += plan.parent is not None
        totals.runs_by_agent[plan.agent.id] += 1
        totals.runs_by_status[plan.status if finished else "running"] += 1
        totals.runs_by_outcome[(plan.outcome if finished else None) or "none"] += 1
        turns = plan.arriving()
        totals.steps += len(turns)
        totals.steps_by_type.update(turn.kind for turn in turns)
        totals.failed_tool_calls += sum(turn.kind == "tool_call" and not turn.ok for turn in turns)
        totals.tokens.update(usage_of(turns))
        if finished and plan.reported_usd is not None:
            totals.runs_with_cost += 1
            totals.cost_reported_usd += plan.reported_usd
        headline = headline_of(plan)
        totals.runs_by_verdict[headline] += 1
        if plan.tamper is not None:
            totals.runs_by_tamper[plan.tamper] += 1
        if totals.verdicts is not None:
            totals.verdicts[plan.run_id] = headline

    def _envelope(self, plan: Plan, time: str) -> dict[str, object]:
        return {"source": f"/runtime/{plan.agent.runtime}", "time": time}

    def _text(self) -> str:
        return (self.rng.choice(_TEXT) * 4)[: self.rng.randint(40, 240)]


def configuration(plan: Plan) -> dict[str, Any]:
    """Return the members of a run that its hash covers."""
    agent = plan.agent
    return {
        "agent_id": agent.id,
        "model": agent.model.name,
        "tools_available": [name for name, _ in agent.tools],
        "provenance": {"config_hash": hashlib.sha256(f"{agent.id}/7".encode()).hexdigest()},
        "trigger": plan.trigger,
    }


def lineage(plan: Plan) -> list[str]:
    """Return the hashes of the ancestors, the first one first."""
    hashes: list[str] = []
    parent = plan.parent
    while parent is not None:
        hashes.insert(0, parent.stated_hash or "")
        parent = parent.parent
    return hashes

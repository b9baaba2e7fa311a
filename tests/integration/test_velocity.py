"""How fast runs spend that report no cost: their tokens by the book in force, in the windows in which they accrued."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream.testing.events import run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane, soon
from integration.past import appended_long_ago

pytestmark = pytest.mark.stack

QUICK = {"AGENTRUN_SIGNALS__EVERY_S": "0.1"}
SONNET: dict[str, Any] = {
    "provider": "anthropic",
    "model": "claude-sonnet-4-5-20250929",
}  # 3 dollars per million input tokens
RULES = "[defaults.velocity]\nfloor = 1\nfive_minutes = 0.5\nhour = 2\n"


def call(run_id: str, step_id: str, tokens: int, **usage: Any) -> bytes:
    said = SONNET | {"input_tokens": tokens, "output_tokens": 0} | usage
    return step_event(run_id, step_id, type="message", metadata={"usage": said})


def total(run_id: str, tokens: int, status: str, **cost: Any) -> bytes:
    told = {"input_tokens": tokens, "output_tokens": 0, **cost}
    return run_event(run_id, status=status, cost=told, **SONNET)


@pytest.fixture
def made(agentrun_stack: Stack, tmp_path: Path) -> Iterator[Lane]:
    (tmp_path / "rules.toml").write_text(RULES)
    rules = {"AGENTRUN_SIGNALS__RULES": str(tmp_path / "rules.toml")}
    with lane(agentrun_stack, tmp_path, "velocity", **QUICK, **rules) as made:
        made.start()
        yield made


def velocity(made: Lane) -> tuple[str, dict[str, Any]]:
    rows = made.rows("SELECT level, state FROM signals_latest WHERE signal = 'velocity' AND state != '{}'")
    return (rows[0]["level"], orjson.loads(rows[0]["state"])) if rows else ("", {})


def spent(made: Lane, usd: str, unpriced: int = 0) -> dict[str, Any]:
    """The state once it says so."""
    wanted = {"five_minutes": usd, "hour": usd, "unpriced_runs": unpriced}
    soon(lambda: wanted.items() <= velocity(made)[1].items(), 60, f"{wanted}")
    return velocity(made)[1]


def test_a_run_that_reports_no_cost_is_a_runaway(made: Lane) -> None:
    """What is accrued counts once: by steps, by totals that grow, with corrections; what is reported stands above it."""
    some = 100_000  # 30 cents, and below the tier above which a request costs twice as much
    made.produce([run_event("dear", status="running", **SONNET), *(call("dear", f"s{n}", some) for n in range(3))])
    assert spent(made, "0.9")["runaways"] == []
    assert velocity(made)[0] == "ok"
    made.produce([call("dear", "s2", 2 * some)])  # a correction, not another call
    assert spent(made, "1.2")["runaways"] == [{"run_id": "dear", "cost": "1.2"}]
    made.produce([total("grows", some // 2, "running"), total("grows", some, "running")])
    made.produce([total("grows", 2 * some, "completed"), total("reported", some, "running", cost_usd=1)])
    state = spent(made, "2.8")
    assert (velocity(made)[0], state["fast"]) == ("over", True)
    made.produce([call("odd", "a", some), call("odd", "b", 7, model="house-model", provider="house")])
    made.produce([run_event("odd", status="running", **SONNET)])
    spent(made, "3.1", unpriced=1)
    made.produce([run_event("dear", **SONNET)])
    soon(lambda: velocity(made)[1]["runaways"] == [], 60, "the end of the dear run")
    settled = made.one("SELECT sum(cost_effective) AS cost FROM cost_by_day WHERE ledger = 'settled'")
    assert Decimal(settled["cost"]) == Decimal("1.8")
    made.wait()
    made.assert_exact("--deep")


def test_what_was_spent_before_does_not_count(agentrun_stack: Stack, tmp_path: Path) -> None:
    """By append time: of what accrued half an hour ago only the hour knows, of what is older nothing but the run's cost."""
    some = 100_000
    (tmp_path / "rules.toml").write_text("[defaults.velocity]\nfloor = 1\n")
    rules = {"AGENTRUN_SIGNALS__RULES": str(tmp_path / "rules.toml")}
    leases = {"AGENTRUN_LEASES__IDLE_TIMEOUT_S": "80000"}
    with lane(agentrun_stack, tmp_path, "velocity_past", **QUICK, **rules, **leases) as made:
        begun = run_event("run", status="running", **SONNET)
        appended_long_ago(made, 7_200, [begun, *(call("run", f"old{n}", some) for n in range(4))])
        appended_long_ago(
            made, 1_800, [call("run", "s0", some), call("run", "s1", some), total("sums", some, "running")]
        )
        made.produce([call("run", "s1", 2 * some), call("run", "s2", some), total("sums", 2 * some, "running")])
        made.start()
        made.wait()
        wanted = {"five_minutes": "0.9", "hour": "1.8", "unpriced_runs": 0}
        soon(lambda: wanted.items() <= velocity(made)[1].items(), 60, "the windows")
        assert velocity(made)[1]["runaways"] == [{"run_id": "run", "cost": "2.4"}]

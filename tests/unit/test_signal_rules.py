"""Rules and budgets in files: workspaces take the rest from the defaults, what is wrong is told with its place; judgements."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentrun_stream.config import Settings, load_budgets, load_rules
from agentrun_stream.config.settings import SignalSettings
from agentrun_stream.errors import ConfigError
from agentrun_stream.processors.signals import budgets, burn, velocity
from agentrun_stream.processors.signals.budgets import WHOLE, Budget
from agentrun_stream.processors.signals.burn import BurnRule, Ends
from agentrun_stream.processors.signals.failures import FailureRule
from agentrun_stream.processors.signals.loops import Call, Loop, LoopRule, loops
from agentrun_stream.processors.signals.velocity import Cohort, Running, VelocityRule

RULES = """
[defaults]
lateness_hours = 6
[defaults.failures]
baseline = 0.05
[defaults.velocity]
hour = 40.10
[workspaces.payments]
lateness_hours = 48
[workspaces.payments.failures]
counts = ["failed"]
agents.planner.baseline = "learned"
agents."inspect/task".baseline = 0.3
[workspaces.payments.loops]
times = 5
[[workspaces.payments.burn]]
budget = 0.05
threshold = 14.4
short_minutes = 5
long_minutes = 60
"""
BUDGETS = """
[workspaces.payments]
month = 500
warn = 0.5
[workspaces.payments.agents."inspect/task"]
day = 0.1
month = "19.99"
warn = 0.9
[workspaces.research.agents.planner]
day = 3
"""


def settings(folder: Path, rules: str | None = None, amounts: str | None = None) -> SignalSettings:
    paths: dict[str, Any] = {}
    for name, text in (("rules", rules), ("budgets", amounts)):
        if text is not None:
            paths[name] = folder / f"{name}.toml"
            paths[name].write_text(text)
    return SignalSettings(**paths)


def test_without_files_there_are_defaults_and_no_budgets() -> None:
    assert load_rules(Settings().signals).of("anything").failures == FailureRule(None)
    assert load_budgets(Settings().signals) == ()


def test_a_workspace_takes_from_the_defaults_what_it_does_not_say(tmp_path: Path) -> None:
    rules = load_rules(settings(tmp_path, RULES))
    mine, other = rules.of("payments"), rules.of("research")
    assert (other.failures, other.loops.times, other.lateness_s) == (FailureRule(0.05), 3, 6 * 3600)
    assert (mine.failures, mine.loops.times, mine.lateness_s) == (
        FailureRule(0.05, frozenset({"failed"})),
        5,
        48 * 3600,
    )
    assert mine.velocity == other.velocity == VelocityRule(hour=Decimal("40.10"))
    assert mine.failures_of("planner") == FailureRule(None, frozenset({"failed"}))
    assert mine.failures_of("inspect/task") == FailureRule(0.3, frozenset({"failed"}))
    assert mine.burn == (BurnRule(Decimal("0.05"), Decimal("14.4"), 300, 3600),)
    assert other.burn == ()


def test_budgets_are_exact_and_agents_warn_as_they_say(tmp_path: Path) -> None:
    assert load_budgets(settings(tmp_path, None, BUDGETS)) == (
        Budget("payments", WHOLE, "month", Decimal(500), Decimal("0.5")),
        Budget("payments", "inspect/task", "day", Decimal("0.1"), Decimal("0.9")),
        Budget("payments", "inspect/task", "month", Decimal("19.99"), Decimal("0.9")),
        Budget("research", "planner", "day", Decimal(3), Decimal("0.8")),
    )


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("x = 1", "rules.toml.x", "no such key"),
        ("[workspace.a]", "rules.toml.workspace", "did you mean workspaces"),
        ("[workspaces.a.failure]", "rules.toml.workspaces.a.failure", "did you mean failures"),
        ("[workspaces.'no/name']", "rules.toml.workspaces.no/name", "no name"),
        ("[defaults.failures]\nbaseline = 1", "defaults.failures.baseline", "below 1"),
        ("[defaults.failures]\nbaseline = 0", "defaults.failures.baseline", "above 0"),
        ("[defaults.failures]\nbaseline = nan", "defaults.failures.baseline", "must be a number"),
        ("[defaults.failures]\nbaseline = true", "defaults.failures.baseline", "must be a number"),
        ("[defaults.failures]\ncounts = ['cancelled']", "defaults.failures.counts", "counted apart"),
        ("[defaults.failures]\ncounts = [[1]]", "defaults.failures.counts", "must list"),
        ("[defaults.loops]\ntimes = 1", "defaults.loops.times", "from 2 to 1000"),
        ("[defaults.loops]\ntimes = 3.5", "defaults.loops.times", "whole number"),
        ("[defaults.velocity]\nfloor = -1", "defaults.velocity.floor", "above 0"),
        ("[defaults]\nvelocity = 3", "defaults.velocity", "must be a table"),
        ("[defaults]\nlateness_hours = -1", "defaults.lateness_hours", "above 0"),
        ("[defaults]\nlateness_hours = false", "defaults.lateness_hours", "must be a number"),
        ("[workspaces.a]\nlateness_hours = 8785", "workspaces.a.lateness_hours", "at most 8784"),
        ("[defaults.failures]\nagents = 3", "defaults.failures.agents", "table of names"),
        ("[defaults]\nburn = 3", "defaults.burn", "list of tables"),
        ("[[defaults.burn]]\nbudget = 0.1", "defaults.burn[0]", "lacks threshold, short_minutes, long_minutes"),
        (
            "[[defaults.burn]]\nbudget=0.1\nthreshold=2\nshort_minutes=60\nlong_minutes=60",
            "defaults.burn[0]",
            "below long_minutes",
        ),
        (
            "[[defaults.burn]]\nbudget=0.1\nthreshold=14.4\nshort_minutes=5\nlong_minutes=60",
            "defaults.burn[0]",
            "can't be reached: where every run fails, it is 10 ",
        ),
        (
            "[[defaults.burn]]\nbudget=0.1\nthreshold=10\nshort_minutes=5\nlong_minutes=60",
            "defaults.burn[0]",
            "can't be reached",
        ),
        ("a = ", "rules.toml", "is not TOML"),
    ],
)
def test_a_wrong_rule_is_refused_and_its_place_told(tmp_path: Path, text: str, place: str, what: str) -> None:
    with pytest.raises(ConfigError) as told:
        load_rules(settings(tmp_path, text))
    assert place in told.value.message
    assert what in told.value.message
    assert told.value.next_step


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("[workspaces.a]\nweek = 3", "budgets.toml.workspaces.a.week", "no such key"),
        ("[workspaces.a]\nwarn = 0.5", "budgets.toml.workspaces.a", "names no amount"),
        ("[workspaces.a.agents.b]", "budgets.toml.workspaces.a.agents.b", "names no amount"),
        ("[workspaces.a.agents.'']\nday=1", "budgets.toml.workspaces.a.agents.", "needs a name"),
        ("[workspaces.a]\nday = 0", "budgets.toml.workspaces.a.day", "above 0"),
        ("[workspaces.a]\nday = 1e30", "budgets.toml.workspaces.a.day", "must be a number"),
        ("[workspaces.a]\nday = 0.1234567890123", "budgets.toml.workspaces.a.day", "12 decimals"),
        ("[workspaces.a]\nday = 1\nwarn = 2", "budgets.toml.workspaces.a.warn", "at most 1"),
        ("workspaces = 3", "budgets.toml.workspaces", "table of names"),
    ],
)
def test_a_wrong_budget_is_refused_and_its_place_told(tmp_path: Path, text: str, place: str, what: str) -> None:
    with pytest.raises(ConfigError) as told:
        load_budgets(settings(tmp_path, None, text))
    assert place in told.value.message
    assert what in told.value.message


@pytest.mark.parametrize(("hours", "seconds"), [("0", 0), ("0.0", 0), ("0.01", 36), ("0.5", 1800), ('"1.25"', 4500)])
def test_lateness_is_hours_and_parts_of_them(tmp_path: Path, hours: str, seconds: int) -> None:
    rules = load_rules(settings(tmp_path, f"[workspaces.a]\nlateness_hours = {hours}"))
    assert (rules.of("a").lateness_s, rules.of("b").lateness_s) == (seconds, 24 * 3600)


def test_a_small_amount_is_what_it_is(tmp_path: Path) -> None:
    for text in ("0.0000001", '"0.0000001"', "1e-7"):
        (budget,) = load_budgets(settings(tmp_path, None, f"[workspaces.a]\nday = {text}"))
        assert budget.limit == Decimal("0.0000001")


def test_a_file_that_is_not_there_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml can't be read") as told:
        load_budgets(SignalSettings(budgets=tmp_path / "gone.toml"))
    assert "signals.budgets" in told.value.next_step


@pytest.mark.parametrize(
    ("spent", "hours", "projected", "level"),
    [
        ("0", 1.0, None, "ok"),
        ("79.99", 23.9, "80.32", "ok"),
        ("80", 23.9, "80.33", "warn"),  # 80 % are gone
        ("51", 12.0, "102.00", "warn"),  # at this pace it will be too much
        ("50", 12.0, "100.00", "ok"),
        ("51", 1.0, None, "ok"),  # too early for a pace
        ("100", 23.9, "100.42", "warn"),
        ("100.000000000001", 23.9, "100.42", "over"),
    ],
)
def test_a_budget_is_judged_by_what_is_spent_and_at_what_pace(
    spent: str, hours: float, projected: str | None, level: str
) -> None:
    now = datetime.fromtimestamp(datetime(2026, 2, 28, tzinfo=UTC).timestamp() + hours * 3600, UTC)
    told = budgets.judge(Budget("w", WHOLE, "day", Decimal(100)), Decimal(spent), now)
    assert (told.projected, told.level) == (None if projected is None else Decimal(projected), level)


def test_periods_are_utc_days_and_months() -> None:
    now = datetime.fromisoformat("2026-12-31T23:30:00-02:00")
    assert budgets.bounds("day", now) == (datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 1, 2, tzinfo=UTC))
    last = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    assert budgets.bounds("month", last) == (datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))


def test_a_running_run_is_held_against_the_finished_ones_of_its_cohort() -> None:
    """max(floor, factor x p99); too small a cohort says nothing."""
    rule = VelocityRule(floor=Decimal(1), factor=Decimal(3))
    runs = [Running("a", Decimal("1.01")), Running("b", Decimal("6.000001")), Running("c", Decimal(6))]
    nothing = (Decimal(0), Decimal(0))
    assert [r.run_id for r in velocity.judge(rule, nothing, runs, Cohort(100, Decimal(2))).runaways] == ["b"]
    assert [r.run_id for r in velocity.judge(rule, nothing, runs, Cohort(99, Decimal(2))).runaways] == ["b", "c", "a"]
    assert velocity.judge(rule, nothing, runs[:1], Cohort(100, Decimal("0.1"))).level == "over"
    assert velocity.judge(rule, nothing, runs[:1], Cohort(100, Decimal("0.34"))).level == "ok"


def test_spending_is_too_fast_only_when_both_windows_say_so() -> None:
    rule = VelocityRule(five_minutes=Decimal(2), hour=Decimal(10))
    for five, hour, fast in ((3, 11, True), (3, 10, False), (2, 11, False)):
        assert velocity.judge(rule, (Decimal(five), Decimal(hour)), (), Cohort()).fast == fast
    only_hour = VelocityRule(hour=Decimal(10))
    assert not velocity.judge(only_hour, (Decimal(99), Decimal(99)), (), Cohort()).fast


def test_a_burn_rate_is_the_lower_of_its_windows() -> None:
    rule = BurnRule(Decimal("0.1"), Decimal(5), 300, 3600)
    assert burn.burn_rate(rule, Ends(10, 10), Ends(100, 20)) == 2
    assert burn.burn_rate(rule, Ends(0, 0), Ends(100, 100)) == 0
    assert burn.burn_rate(rule, Ends(3, 3), Ends(30, 30)) == 10  # and no higher: all fail


def test_the_same_call_again_and_again_is_a_loop() -> None:
    calls = [Call("search", "a"), Call("search", "b"), Call("read", "a"), Call("search", "a"), Call("read", "a", 4)]
    assert loops(calls, LoopRule(3)) == [Loop("read", 5)]
    assert loops([*calls, Call("search", "a")], LoopRule(3)) == [Loop("read", 5), Loop("search", 3)]
    assert loops(calls, LoopRule(6)) == []

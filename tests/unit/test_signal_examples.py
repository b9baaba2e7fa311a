"""The README's files of rules and budgets are what the package reads."""

import re
from decimal import Decimal
from pathlib import Path

from agentrun_stream.config import load_budgets, load_rules
from agentrun_stream.config.settings import SignalSettings
from agentrun_stream.processors.signals.budgets import Budget
from agentrun_stream.processors.signals.failures import FailureRule

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_examples_in_the_readme_are_read(tmp_path: Path) -> None:
    part = README.read_text(encoding="utf-8").partition("## Signals")[2].partition("\n## ")[0]
    rules, amounts = re.findall(r"```toml\n(.*?)```", part, re.DOTALL)
    (tmp_path / "rules.toml").write_text(rules)
    (tmp_path / "budgets.toml").write_text(amounts)
    options = SignalSettings(rules=tmp_path / "rules.toml", budgets=tmp_path / "budgets.toml")
    payments = load_rules(options).of("payments")
    assert payments.failures_of("planner") == FailureRule(0.2)
    assert (payments.failures.baseline, payments.burn[0].long_s) == (0.05, 3_600)
    assert load_budgets(options) == (
        Budget("payments", "", "month", Decimal(500)),
        Budget("payments", "planner", "day", Decimal("19.99")),
    )

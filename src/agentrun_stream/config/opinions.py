"""The files with rules and budgets, as types. Opinions: whoever changes them changes what is said of runs, never the runs.

Must not live here: what a key means (processors/signals/).
"""

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

from agentrun_stream.config.settings import SignalSettings
from agentrun_stream.errors import ConfigError
from agentrun_stream.processors.signals.budgets import Budget, parse_budgets
from agentrun_stream.processors.signals.rules import Rules, parse_rules


def load_rules(settings: SignalSettings) -> Rules:
    """The rules of all workspaces. Raises ConfigError, naming file and key."""
    path = settings.rules
    return Rules() if path is None else parse_rules(_document(path, "signals.rules"), path.name)


def load_budgets(settings: SignalSettings) -> tuple[Budget, ...]:
    """All budgets. Raises ConfigError, naming file and key."""
    path = settings.budgets
    return () if path is None else parse_budgets(_document(path, "signals.budgets"), path.name)


def _document(path: Path, setting: str) -> dict[str, Any]:
    """Numbers as the digits that stand there: an amount of money takes no detour over binary fractions."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.", f"Check the setting {setting}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}.", f"Mend it, or unset {setting}.") from None

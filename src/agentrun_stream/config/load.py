"""Settings from flags, environment, file and defaults; the only module that reads the environment.

Must not live here: what a setting means or may be (`settings.py`).
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from agentrun_stream.config.catalogue import CONFIG_VARIABLE
from agentrun_stream.config.settings import PREFIX, Settings, leaves, variable_of
from agentrun_stream.errors import ConfigError

TEST_PREFIX: Final = PREFIX + "TEST_"  # left to test runs; never a setting
CRASH_POINT_VARIABLE: Final = TEST_PREFIX + "CRASH_POINT"
NEXT_STEP: Final = "`agentrun config show` prints every setting, its value and its unit."


def load_settings(overrides: Mapping[str, Any] | None = None, *, file: Path | None = None) -> Settings:
    """Settings from overrides (dotted names; None means not given), environment, file and defaults, in this order.

    Raises ConfigError, naming the setting and its variable.
    """
    _refuse_unknown_variables()
    chosen = file or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    merged = _read_file(chosen) if chosen else {}
    try:
        merged = _merge(merged, EnvSettingsSource(Settings)())
        for name, value in (overrides or {}).items():
            if value is not None:
                merged = _merge(merged, _nested(name, value))
        return _with_secrets(Settings(**merged))
    except ValidationError as error:
        raise _explained(error) from None
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        variable = variable_of(field.group(1)) if field else f"A variable that starts with {PREFIX}"
        raise ConfigError(f"{variable} is not valid JSON, which lists, maps and sections need.", NEXT_STEP) from None


def crash_point() -> str:
    """Where a fault test lets this worker kill itself; empty outside such tests."""
    return os.environ.get(CRASH_POINT_VARIABLE, "")


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        # A map setting (workspaces) is replaced whole; only sections merge.
        both = isinstance(value, Mapping) and isinstance(below, Mapping) and key != "workspaces"
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _nested(name: str, value: object) -> dict[str, Any]:
    first, _, rest = name.partition(".")
    return {first: _nested(rest, value) if rest else value}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The settings file {path} can't be read: {error.strerror}.", "Check --config.") from None
    except ValueError as error:
        raise ConfigError(f"The settings file {path} is not TOML: {error}.", "Mend it, or leave it out.") from None


def _refuse_unknown_variables() -> None:
    """A mistyped name must not be ignored silently."""
    known = {CONFIG_VARIABLE, *(variable_of(name) for name, _ in leaves(Settings))}
    known |= {variable_of(name) for name in Settings.model_fields}
    for name in sorted(os.environ):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in known or upper.startswith(TEST_PREFIX):
            continue
        near = difflib.get_close_matches(upper, known, n=1)
        raise ConfigError(f"{name} is not a setting.", f"Did you mean {near[0]}?" if near else NEXT_STEP)


def _with_secrets(settings: Settings) -> Settings:
    """`*_file` settings turned into the secret they hold."""
    changed: dict[str, Any] = {}
    for name in ("kafka", "clickhouse"):
        section = getattr(settings, name)
        if section.password_file is None:
            continue
        if section.password is not None:
            raise ConfigError(f"{variable_of(name)}__PASSWORD and __PASSWORD_FILE are both set.", "Keep one of them.")
        try:
            secret = section.password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            message = f"{variable_of(name)}__PASSWORD_FILE: {section.password_file} can't be read."
            raise ConfigError(message, "Check the path and its mode.") from None
        changed[name] = section.model_copy(update={"password": SecretStr(secret)})
    return settings.model_copy(update=changed)


def _explained(error: ValidationError) -> ConfigError:
    """One paragraph that names each wrong setting and its variable, and repeats no value (it may be a secret)."""
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        name = ".".join(str(part) for part in item["loc"])
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, [known for known, _ in leaves(Settings)], n=1)
            what = "there is no such setting" + (f", did you mean {near[0]}" if near else "")
        lines.append(f"{name} ({variable_of(name)}): {what}" if name else what)
    return ConfigError("Settings are wrong: " + "; ".join(lines) + ".", NEXT_STEP)

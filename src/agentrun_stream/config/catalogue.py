"""The settings as data: one row each, for `config show`, the reference page and the tests."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentrun_stream.config.folders import cache_folder
from agentrun_stream.config.settings import PREFIX, Settings, leaves, value_of, variable_of

CONFIG_VARIABLE: Final = PREFIX + "CONFIG"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the catalogue."""

    name: str
    variable: str
    type: str
    default: str
    unit: str
    meaning: str


def catalogue() -> tuple[Setting, ...]:
    """Every setting as data, for `config show`, the reference page and the tests."""
    meaning = "TOML file with settings; the environment wins over it."
    rows = [Setting("config", CONFIG_VARIABLE, "Path | None", "unset", "path", meaning)]
    defaults = Settings()
    for name, field in leaves(Settings):
        extra = field.json_schema_extra
        unit = str(extra["unit"]) if isinstance(extra, dict) else ""
        default = _default(value_of(defaults, name))
        rows.append(Setting(name, variable_of(name), _type(field.annotation), default, unit, field.description or ""))
    return tuple(rows)


def _default(value: object) -> str:
    if value is None or value == {}:
        return "unset"
    if isinstance(value, Path):  # a reference page must not carry the home of whoever made it
        parent = "$XDG_CACHE_HOME" if value == cache_folder() else "$XDG_DATA_HOME"
        return f"{parent}/agentrun-stream"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _type(annotation: object) -> str:
    plain = isinstance(annotation, type) and not hasattr(annotation, "__args__")
    text = getattr(annotation, "__name__", "") if plain else str(annotation)
    text = re.sub(r"typing\.|pydantic\.types\.|pathlib\.(\w+\.)?", "", text)
    return re.sub(r"Literal\[(.*)\]", lambda m: m.group(1).replace("'", "").replace(", ", " or "), text)

"""The running local stack: what `agentrun up` wrote into its folder, and the endpoints that follow from it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentrun_stream.config.settings import Settings
from agentrun_stream.errors import ConfigError, UnavailableError

ENDPOINTS_FILE: Final = "endpoints.json"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What a running local stack says about itself in `endpoints.json`."""

    kafka: str
    clickhouse: str
    metrics: tuple[str, ...]
    pid: int


def find_stack(data: Path) -> Endpoints | None:
    """The local stack that runs on this folder, or None. A file whose process is gone counts as no stack."""
    path = data / ENDPOINTS_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = Endpoints(str(raw["kafka"]), str(raw["clickhouse"]), tuple(raw.get("metrics", ())), int(raw["pid"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.", "Give the folder to this user.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{path} is not an endpoints file.", "Remove it and start `agentrun up` again.") from None
    return found if _lives(found.pid) else None


def kafka_bootstrap(settings: Settings) -> str:
    """Where the broker is: the setting, else the running local stack."""
    return settings.kafka.bootstrap or _running(settings, "AGENTRUN_KAFKA__BOOTSTRAP", "broker").kafka


def clickhouse_url(settings: Settings) -> str:
    """Where the store is: the setting, else the running local stack."""
    return settings.clickhouse.url or _running(settings, "AGENTRUN_CLICKHOUSE__URL", "store").clickhouse


def _running(settings: Settings, variable: str, what: str) -> Endpoints:
    stack = find_stack(settings.data)
    if stack is None:
        raise UnavailableError(
            f"No {what} is configured, and no local stack runs on {settings.data}.",
            f"Start one with `agentrun up`, name its folder with --data, or set {variable}.",
        )
    return stack


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, and belongs to somebody else
        return True
    return True

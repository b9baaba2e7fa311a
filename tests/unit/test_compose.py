"""The compose file and the image speak of commands, flags and settings that exist, and expose nothing by accident."""

from typing import Any, Final

import pytest
import yaml

from agentrun_stream.config import catalogue
from house.tree import ROOT, command_line, commands

COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = {name: service for name, service in SERVICES.items() if "build" in service}


@pytest.mark.parametrize("name", OURS)
def test_commands_and_flags_exist(name: str) -> None:
    """A renamed command must not be found out in production."""
    words = OURS[name]["command"]
    verbs = " ".join(word for word in words if not word.startswith("-"))
    known = commands(command_line())
    assert verbs in known
    options = {option for parameter in known[verbs].params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options


@pytest.mark.parametrize("name", OURS)
def test_variables_are_settings(name: str) -> None:
    """A mistyped variable would stop the worker at its start."""
    assert set(OURS[name]["environment"]) <= {row.variable for row in catalogue()}


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_pinned_and_local(name: str) -> None:
    """Versions are fixed, ports are on loopback, and no variable holds a secret."""
    service = SERVICES[name]
    assert any(character.isdigit() for character in service["image"].rpartition(":")[2])
    assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))
    secret = [key for key in service["environment"] if "PASSWORD" in key and not key.endswith("_FILE")]
    assert not secret


@pytest.mark.parametrize("name", SERVICES)
def test_services_wait_for_what_they_need(name: str) -> None:
    """Nobody starts on hope: each dependency is healthy or done, and says how it is checked."""
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        assert how["condition"] in {"service_healthy", "service_completed_successfully"}
        assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[needed]


def test_secrets_are_files_outside_git() -> None:
    """The password is in a file that git never sees."""
    for secret in COMPOSE["secrets"].values():
        folder = (ROOT / secret["file"]).parent
        assert (folder / ".gitignore").read_text(encoding="utf-8").splitlines()[1:] == ["*", "!.gitignore"]


def test_the_image_is_not_root_and_runs_the_command() -> None:
    """What compose and clusters rely on."""
    text = (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
    last = text.rpartition("\nFROM ")[2].splitlines()
    assert [line for line in last if line.startswith("USER ")] == ["USER 10001"]
    assert 'ENTRYPOINT ["agentrun"]' in last
    for line in text.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            assert all((ROOT / name).exists() for name in line.split()[1:-1]), line

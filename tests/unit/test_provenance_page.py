"""The page on provenance that ships with the package says what the code does."""

import re
from pathlib import Path
from typing import Any

from typer.main import get_command

import agentrun_stream
from agentrun_stream import limits, topics
from agentrun_stream.cli.app import app
from agentrun_stream.model.opinions import MODES
from agentrun_stream.model.projection import OPINION_COLUMNS
from agentrun_stream.model.verdict import AXIS_VALUES
from agentrun_stream.model.words import REASONS

PAGE = (Path(agentrun_stream.__file__).parent / "docs" / "provenance.md").read_text("utf-8")


def rows(heading: str) -> dict[str, str]:
    """The first two columns of the table under a heading."""
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \|(?: |$)", part, re.MULTILINE))


def test_every_value_of_every_axis_is_there() -> None:
    """And the headlines, in a table of their own."""
    told = rows("The verdict")
    for axis, values in AXIS_VALUES.items():
        known = told.keys() if axis == "headline" else re.findall(r"`(\w+)`", told[axis])
        assert set(values) <= set(known), axis


def test_every_reason_code_has_its_sentence() -> None:
    assert rows("Reason codes") == REASONS


def test_modes_topics_and_columns_are_named_as_they_are() -> None:
    assert set(rows("Policy and quarantine")) == set(MODES)
    for name in (topics.RUNS, topics.QUARANTINE, "claims_differ", "signed_rev", "genesis", "run_digest", "kid", "flag"):
        assert f"`{name}`" in PAGE
        assert "." in name or name in OPINION_COLUMNS


def test_the_limits_are_those_in_force() -> None:
    told = PAGE.partition("## Limits\n")[2]
    bounds = (limits.SIGNED_STEPS_MAX, limits.SIGNED_LINEAGE_MAX, limits.SIGNED_PARENTS_MAX, limits.CLAIMS_WHOLE_MAX)
    for bound in (*bounds, limits.ANCESTORS_MAX):
        assert f" {bound:,}" in told


def test_its_commands_exist() -> None:
    """Each command of its examples, by name."""
    group = get_command(app)
    for words in re.findall(r"^agentrun ([a-z]+)(?: ([a-z]+)\b)?", PAGE, re.MULTILINE):
        command: Any = group
        for word in words:
            if not hasattr(command, "commands"):
                break
            assert word in command.commands, words
            command = command.commands[word]

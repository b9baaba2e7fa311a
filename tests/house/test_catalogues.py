"""Every setting, metric, topic, table and command is documented and used."""

import re
from functools import cache

import pytest

from agentrun_stream import errors, topics
from agentrun_stream.config import Setting, catalogue
from agentrun_stream.telemetry.catalogue import CATALOGUE, TABLES, Metric
from house import reference
from house.tree import PACKAGE, ROOT, command_line, commands, sources, tables


@cache
def _words(without: str) -> frozenset[str]:
    """Names that follow a dot or stand in quotes, in all modules but those of one folder."""
    kept = (path for path in sources() if not path.is_relative_to(PACKAGE / without))
    text = "\n".join(path.read_text(encoding="utf-8") for path in kept)
    return frozenset(re.findall(r"(?:\.|[\"'])(\w+)\b", text))


def test_the_reference_page_is_what_the_catalogues_say() -> None:
    """Made, not written: run `python tests/house/reference.py` after a change."""
    assert reference.PAGE.read_text(encoding="utf-8") == reference.text()


@pytest.mark.parametrize("setting", catalogue(), ids=lambda row: row.name)
def test_every_setting_is_used(setting: Setting) -> None:
    """A setting that nobody reads is a lie."""
    word = setting.name.rpartition(".")[2]
    # The two that only decide what the settings themselves become.
    if word in {"config", "password_file"}:
        assert word in "\n".join(path.read_text() for path in (PACKAGE / "config").glob("*.py"))
        return
    assert word in _words("config")


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda row: row.name)
def test_every_metric_is_counted(metric: Metric) -> None:
    """A metric that nobody counts stays at zero and says that all is well."""
    assert metric.attribute in _words("none" if metric.name == "build_info" else "telemetry")


def test_every_topic_is_used() -> None:
    """Each row of the table is somebody's."""
    names = [name for name, value in vars(topics).items() if isinstance(value, str) and value in topics.BY_NAME]
    assert len(names) == len(topics.TOPICS)
    others = (path for path in sources() if path != PACKAGE / "topics.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in others)
    assert not [name for name in names if not re.search(rf"\b{name}\b", text)]


def test_every_table_is_in_the_map_and_every_fact_table_is_counted() -> None:
    """Tables and views of the migrations are in the package README; written ones are in the metrics."""
    page = (PACKAGE / "README.md").read_text(encoding="utf-8")
    found = tables()
    assert not [name for name in found if f"`{name}`" not in page]
    assert set(TABLES) <= set(found)


def test_every_command_is_in_the_readme() -> None:
    """The README's table lists the commands that exist, and no other."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    table = page.partition("## Commands")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `agentrun ([a-z -]+?)(?: [A-Z\[\"-].*?)?` ", table, re.MULTILINE))
    assert listed == set(commands(command_line()))


def test_every_exit_code_is_in_the_readme() -> None:
    """Scripts branch on them, so the table is complete: success, and one code for each kind of error."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    table = page.partition("## Exit codes")[2].partition("\n## ")[0]
    raised = {kind.exit_code for kind in vars(errors).values() if hasattr(kind, "exit_code")}
    assert set(map(int, re.findall(r"^\| (\d+) \|", table, re.MULTILINE))) == {0} | raised

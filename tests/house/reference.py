"""The reference page, made from the catalogues. Write it with `python tests/house/reference.py`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from agentrun_stream.config import catalogue
from agentrun_stream.telemetry.catalogue import CATALOGUE, Label
from agentrun_stream.topics import TOPICS

PAGE: Final = Path(__file__).resolve().parents[2] / "src/agentrun_stream/docs/reference.md"
HEAD: Final = """# Reference

Made from the catalogues in the code by `python tests/house/reference.py`; a test compares. Do not edit.
"""


def text() -> str:
    """The whole page."""
    settings = [
        (f"`{row.name}`", f"`{row.variable}`", row.type, f"`{row.default}`", row.unit, row.meaning)
        for row in catalogue()
    ]
    metrics = [
        (f"`{row.exposed}`", row.type, row.unit, ", ".join(map(_label, row.labels)), row.meaning) for row in CATALOGUE
    ]
    topics = [
        (f"`{row.name}`", row.key, str(row.partitions), _configuration(row.config), row.meaning) for row in TOPICS
    ]
    return (
        "\n".join(
            (
                HEAD,
                "## Settings\n",
                "Flags win over the environment, the environment over the TOML file (`AGENTRUN_CONFIG`, `--config`),",
                "the file over the default. Lists and maps are JSON in the environment.\n",
                _table(("setting", "variable", "type", "default", "unit", "meaning"), settings),
                "## Metrics\n",
                "Every label has a closed set of values; anything else is counted as `other`. Labels as stored are on gauges",
                "with at most `signals.series_max` series, the highest ones.\n",
                _table(("metric", "type", "unit", "labels", "meaning"), metrics),
                "## Topics\n",
                "`agentrun topics apply` makes them. A partition count is never changed in place.\n",
                _table(("topic", "key", "partitions", "configuration", "meaning"), topics).rstrip("\n"),
            )
        )
        + "\n"
    )


def _label(label: Label) -> str:
    others = f"0 to {label.most - 1}" if label.most else "as stored" if label.open else "as configured"
    others = f"the first {label.names}" if label.names else others
    values = " ".join(label.values) or others
    return f"`{label.name}` ({values})"


def _configuration(config: Mapping[str, str]) -> str:
    return "<br>".join(f"`{name}={value}`" for name, value in config.items())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text(), encoding="utf-8")

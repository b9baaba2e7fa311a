"""`agentrun bench dashboard`: figures with a verdict, on a store of its own."""

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from agentrun_stream.cli.app import app

pytestmark = pytest.mark.stack


@pytest.mark.slow
def test_the_dashboard_benchmark_knows_a_wrong_window(tmp_path: Path) -> None:
    """Its verdict is about every view; the figures are there."""
    told = CliRunner().invoke(app, ["bench", "dashboard", "--runs", "2000", "--folder", str(tmp_path), "-o", "json"])
    figures = orjson.loads(told.stdout)
    assert (told.exit_code, figures["runs"], figures["windows_differ"]) == (0, 2_000, 0)
    assert {name for name in figures if name.endswith("_ms")} == {
        *("days_by_agent_ms", "days_by_status_ms", "month_by_model_ms", "last_day_by_hour_ms"),
    }
    again = CliRunner().invoke(app, ["bench", "dashboard", "--runs", "1000", "--folder", str(tmp_path), "-o", "json"])
    assert (again.exit_code, orjson.loads(again.stdout)["windows_differ"]) == (1, 3), "over what was settled before"

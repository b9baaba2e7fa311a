"""How commands print: exact JSON, tables and CSV that nothing from a record can steer."""

import json
from decimal import Decimal

import pytest

from agentrun_stream.cli import output

HOSTILE = "\x1b[31mred\x1b[0m\x07 [bold]x[/bold] \u202eevil\r\nsecond\x9b2J"


def test_a_table_shows_record_text_without_controls_or_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output.table("", {"a": "a"}, [{"a": HOSTILE}])
    shown = capsys.readouterr().out
    assert not [c for c in shown if not c.isprintable() and c != "\n"]
    assert "[bold]" not in shown
    assert "red" in shown


def test_json_is_exact_and_in_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"a": HOSTILE + "\x7f", "b": "日本", "c": Decimal("0.100000000001"), "d": None}]
    output.as_json(rows)
    shown = capsys.readouterr().out
    assert all(c == "\n" or (c.isascii() and c.isprintable()) for c in shown)
    assert json.loads(shown) == [{"a": HOSTILE + "\x7f", "b": "日本", "c": "0.100000000001", "d": None}]


def test_csv_is_one_line_a_row_and_runs_in_no_spreadsheet(capsys: pytest.CaptureFixture[str]) -> None:
    output.as_csv(("name", "n"), [("=1+1", -5), (HOSTILE, None), ('with "quotes", and commas', 1.5)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "name,n"
    assert lines[1] == "'=1+1,-5"
    assert len(lines) == 4
    assert lines[3] == '"with ""quotes"", and commas",1.5'


def test_an_unknown_value_is_a_dash_and_never_zero() -> None:
    assert output.cell(None, output.money).plain == output.UNKNOWN
    assert output.cell(0).plain == "0"


@pytest.mark.parametrize(
    ("value", "shown"),
    [("0.004200000000", "$0.0042"), ("12", "$12.00"), (Decimal("1E-12"), "$0.000000000001"), ("0", "$0.00")],
)
def test_money_keeps_its_digits(value: object, shown: str) -> None:
    assert output.money(value) == shown


@pytest.mark.parametrize(("ms", "shown"), [(0, "0 ms"), (340.4, "340 ms"), (12_400, "12.4 s"), (200_000, "3 m 20 s")])
def test_durations_are_for_people(ms: float, shown: str) -> None:
    assert output.milliseconds(ms) == shown


def test_a_pipe_gets_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output.table("", {"a": "a", "b": "b"}, [{"a": "x" * 90, "b": "y" * 90}])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_narrow_terminal_still_shows_the_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PIPE_WIDTH", 60)
    columns = {"id": "run", **{f"c{i}": f"column {i}" for i in range(8)}}
    output.table("", columns, [{"id": "tau-airline-40-2", **{f"c{i}": "some text" for i in range(8)}}])
    assert "tau-airline-40-2" in capsys.readouterr().out

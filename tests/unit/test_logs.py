"""Logs: `clean` against what a hostile record may hold, and lines that are JSON off a terminal."""

import io
import json
import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.markup import render

from agentrun_stream.telemetry.logs import adopt, clean, make_logger


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text", "plain text"),
        ("naïve 日本 🙂", "naïve 日本 🙂"),
        ("a\tb\r\nc\u2028d", "a b c d"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice\x1b\\x", "x"),
        ("\x9b2Jgone", "gone"),
        ("\x1bcreset", "reset"),
        ("over\x08\x08write\x00\x7f", "overwrite"),
        ("\u202eright\u2066left\u200b", "rightleft"),
        ("\ud800lone", "lone"),
        ("[bold red]loud[/bold red]", "loud"),
        ("[link=http://evil]x[/link]", "x"),
        ("[bo\x00ld]x[/]", "x"),
        ("[[bold]bold]x", "x"),
        ("[" * 50 + "b" + "]b" * 50 + "x", "b" * 43 + "x"),
        ("<script>alert(1)</script>", "alert(1)"),
        ("items[0] [1, 2] a < b > c", "items[0] [1, 2] a < b > c"),
        ("C:\\dir\\", "C:\\dir"),
        (17, "17"),
    ],
)
def test_clean_takes_away_what_is_not_text(raw: object, shown: str) -> None:
    """Controls, terminal sequences, invisible characters and markup go; words stay."""
    assert clean(raw) == shown


def test_clean_is_bounded_and_says_that_it_cut() -> None:
    """A long preview can't flood a terminal, also where most of it vanishes."""
    assert clean("x" * 10_000, 10) == "x" * 9 + "…"
    assert clean("x" * 10, 10) == "x" * 10
    assert clean("\x00" * 10_000 + "end", 10) == "…"


@pytest.mark.parametrize("piece", ["\\", "[a", "<a", "\x1b[", "\x1b]", "[[a]", "\u200b ", "<!["])
def test_clean_is_quick_on_hostile_text(piece: str) -> None:
    """No text makes it take long: the worker logs while it works."""
    began = time.perf_counter()
    clean(piece * 1_000_000, 2_000)
    assert time.perf_counter() - began < 0.5


@given(st.text(alphabet=st.characters() | st.sampled_from("\x1b[]()<>/\\ab;m\x9b\x07"), max_size=300))
def test_clean_leaves_nothing_to_interpret(raw: str) -> None:
    """For any text: no control character, no markup that rich would act on, bounded, and stable."""
    shown = clean(raw)
    assert all(ord(character) >= 32 and not 0x7F <= ord(character) < 0xA0 for character in shown)
    assert len(shown) <= 200
    assert clean(shown) == shown
    assert not render(shown).spans
    assert render(f"[bold]{shown}[/bold]").plain == render(shown).plain


def test_lines_are_json_off_a_terminal_and_text_on_one() -> None:
    """Machines get JSON, people get text, and a setting can decide."""
    pipe, terminal, forced = io.StringIO(), _Terminal(), _Terminal()
    for stream in (pipe, terminal):
        make_logger(stream=stream).info("started", partition=3)
    make_logger(style="json", stream=forced).info("started", partition=3)
    for text in (pipe.getvalue(), forced.getvalue()):
        line = json.loads(text)
        assert (line["event"], line["partition"], line["level"]) == ("started", 3, "info")
        assert line["timestamp"].endswith("Z")
    assert "started" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


def test_the_level_is_kept() -> None:
    """Lines below the level cost nothing and show nothing."""
    stream = io.StringIO()
    make_logger("warning", stream=stream).info("quiet")
    assert stream.getvalue() == ""


def test_values_are_cleaned_and_a_traceback_shows_no_locals() -> None:
    """A payload in a local variable stays out of the log."""
    stream = io.StringIO()
    logger = make_logger(stream=stream)
    payload = "canary-" + "value"
    try:
        assert payload
        raise RuntimeError("store\x1b[31m refused")  # noqa: TRY301 - the frame's locals are the point
    except RuntimeError:
        logger.exception("failed", why="\x1b[2Jbad\n[bold]x", extra={"k": "\x1b[1m"})
    line = json.loads(stream.getvalue())
    assert line["why"] == "bad x"
    assert "RuntimeError: store refused" in line["exception"]
    assert "\x1b" not in stream.getvalue()
    assert "canary-value" not in stream.getvalue()


def test_warnings_of_libraries_are_taken_over() -> None:
    """The client's warnings come as lines like ours; its chatter does not."""
    stream = io.StringIO()
    adopt("agentrun_test_library", make_logger(stream=stream))
    theirs = logging.getLogger("agentrun_test_library.part")
    theirs.warning("lost %s", "broker")
    theirs.info("chatter")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["library"], line["level"]) for line in lines] == [
        ("lost broker", "agentrun_test_library.part", "warning")
    ]

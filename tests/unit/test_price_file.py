"""Prices of one's own: what wins over the book, when, and what is wrong with a file; and the commands that show it."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import agentrun_stream
from agentrun_stream.cli.app import app
from agentrun_stream.errors import ConfigError
from agentrun_stream.model.usage import Call
from agentrun_stream.pricing.books import book_of, open_book
from agentrun_stream.pricing.difference import CLASSES
from agentrun_stream.pricing.price import STATUSES, Priced
from pricing_calls import SONNET, book, call, total


def priced(text: str, one: Call, reported: str | None = None) -> Priced:
    return total(one, reported, open_book(text)).priced


LONG = call(*SONNET, 100_000, 1_000, read=1_000_000, write=10_000)
BOOKED = Decimal("0.6525")  # 0.3 + 0.015 + 0.3 + 0.0375


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("", BOOKED),
        ('[[price]]\nmodel = "claude-3-7-sonnet*"\ninput = 2', BOOKED - Decimal("0.1")),
        ('[[price]]\nmodel = "CLAUDE-3-7-sonnet-latest"\ninput = 2', BOOKED - Decimal("0.1")),
        ('[[price]]\nmodel = "claude-3-7"\ninput = 2', BOOKED),
        ('[[price]]\nmodel = "*"\nprovider = "openai"\ninput = 2', BOOKED),
        ('[[price]]\nmodel = "*"\nprovider = "Anthropic"\ninput = 2', BOOKED - Decimal("0.1")),
        ('[[price]]\nmodel = "*"\ninput = 2\nfrom = 2025-10-02', BOOKED),
        ('[[price]]\nmodel = "*"\ninput = 2\nfrom = 2025-10-01', BOOKED - Decimal("0.1")),
        ('[[price]]\nmodel = "*"\ninput = 2\nuntil = 2025-10-01', BOOKED),
        ('[[price]]\nmodel = "*"\ninput = 2\ntier = "batch"', BOOKED),
        ('[[price]]\nmodel = "*"\ninput = 9\n[[price]]\nmodel = "*"\ninput = 2', BOOKED - Decimal("0.1")),
        ('[[price]]\nmodel = "*"\nrequest = "0.01"', BOOKED + Decimal("0.01")),
        ('[[discount]]\nmodel = "*"\npercent = 15', BOOKED * Decimal("0.85")),
        ('[[discount]]\nmodel = "*"\npercent = 15\ntier = "batch"', BOOKED),
    ],
)
def test_a_price_of_ones_own_wins_where_it_fits(text: str, cost: Decimal) -> None:
    """By name, provider, day and tier; the last that fits; what it leaves out keeps the book's price."""
    assert total(LONG, None, open_book(text)).priced.cost_computed == cost


def test_what_the_book_lacks_can_be_added() -> None:
    """A model, a tier, a provider's other name; what has no price of its own falls back on plain input."""
    text = """
    [providers]
    "my gateway" = "anthropic"
    [[price]]
    model = "house-7b"
    provider = "basement"
    kind = "list"
    input = 0.1
    output = 0.2
    above = [{ input_tokens = 1000, input = 0.3 }]
    [[price]]
    model = "claude-3-7-sonnet*"
    tier = "priority"
    input = 6
    output = 30
    """
    house = call("basement", "house-7b", 1_000, 10, read=500, convention="inclusive")
    assert priced(text, house, "7").effective_source == "reported"
    assert priced(text, house).cost_computed == Decimal("0.000102")
    longer = priced(text, house._replace(input_tokens=1_001))
    assert (longer.price_status, longer.cost_hi) == ("tier_ambiguous", Decimal("0.0003023"))
    assert priced(text, call("my gateway", SONNET[1], 1_000, 0)).cost_computed == Decimal("0.003")
    assert priced(text, call(*SONNET, 1_000, 0, tier="priority")).cost_computed == Decimal("0.006")
    assert total(call(*SONNET, 1_000, 0, tier="priority")).priced.price_status == "context_unpriced"


def test_a_contract_is_what_counts() -> None:
    """A contract's amount wins over the reported one; a discount keeps the list price beside it."""
    told = total(LONG, "0.9", open_book('[[discount]]\nmodel = "*"\npercent = 50'))
    assert (told.priced.effective_source, told.priced.cost_effective) == ("contract", BOOKED / 2)
    assert next((line.list_price, line.unit_price) for line in told.lines) == (
        Decimal("0.000003"),
        Decimal("0.0000015"),
    )
    assert sum(line.list_price * line.quantity for line in told.lines) == BOOKED


def test_the_digest_names_what_is_said_and_not_how() -> None:
    """Comments, notes, order of members and zeros at the end change nothing; an amount does."""
    one = open_book('[[price]]\nmodel = "a"\ninput = 1.50 # dear\nfrom = 2026-01-01\nnote = "x"')
    two = open_book('[[price]]\nfrom = "2026-01-01"\ninput = 1.5\nmodel = "a"')
    other = open_book('[[price]]\nmodel = "a"\ninput = 1.51\nfrom = 2026-01-01')
    assert one.digest == two.digest
    assert len({one.digest, other.digest, book().digest}) == 3
    assert book_of(other.content).digest == other.digest
    assert book_of(book().content).digest == book().digest


def test_prices_of_another_version_are_refused() -> None:
    """What was priced with other prices can't be priced again with these, and the error says which to install."""
    content = json.loads(book().content)
    with pytest.raises(ConfigError, match=r"9\.9\.9") as error:
        book_of(json.dumps(content | {"version": "9.9.9"}, sort_keys=True))
    assert "genai-prices==9.9.9" in error.value.next_step


WRONG = [
    ("[[price]]", "price 1", "price"),
    ('[[price]]\nmodel = "a"', "price 1", "states no price"),
    ('[[price]]\nmodel = "a"\ninput = -1', "price 1", "from 0 to"),
    ('[[price]]\nmodel = "a"\ninput = nan', "price 1", "from 0 to"),
    ('[[price]]\nmodel = "a"\ninput = 1e999999999', "price 1", "from 0 to"),
    ('[[price]]\nmodel = "a"\ninput = 1e-999999999', "price 1", "digits"),
    ('[[price]]\nmodel = "a"\ninput = true', "price 1", "from 0 to"),
    ('[[price]]\nmodel = "a"\ninput = "x"', "price 1", "from 0 to"),
    ('[[price]]\nmodel = "a*b"\ninput = 1', "price 1", "end"),
    ('[[price]]\nmodel = ""\ninput = 1', "price 1", "characters"),
    ('[[price]]\nmodel = "a"\nimput = 1', "price 1", "imput"),
    ('[[price]]\nmodel = "a"\ninput = 1\nkind = "?"', "price 1", "kind"),
    ('[[price]]\nmodel = "a"\ninput = 1\nfrom = "soon"', "price 1", "day"),
    ('[[price]]\nmodel = "a"\ninput = 1\nfrom = 2026-02-01\nuntil = 2026-02-01', "price 1", "until"),
    ('[[price]]\nmodel = "a"\ninput = 1\nabove = [{ input = 2 }]', "price 1", "input_tokens"),
    ('[[price]]\nmodel = "a"\ninput = 1\nabove = [{input_tokens = 5}, {input_tokens = 5}]', "price 1", "rises"),
    ('[price]\nmodel = "a"', "price", "[[price]]"),
    ('[[discount]]\nmodel = "a"\npercent = 101', "discount 1", "percent"),
    ('[[discount]]\nmodel = "a"', "discount 1", "percent"),
    ("[providers]\na = 1", "providers", "maps"),
    ("[prices]\na = 1", "prices", "section"),
]


def agentrun(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(("text", "where", "what"), WRONG)
def test_check_names_what_is_wrong(text: str, where: str, what: str, tmp_path: Path) -> None:
    """Each mistake with its place; exit code 3; and no book is made of such a file."""
    file = tmp_path / "prices.toml"
    file.write_text(text)
    done = agentrun("prices", "check", file, "-o", "json")
    assert done.exit_code == 3
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["where"] == where
    assert what in problem["text"]
    with pytest.raises(ConfigError):
        open_book(text)


def test_check_tells_what_a_file_says(tmp_path: Path) -> None:
    """All mistakes at once, or all rows; a file that is no TOML says where."""
    file = tmp_path / "prices.toml"
    file.write_text('[[price]]\nmodel = "a"\n[[price]]\ninput = 1\n')
    done = agentrun("prices", "check", file)
    assert done.exit_code == 3
    assert "price 1" in done.stdout
    assert "price 2" in done.stdout
    file.write_text('[[price]]\nmodel = "a"\ninput = 1.5\ntier = "batch"\n[[discount]]\nmodel = "b*"\npercent = 5')
    done = agentrun("prices", "check", file)
    assert done.exit_code == 0
    assert "input_uncached 1.50" in done.stdout
    assert "5.00 % less" in done.stdout
    file.write_text("what = is this")
    done = agentrun("prices", "check", file)
    assert done.exit_code == 3
    assert "line 1" in done.stderr


def shown(*words: object) -> Any:
    done = agentrun("prices", "show", *words, "-o", "json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_show_tells_a_price_at_its_date(tmp_path: Path) -> None:
    """At a day, by tier and cliff, and with a file above the book."""
    before = shown("o3", "--at", "2025-06-01")
    after = shown("o3", "--at", "2025-07-01T10:00:00+02:00", "--provider", "openai")
    assert (before["prices"][0]["input_uncached"], after["prices"][0]["input_uncached"]) == ("10.00", "2.00")
    assert [row["above"] for row in shown("gemini-2.5-pro", "--at", "2025-10-01")["prices"]] == [0, 200_000]
    file = tmp_path / "prices.toml"
    file.write_text('[[price]]\nmodel = "o3"\ninput = 1')
    own = shown("o3", "--at", "2025-07-01", "--prices", file)
    assert own["contract"] is True
    assert (own["prices"][0]["input_uncached"], own["prices"][0]["output"]) == ("1.00", "8.00")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-model", "--at", "2025-10-01"], "unknown_model"),
        (["gpt-4o", "--at", "2025-10-01", "--provider", "nobody"], "unknown_provider"),
        (["gpt-4o", "--at", "2025-10-01", "--tier", "express"], "context_unpriced"),
        (["gpt-4o", "--at", "yesterday"], "is no time"),
    ],
)
def test_show_says_why_there_is_no_price(words: list[str], said: str) -> None:
    """Exit code 2, the reason, and the next step."""
    done = agentrun("prices", "show", *words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_the_page_on_prices_is_true() -> None:
    """Its example is a right file, and it lists every status and every class of difference."""
    page = (Path(agentrun_stream.__file__).parent / "docs" / "prices.md").read_text("utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    told = priced(example, call("my gateway", "claude-opus-4-6", 1_000_000, 0, tier="batch", day="2026-06-01"))
    assert told.cost_hi == 5
    assert told.effective_source == "contract"
    assert not [word for word in (*STATUSES, *CLASSES) if f"`{word}`" not in page]

"""What runs cost, on the real stack: recorded data to the last digit, unknown models, books in force, explanations."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream.store.queries import cost_by_agent
from agentrun_stream.supervisor import local_environment
from agentrun_stream.testing.events import run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane, last_published, soon

pytestmark = pytest.mark.stack

DATA = Path(__file__).resolve().parents[3] / "shared/data"
# Dollars per million: input, cache read, cache write for 5 minutes, for an hour, output. From the providers' pages.
PUBLISHED = {
    "claude-opus-4-6": ("5", "0.50", "6.25", "10", "25"),
    "claude-sonnet-4-5-20250929": ("3", "0.30", "3.75", "6", "15"),
    "claude-haiku-4-5-20251001": ("1", "0.10", "1.25", "2", "5"),
    "gpt-4o-mini-2024-07-18": ("0.15", "0.075", "0.15", "0.15", "0.60"),
    "gpt-4o-2024-08-06": ("2.5", "1.25", "2.5", "2.5", "10"),
}
FACTS = {
    "run_objects": "workspace, run_id, kind, object_id, type, metadata, extra, doc, chain, _offset, _version, _sum",
    "accruals": "topic, partition, offset, object_id, run_id, basis, model, provider, input_tokens, cost_reported",
}
SONNET = {"provider": "anthropic", "model": "claude-sonnet-4-5-20250929"}
USAGE = {**SONNET, "input_tokens": 1_000_000, "output_tokens": 0}


def by_hand(names: list[str]) -> tuple[Decimal, int]:
    """What the recorded calls cost by published prices, and how many runs made one, from the files alone."""
    found, runs = Decimal(0), set()
    for name in names:
        for line in (DATA / name).read_text("utf-8").splitlines():
            event = json.loads(line)
            metadata = event["data"].get("metadata") or {}
            if event["type"] != "agentrun.step.v1" or "usage" not in metadata:
                continue
            used = defaultdict(int, {k: v for k, v in metadata["usage"].items() if v is not None})
            write, hour = used["cache_write_tokens"], metadata.get("cache_write_1h_tokens") or 0
            counts = (used["input_tokens"], used["cache_read_tokens"], write - hour, hour, used["output_tokens"])
            rates = [Decimal(rate) for rate in PUBLISHED[metadata["usage"]["model"]]]
            found += sum((r * c for r, c in zip(rates, counts, strict=True)), Decimal(0)) / 10**6
            runs.add(event["subject"])
    return found, len(runs)


@pytest.fixture(scope="module")
def recorded(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lane, list[str]]]:
    """The recorded sessions, stored, and the names of their files."""
    if not DATA.is_dir():
        reason = "the recorded runs are not beside the checkout (../shared/data)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    files = sorted([*DATA.glob("claude-code/*.events.jsonl"), *DATA.glob("inspect/*.events.jsonl")])
    with lane(agentrun_stack, tmp_path_factory.mktemp("costs"), "costs_recorded") as made:
        made.start()
        told = made.agentrun("publish", *map(str, files), "--topic", made.topic)
        assert told.code == 0, told
        made.wait()
        yield made, [str(file.relative_to(DATA)) for file in files]


def test_recorded_runs_cost_what_published_prices_say(recorded: tuple[Lane, list[str]]) -> None:
    """To the last digit, in runs, settlements and windows; and the audit computes the same."""
    made, names = recorded
    cost, runs = by_hand(names)
    assert runs > 20
    sums = "count() AS n, sum(cost_computed) AS cost_computed, sum(cost_effective) AS cost_effective"
    row = made.one(f"SELECT {sums} FROM runs_latest WHERE price_status = 'ok'")
    assert row == {"n": runs, "cost_computed": cost, "cost_effective": cost}
    settled = made.one("SELECT sum(cost_computed) AS cost, sum(runs) - sum(unpriced) AS priced FROM cost_by_day")
    assert settled == {"cost": cost, "priced": runs}
    made.refresh_windows()
    assert made.one("SELECT sum(cost_effective) AS cost FROM cost_by_hour WHERE ledger = 'settled'")["cost"] == cost
    assert made.one("SELECT countIf(price_basis != 'steps') AS n FROM runs_latest WHERE price_status = 'ok'")["n"] == 0
    made.assert_exact()


def test_the_lines_of_every_recorded_run_add_up(recorded: tuple[Lane, list[str]]) -> None:
    """`cost explain` shows the stored amount line by line, exactly."""
    made, _ = recorded
    for stored in made.rows("SELECT id, cost_computed FROM runs_latest WHERE cost_computed IS NOT NULL"):
        told = made.agentrun("cost", "explain", stored["id"], "-o", "json")
        assert told.code == 0, told
        said = orjson.loads(told.out)
        lines = [Decimal(line["quantity"]) * Decimal(line["unit_price"]) for line in said["lines"]]
        assert sum(lines) == stored["cost_computed"] == Decimal(said["lines_total"])
        assert said["adds_up"] is True
        assert said["convention_evidence"]
    shown = made.agentrun("cost", "explain", stored["id"])
    assert shown.code == 0
    assert "token_convention: exclusive" in shown.out


def test_an_unknown_model_shows_as_unpriced_everywhere(agentrun_stack: Stack, tmp_path: Path) -> None:
    """The known part and a count, nowhere 0: in SQL, the published run, the command; an open run is priced by itself."""
    usage = {"provider": "anthropic", "model": "house-model", "input_tokens": 7, "output_tokens": 8}
    members: dict[str, Any] = {**SONNET, "cost": {"input_tokens": 1_000_000, "output_tokens": 0}}
    events = [
        step_event("odd", "a", type="message", metadata={"usage": USAGE | {"input_tokens": 100_000}}),
        step_event("odd", "b", type="message", metadata={"usage": usage | {"service_tier": "batch"}}),
        run_event("odd"),
        run_event("even", **members),
        run_event("silent"),
        step_event("open", "c", type="message", metadata={"usage": usage}),
        run_event("open", status="running", **members),
    ]
    with lane(agentrun_stack, tmp_path, "costs_unknown") as made:
        made.start()
        made.produce(events)
        made.wait()
        row = made.run_row("odd")
        assert (row["price_status"], row["cost_computed"], row["cost_hi"]) == ("unknown_model", None, None)
        assert (row["cost_lo"], row["cost_effective"], row["effective_source"]) == (Decimal("0.3"), None, "none")
        assert made.run_row("silent")["price_status"] == "no_usage"
        assert (made.run_row("open")["cost_computed"], made.run_row("open")["price_basis"]) == (3, "run_aggregate")
        day = made.one(
            "SELECT sum(runs) AS n, sum(unpriced) AS unknown, sum(cost_effective) AS cost "
            "FROM cost_by_day WHERE ledger = 'settled'"
        )
        assert day == {"n": 3, "unknown": 2, "cost": Decimal(3)}
        agents = cost_by_agent(made.client)
        assert [(r["runs"], r["cost"], r["unpriced"]) for r in agents] == [(4, Decimal(6), 2)]
        published = last_published(agentrun_stack, "default/odd")
        assert published is not None
        assert published[0]["costs"]["computed"] is None
        assert published[0]["costs"]["effective"] is None
        assert published[0]["costs"]["status"] == "unknown_model"
        told = made.agentrun("cost", "unpriced")
        assert 'model = "house-model"\nprovider = "anthropic"\ntier = "batch"' in told.out, told
        rows = orjson.loads(made.agentrun("cost", "unpriced", "-o", "json").out)
        assert {(r["model"], r["price_status"], r["runs"], r["calls"], r["tokens"]) for r in rows} == {
            ("house-model", "unknown_model", 1, 1, 15),
            ("", "no_usage", 1, 0, 0),
        }
        made.assert_exact()


def test_the_book_in_force_prices_and_facts_are_the_same(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Two workers with other price files, one killed: the same facts, and amounts by the one book that is in force."""
    files = []
    for number, rate in enumerate(("100", "200")):
        file = tmp_path / f"prices{number}.toml"
        file.write_text(f'[[price]]\nmodel = "{SONNET["model"]}"\ninput = {rate}\noutput = {rate}\n')
        files.append(file)
    events = [
        event
        for n in range(200)
        for event in (step_event(f"r{n}", "s", type="message", metadata={"usage": USAGE}), run_event(f"r{n}"))
    ]
    facts, books = [], []
    with (
        lane(agentrun_stack, tmp_path, "costs_one") as one,
        lane(agentrun_stack, tmp_path, "costs_other", one.topic) as other,
    ):
        one.start(AGENTRUN_PRICES__FILE=str(files[0]))
        # Its own file is proposed to nobody: these prices are in force already.
        assert other.agentrun("prices", "apply", "--prices", str(files[1])).code == 0
        other.start(AGENTRUN_PRICES__FILE=str(files[0]), AGENTRUN_WORKER__BATCH_RECORDS_MAX="50")
        one.produce(events)
        other.kill()
        other.restart()
        for made, amount in ((one, 100), (other, 200)):
            made.wait()
            assert made.one("SELECT count() AS n FROM runs_latest WHERE cost_effective = cost_computed") == {"n": 200}
            assert made.rows("SELECT DISTINCT cost_computed FROM runs_latest") == [{"cost_computed": amount}]
            assert made.rows("SELECT DISTINCT effective_source AS s FROM runs_latest") == [{"s": "contract"}]
            books.append(made.one("SELECT any(price_book) AS book FROM runs_latest")["book"])
            facts.append(
                [made.one(f"SELECT sum(cityHash64(tuple({c}))) AS d FROM {t} FINAL") for t, c in FACTS.items()]
            )
            made.assert_exact()
        assert facts[0] == facts[1]
        assert books[0] != books[1]
        # Another book is put in force: running workers take it up, and what stands is audited by the book that it names.
        assert one.agentrun("prices", "apply").code == 0
        soon(lambda: one.log().count("price book in force") >= 2, what="the new book")
        cost = {"input_tokens": 1_000_000, "output_tokens": 0}
        one.produce([run_event("later", provider=SONNET["provider"], model=SONNET["model"], cost=cost)])
        one.wait()
        assert one.run_row("later")["cost_computed"] == 3
        assert one.run_row("r0")["cost_computed"] == 100
        one.assert_exact()
        told = one.agentrun("cost", "explain", "r0", "-o", "json")
        assert orjson.loads(told.out)["adds_up"] is True


@pytest.mark.slow
def test_two_workers_that_begin_with_other_prices_book_the_same(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Side by side on one log, both killed in the middle: one book for all runs, and the facts of a lane that had peace."""
    events = [
        event
        for n in range(300)
        for event in (
            step_event(f"r{n}", "s", type="message", metadata={"usage": USAGE | {"output_tokens": n}}),
            run_event(f"r{n}", status="running", cost={"input_tokens": n, "cost_usd": n / 8}),
            run_event(f"r{n}", cost={"input_tokens": 2 * n, "cost_usd": n / 4}),
        )
    ]
    files = []
    for number, rate in enumerate(("100", "200")):
        file = tmp_path / f"theirs{number}.toml"
        file.write_text(f'[[price]]\nmodel = "{SONNET["model"]}"\ninput = {rate}\noutput = {rate}\n')
        files.append({"AGENTRUN_PRICES__FILE": str(file), "AGENTRUN_WORKER__BATCH_RECORDS_MAX": "30"})
    with (
        lane(agentrun_stack, tmp_path, "costs_peace") as peace,
        lane(agentrun_stack, tmp_path, "costs_both", peace.topic) as one,
    ):
        other = Lane(one.stack, tmp_path / "other", one.name, one.topic, one.settings)
        try:
            one.launch(1, **files[0])
            other.launch(1, **files[1], AGENTRUN_WORKER__INSTANCE_ID="another")
            one.produce(events[:450])
            soon(lambda: one.rows("SELECT 1 FROM accruals LIMIT 1"), what="the first facts")
            one.kill()
            one.produce(events[450:])
            one.restart()
            other.kill()
            other.restart()
            one.wait()
            in_force = one.one("SELECT digest FROM price_books ORDER BY ordinal DESC, stored_at, digest LIMIT 1")
            assert one.rows("SELECT DISTINCT price_book AS digest FROM runs_latest") == [in_force]
            one.assert_exact("--deep")
            peace.start()
            peace.wait()
            for table, columns in FACTS.items():
                digest = f"SELECT count() AS n, sum(cityHash64(tuple({columns}))) AS d FROM {table} FINAL"
                assert one.one(digest) == peace.one(digest)
            assert one.one("SELECT count() AS n FROM runs_latest") == {"n": 300}
            peace.assert_exact()
        finally:
            other.stop()


def test_a_worker_that_lacks_the_prices_in_force_does_not_start(agentrun_stack: Stack, tmp_path: Path) -> None:
    """It says which package has them, and what else helps."""
    with lane(agentrun_stack, tmp_path, "costs_lacking") as made:
        content = json.dumps({"book": "genai-prices", "sha256": "0" * 64, "version": "0.0.1"}, sort_keys=True)
        values = f"(1, '{'0' * 64}', '{content}', 'a test')"
        made.execute(f"INSERT INTO price_books (ordinal, digest, content, proposed_by) VALUES {values}")
        mine = local_environment(made.stack.kafka, made.stack.clickhouse, made.environment)
        kept: dict[str, Any] = {k: v for k, v in os.environ.items() if not k.startswith("AGENTRUN_")}
        command = [sys.executable, "-m", "agentrun_stream.cli", "work"]
        told = subprocess.run(command, env=kept | mine, capture_output=True, text=True, check=False, timeout=60)
        assert told.returncode == 3, told.stderr
        assert "genai-prices 0.0.1" in told.stderr
        assert "agentrun prices apply" in told.stderr
        assert made.agentrun("prices", "apply").code == 0
        made.start()

"""`agentrun cost` on the real stack: its figures equal a calculation of the test's own, in every form of output."""

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest

from agentrun_stream.testing.events import patch_event, run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane

pytestmark = pytest.mark.stack

DATA = Path(__file__).resolve().parents[3] / "shared/data"
ZURICH = ZoneInfo("Europe/Zurich")
# Dollars per million: input, cache read, cache write for 5 minutes, for an hour, output. From the providers' pages.
PUBLISHED = {
    "claude-opus-4-6": ("5", "0.50", "6.25", "10", "25"),
    "claude-sonnet-4-5-20250929": ("3", "0.30", "3.75", "6", "15"),
    "claude-haiku-4-5-20251001": ("1", "0.10", "1.25", "2", "5"),
    "gpt-4o-mini-2024-07-18": ("0.15", "0.075", "0.15", "0.15", "0.60"),
}
SONNET = {"provider": "anthropic", "model": "claude-sonnet-4-5-20250929"}
Figures = tuple[int, int, Decimal | None]  # runs, unpriced ones, what the others cost


@dataclass
class Recorded:
    """A run as its file tells it."""

    members: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def cost(self) -> Decimal | None:
        """What its calls cost by published prices; None where it made none."""
        if not self.usage:
            return None
        found = Decimal(0)
        for metadata in self.usage.values():
            used = defaultdict(int, {k: v for k, v in metadata["usage"].items() if v is not None})
            write, hour = used["cache_write_tokens"], metadata.get("cache_write_1h_tokens") or 0
            counts = (used["input_tokens"], used["cache_read_tokens"], write - hour, hour, used["output_tokens"])
            rates = [Decimal(rate) for rate in PUBLISHED[metadata["usage"]["model"]]]
            found += sum((rate * count for rate, count in zip(rates, counts, strict=True)), Decimal(0)) / 10**6
        return found

    @property
    def model(self) -> str | None:
        return (self.members.get("cost") or {}).get("model") or self.members.get("model")

    @property
    def ended(self) -> datetime:
        return datetime.fromisoformat(self.members["ended_at"])


def read(names: list[str]) -> list[Recorded]:
    """The runs of these files: later members over earlier ones, of a step its last version."""
    runs: dict[str, Recorded] = defaultdict(Recorded)
    for name in names:
        for line in (DATA / name).read_text("utf-8").splitlines():
            event = json.loads(line)
            run, data = runs[event["subject"]], event["data"]
            if event["type"] == "agentrun.run.v1":
                run.members |= {k: v for k, v in data.items() if v is not None}
            elif event["type"] == "agentrun.step.v1" and "usage" in (data.get("metadata") or {}):
                run.usage[data["id"]] = data["metadata"]
    return list(runs.values())


def by_hand(runs: list[Recorded], key: Callable[[Recorded], tuple[Any, ...]]) -> dict[tuple[Any, ...], Figures]:
    """Runs, unpriced runs and the known part of their cost, by a key."""
    found: dict[tuple[Any, ...], Figures] = {}
    for run in runs:
        count, unpriced, known = found.get(key(run), (0, 0, None))
        cost = run.cost
        known = known if cost is None else cost + (known or 0)
        found[key(run)] = (count + 1, unpriced + (cost is None), known)
    return found


def report(made: Lane, *words: str) -> dict[str, Any]:
    told = made.agentrun("cost", *words, "-o", "json")
    assert told.code == 0, told
    found: dict[str, Any] = orjson.loads(told.out)
    return found


def figures(
    rows: list[dict[str, Any]], by: list[str], amount: str = "cost_effective"
) -> dict[tuple[Any, ...], Figures]:
    """What a report says, by its dimensions. What is empty or null is unknown."""

    def plain(value: Any) -> Any:
        return None if value == "" else value

    found = {}
    for row in rows:
        cost = plain(row[amount])
        key = tuple(plain(row[name]) for name in by)
        assert key not in found
        found[key] = (int(row["runs"]), int(row["unpriced"]), None if cost is None else Decimal(cost))
    return found


def as_csv(made: Lane, *words: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The groups and the total."""
    told = made.agentrun("cost", *words, "-o", "csv")
    assert told.code == 0, told
    rows = list(csv.DictReader(io.StringIO(told.out)))
    assert [row["row"] for row in rows] == ["group"] * (len(rows) - 1) + ["total"]
    return rows[:-1], rows[-1]


@pytest.fixture(scope="module")
def recorded(
    agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Lane, list[Recorded], dict[str, Any]]]:
    """All recorded runs, stored, as their files tell them, and what was counted of them."""
    if not (DATA / "expected.json").is_file():
        reason = "the recorded runs are not beside the checkout (../shared/data)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    expected = orjson.loads((DATA / "expected.json").read_bytes())
    names = sorted(expected["files"])
    with lane(agentrun_stack, tmp_path_factory.mktemp("cost_report"), "cost_report_recorded") as made:
        made.start()
        told = made.agentrun("publish", *(str(DATA / name) for name in names), "--topic", made.topic)
        assert told.code == 0, told
        made.wait()
        yield made, read(names), expected["total"]


def test_recorded_costs_by_agent_and_model(recorded: tuple[Lane, list[Recorded], dict[str, Any]]) -> None:
    """JSON, CSV and SQL say to the last digit what published prices and the files alone give; and so does the total."""
    made, runs, expected = recorded
    by = ["agent", "model"]
    own = by_hand(runs, lambda run: (run.members["agent_id"], run.model))
    assert {unpriced for _, unpriced, _ in own.values()} == {0, 200}  # the airline's runs state no tokens
    said = report(made, "--by", "agent,model")
    assert figures(said["rows"], by) == own
    groups, total = as_csv(made, "--by", "agent,model")
    assert figures(groups, by) == own
    sql = """SELECT agent_id AS agent, ifNull(r.cost_model, r.model) AS model, count() AS runs,
        sum(r.cost_effective) AS cost_effective, countIf(r.cost_effective IS NULL) AS unpriced
        FROM runs_latest AS r GROUP BY agent, model"""
    assert figures(made.rows(sql), by) == own
    whole = by_hand(runs, lambda _: ())
    assert figures([said["total"]], []) == figures([total], []) == whole
    assert said["total"]["unpriced_share"] == 200 / 233
    assert said["total"]["runs"] == expected["runs"]
    assert {s: said["total"][s] for s in ("completed", "cancelled")} == expected["runs_by_status"]
    assert {name: said["total"][name] for name in expected["tokens"]} == expected["tokens"]


def test_recorded_costs_by_day_and_month_of_a_zone(recorded: tuple[Lane, list[Recorded], dict[str, Any]]) -> None:
    """A run counts on the day on which it ended where the reader is; another zone cuts otherwise, and the sum is the same."""
    made, runs, _ = recorded
    for name, form in (("day", "%Y-%m-%d"), ("month", "%Y-%m")):
        own = by_hand(runs, lambda run, form=form: (run.ended.astimezone(ZURICH).strftime(form),))  # type: ignore[misc]
        said = report(made, "--by", name, "--tz", "Europe/Zurich")
        assert figures(said["rows"], [name]) == own
        assert [row[name] for row in said["rows"]] == sorted(row[name] for row in said["rows"])
    elsewhere = report(made, "--by", "day", "--tz", "Asia/Kolkata")
    assert figures(elsewhere["rows"], ["day"]) != by_hand(runs, lambda run: (run.ended.strftime("%Y-%m-%d"),))
    assert elsewhere["total"] == said["total"]
    own = by_hand([run for run in runs if run.ended.astimezone(ZURICH).strftime("%Y-%m") == "2026-02"], lambda _: ())
    february = report(made, "--month", "2026-02", "--tz", "Europe/Zurich", "--by", "")
    assert figures([february["total"]], []) == own
    assert february["rows"] == [report(made, "--since", "2026-02-01", "--until", "2026-03-01", "--by", "")["total"]]


def test_windows_and_runs_give_the_same_figures(recorded: tuple[Lane, list[Recorded], dict[str, Any]]) -> None:
    """By a dimension that only runs have, a report adds up to what the windows say; fresh, and summed by the refresher."""
    made, runs, _ = recorded
    finer = report(made, "--by", "agent,model,git_branch")
    own = by_hand(runs, lambda run: (run.members["agent_id"], run.model, run.members.get("git_branch")))
    assert figures(finer["rows"], ["agent", "model", "git_branch"]) == own
    for _ in range(2):
        coarse = report(made, "--by", "agent,model")
        assert finer["total"] == coarse["total"]
        made.refresh_windows()
    tasks = report(made, "--by", "task_id,outcome", "--agent", "inspect/security_guide")
    mine = [run for run in runs if run.members["agent_id"] == "inspect/security_guide"]
    expected = by_hand(mine, lambda run: (run.members.get("task_id"), run.members.get("outcome")))
    assert figures(tasks["rows"], ["task_id", "outcome"]) == expected


def test_every_report_ends_with_what_is_known_of_it(recorded: tuple[Lane, list[Recorded], dict[str, Any]]) -> None:
    """Total, unpriced share, finality and the last audit, which every `agentrun audit` leaves in the store."""
    made, _, expected = recorded
    shown = made.agentrun("cost", "--by", "provider")
    assert shown.code == 0, shown
    assert "Unpriced: 200 of 233 runs have no known cost" in shown.out
    assert "State: open; " in shown.out
    assert "Audit: never audited; run `agentrun audit`." in shown.out
    assert report(made)["audit"] is None
    made.assert_exact()
    ended = report(made)
    assert (ended["audit"]["residual"], ended["audit"]["records"]) == (0, expected["events"])
    assert sum(ended["audit"]["reach"].values()) >= expected["events"]
    assert f"residual 0 over {expected['events']:,} records" in made.agentrun("cost").out
    _, total = as_csv(made)
    assert (total["audit_residual"], total["audited_at"], total["state"]) == ("0", ended["audit"]["ended_at"], "open")


USAGE = {**SONNET, "input_tokens": 100_000, "output_tokens": 0}
CALL = Decimal("0.3")  # what it costs


DARK = {"workspaceid": "dark"}


def told(name: str, ended: str, **members: Any) -> bytes:
    return run_event(name, started_at=ended, ended_at=ended, **members)


def called(name: str, step: str = "s", **envelope: str) -> bytes:
    return step_event(name, step, type="message", metadata={"usage": USAGE}, envelope=envelope)


def priced(name: str, ended: str, **members: Any) -> list[bytes]:
    return [called(name), told(name, ended, **members)]


def unknown_ones() -> list[bytes]:
    """Runs of the workspace `dark`, three of which have no known cost, and one that is open."""
    new = {"provider": "anthropic", "model": "house-model", "cost": {"input_tokens": 7, "output_tokens": 8}}
    at, dark = "2026-03-03T10:00:00Z", {"envelope": DARK}
    return [
        called("known", **DARK),
        told("known", at, agent_id="both", tags=["x", "team=search", "team=other"], **dark),
        told("unknown", at, agent_id="both", tags=["team:search"], **new, **dark),
        told("nothing", at, agent_id="none", **new, **dark),
        told("silent", at, agent_id="silent", tags=["team"], **dark),
        called("open", **DARK),
        run_event("open", status="running", **dark),
    ]


def moved_ones() -> list[bytes]:
    """Runs of the default workspace at the turn of two months; one moves to the other month, one costs more later."""
    return [
        *priced("moved", "2026-03-31T23:30:00+02:00", agent_id="a"),
        *priced("stays", "2026-03-31T23:30:00+02:00", agent_id="a"),
        *priced("early", "2026-03-02T08:00:00Z", agent_id="gone"),
        *priced("later", "2026-04-10T08:00:00Z", agent_id="new"),
        told("unknown", "2026-04-10T08:00:00Z", agent_id="dark"),
        patch_event("moved", ended_at="2026-04-01T00:30:00+02:00"),
        called("stays", "t"),
    ]


@pytest.fixture(scope="module")
def made_up(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    """Runs of two workspaces, stored."""
    with lane(agentrun_stack, tmp_path_factory.mktemp("cost_report"), "cost_report_made_up") as made:
        made.start()
        made.produce([*unknown_ones(), *moved_ones()])
        made.wait()
        yield made


def test_unknown_is_a_count_and_nowhere_zero(made_up: Lane) -> None:
    """An unknown model is the known part and a count, in SQL, table, CSV and JSON; where nothing is known, unknown stands."""
    made, dark = made_up, ("-w", "dark")
    own = {("both",): (2, 1, CALL), ("none",): (1, 1, None), ("silent",): (1, 1, None)}
    said = report(made, *dark)
    assert figures(said["rows"], ["agent"]) == figures(said["rows"], ["agent"], "cost_computed") == own
    assert (said["total"]["cost_reported"], said["total"]["unpriced_share"]) == (None, 0.75)
    assert said["finality"]["open_runs"] == 1
    groups, total = as_csv(made, *dark)
    assert figures(groups, ["agent"]) == own
    assert (total["cost_effective"], total["cost_reported"], total["unpriced"]) == ("0.3", "", "3")
    sums = "sum(d.runs) AS runs, sum(d.unpriced) AS unpriced, sum(d.cost_effective) AS cost_effective"
    where = "WHERE ledger = 'settled' AND workspace = 'dark'"
    sql = f"SELECT agent_id AS agent, {sums} FROM cost_by_day AS d {where} GROUP BY agent"
    assert figures(made.rows(sql), ["agent"]) == own
    shown = made.agentrun("cost", *dark).out
    lines = {line.split()[0]: line.split() for line in shown.splitlines()[1:5]}
    assert "$0.30" in lines["both"]
    assert not [cell for name in ("none", "silent") for cell in lines[name] if "$" in cell]
    assert "1 open runs are not in it" in shown
    tags = report(made, "--by", "tag:team,agent", *dark)
    assert figures(tags["rows"], ["tag:team", "agent"]) == {
        ("search", "both"): (2, 1, CALL),
        (None, "none"): (1, 1, None),
        (None, "silent"): (1, 1, None),
    }
    assert tags["total"] == said["total"]


def test_moved_and_corrected_runs_and_the_period_before(made_up: Lane) -> None:
    """A run counts where it ended at last, with what it cost at last; beside it stands the same length of time before."""
    made, where = made_up, ("--tz", "Europe/Zurich", "-w", "default")
    months = report(made, "--by", "month,agent", *where)
    own = {
        ("2026-03", "a"): (1, 0, 2 * CALL),
        ("2026-03", "gone"): (1, 0, CALL),
        ("2026-04", "a"): (1, 0, CALL),
        ("2026-04", "dark"): (1, 1, None),
        ("2026-04", "new"): (1, 0, CALL),
    }
    assert figures(months["rows"], ["month", "agent"]) == own
    april = report(made, "--month", "2026-04", "--compare", *where)
    found = {row["agent"]: (row["runs"], row["previous_runs"], row["difference"]) for row in april["rows"]}
    assert found == {"a": (1, 1, "-0.3"), "gone": (0, 1, "-0.3"), "new": (1, 0, "0.3"), "dark": (1, 0, None)}
    assert {row["previous_effective"] for row in april["rows"]} == {"0.6", "0.3", None}
    assert (april["total"]["cost_effective"], april["total"]["previous_effective"]) == ("0.6", "0.9")
    assert april["total"]["difference"] == "-0.3"
    assert april["compared"]["since"] == "2026-03-01T00:00:00+01:00"
    same = report(made, "--since", "2026-04-01", "--until", "2026-05-02", "--compare", *where)
    assert same["compared"] == april["compared"] | {"since": "2026-03-01T00:00:00+01:00"}
    assert same["total"] == april["total"]
    made.assert_exact()


def test_an_empty_period_is_told(made_up: Lane) -> None:
    """It names the bounds, and runs that have not ended; nothing is printed that could be taken for a report."""
    found = made_up.agentrun("cost", "--month", "2026-02", "--tz", "Europe/Zurich")
    assert (found.code, found.out) == (2, "")
    assert "no runs between 2026-02-01T00:00+01:00 and 2026-03-01T00:00+01:00" in found.err
    found = made_up.agentrun("cost", "-w", "dark", "--agent", "agent-1")
    assert "no runs between the beginning and now. 1 have begun and not ended." in found.err
    assert report(made_up, "--until", "9000-01-01")["finality"]["state"] == "open"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--by", "agnt"), ("no dimension 'agnt'", "Did you mean agent?", "tag:KEY")),
        (("--by", "tag:"), ("no dimension 'tag:'",)),
        (("--tz", "Mars/Olympus"), ("no time zone 'Mars/Olympus'", "Europe/Zurich")),
        (("--month", "2026-13"), ("'2026-13' is no month", "2026-11")),
        (("--month", "2026-03", "--since", "1d"), ("A month has its own bounds",)),
        (("--since", "2026-03-02", "--until", "2026-03-01"), ("Give a --since that is before --until",)),
        (("--compare",), ("Add --since or --month",)),
        (("--compare", "--since", "1d", "--by", "day"), ("Leave day out of --by",)),
        (("--agent", "x", "unpriced"), ("--agent stands before unpriced",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and value[0].startswith("--") else "",
)
def test_wrong_words_are_told_with_the_next_step(
    agentrun_stack: Stack, words: tuple[str, ...], says: tuple[str, ...]
) -> None:
    """Exit code 2, before anything is asked of the store."""
    made = Lane(agentrun_stack, Path(), "cost_report_none", "cost_report_none.v1")
    found = made.agentrun("cost", *words)
    assert (found.code, found.out) == (2, "")
    assert all(text in found.err for text in says), found.err

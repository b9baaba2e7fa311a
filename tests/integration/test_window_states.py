"""How final a window is, on the real stack: open, provisional, final; what comes later shows; whatever dies meanwhile."""

import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream.testing.events import eval_event, patch_event, run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane, run_on, soon
from integration.past import appended_long_ago

pytestmark = pytest.mark.stack

LAXER = """
[defaults]
lateness_hours = 3
[workspaces.quick]
lateness_hours = 0
"""
STRICTER = """
[defaults]
lateness_hours = 0.5
[workspaces.slow]
lateness_hours = 48
"""


def rules(folder: Path, text: str) -> dict[str, str]:
    file = folder / "workspaces.toml"
    file.write_text(text)
    return {"AGENTRUN_SIGNALS__RULES": str(file)}


def ended(hours_ago: float) -> datetime:
    return (datetime.now(UTC) - timedelta(hours=hours_ago)).replace(second=30, microsecond=0)


def told(name: str, at: datetime, usd: float | None, workspace: str = "default", **members: Any) -> bytes:
    cost = {} if usd is None else {"cost_usd": usd}
    times = {"started_at": at.isoformat(), "ended_at": at.isoformat()}
    return run_event(name, cost=cost, envelope={"workspaceid": workspace}, **times, **members)


def states(made: Lane) -> dict[tuple[str, str], str]:
    """(workspace, minute) -> state."""
    rows = made.rows("SELECT workspace, formatDateTime(minute, '%H:%i') AS at, state FROM window_states_by_minute")
    return {(row["workspace"], row["at"]): row["state"] for row in rows}


def key(at: datetime, workspace: str = "default") -> tuple[str, str]:
    return workspace, at.strftime("%H:%M")


def late(made: Lane, at: datetime, view: str = "minute") -> tuple[int, int, Decimal | None, int]:
    """Runs, unpriced runs, amount and revision of what came late to a window."""
    start = at.replace(second=0) if view == "minute" else at.replace(minute=0, second=0, hour=0)
    row = made.one(
        f"SELECT late_runs, late_unpriced, toString(late_amount) AS amount, revision FROM window_states_by_{view} "
        f"WHERE workspace = 'default' AND {view} = toDateTime({int(start.timestamp())}, 'UTC')"
    )
    amount = None if row["amount"] is None else Decimal(row["amount"])
    return row["late_runs"], row["late_unpriced"], amount, row["revision"]


def watermark_ms(made: Lane) -> int:
    return int(made.one("SELECT ifNull(toUnixTimestamp64Milli(watermark), 0) AS ms FROM cost_watermark")["ms"])


def finality(made: Lane, *words: str) -> dict[str, Any]:
    said = made.agentrun("cost", *words, "-o", "json")
    assert said.code == 0, said
    found: dict[str, Any] = orjson.loads(said.out)["finality"]
    return found


def test_states_by_the_lateness_of_each_workspace(agentrun_stack: Stack, tmp_path: Path) -> None:
    """One minute of the past: final where the workspace waits for nothing, provisional elsewhere, open while it has not ended.

    The report says the same as SQL. Another file of rules, and the next owner of the partition puts it in force.
    """
    hour, future = ended(1), ended(-0.9)
    events = [told(f"{w}-{n}", at, 1, w) for w in ("quick", "slow") for n, at in enumerate((hour, future))]
    with lane(agentrun_stack, tmp_path, "windows_lateness", **rules(tmp_path, LAXER)) as made:
        made.start()
        made.produce(events)
        made.wait()
        expected = {
            key(hour, "quick"): "final",
            key(future, "quick"): "open",
            key(hour, "slow"): "provisional",
            key(future, "slow"): "open",
        }
        soon(lambda: states(made) == expected, 60, "the watermark")
        until = ("--until", (hour + timedelta(minutes=1)).isoformat())
        said = finality(made, *until)
        assert said["state"] == "provisional"
        assert "2026" < said["watermark"] <= made.one("SELECT watermark FROM cost_watermark")["watermark"]
        assert {row["workspace"]: (row["state"], row["lateness"]) for row in said["workspaces"]} == {
            "quick": ("final", 0),
            "slow": ("provisional", 3 * 3600),
        }
        assert finality(made, "-w", "quick", *until)["state"] == "final"
        assert finality(made, "-w", "quick")["state"] == "open"
        assert made.metric("watermark_timestamp_seconds", topic=made.topic) > 4 * 1.7e9  # all four partitions
        made.stop()
        rules(tmp_path, STRICTER)
        made.start()
        own = {"lateness": {"": 1800, "slow": 48 * 3600}, "lateness_general": 1800}
        rows = "SELECT lateness, lateness_general FROM cost_watermark"
        soon(lambda: made.one(rows) == own, 60, "the other rules")
        assert states(made)[key(hour, "quick")] == "final"
        assert states(made)[key(hour, "slow")] == "provisional"


def test_what_comes_later_shows_and_survives(agentrun_stack: Stack, tmp_path: Path) -> None:
    """What came in time is not late. What comes or changes later lands, and shows as late, with a revision that only grows.

    Nobody keeps that, it is read from what is stored: kill -9, all events once more and the sums of a refresher change nothing.
    An eval a day later is no change of what a run cost.
    """
    day = ended(30)
    own = {**rules(tmp_path, "[defaults]\nlateness_hours = 3\n"), "AGENTRUN_WORKER__INSTANCE_ID": "windows_late"}
    with lane(agentrun_stack, tmp_path, "windows_late", **own) as made:
        intime = [told(f"intime-{n}", day, 1) for n in range(4)]
        appended_long_ago(made, 29 * 3600, intime)
        made.start()
        made.wait()
        soon(lambda: states(made) == {key(day): "final"}, 60, "the watermark")
        assert late(made, day) == (0, 0, None, 0)
        made.produce([eval_event("intime-1")])
        made.wait()
        assert late(made, day) == (0, 0, None, 0)
        later = [told("late", day, 5), told("dark", day, None)]
        made.produce(later)
        made.wait()
        first = late(made, day)
        assert first[:3] == (2, 1, Decimal(5))
        moved = ended(40)
        now = {"time": datetime.now(UTC).isoformat()}
        changes = [
            patch_event("intime-0", cost={"cost_usd": 3}, envelope=now),
            patch_event("intime-2", ended_at=moved.isoformat(), envelope=now),
        ]
        made.produce(changes)
        made.wait()
        second = late(made, day)
        assert second[:3] == (3, 1, Decimal(8))
        assert second[3] > first[3] > 0
        assert late(made, moved)[:3] == (1, 0, Decimal(1))
        assert states(made) == {key(day): "final", key(moved): "final"}
        report = finality(made)
        assert (report["late_runs"], report["late_unpriced"], report["late_amount"]) == (4, 1, "9")
        made.kill()
        made.produce([*later, *changes, step_event("late", "s")])
        made.restart()
        made.wait()
        made.refresh_windows()
        third = late(made, day)
        assert third[:3] == second[:3]
        assert third[3] > second[3]  # the step is news
        made.assert_exact()
        assert states(made) == {key(day): "final", key(moved): "final"}


def test_a_partition_behind_holds_windows_open_and_an_idle_one_does_not(agentrun_stack: Stack, tmp_path: Path) -> None:
    """The watermark is that of the slowest partition; one that nothing is published on passes with the clock.

    While no worker runs it stands still; what stands in the store then is no less final for it.
    """
    day = ended(30)
    own = {"AGENTRUN_WORKER__INSTANCE_ID": "windows_behind"}
    with lane(agentrun_stack, tmp_path, "windows_behind", **own) as made:
        assert made.one("SELECT watermark FROM cost_watermark") == {"watermark": None}
        made.start()
        made.produce([told(run_on(2, "run"), day, 1)])
        made.wait()
        soon(lambda: states(made) == {key(day): "final"}, 60, "the watermark")
        made.kill()
        before = watermark_ms(made)
        # Its row can't be stored, so its partition stands still; the others go on.
        made.execute("ALTER TABLE runs ADD CONSTRAINT never CHECK git_branch IS NULL")
        made.produce([told(run_on(3, "stuck"), day, 1, git_branch="main")])
        assert watermark_ms(made) == before
        made.restart()
        soon(lambda: "partition stopped" in made.log(), 60, "a stopped partition")
        rows = "SELECT count() AS n FROM partition_watermarks FINAL WHERE passed_at > fromUnixTimestamp64Milli({})"
        now_ms = time.time_ns() // 1_000_000
        soon(lambda: made.one(rows.format(now_ms))["n"] == 3, 60, "the idle partitions")
        assert before <= watermark_ms(made) < now_ms
        assert states(made) == {key(day): "final"}


@pytest.mark.slow
def test_a_window_goes_from_open_to_final(agentrun_stack: Stack, tmp_path: Path) -> None:
    """The minute that is now, watched as time passes it: open, then provisional, then final, and never back."""
    own = rules(tmp_path, "[defaults]\nlateness_hours = 0.01\n")
    with lane(agentrun_stack, tmp_path, "windows_pass", **own) as made:
        made.start()
        now = datetime.now(UTC).replace(microsecond=0)
        made.produce([told("now", now, 1)])
        made.wait()
        seen: list[str] = []

        def final() -> bool:
            (state,) = states(made).values()
            if not seen or seen[-1] != state:
                seen.append(state)
            return state == "final"

        soon(final, 240, "the end of the window and its lateness")
        assert seen == ["open", "provisional", "final"]
        assert late(made, now) == (0, 0, None, 0)
        made.produce([told("late", now, 2)])
        made.wait()
        assert late(made, now)[:3] == (1, 0, Decimal(2))
        assert late(made, now, "day")[:3] == (1, 0, Decimal(2))

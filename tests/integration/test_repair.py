"""`agentrun audit --repair`: what is a function of the objects is made again, beside workers too; the rest is named."""

from pathlib import Path

import pytest

from agentrun_stream import topics
from agentrun_stream.testing.events import eval_event, run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, Sent, lane, last_published, run_on

pytestmark = pytest.mark.stack

COST = {"input_tokens": 5, "output_tokens": 7, "cost_usd": 0.25}


def runs(prefix: str, count: int) -> list[str]:
    return [run_on(n % 4, f"{prefix}-{n}") for n in range(count)]


def load(made: Lane, names: list[str]) -> None:
    made.produce(
        event for name in names for event in (step_event(name, "a"), eval_event(name), run_event(name, cost=COST))
    )
    made.wait()


def test_everything_made_of_objects_is_made_again(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Deleted, changed and forged rows, a stale, a forged and a foreign record, a wrong window: afterwards residual 0."""
    gone, changed, unsettled, stale, forged, elsewhere, still_open = names = runs("mended", 7)
    with lane(agentrun_stack, tmp_path, "mended") as made:
        made.start()
        load(made, names[:-1])
        made.produce([run_event(still_open, status="running")])
        made.wait()
        made.stop()
        made.refresh_windows()
        before = {name: last_published(agentrun_stack, f"default/{name}") for name in names}
        made.execute(f"ALTER TABLE runs DELETE WHERE run_id IN ('{gone}', '{still_open}')")
        made.execute(f"ALTER TABLE runs UPDATE cost_reported = 9, status = 'failed' WHERE run_id = '{changed}'")
        made.execute(f"ALTER TABLE settlements DELETE WHERE run_id = '{unsettled}'")
        made.execute(
            "INSERT INTO settlements SELECT * REPLACE (s.minute + INTERVAL 1 HOUR AS minute) "
            f"FROM settlements AS s WHERE s.run_id = '{elsewhere}'"
        )
        made.execute(
            "INSERT INTO runs SELECT * REPLACE ('nobody' AS run_id) FROM runs AS r FINAL "
            f"WHERE r.run_id = '{elsewhere}'"
        )
        made.execute("ALTER TABLE cost_windows UPDATE runs = runs + 1 WHERE ledger = 'settled' AND runs > 0")
        revision = str(made.run_row(forged)["revision"]).encode()
        for name, order, value in ((stale, b"1", b"{}"), (forged, revision, b'{"status":"failed"}')):
            headers = [("revision", order), ("projection", b"0")]
            made.produce([Sent(value, f"default/{name}".encode(), headers)], topics.RUNS)
        code, found = made.audit("--deep")
        assert code == 1
        assert {check for check, n in found["checks"].items() if n} == {
            *("projections", "settlements", "windows", "published"),
        }
        told = made.agentrun("audit", "--deep", "--repair")
        assert (told.code, "would be made again; do it with --yes" in told.out) == (1, True)
        assert made.audit("--deep")[1]["checks"] == found["checks"]  # a dry run
        told = made.agentrun("audit", "--deep", "--repair", "--yes")
        assert (told.code, "were made again" in told.out) == (0, True), told.out
        made.assert_exact("--deep")
        for name in (gone, changed, unsettled, stale, elsewhere):
            assert last_published(agentrun_stack, f"default/{name}") == before[name]
        last = last_published(agentrun_stack, f"default/{forged}")
        assert last is not None  # above what was forged, so that its readers drop that
        assert (last[0]["status"], last[1]["projection"]) == ("completed", b"1")
        made.start()
        made.produce([step_event(name, "late") for name in names])
        made.wait()
        made.assert_exact("--deep")


@pytest.mark.slow
def test_a_repair_beside_a_worker_keeps_its_newer_rows(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Rows are repaired under the version of their objects; nothing is published, and that is said."""
    names = runs("beside", 4)
    with lane(agentrun_stack, tmp_path, "beside") as made:
        made.start()
        load(made, names)
        ids = ", ".join(f"'{name}'" for name in names)
        made.execute(f"ALTER TABLE runs UPDATE status = 'failed' WHERE run_id IN ({ids})")
        made.execute(f"ALTER TABLE settlements UPDATE steps = 99 WHERE run_id IN ({ids})")
        made.produce([run_event(names[0], status="cancelled", cost=COST)])  # the worker itself is further along
        told = made.agentrun("audit", "--repair", "--yes")
        assert "nothing was published while the group beside has 1 members" in told.out
        assert told.code == 0, told.out
        made.wait()
        statuses = {row["id"]: row["status"] for row in made.rows("SELECT id, status FROM runs_latest")}
        assert statuses == {names[0]: "cancelled"} | dict.fromkeys(names[1:], "completed")
        made.assert_exact("--deep")


def test_what_objects_lack_is_left_to_a_replay(agentrun_stack: Stack, tmp_path: Path) -> None:
    """A run whose objects are wrong is not made of wrong objects; the output names the way out."""
    [broken, other] = runs("lacking", 2)
    with lane(agentrun_stack, tmp_path, "lacking") as made:
        made.start()
        load(made, [broken, other])
        made.stop()
        made.execute(f"ALTER TABLE run_objects DELETE WHERE run_id = '{broken}' AND kind = 'step'")
        made.execute("ALTER TABLE runs UPDATE steps = 5 WHERE 1")
        told = made.agentrun("audit", "--repair", "--yes")
        assert told.code == 1
        assert "1 of digests" in told.out
        assert "agentrun replay --into" in told.out
        assert (made.run_row(other)["steps"], made.run_row(broken)["steps"]) == (1, 5)

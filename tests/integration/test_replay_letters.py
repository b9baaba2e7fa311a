"""`agentrun dlq replay` on the real stack: once each, whatever is killed; and nothing that would undo what came later."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream import topics
from agentrun_stream.supervisor import local_environment
from agentrun_stream.testing.events import run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, Sent, lane, read_all, run_on, soon

pytestmark = pytest.mark.stack

UNDER_RULE = {"AGENTRUN_TENANCY": "topic", "AGENTRUN_WORKER__DLQ_STOP_RATIO": "1"}


def replay(made: Lane, *words: str) -> dict[str, Any]:
    """What a replay of this lane's own letters says; those of other lanes lie in the same topic."""
    told = made.agentrun("dlq", "replay", "-o", "json", "--reason", "workspace_mismatch", *places(made), *words)
    assert told.code == 0, told
    found: dict[str, Any] = orjson.loads(told.out)
    return found


def places(made: Lane) -> list[str]:
    said = [letter.said for letter in made.letters()]
    return [word for s in said for word in ("--place", f"{s['topic']}:{s['partition']}:{s['offset']}")]


def states(found: dict[str, Any]) -> dict[str, str]:
    return {f"{row['key']}:{row['attempt']}": row["state"] for row in found["records"]}


def sent_again(made: Lane) -> Counter[tuple[bytes, bytes]]:
    """How often each (value, attempt) stands on the lane's topic, of what a replay wrote."""
    records = asyncio.run(read_all(made.stack.kafka, made.topic))
    attempts = [(r.value, dict(r.headers).get("agentrun.dlq.attempt")) for r in records]
    return Counter((value, attempt) for value, attempt in attempts if attempt is not None)


def allowed(made: Lane) -> Lane:
    """The same lane once its topic is mapped: what was refused for that is an event now."""
    rule = {"AGENTRUN_WORKSPACES": orjson.dumps({made.topic: "acme"}).decode()}
    made.execute("TRUNCATE TABLE worker_settings")  # as `agentrun config apply` would put new ones in force
    return Lane(
        made.stack, made.folder.parent / f"{made.name}-allowed", made.name, made.topic, {**made.settings, **rule}
    )


def start_replay(made: Lane, log: Path, *words: str) -> "subprocess.Popen[bytes]":
    mine = local_environment(made.stack.kafka, made.stack.clickhouse, made.environment)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AGENTRUN_")}
    command = [sys.executable, "-m", "agentrun_stream.cli", "dlq", "replay", "--yes", *places(made), *words]
    return subprocess.Popen(command, env={**kept, **mine}, stdout=log.open("wb"), stderr=subprocess.STDOUT)


@pytest.mark.slow
def test_a_replay_killed_in_the_middle_and_begun_again_sends_each_once(agentrun_stack: Stack, tmp_path: Path) -> None:
    """kill -9 three times; no faster than told; a dry run first; the tables as if nothing had ever been refused."""
    steps = {f"killed-{n}": step_event(f"killed-{n}", "s") for n in range(80)}
    with lane(agentrun_stack, tmp_path, "replay_killed", **UNDER_RULE) as made:
        made.start()
        made.produce(steps.values())
        made.wait()
        made.stop()
        after = allowed(made)
        dry = replay(after)
        assert (dry["dry_run"], dry["chosen"], dry["acknowledged"]) == (True, 80, 0)
        assert sent_again(made) == {}
        for kill in range(3):
            child = start_replay(after, tmp_path / f"replay-{kill}.log", "--rate", "8")
            already = len(sent_again(made))
            soon(lambda: len(sent_again(made)) > already, what="progress")  # noqa: B023 - asked at once
            child.send_signal(signal.SIGKILL)
            child.wait()
        middle = len(sent_again(made))
        assert 3 <= middle < 80
        began = time.monotonic()
        last = replay(after, "--yes", "--rate", "20")
        committed = sum(sent_again(made).values())
        assert (last["acknowledged"], committed) == (80 - middle, 80)
        assert time.monotonic() - began >= (80 - middle) / 20 - 1
        assert set(sent_again(made)) == {(value, b"2") for value in steps.values()}
        assert replay(after, "--yes")["chosen"] == 0
        after.start()
        after.wait()
        assert after.one("SELECT count() AS n, uniqExact(run_id) AS runs FROM steps_latest") == {"n": 80, "runs": 80}
        receipts = [r.key.decode() for r in asyncio.run(read_all(made.stack.kafka, topics.REPLAYS))]
        assert sum(key.startswith(made.topic) for key in receipts) == 80
        after.stop()


def test_what_would_undo_something_newer_is_listed_and_left(agentrun_stack: Stack, tmp_path: Path) -> None:
    """A step that was told again since, by a later event; a run that went on; one that nobody told of is sent."""
    newer, late, alone = (run_on(0, f"newer-{n}") for n in ("again", "time", "alone"))
    old = [step_event(newer, "s", success=False), run_event(late, outcome="failed"), step_event(alone, "s")]
    with lane(agentrun_stack, tmp_path, "replay_newer", **UNDER_RULE) as made:
        made.start()
        made.produce(old)
        made.wait()
        made.stop()
        after = allowed(made)
        after.start()
        after.produce([step_event(newer, "s", success=True), run_event(late, outcome="success")])
        after.wait()
        wanted = {f"{newer}:1": "newer", f"{late}:1": "newer", f"{alone}:1": "waiting"}
        assert states(replay(after)) == wanted
        text = after.agentrun("dlq", "replay", *places(after)).out
        assert "1 records would be published again" in text
        assert "newer" in text
        assert replay(after, "--yes")["acknowledged"] == 1
        after.wait()
        assert after.run_row(late)["outcome"] == "success"
        assert after.one(f"SELECT success FROM steps_latest WHERE run_id = '{newer}'")["success"] is True
        assert after.one(f"SELECT count() AS n FROM steps_latest WHERE run_id = '{alone}'")["n"] == 1
        after.stop()


def test_what_is_refused_again_and_again_is_parked(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Each replay counts the attempt; at the last one it stays, listed as parked; `--since` looks at the letter's time."""
    name = run_on(2, "parked")
    with lane(agentrun_stack, tmp_path, "replay_parked", **UNDER_RULE) as made:
        made.start()
        made.produce([Sent(step_event(name), name.encode())])
        made.wait()
        for attempt in (1, 2):
            found = replay(made, "--yes", "--attempts-max", "3")
            assert states(found) == {f"{name}:{attempt}": "waiting"}
            made.wait()
        assert states(replay(made, "--yes", "--attempts-max", "3")) == {f"{name}:3": "parked"}
        assert [letter.said["attempt"] for letter in made.letters()] == ["1", "2", "3"]
        assert len({letter.said["first_seen"] for letter in made.letters()}) == 1
        assert replay(made, "--since", "1h")["chosen"] == 1
        assert replay(made, "--since", "2020-01-01")["chosen"] == 1
        assert replay(made, "--since", "2100-01-01")["chosen"] == 0
        listed = made.agentrun("dlq", "list", "-o", "json", "--limit", "100000")
        mine = {row["attempt"]: row["state"] for row in orjson.loads(listed.out) if row["key"] == name}
        assert mine == {1: "replayed", 2: "replayed", 3: "waiting"}
        assert sum(sent_again(made).values()) == 2
        made.assert_exact()

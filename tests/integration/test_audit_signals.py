"""The audit holds closed runs against the log, and the failure signal against the closed runs; broken by hand, each is named."""

from collections.abc import Iterator

import pytest

from agentrun_stream.testing.events import run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane, soon

pytestmark = pytest.mark.stack

RUNS = 40
AGENTS = ("steady", "moving")
COLUMNS = (
    "workspace, agent_id, run_id, git_commit, config_hash, status, appended_at, topic, partition, offset, _version"
)
ROW = f"INSERT INTO closings ({COLUMNS}) SELECT {COLUMNS} FROM closings FINAL WHERE run_id = 'r3'"
NOBODY = ROW.replace("SELECT workspace, agent_id, run_id", "SELECT workspace, agent_id, 'nobody'")
SIGNAL = "WHERE signal = 'failures' AND agent_id = 'steady'"
FORGED_SIGNAL = (
    """INSERT INTO signals (workspace, agent_id, signal, value, level, state, refreshed_at, _version)
    SELECT workspace, 'forged', signal, value, level, state, refreshed_at, _version FROM signals FINAL """
    + SIGNAL
)
# What is done to a table, and of which checks the audit then finds how many differences.
BROKEN = {
    "a run is missing": ("closings", "ALTER TABLE closings DELETE WHERE run_id = 'r3'", {"closings", "signals"}),
    "another status": (
        "closings",
        "ALTER TABLE closings UPDATE status = 'failed' WHERE run_id = 'r3' AND status != ''",
        {"closings", "signals"},
    ),
    "another place": ("closings", "ALTER TABLE closings UPDATE offset = offset + 1 WHERE run_id = 'r3'", {"closings"}),
    "a run that never was": ("closings", NOBODY, {"closings", "signals"}),
    "open again, closed by hand": (
        "closings",
        "ALTER TABLE closings UPDATE status = 'failed' WHERE run_id = 'open'",
        {"closings", "signals"},
    ),
    "another e-value": ("signals", f"ALTER TABLE signals UPDATE value = value * 2 {SIGNAL}", {"signals"}),
    "other evidence": (
        "signals",
        f"ALTER TABLE signals UPDATE state = replaceOne(state, '\"stretch\":0', '\"stretch\":1') {SIGNAL}",
        {"signals"},
    ),
    "no evidence": ("signals", f"ALTER TABLE signals UPDATE state = 'forged' {SIGNAL}", {"signals"}),
    "an agent is not judged": ("signals", f"ALTER TABLE signals DELETE {SIGNAL}", {"signals"}),
    "an agent that never was": ("signals", FORGED_SIGNAL, {"signals"}),
}


@pytest.fixture(scope="module")
def watched(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    """Closed runs of two agents: some corrected, moved to the other agent, open again; all of them judged."""
    with lane(
        agentrun_stack, tmp_path_factory.mktemp("watched"), "audit_signals", AGENTRUN_SIGNALS__EVERY_S="0.1"
    ) as made:
        made.start()
        events = [
            run_event(f"r{n}", agent_id=AGENTS[n % 2], status="failed" if n % 5 == 0 else "completed", git_commit="c1")
            for n in range(RUNS)
        ]
        made.produce([*events, run_event("open", status="cancelled"), run_event("alive", status="running")])
        made.wait()
        made.produce(
            [
                run_event("r1", agent_id="steady", status="failed", provenance={"config_hash": "h"}),
                *(step_event(f"r{n}", "late") for n in range(0, RUNS, 7)),
            ]
        )
        made.wait()
        counted = "SELECT count() AS n FROM closings FINAL WHERE status != ''"
        noted = """SELECT (SELECT max(refreshed_at) FROM signal_progress) >
            (SELECT max(refreshed_at) FROM signals WHERE signal = 'failures') AS done"""
        soon(lambda: made.one(counted)["n"] == RUNS + 1 and made.one(noted)["done"], 60, what="the passes")
        made.assert_exact()
        yield made


def test_it_is_quiet_while_passes_go_on(watched: Lane) -> None:
    """Runs close while it looks: what no pass took in yet is no difference."""
    for n in range(4):
        watched.produce(run_event(f"later{n}-{i}", agent_id="steady") for i in range(20))
        watched.assert_exact()
    watched.wait()
    watched.assert_exact("--deep")


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_by_hand_is_named(watched: Lane, what: str) -> None:
    """And nothing else is found."""
    table, change, checks = BROKEN[what]
    watched.stop()
    with watched.kept(table):
        watched.execute(change)
        code, found = watched.audit()
        assert code == 1
        assert {one["check"] for one in found["differences"]} == checks
        assert {one["table"] for one in found["differences"]} == checks


def test_what_is_mended_is_no_longer_found(watched: Lane) -> None:
    """The tables are again as they were."""
    watched.assert_exact("--deep")

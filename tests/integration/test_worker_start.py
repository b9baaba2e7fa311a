"""A worker that can't start, or not safely: one paragraph with the next step, an exit code, no traceback, nothing lost."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from agentrun_stream import topics
from agentrun_stream.childproc import free_port
from agentrun_stream.store.client import StoreAddress
from agentrun_stream.store.embedded import EmbeddedStore
from agentrun_stream.store.migrate import migrate
from agentrun_stream.supervisor import local_environment
from agentrun_stream.testing.events import run_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane, soon, with_admin

pytestmark = pytest.mark.stack

PASSWORD = "canary-of-a-password"


@pytest.fixture
def made(agentrun_stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lane]:
    name = "start_" + "".join(c if c.isalnum() else "_" for c in request.node.name.removeprefix("test_"))[:40]
    with lane(agentrun_stack, tmp_path, name) as made:
        yield made


def work(made: Lane, *words: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """`agentrun work` as a process of its own, until it gives up."""
    mine = {**local_environment(made.stack.kafka, made.stack.clickhouse, made.environment), **settings}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AGENTRUN_")}
    command = [sys.executable, "-m", "agentrun_stream.cli", "work", *words]
    return subprocess.run(command, env={**kept, **mine}, capture_output=True, text=True, check=False, timeout=60)


def assert_said(told: "subprocess.CompletedProcess[str]", code: int, *words: str) -> None:
    """The exit code, and one paragraph on stderr that holds these words."""
    assert told.returncode == code, (told.stdout, told.stderr)
    lines = [line for line in told.stderr.splitlines() if line.startswith("agentrun: ")]
    assert len(lines) == 1, told.stderr
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in told.stderr
    assert PASSWORD not in told.stderr


def test_a_topic_with_the_producers_clock_is_refused(made: Lane) -> None:
    """Append time judges keys and leases, so it must be the broker's own."""

    async def alter(client: AIOKafkaAdminClient) -> None:
        config = {"message.timestamp.type": "CreateTime"}
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, made.topic, config)])

    asyncio.run(with_admin(made.stack.kafka, alter))
    assert_said(work(made), 3, made.topic, "message.timestamp.type=CreateTime", "agentrun topics apply")
    assert made.agentrun("topics", "apply").code == 0
    made.start()


def test_a_missing_topic_is_named(made: Lane) -> None:
    told = work(made, AGENTRUN_EVENTS_TOPICS='["not.there.v1"]')
    assert_said(told, 3, "not.there.v1 does not exist", "agentrun topics apply")


def test_tables_of_a_newer_version_are_left_alone(made: Lane) -> None:
    """A worker that does not know the tables does not write to them."""
    made.execute("INSERT INTO migrations (number, name, digest) VALUES (9999, '9999_later.sql', 'x')")
    made.produce([run_event("for-later")])
    assert_said(work(made), 3, "version 9999", "newer than this package knows", "Install")
    assert_said(work(made, "--init"), 3, "version 9999")
    made.execute("ALTER TABLE migrations DELETE WHERE number = 9999")
    made.start()
    made.wait()
    assert made.run_row("for-later")["status"] == "completed"


def test_a_changed_migration_is_named(made: Lane) -> None:
    made.execute("ALTER TABLE migrations UPDATE digest = 'other' WHERE number = 1")
    assert_said(work(made), 3, "0001_tables.sql", "another content")


def test_missing_tables_are_made_only_when_asked(made: Lane) -> None:
    """`--init` makes topics and tables, those of the worker's own settings."""
    fresh = {"AGENTRUN_CLICKHOUSE__DATABASE": "start_fresh", "AGENTRUN_EVENTS_TOPICS": '["start.fresh.v1"]'}
    assert_said(work(made, **fresh), 3, "agentrun migrate")
    other = Lane(made.stack, made.folder / "fresh", "start_fresh", "start.fresh.v1", fresh)
    process = subprocess.Popen(
        [sys.executable, "-m", "agentrun_stream.cli", "work", "--init"],
        env={**os.environ, **local_environment(made.stack.kafka, made.stack.clickhouse, other.environment)},
        stderr=subprocess.DEVNULL,
    )
    try:
        soon(lambda: other.agentrun("topics", "show").out.count(" ok ") == len(topics.TOPICS), what="topics")
        other.produce([run_event("fresh")])
        other.wait()
        assert other.run_row("fresh")["status"] == "completed"
    finally:
        process.terminate()
    assert process.wait(30) == 0


def test_a_missing_broker_is_said_so(made: Lane) -> None:
    address = f"127.0.0.1:{free_port()}"
    told = work(made, AGENTRUN_KAFKA__BOOTSTRAP=address, AGENTRUN_KAFKA__REQUEST_TIMEOUT_MS="2000")
    assert_said(told, 4, address, "AGENTRUN_KAFKA__BOOTSTRAP", "agentrun doctor")


def test_a_missing_store_is_said_so(made: Lane) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert_said(work(made, AGENTRUN_CLICKHOUSE__URL=url), 4, url, "agentrun doctor")


@pytest.mark.parametrize("command", ["work", "audit"])
def test_a_wrong_password_is_said_so(made: Lane, tmp_path: Path, command: str) -> None:
    """And not repeated."""
    file = tmp_path / "password"
    file.write_text("the right one")
    file.chmod(0o600)
    with EmbeddedStore(tmp_path / "store", user="someone", password_file=file) as store:
        right = {"AGENTRUN_CLICKHOUSE__URL": store.url, "AGENTRUN_CLICKHOUSE__USER": "someone"}
        migrate(StoreAddress(store.url, made.name, "someone", "the right one"))
        wrong = {**right, "AGENTRUN_CLICKHOUSE__PASSWORD": PASSWORD}
        if command == "work":
            told = work(made, **wrong)
        else:
            mine = local_environment(made.stack.kafka, made.stack.clickhouse, {**made.environment, **wrong})
            said = [sys.executable, "-m", "agentrun_stream.cli", "audit"]
            told = subprocess.run(said, env={**os.environ, **mine}, capture_output=True, text=True, check=False)
        assert_said(told, 3, "refuses the login", "AGENTRUN_CLICKHOUSE__PASSWORD")


def test_a_busy_metrics_port_is_named(made: Lane) -> None:
    made.start()
    assert made.workers is not None
    port = made.workers.urls[0].rpartition(":")[2]
    assert_said(work(made, "--metrics-port", port), 3, port, "AGENTRUN_WORKER__METRICS_PORT")


def test_no_stack_at_all_is_said_so(made: Lane, tmp_path: Path) -> None:
    settings = {"AGENTRUN_KAFKA__BOOTSTRAP": "", "AGENTRUN_CLICKHOUSE__URL": "", "AGENTRUN_DATA": str(tmp_path)}
    assert_said(work(made, **settings), 4, "no local stack runs", "agentrun up")

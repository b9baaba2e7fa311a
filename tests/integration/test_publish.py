"""`publish` through the real broker: what arrives, in which order, what is acknowledged, what is a bad line."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentrun_stream import topics
from agentrun_stream.broker import admin
from agentrun_stream.broker.bulk import BulkProducer
from agentrun_stream.broker.kafka import KafkaAddress, partition_of
from agentrun_stream.broker.scan import Span, read_partition, read_topic
from agentrun_stream.cli.app import app
from agentrun_stream.errors import ConfigError, LostOffsetError
from agentrun_stream.ports import Part, Record
from agentrun_stream.testing.events import run_event, step_event
from agentrun_stream.testing.stack import Stack
from agentrun_stream.topics import Topic

pytestmark = pytest.mark.stack


@pytest.fixture
def topic(agentrun_stack: Stack, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A topic of the test's own, which no worker reads."""
    name = f"test.{request.node.name}".replace("[", ".").replace("]", "")[:200]
    row = topics.BY_NAME[topics.EVENTS]
    monkeypatch.setattr(topics, "TOPICS", (*topics.TOPICS, Topic(name, "run id", "a test's", 4, row.config)))
    asyncio.run(admin.apply_topics(KafkaAddress(agentrun_stack.kafka)))
    return name


def publish(stack: Stack, *words: str, stdin: bytes | None = None) -> tuple[int, dict[str, Any], str]:
    done = CliRunner().invoke(app, ["publish", *words, "-o", "json"], env=stack.environment, input=stdin)
    return done.exit_code, json.loads(done.stdout) if done.stdout.startswith("{") else {}, done.stderr


def on_topic(stack: Stack, topic: str) -> list[tuple[Part, Record]]:
    async def read() -> list[tuple[Part, Record]]:
        return [(p, r) async for p, records in read_topic(KafkaAddress(stack.kafka), topic) for r in records]

    return asyncio.run(read())


def test_lines_arrive_as_they_stand_on_the_partition_of_their_run(
    agentrun_stack: Stack, topic: str, tmp_path: Path
) -> None:
    """Key is the run id, partition is murmur2's, order of a run is the order of the file."""
    lines = [step_event(f"run-{i % 7}", f"s{i}") for i in range(500)]
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n\n".join(lines) + b"\n")
    code, said, _ = publish(agentrun_stack, str(file), "--topic", topic)
    assert (code, said["acknowledged"], said["bad"]) == (0, 500, 0)
    found = on_topic(agentrun_stack, topic)
    assert sorted(r.value or b"" for _, r in found) == sorted(lines)
    for part, record in found:
        assert record.key is not None
        assert part.partition == partition_of(record.key, 4)
    for run in range(7):
        mine = [r.value for _, r in found if r.key == f"run-{run}".encode()]
        assert mine == [line for i, line in enumerate(lines) if i % 7 == run]


def test_a_bad_line_is_told_with_its_place_and_the_rest_goes_on(
    agentrun_stack: Stack, topic: str, tmp_path: Path
) -> None:
    file = tmp_path / "mixed.jsonl"
    file.write_bytes(b'{"broken\n' + run_event("good-1") + b"\n[]\n\n" + run_event("good-2") + b'\n{"id":"s"}')
    code, said, told = publish(agentrun_stack, str(file), "--topic", topic)
    assert code == 1
    assert (said["lines"], said["acknowledged"], said["bad"]) == (5, 2, 3)
    assert [(b["file"], b["line"]) for b in said["bad_lines"]] == [(str(file), n) for n in (1, 3, 6)]
    for number in (1, 3, 6):
        assert f"{file}:{number}: " in told
    assert "Traceback" not in told


def test_what_is_invalid_is_still_sent_for_the_pipeline_to_judge(
    agentrun_stack: Stack, topic: str, tmp_path: Path
) -> None:
    file = tmp_path / "invalid.jsonl"
    file.write_bytes(run_event("r", status="done") + b"\n" + b'{"id":"bare","agent_id":"a","status":7}')
    assert publish(agentrun_stack, str(file), "--topic", topic)[:2][1]["acknowledged"] == 2


def test_stdin_and_quoted_patterns_are_read(agentrun_stack: Stack, topic: str, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.events.jsonl").write_bytes(run_event("a"))
    (tmp_path / "b.events.jsonl").write_bytes(run_event("b") + b"\n")
    code, said, _ = publish(agentrun_stack, str(tmp_path / "**" / "*.events.jsonl"), "--topic", topic)
    assert (code, said["acknowledged"]) == (0, 2)
    code, said, _ = publish(agentrun_stack, "-", "--topic", topic, stdin=run_event("c") + b"\nnonsense\n")
    assert (code, said["acknowledged"], said["bad_lines"][0]["file"]) == (1, 1, "stdin")
    assert {r.key for _, r in on_topic(agentrun_stack, topic)} == {b"a", b"b", b"c"}


def test_a_quiet_pipe_does_not_hold_back_what_it_said(agentrun_stack: Stack, topic: str) -> None:
    """A line is on the log while its writer still holds the pipe open; Ctrl-C then is 130."""
    command = [sys.executable, "-m", "agentrun_stream.cli", "publish", "-", "--topic", topic]
    env = {**agentrun_stack.environment, "PATH": "/usr/bin:/bin"}
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
    assert child.stdin is not None
    try:
        child.stdin.write(run_event("piped") + b"\n")
        child.stdin.flush()
        deadline = time.monotonic() + 20
        while not on_topic(agentrun_stack, topic):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        child.send_signal(2)
        assert child.wait(20) == 130
    finally:
        child.kill()
        child.stdin.close()


def test_a_rate_is_kept(agentrun_stack: Stack, topic: str, tmp_path: Path) -> None:
    file = tmp_path / "slow.jsonl"
    file.write_bytes(b"\n".join(run_event(f"r{i}") for i in range(60)))
    _, said, _ = publish(agentrun_stack, str(file), "--topic", topic, "--rate", "60")
    assert said["acknowledged"] == 60
    assert 0.9 <= said["seconds"] <= 3


def test_a_topic_that_is_not_there_is_told(agentrun_stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_bytes(run_event())
    code, _, told = publish(agentrun_stack, str(file), "--topic", "no.such.topic")
    assert code == ConfigError.exit_code
    assert "no.such.topic" in told


def test_a_large_record_and_a_small_one_both_arrive(agentrun_stack: Stack, topic: str) -> None:
    """A batch that is full is sent, and an empty one takes any record up to the topic's limit."""

    async def send() -> int:
        async with BulkProducer(KafkaAddress(agentrun_stack.kafka), topic) as producer:
            for size in (10, 700_000, 10, 2_000_000, 10):
                await producer.send(b"k", b"x" * size)
            await producer.send(None, b"keyless")
        return producer.acknowledged

    assert asyncio.run(send()) == 6
    sizes = [len(r.value or b"") for _, r in on_topic(agentrun_stack, topic) if r.key == b"k"]
    assert sizes == [10, 700_000, 10, 2_000_000, 10]


def test_a_bounded_read_ends_by_position_also_behind_control_records(agentrun_stack: Stack) -> None:
    """Each closed run's record is in a transaction, so control records stand at the end of the topic."""
    agentrun_stack.publish([run_event(f"control-{i}") for i in range(20)])
    agentrun_stack.wait()
    address = KafkaAddress(agentrun_stack.kafka)
    keys = {r.key for _, r in on_topic(agentrun_stack, topics.RUNS)}
    assert {f"default/control-{i}".encode() for i in range(20)} <= keys

    async def span(start: int, end: int) -> Sequence[int]:
        part = Part(topics.EVENTS, 0)
        return [r.offset async for records in read_partition(address, part, Span(start, end)) for r in records]

    assert asyncio.run(span(1, 3)) == [1, 2]
    assert asyncio.run(span(2, 2)) == []


def test_a_read_of_what_is_not_there_is_an_error(agentrun_stack: Stack, topic: str) -> None:
    address = KafkaAddress(agentrun_stack.kafka)

    async def read(part: Part, span: Span) -> None:
        async for _ in read_partition(address, part, span):
            pass

    with pytest.raises(ConfigError):
        asyncio.run(read(Part("no.such.topic", 0), Span()))
    with pytest.raises(ConfigError):
        asyncio.run(read(Part(topic, 99), Span()))
    assert LostOffsetError.exit_code == 5

"""What `publish` makes of lines and file names, without a broker."""

import json
from pathlib import Path

import pytest

from agentrun_stream.cli import publish
from agentrun_stream.cli.publish import expand, key_of
from agentrun_stream.errors import UsageError
from agentrun_stream.testing.events import OMIT, cloud_event, eval_event, run_event, step_event


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (run_event("r-1"), b"r-1"),
        (step_event("r-2"), b"r-2"),
        (eval_event("r-3"), b"r-3"),
        (b'{"id":"bare","agent_id":"a","status":"running"}', b"bare"),
        (b'{"specversion":"1.0","type":"agentrun.run.v1","data":{"id":"inside"}}', b"inside"),
        (b'{"specversion":"1.0","type":"agentrun.run.v1","subject":"outer","data":{"id":"inside"}}', b"outer"),
        ('{"specversion":"1.0","subject":"läuft-日本"}'.encode(), "läuft-日本".encode()),
    ],
)
def test_the_key_is_the_run_id(line: bytes, key: bytes) -> None:
    """Events of a run are on one partition, whatever form they have; a wrong one is the pipeline's to refuse."""
    assert key_of(line) == key


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b"[1]", "not an object"),
        (b'"text"', "not an object"),
        (b"{}", "no run id"),
        (b'{"id":"s1","type":"message"}', "no run id"),
        (b'{"id":7,"agent_id":"a"}', "no run id"),
        (b'{"id":"","agent_id":"a"}', "no run id"),
        (b'{"specversion":"1.0","type":"agentrun.step.v1","data":{"id":"s1"}}', "no run id"),
        (b'{"specversion":"1.0","subject":7}', "no run id"),
        (b'{"id":"r","agent_id":"' + b"x" * publish.LINE_BYTES_MAX + b'"}', "larger"),
    ],
)
def test_a_bad_line_says_why_and_no_value(line: bytes, why: str) -> None:
    """The reason is told; what stood there is not repeated."""
    found = key_of(line)
    assert isinstance(found, str)
    assert why in found
    assert "agent" not in found.replace("agentrun", "")


def test_an_event_without_subject_and_data_is_a_bad_line() -> None:
    line = cloud_event("step", "r", "x", {"id": "s"}, {"subject": OMIT})
    assert isinstance(key_of(line), str)


def test_names_and_quoted_patterns_are_expanded_each_file_once(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    for path in (tmp_path / "one.jsonl", deep / "two.jsonl", deep / "other.txt"):
        path.write_text(json.dumps({}))
    names = expand([str(tmp_path / "one.jsonl"), str(tmp_path / "**" / "*.jsonl"), "-"])
    assert names == [str(tmp_path / "one.jsonl"), str(deep / "two.jsonl"), "-"]


def test_a_name_with_brackets_is_a_file_first(tmp_path: Path) -> None:
    odd = tmp_path / "runs[1].jsonl"
    odd.write_text("{}")
    assert expand([str(odd)]) == [str(odd)]


@pytest.mark.parametrize("name", ["no-such.jsonl", "**/no-such-*.jsonl", "."])
def test_a_name_that_is_no_file_is_refused_before_anything_is_sent(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing was published"):
        expand([str(tmp_path / name)])

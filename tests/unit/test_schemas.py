"""The rules of the five schemas and of what is derived from them; recorded runs as proof that real data passes."""

import json
import os
import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agentrun_stream import limits
from agentrun_stream.codec import schemas
from agentrun_stream.codec.schemas import KINDS, Kind, Rejection, explain, is_valid
from agentrun_stream.errors import ConfigError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
MINIMAL_RUN: dict[str, Any] = {
    "id": "r-1",
    "agent_id": "a-1",
    "status": "completed",
    "started_at": "2026-01-01T00:00:00Z",
    "steps": [],
    "cost": {},
    "provenance": {},
}
MINIMAL: dict[Kind, dict[str, Any]] = {
    "run": MINIMAL_RUN,
    "step": {"id": "s-1", "type": "message"},
    "eval": {"pass": True, "score": 0},
    "patch": {"id": "r-1"},
    "lease": {"idle_timeout": 1800, "max_age": 86400.5},
    "expire": {"horizon": 0},
}
ENUMS: dict[tuple[Kind, str], str] = {
    ("run", "status"): "pending running completed failed cancelled timeout",
    ("run", "outcome"): "success failed partial abandoned",
    ("run", "trigger"): "manual cron webhook agent pipeline queue",
    ("step", "type"): "reasoning tool_call tool_result message error handoff",
}


def refused(kind: Kind, obj: object) -> Rejection:
    """Return the rejection, having seen that both validators refuse."""
    assert not is_valid(kind, obj)
    rejection = explain(kind, obj)
    assert rejection is not None
    return rejection


def accepted(kind: Kind, obj: object) -> bool:
    """Say whether both validators accept."""
    valid = is_valid(kind, obj)
    assert (explain(kind, obj) is None) == valid
    return valid


@pytest.mark.parametrize("kind", KINDS)
def test_required_members_alone_are_enough_and_none_can_be_missing(kind: Kind) -> None:
    assert accepted(kind, MINIMAL[kind])
    for member in MINIMAL[kind]:
        rest = {k: v for k, v in MINIMAL[kind].items() if k != member}
        assert refused(kind, rest) == Rejection(f"/{member}", "required")


def test_the_quick_start_run_is_valid() -> None:
    cost = {"input_tokens": 10, "output_tokens": 2, "cost_usd": 0.01}
    assert accepted("run", MINIMAL_RUN | {"cost": cost, "provenance": {"run_hash": "..."}})


@pytest.mark.parametrize("kind", ["run", "step", "eval"])
def test_optional_members_may_be_null_and_required_ones_may_not(kind: Kind) -> None:
    for member in schemas.kind_schema(kind)["properties"]:
        obj = MINIMAL[kind] | {member: None}
        assert accepted(kind, obj) == (member not in MINIMAL[kind]), member


@pytest.mark.parametrize("part", ["cost", "provenance"])
def test_members_of_cost_and_provenance_may_be_null(part: str) -> None:
    names = schemas.load_schemas()[f"{part}.json"]["properties"]
    assert accepted("run", MINIMAL_RUN | {part: dict.fromkeys(names)})


@pytest.mark.parametrize(("kind", "member"), ENUMS)
def test_enums_hold_the_words_of_the_protocol_and_no_others(kind: Kind, member: str) -> None:
    words = ENUMS[kind, member].split()
    assert [w for w in schemas.kind_schema(kind)["properties"][member]["enum"] if w is not None] == words
    assert all(accepted(kind, MINIMAL[kind] | {member: word}) for word in words)
    assert refused(kind, MINIMAL[kind] | {member: "Completed"}) == Rejection(f"/{member}", "enum")


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_members_are_never_refused(kind: Kind) -> None:
    assert accepted(kind, MINIMAL[kind] | {"x-new": {"deep": [1, None]}, "": 1})


def test_unknown_members_are_kept_in_embedded_objects() -> None:
    step = {"type": "message", "x": 1}
    cost, provenance, judgement = {"x": 1}, {"x": 1}, {"pass": True, "score": 1, "x": 1}
    run = MINIMAL_RUN | {"steps": [step], "cost": cost, "provenance": provenance, "eval": judgement}
    assert accepted("run", run)


@pytest.mark.parametrize("count", [0, 1, 10**12, 5.0])
def test_counts_are_whole_numbers_in_any_spelling(count: float) -> None:
    assert accepted("run", MINIMAL_RUN | {"cost": {"input_tokens": count}, "duration_ms": count})


@pytest.mark.parametrize(
    ("count", "keyword"), [(-1, "minimum"), (10**12 + 1, "maximum"), (1.5, "type"), ("1", "type"), (True, "type")]
)
def test_counts_out_of_bounds_or_of_another_type_are_refused(count: object, keyword: str) -> None:
    run = MINIMAL_RUN | {"cost": {"cache_read_tokens": count}}
    assert refused("run", run) == Rejection("/cost/cache_read_tokens", keyword)
    step = MINIMAL["step"] | {"duration_ms": count}
    assert refused("step", step) == Rejection("/duration_ms", keyword)


@pytest.mark.parametrize("usd", [0, 0.000001, 12.3456789012, 1e-12, 10**12, Decimal("0.1234567890123456789")])
def test_money_is_any_decimal_from_zero(usd: object) -> None:
    assert accepted("run", MINIMAL_RUN | {"cost": {"cost_usd": usd}})


@pytest.mark.parametrize(("usd", "keyword"), [(-0.01, "minimum"), (1e13, "maximum"), ("0.1", "type"), (False, "type")])
def test_money_that_no_store_could_hold_is_refused(usd: object, keyword: str) -> None:
    assert refused("run", MINIMAL_RUN | {"cost": {"cost_usd": usd}}) == Rejection("/cost/cost_usd", keyword)


@pytest.mark.parametrize(("score", "valid"), [(0, True), (100, True), (66.6, True), (-1, False), (100.1, False)])
def test_a_score_is_from_0_to_100(score: float, *, valid: bool) -> None:
    assert accepted("eval", {"pass": False, "score": score}) == valid


@pytest.mark.parametrize(
    "time",
    [
        "2026-01-01T00:00:00Z",
        "2026-12-31T23:59:59.9Z",
        "2026-02-28T12:00:00.123456789+05:30",
        "2026-01-01T00:00:00-00:00",
        "2026-01-01T00:00:00+23:59",
    ],
)
def test_times_are_rfc_3339_with_an_offset(time: str) -> None:
    assert accepted("run", MINIMAL_RUN | {"started_at": time, "ended_at": time})


@pytest.mark.parametrize(
    "time",
    [
        "2026-01-01T00:00:00",
        "2026-01-01 00:00:00Z",
        "2026-01-01T00:00:00z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-01-32T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:60Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00.1234567890Z",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00+01:60",
        "2026-01-01T00:00:00+0100",
        "26-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z\n",
        " 2026-01-01T00:00:00Z",
        "٢٠٢٦-01-01T00:00:00Z",
        "",
    ],
)
def test_any_other_spelling_of_a_time_is_refused(time: str) -> None:
    assert refused("run", MINIMAL_RUN | {"started_at": time}) == Rejection("/started_at", "pattern")
    assert refused("step", MINIMAL["step"] | {"ended_at": time}) == Rejection("/ended_at", "pattern")


@pytest.mark.parametrize("member", ["id", "agent_id", "parent_run_id"])
def test_identities_are_not_empty_and_bounded(member: str) -> None:
    assert accepted("run", MINIMAL_RUN | {member: "é" * 512})
    assert refused("run", MINIMAL_RUN | {member: ""}) == Rejection(f"/{member}", "minLength")
    assert refused("run", MINIMAL_RUN | {member: "x" * 513}) == Rejection(f"/{member}", "maxLength")


@pytest.mark.parametrize(("value", "valid"), [("acme", True), (7, True), (10**30, True), (1.5, False), ([], False)])
def test_a_workspace_id_is_text_or_a_whole_number(value: object, *, valid: bool) -> None:
    assert accepted("run", MINIMAL_RUN | {"workspace_id": value}) == valid


def test_a_step_needs_an_id_only_when_it_travels_alone() -> None:
    assert accepted("run", MINIMAL_RUN | {"steps": [{"type": "error"}, {"type": "error", "id": None}]})
    assert refused("step", {"type": "error"}) == Rejection("/id", "required")
    assert refused("step", {"type": "error", "id": None}) == Rejection("/id", "type")


def test_a_patch_takes_null_as_not_given_and_what_it_gives_must_be_valid() -> None:
    names = [n for n in schemas.kind_schema("patch")["properties"] if n != "id"]
    assert accepted("patch", {"id": "r-1"} | dict.fromkeys(names))
    assert refused("patch", {"id": None}) == Rejection("/id", "type")
    assert refused("patch", {"id": "r-1", "status": "done"}) == Rejection("/status", "enum")
    bad_cost = {"id": "r-1", "cost": {"input_tokens": -1}}
    assert refused("patch", bad_cost) == Rejection("/cost/input_tokens", "minimum")


@pytest.mark.parametrize(("kind", "member"), [("lease", "idle_timeout"), ("lease", "max_age"), ("expire", "horizon")])
def test_seconds_are_numbers_from_zero_that_fit_in_milliseconds(kind: Kind, member: str) -> None:
    assert refused(kind, MINIMAL[kind] | {member: -1}) == Rejection(f"/{member}", "minimum")
    assert refused(kind, MINIMAL[kind] | {member: 1e300}) == Rejection(f"/{member}", "maximum")
    assert refused(kind, MINIMAL[kind] | {member: None}) == Rejection(f"/{member}", "type")


@pytest.mark.parametrize("obj", [None, [], "run", 1, True])
@pytest.mark.parametrize("kind", KINDS)
def test_anything_but_an_object_is_refused_at_its_root(kind: Kind, obj: object) -> None:
    assert refused(kind, obj) == Rejection("", "type")


def test_the_deepest_offence_is_named_and_the_first_of_equals() -> None:
    run = {"tags": 1, "steps": [{"type": "x"}, {"type": "y"}], "cost": {"input_tokens": -1, "output_tokens": -1}}
    assert refused("run", run) == Rejection("/steps/0/type", "enum")
    assert refused("run", MINIMAL_RUN | {"tags": 1, "status": 2}).pointer == "/status"
    assert refused("run", {"tags": 1} | MINIMAL_RUN | {"status": 2}).pointer == "/tags"
    assert refused("run", MINIMAL_RUN | {"eval": {"pass": "yes", "score": 1}}) == Rejection("/eval/pass", "type")
    assert refused("run", MINIMAL_RUN | {"eval": []}) == Rejection("/eval", "type")


def test_a_rejection_of_a_huge_object_comes_soon_and_never_holds_values() -> None:
    run = MINIMAL_RUN | {"tags": ["secret"] * 300_000 + [1], "steps": [{"type": "error"}] * 50_000 + ["secret"]}
    rejection = refused("run", run)
    assert rejection == Rejection("/steps/50000", "type")
    assert "secret" not in repr(rejection)


def test_a_pointer_is_escaped_bounded_and_free_of_control_characters() -> None:
    assert schemas.pointer(["a/b", "m~n", 0]) == "/a~1b/m~0n/0"
    assert schemas.pointer(["a\r\nb\x00\x1b[31m\x85\u2028c"]) == "/ab[31mc"
    assert len(schemas.pointer(["x" * 1000])) == schemas.POINTER_CHARS_MAX


def test_every_member_is_described_and_no_schema_needs_another_file_once_bundled() -> None:
    for name, schema in schemas.load_schemas().items():
        assert schema["title"]
        assert schema["description"]
        assert all(member["description"] for member in schema["properties"].values()), name
        assert ("$id" in schema) == (name != "agent-run.json")
    for kind in KINDS:
        assert all(ref.startswith("#/definitions/") for ref in _refs(schemas.kind_schema(kind)))


def test_the_schemas_are_draft_7_and_say_so_without_format() -> None:
    for schema in schemas.load_schemas().values():
        jsonschema.Draft7Validator.check_schema(schema)
        assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
        assert '"format"' not in json.dumps(schema)


def test_bounds_leave_room_for_the_sums_of_a_store() -> None:
    rules = [rule for schema in schemas.load_schemas().values() for rule in schema["properties"].values()]
    counts = [rule["maximum"] for rule in rules if "integer" in rule.get("type", ())]
    assert len(counts) == 8
    assert max(counts) * limits.STEPS_PER_RUN_MAX * 80 < limits.INT64_MAX
    usd = schemas.load_schemas()["cost.json"]["properties"]["cost_usd"]["maximum"]
    assert len(str(usd * limits.STEPS_PER_RUN_MAX * 10**6)) + limits.MONEY_SCALE_DIGITS <= 38
    assert schemas.SECONDS_MAX * 1000 < limits.SAFE_INTEGER_MAX


def test_an_installed_package_has_its_schemas_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lib" / "agentrun_stream"
    monkeypatch.setattr(schemas, "__file__", str(package / "codec" / "schemas.py"))
    with pytest.raises(ConfigError, match="Schemas"):
        schemas.schema_folder()
    shutil.copytree(Path(__file__).resolve().parents[2] / "schemas", package / "_schemas")
    assert schemas.schema_folder() == package / "_schemas"


def _refs(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _refs(value)


def recorded_events() -> Iterator[tuple[Kind, Any]]:
    """Yield kind and object of every recorded event."""
    for path in sorted((SHARED / "data").glob("*/*.events.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            event = json.loads(line)
            yield event["type"].split(".")[1], event["data"]


@pytest.mark.skipif(not (SHARED / "data").is_dir() and os.environ.get("CI") != "true", reason="no recorded runs here")
def test_every_recorded_event_is_valid() -> None:
    count = 0
    for kind, obj in recorded_events():
        count += 1
        assert is_valid(kind, obj), explain(kind, obj)
    assert count > 4_000

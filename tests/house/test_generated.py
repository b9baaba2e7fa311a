"""What is generated from the schemas is committed as it would be generated now, and is what it claims to be."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pytest
from pydantic import BaseModel, ValidationError

from agentrun_stream import codegen
from agentrun_stream.codec.avro_schema import NAMESPACE, SEALED
from agentrun_stream.codec.schemas import is_valid, load_schemas
from agentrun_stream.errors import UsageError
from agentrun_stream.model import types

ROOT = Path(__file__).resolve().parents[2]
TYPES: dict[str, type[BaseModel]] = {
    "agent-run.json": types.AgentRun,
    "step.json": types.Step,
    "cost.json": types.Cost,
    "provenance.json": types.Provenance,
    "eval.json": types.EvalResult,
}
RUN: dict[str, Any] = {
    "id": "r",
    "agent_id": "a",
    "status": "completed",
    "started_at": "2026-01-01T00:00:00Z",
    "steps": [{"type": "message", "x": 1}],
    "cost": {"cost_usd": 0.123456789012},
    "provenance": {"run_hash": "..."},
    "eval": {"pass": True, "score": 90.5},
    "x": [1],
}


def avro(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((ROOT / "avro" / name.replace(".json", ".avsc")).read_text("utf-8"))
    return schema


def test_generated_files_are_committed_as_they_would_be_generated_now() -> None:
    assert codegen.stale() == []


def test_a_changed_and_a_left_over_file_are_found(tmp_path: Path) -> None:
    for path, text in codegen.generate().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    assert codegen.stale(tmp_path) == []
    (tmp_path / "avro" / "cost.avsc").write_text("{}")
    (tmp_path / "avro" / "old.avsc").write_text("{}")
    assert codegen.stale(tmp_path) == [Path("avro/cost.avsc"), Path("avro/old.avsc")]


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="--what"):
        codegen.main(["--what"])


@pytest.mark.parametrize("name", TYPES)
def test_a_type_has_the_members_of_its_schema_with_their_descriptions(name: str) -> None:
    schema = load_schemas()[name]
    fields = {field.alias or member: field for member, field in TYPES[name].model_fields.items()}
    assert list(fields) == list(schema["properties"])
    assert {member for member, field in fields.items() if field.is_required()} == set(schema.get("required", ()))
    assert TYPES[name].__doc__ == schema["description"]
    for member, field in fields.items():
        assert field.description == schema["properties"][member]["description"]


def test_a_run_goes_through_the_types_unchanged() -> None:
    run = types.AgentRun.model_validate_json(json.dumps(RUN))
    assert run.cost.cost_usd == Decimal("0.123456789012")
    assert run.eval is not None
    assert run.eval.pass_
    written = json.loads(run.model_dump_json(by_alias=True, exclude_unset=True))
    assert written == RUN
    assert is_valid("run", written)


def test_types_refuse_what_the_schema_refuses() -> None:
    for wrong in ({"status": "done"}, {"started_at": "today"}, {"id": ""}, {"cost": {"input_tokens": -1}}):
        with pytest.raises(ValidationError):
            types.AgentRun.model_validate(RUN | wrong)


@pytest.mark.parametrize("name", TYPES)
def test_avro_projects_every_member_and_ends_with_extra(name: str) -> None:
    schema, record = load_schemas()[name], avro(name)
    fastavro.parse_schema(record)
    assert (record["namespace"], record["name"]) == (NAMESPACE, schema["title"])
    fields = {field["name"]: field for field in record["fields"]}
    tail = ["json", "extra"] if schema["title"] in SEALED else ["extra"]
    assert list(fields) == [*schema["properties"], *tail]
    for member, field in fields.items():
        if member not in schema.get("required", ()):
            assert (field["type"][0], field["default"]) == ("null", None)


def test_avro_types_follow_the_contract() -> None:
    cost = {field["name"]: field["type"] for field in avro("cost.json")["fields"]}
    assert cost["input_tokens"] == ["null", "long"]
    assert cost["cost_usd"] == ["null", "string"]
    assert cost["metadata"] == ["null", "string"]
    run = {field["name"]: field["type"] for field in avro("agent-run.json")["fields"]}
    assert run["id"] == run["status"] == "string"
    assert run["tags"] == ["null", {"type": "array", "items": "string"}]
    assert run["workspace_id"] == ["null", "string", "long"]
    assert run["steps"]["items"]["name"] == "Step"
    assert run["json"] == ["null", "bytes"]
    assert avro("step.json") == run["steps"]["items"]

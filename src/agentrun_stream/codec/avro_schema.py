"""Avro record types projected from the JSON Schemas: the same schemas give the same text, byte for byte.

Must not live here: encoding or decoding of records, files.
"""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

NAMESPACE: Final = "agentrun.v1"
# Objects that can be signed or chained: their exact bytes travel in `json`, which alone is decoded then.
SEALED: Final = frozenset({"AgentRun", "Step"})

_SCALARS: Final[Mapping[str, object]] = {
    "string": "string",
    "integer": "long",
    "number": "string",  # a decimal as its digits: a double would change money
    "boolean": "boolean",
    "object": "string",  # an open map as JSON text
}
_JSON: Final = {
    "name": "json",
    "type": ["null", "bytes"],
    "doc": "The bytes of a signed or chained object. When given, they alone are decoded, verified and kept.",
    "default": None,
}
_EXTRA: Final = {
    "name": "extra",
    "type": ["null", "string"],
    "doc": "Members that the schema does not know, as JSON text.",
    "default": None,
}


def avro_files(schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the text of one self-contained `.avsc` for every schema, by file name."""
    return {
        f"{PurePath(name).stem}.avsc": json.dumps(project(name, schemas), indent=2, ensure_ascii=False) + "\n"
        for name in schemas
    }


def project(name: str, schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the record type of one schema, with the types that it names spelled out where they come first."""
    return _record(name, schemas, set())


def _record(name: str, schemas: Mapping[str, Mapping[str, Any]], named: set[str]) -> dict[str, Any]:
    schema = schemas[name]
    title: str = schema["title"]
    named.add(title)
    required = set(schema.get("required", ()))
    fields = [
        _field(member, rule, _types(rule, schemas, named), required=member in required)
        for member, rule in schema["properties"].items()
    ]
    fields += [_JSON, _EXTRA] if title in SEALED else [_EXTRA]
    return {"type": "record", "name": title, "namespace": NAMESPACE, "doc": schema["description"], "fields": fields}


def _field(member: str, rule: Mapping[str, Any], types: list[object], *, required: bool) -> dict[str, Any]:
    field: dict[str, Any] = {"name": member, "type": types[0] if required else ["null", *types]}
    field["doc"] = rule["description"]
    if not required:
        field["default"] = None
    return field


def _types(rule: Mapping[str, Any], schemas: Mapping[str, Mapping[str, Any]], named: set[str]) -> list[object]:
    """Return the Avro types of a member, null aside."""
    if "$ref" in rule:
        name: str = rule["$ref"]
        title: str = schemas[name]["title"]
        return [f"{NAMESPACE}.{title}" if title in named else _record(name, schemas, named)]
    for branches in ("allOf", "anyOf"):
        if branches in rule:
            return [t for branch in rule[branches] for t in _types(branch, schemas, named)]
    kinds: list[str] = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    if kinds[0] == "array":
        return [{"type": "array", "items": _types(rule["items"], schemas, named)[0]}]
    return [_SCALARS[kind] for kind in kinds if kind != "null"]

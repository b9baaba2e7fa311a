"""The schemas as validators: is an object of a kind valid, and if not, where and by which keyword.

`schemas/*.json` is the source of truth. What is derived from it (a patch, a step that travels alone) is derived here in
code. Must not live here: reading bytes, times as instants, any rule that needs more than the object itself.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

import jsonschema
import jsonschema_rs

from agentrun_stream.errors import ConfigError

Kind = Literal["run", "step", "eval", "patch", "lease", "expire"]
Schema = dict[str, Any]
IsValid = Callable[[object], bool]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
FILES: Final = ("agent-run.json", "step.json", "cost.json", "provenance.json", "eval.json")
POINTER_CHARS_MAX: Final = 200
# About 31 years: any lease or horizon beyond it means "never", and milliseconds of it still fit in 64 bits.
SECONDS_MAX: Final = 10**9

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an object is refused: the place as a JSON pointer, and the schema keyword. Never a value."""

    pointer: str
    keyword: str


def schema_folder() -> Path:
    """Return the folder of the schemas: inside the package when installed, beside `src` in a checkout."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "_schemas", here.parents[3] / "schemas"):
        if (folder / FILES[0]).is_file():
            return folder
    raise ConfigError(
        "the JSON Schemas are not where the package expects them",
        "install the package again, or run from a full checkout",
    )


@cache
def load_schemas() -> dict[str, Schema]:
    """Return the five schemas by file name, as they are in the files."""
    folder = schema_folder()
    return {name: json.loads((folder / name).read_text(encoding="utf-8")) for name in FILES}


@cache
def kind_schema(kind: Kind) -> Schema:
    """Return one schema without outside references for what a record of this kind may hold."""
    match kind:
        case "run":
            return _bundled("agent-run.json")
        case "step":
            return _lone_step()
        case "eval":
            return _bundled("eval.json")
        case "patch":
            return _patch()
        case "lease":
            return _seconds("idle_timeout", "max_age")
        case "expire":
            return _seconds("horizon")


@cache
def validator(kind: Kind) -> IsValid:
    """Return the compiled check of a kind; hot loops keep it in a local name."""
    check: IsValid = jsonschema_rs.Draft7Validator(kind_schema(kind)).is_valid
    return check


def is_valid(kind: Kind, obj: object) -> bool:
    """Say whether `obj` is a valid object of this kind."""
    return validator(kind)(obj)


def explain(kind: Kind, obj: object) -> Rejection | None:
    """Return the deepest offence, the first in document order among equals; None when `obj` is valid."""
    leaves = (leaf for error in _explainer(kind).iter_errors(obj) for leaf in _leaves(error))
    best = min(leaves, key=lambda leaf: (-len(leaf.absolute_path), _document_order(obj, leaf)), default=None)
    if best is None:
        return None
    return Rejection(pointer(list(best.absolute_path)), str(best.validator))


def pointer(path: list[str | int]) -> str:
    """Return a path as a JSON pointer that is safe in a header or a log: no control characters, bounded."""
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return _CONTROL.sub("", "".join(f"/{part}" for part in parts))[:POINTER_CHARS_MAX]


def _bundled(root: str) -> Schema:
    """Return the schema of a file with the others as definitions, so that no validator needs a registry."""
    schemas = copy.deepcopy(load_schemas())
    for schema in schemas.values():
        schema.pop("$id", None)
        # With it, jsonschema would leave our own keyword checks for its stock ones inside the definitions.
        schema.pop("$schema")
        _point_inwards(schema)
    definitions = {name: schemas[name] for name in FILES[1:]}
    return {**schemas[root], "definitions": definitions}


def _point_inwards(node: object) -> None:
    if isinstance(node, dict):
        if "$ref" in node:
            node["$ref"] = f"#/definitions/{node['$ref']}"
        for value in node.values():
            _point_inwards(value)
    elif isinstance(node, list):
        for value in node:
            _point_inwards(value)


def _lone_step() -> Schema:
    """Return a step that travels alone: it needs an id, because no position in a run can stand in."""
    schema = _bundled("step.json")
    schema["required"] = ["id", *schema["required"]]
    schema["properties"]["id"]["type"] = "string"
    return schema


def _patch() -> Schema:
    """Return `id` plus any members of a run; null means not given."""
    schema = _bundled("agent-run.json")
    members = schema["properties"]
    schema["properties"] = {k: v if k == "id" else {"anyOf": [{"type": "null"}, v]} for k, v in members.items()}
    schema["required"] = ["id"]
    return schema


def _seconds(*names: str) -> Schema:
    member = {"type": "number", "minimum": 0, "maximum": SECONDS_MAX}
    return {"type": "object", "required": list(names), "properties": dict.fromkeys(names, member)}


def _leaves(error: jsonschema.ValidationError) -> Iterator[jsonschema.ValidationError]:
    """Yield the errors below an `anyOf` that say something; "is not null" alone never helps."""
    below = [e for e in error.context or () if e.validator != "type" or e.validator_value != "null"]
    if len(error.context or ()) == len(below) or not below:
        yield error
        return
    for child in below:
        yield from _leaves(child)


def _document_order(obj: object, error: jsonschema.ValidationError) -> tuple[int, ...]:
    """Return the position of every path element in its parent; a missing member comes after all that are there."""
    order: list[int] = []
    for part in error.absolute_path:
        if isinstance(obj, dict):
            order.append(list(obj).index(part) if part in obj else len(obj))
            obj = obj.get(part)
        elif isinstance(obj, list):
            order.append(int(part))
            obj = obj[int(part)]
    return tuple(order)


def _pattern(_v: Any, pattern: str, instance: object, _s: Schema) -> Iterator[jsonschema.ValidationError]:
    # Python's `$` also matches before a line break at the end; JSON Schema's does not.
    if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield jsonschema.ValidationError("pattern")


def _required(_v: Any, names: list[str], instance: object, _s: Schema) -> Iterator[jsonschema.ValidationError]:
    # The stock check names its parent; a reader wants the member that is missing.
    if isinstance(instance, dict):
        for name in names:
            if name not in instance:
                yield jsonschema.ValidationError("required", path=[name])


def _items(v: Any, items: Schema, instance: object, _s: Schema) -> Iterator[jsonschema.ValidationError]:
    # Only the first bad item is walked slowly: a record may hold half a million items.
    if isinstance(instance, list):
        check = _item_validator(items.get("$ref", ""), items.get("type", ""))
        for index, item in enumerate(instance):
            if not check(item):
                yield from v.descend(item, items, path=index)
                return


@cache
def _item_validator(ref: str, type_name: str) -> IsValid:
    definitions = kind_schema("run")["definitions"]
    schema = {"$ref": ref, "definitions": definitions} if ref else {"type": type_name}
    check: IsValid = jsonschema_rs.Draft7Validator(schema).is_valid
    return check


_Explainer: Final = jsonschema.validators.extend(
    jsonschema.Draft7Validator, {"pattern": _pattern, "required": _required, "items": _items}
)


@cache
def _explainer(kind: Kind) -> Any:
    return _Explainer(kind_schema(kind))

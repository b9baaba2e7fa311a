"""Two validators, one answer: what the fast one accepts is what the explaining one finds nothing wrong with."""

from typing import Any

import jsonschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from referencing import Registry
from referencing.jsonschema import DRAFT7

from agentrun_stream.codec.schemas import KINDS, Kind, explain, is_valid, kind_schema, load_schemas

TIMES = st.one_of(
    st.datetimes().map(lambda t: t.isoformat() + "Z"),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{0,10})?(Z|[+-][0-9]{2}:[0-9]{2})\n?"),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.one_of(
    st.integers(-2, 3),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([10**12, 10**12 + 1, 512.0, 1e300, 0.5, -0.0, 100, 100.5]),
    st.floats(allow_nan=False, allow_infinity=False),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT, TIMES)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))

FILES = load_schemas()
BY_FILES = jsonschema.Draft7Validator(
    FILES["agent-run.json"],
    registry=Registry().with_resources((name, DRAFT7.create_resource(schema)) for name, schema in FILES.items()),
)


def values(rule: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that mostly satisfy a rule, and sometimes are anything."""
    if "$ref" in rule:
        return objects(definitions[rule["$ref"].rsplit("/", 1)[1]], definitions)
    for branches in ("anyOf", "allOf"):
        if branches in rule:
            return st.one_of([values(branch, definitions) for branch in rule[branches]])
    if "enum" in rule:
        return st.sampled_from([*rule["enum"], "Done"])
    if "pattern" in rule:
        return TIMES
    types = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    return st.one_of([_of_type(name, rule, definitions) for name in types])


def _of_type(name: str, rule: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[Any]:
    if name == "array":
        return st.lists(values(rule["items"], definitions), max_size=2)
    return {
        "string": TEXT | st.just("x" * 512) | st.just("é" * 513),
        "integer": st.integers(-1, 10**12 + 1) | NUMBERS,
        "number": NUMBERS,
        "boolean": st.booleans(),
        "object": st.dictionaries(TEXT, SCALARS, max_size=2),
        "null": st.none(),
    }[name]


def objects(schema: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return objects with the required members and some of the others; now and then something is off."""

    def later(rule: dict[str, Any]) -> st.SearchStrategy[Any]:
        return st.deferred(lambda: values(rule, definitions))

    members = {name: later(rule) for name, rule in schema["properties"].items()}
    required = {name: members[name] for name in schema.get("required", ())}
    optional = {name: rule for name, rule in members.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional)


def mutated(draw: st.DrawFn, obj: Any) -> Any:
    """Return the object with one member dropped, replaced or added."""
    if not isinstance(obj, dict) or not obj:
        return draw(ANYTHING)
    name = draw(st.sampled_from(sorted(obj)))
    match draw(st.sampled_from(["keep", "drop", "replace", "deeper", "add"])):
        case "drop":
            return {k: v for k, v in obj.items() if k != name}
        case "replace":
            return obj | {name: draw(ANYTHING)}
        case "deeper":
            return obj | {name: mutated(draw, obj[name])}
        case "add":
            return obj | {draw(TEXT): draw(ANYTHING)}
        case _:
            return obj


@st.composite
def cases(draw: st.DrawFn) -> tuple[Kind, Any]:
    kind = draw(st.sampled_from(KINDS))
    schema = kind_schema(kind)
    return kind, mutated(draw, draw(objects(schema, schema.get("definitions", {}))))


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_both_validators_agree(case: tuple[Kind, Any]) -> None:
    kind, obj = case
    rejection = explain(kind, obj)
    assert is_valid(kind, obj) == (rejection is None)
    if rejection is not None:
        assert rejection.pointer == "" or rejection.pointer.startswith("/")
        assert rejection == explain(kind, obj)


@settings(max_examples=100)
@given(ANYTHING)
def test_both_validators_agree_on_anything(obj: Any) -> None:
    for kind in KINDS:
        assert is_valid(kind, obj) == (explain(kind, obj) is None)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_bundle_says_what_the_files_say(data: st.DataObject) -> None:
    schema = kind_schema("run")
    run = data.draw(objects(schema, schema["definitions"]))
    if "\\n" not in repr(run):  # stock jsonschema lets `$` match before a line break
        assert is_valid("run", run) == BY_FILES.is_valid(run)

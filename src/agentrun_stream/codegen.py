"""What is generated from `schemas/`: the pydantic types and the Avro schemas.

`python -m agentrun_stream.codegen [--check]` writes or compares. For a checkout with the development tools;
nothing of the running system imports this.
"""

import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from agentrun_stream.codec.avro_schema import avro_files
from agentrun_stream.codec.schemas import load_schemas
from agentrun_stream.errors import UsageError

ROOT: Final = Path(__file__).resolve().parents[2]
TYPES: Final = Path("src/agentrun_stream/model/types.py")
_DRAFT: Final = "http://json-schema.org/draft-07/schema#"
_HEADER: Final = '''"""The protocol's objects as pydantic types, for producers and readers. Unknown members are kept.

Generated from schemas/ by `python -m agentrun_stream.codegen`: change the schemas, never this file.
"""
'''
_IMPORT: Final = "from pydantic import BaseModel, ConfigDict, Field"
_AS_NUMBER: Final = """\
# The schema wants a number, and pydantic would write a decimal as text. 15 digits come out as they are.
_AS_NUMBER: Final = PlainSerializer(float, return_type=float, when_used="json-unless-none")
"""
_OPTIONS: Final = (
    "--input-file-type=jsonschema",
    "--output-model-type=pydantic_v2.BaseModel",
    "--target-python-version=3.11",
    "--class-name=AgentRun",
    "--extra-fields=allow",
    "--enum-field-as-literal=all",
    "--use-annotated",
    "--use-standard-collections",
    "--use-union-operator",
    "--use-schema-description",
    "--use-field-description",
    "--use-attribute-docstrings",
    "--use-single-line-docstring",
    "--allow-population-by-field-name",
    "--disable-timestamp",
    "--formatters=builtin",
)


def generate() -> dict[Path, str]:
    """Return every generated file: its path in the checkout, and its text."""
    schemas = load_schemas()
    files = {Path("avro") / name: text for name, text in avro_files(schemas).items()}
    return {TYPES: _types(schemas), **files}


def stale(root: Path = ROOT) -> list[Path]:
    """Return the generated files that are not as they would be generated now, and those that should not be there."""
    files = generate()
    differing = [p for p, text in files.items() if not (root / p).is_file() or (root / p).read_text("utf-8") != text]
    orphans = [p.relative_to(root) for p in sorted((root / "avro").glob("*.avsc")) if p.relative_to(root) not in files]
    return differing + orphans


def main(arguments: list[str]) -> int:
    """Write the generated files, or only compare them with `--check`."""
    if arguments not in ([], ["--check"]):
        message = f"unknown arguments: {' '.join(arguments)}"
        raise UsageError(message, "python -m agentrun_stream.codegen [--check]")
    if arguments:
        differing = stale()
        for path in differing:
            sys.stderr.write(f"{path} is not what the schemas give: run python -m agentrun_stream.codegen\n")
        return 1 if differing else 0
    for path, text in generate().items():
        (ROOT / path).write_text(text, encoding="utf-8")
    return 0


def _types(schemas: dict[str, dict[str, Any]]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "schemas.json"), Path(folder, "types.py")
        source.write_text(json.dumps(_titled(schemas)), encoding="utf-8")
        command = ["datamodel_code_generator", f"--input={source}", f"--output={target}", *_OPTIONS]
        _python_m(*command)
        body = target.read_text("utf-8")
    return _python_m("ruff", "format", "--isolated", "--line-length=120", "-", text=_finished(body, schemas))


def _finished(body: str, schemas: dict[str, dict[str, Any]]) -> str:
    """Put our header in place of the generator's, name the pattern of times once, and let money leave as a number."""
    pattern = repr(schemas["agent-run.json"]["properties"]["started_at"]["pattern"])
    body = body[body.index("from __future__") :].replace(pattern, "_TIME")
    before, after = _IMPORT, f"{_IMPORT}, PlainSerializer\n\n_TIME: Final = {pattern}\n{_AS_NUMBER}"
    steps = (
        (before, after),
        ("import Annotated, Any, Literal", "import Annotated, Any, Final, Literal"),
        ("Annotated[Decimal | None, Field(", "Annotated[Decimal | None, _AS_NUMBER, Field("),
    )
    for old, new in steps:
        if body.count(old) != 1:
            message = f"the generator no longer writes {old!r} exactly once"
            raise UsageError(message, "adapt codegen.py to its new form")
        body = body.replace(old, new)
    return f"{_HEADER}\n{body}"


def _titled(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the schemas as one, with definitions named as the types will be, and the money as a decimal."""
    named = {name: str(schema["title"]) for name, schema in schemas.items()}
    text = json.dumps(schemas)
    for name, title in named.items():
        text = text.replace(f'"$ref": "{name}"', f'"$ref": "#/definitions/{title}"')
    inner: dict[str, dict[str, Any]] = copy.deepcopy(json.loads(text))
    for schema in inner.values():
        schema.pop("$id", None)
        schema.pop("$schema")
    inner["cost.json"]["properties"]["cost_usd"]["format"] = "decimal"
    root, *others = (inner[name] for name in named)
    return {"$schema": _DRAFT, **root, "definitions": {schema["title"]: schema for schema in others}}


def _python_m(*command: str, text: str | None = None) -> str:
    """Run a development tool of this environment; its complaint is the error."""
    done = subprocess.run(  # noqa: S603  our own arguments, no shell
        [sys.executable, "-m", *command], input=text, capture_output=True, check=False, encoding="utf-8"
    )
    if done.returncode != 0:
        message = f"{command[0]} failed: {done.stderr.strip()[-2000:]}"
        raise UsageError(message, 'install the development tools: pip install -e ".[dev]"')
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

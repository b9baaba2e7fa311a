"""A bundle: a dossier and its verdict in one JSON file, which verifies wherever this package is. See docs/bundle.md.

Must not live here: reading of stores and files, judging.
"""

from datetime import datetime
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from agentrun_stream import __version__
from agentrun_stream.errors import UsageError
from agentrun_stream.model.dossier import Dossier
from agentrun_stream.model.verdict import Verdict

FORMAT: Final = "agentrun-bundle"
VERSION: Final = 1


class Bundle(BaseModel):
    """The file. Another `version` is another format, and refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["agentrun-bundle"] = FORMAT
    version: Literal[1] = VERSION
    made_by: str
    made_at: str
    verdict: dict[str, Any]
    dossier: Dossier


def told(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON has it."""
    found: dict[str, Any] = orjson.loads(orjson.dumps(verdict._asdict()))
    return found


def write_bundle(dossier: Dossier, verdict: Verdict, now: datetime) -> bytes:
    """The bytes of a bundle."""
    made_by = f"agentrun-stream {__version__}"
    made = Bundle(made_by=made_by, made_at=now.isoformat(), verdict=told(verdict), dossier=dossier)
    return made.model_dump_json(indent=1).encode() + b"\n"


def is_bundle(raw: bytes) -> bool:
    """Whether these bytes mean to be a bundle."""
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT


def read_bundle(raw: bytes) -> Bundle:
    """The bundle in these bytes. Raises UsageError."""
    try:
        return Bundle.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"The bundle can't be read: {where}: {first['msg']}.",
            f"This version reads version {VERSION}, as `agentrun verify RUN --bundle` writes it.",
        ) from None

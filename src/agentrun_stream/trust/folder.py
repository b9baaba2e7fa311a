"""The folder of registries: one `<workspace>.jwks.json` each, and the log of key operations beside them.

Must not live here: what an entry means (codec/jwks.py), private keys.
"""

import fcntl
import hashlib
import json
import os
import pwd
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agentrun_stream.codec.jwks import registry_of
from agentrun_stream.codec.strict_json import UnreadableError, read
from agentrun_stream.errors import ConfigError, UsageError
from agentrun_stream.model.trust import Registry

SUFFIX: Final = ".jwks.json"
LOG: Final = "key-operations.jsonl"
EMPTY: Final[dict[str, Any]] = {"version": 0, "keys": []}
_WORKSPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_BYTES_MAX: Final = 16 * 1024 * 1024


def registry_path(folder: Path, workspace: str) -> Path:
    """The file of a workspace's registry."""
    if not _WORKSPACE.match(workspace):
        raise UsageError("That is no workspace's name.", "Letters, digits, `.`, `_` and `-`, at most 64.")
    return folder / f"{workspace}{SUFFIX}"


def workspaces_of(folder: Path) -> list[str]:
    """The workspaces that have a registry in this folder."""
    names = (path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))
    return sorted(name for name in names if _WORKSPACE.match(name))


def read_jwks(path: Path) -> tuple[dict[str, Any], str]:
    """The JWK Set in a file, and the SHA-256 of its bytes. Raises ConfigError; FileNotFoundError where there is none."""
    try:
        if path.stat().st_size > _BYTES_MAX:
            raise ConfigError(f"The registry {path} has more than {_BYTES_MAX:,} bytes.", "Is it a JWK Set?")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"The registry {path} can't be read: {error.strerror}.", "Check its mode.") from None
    try:
        jwks = read(raw).obj
    except UnreadableError as error:
        raise ConfigError(
            f"The registry {path} is no strict JSON: {error.code}.", "Mend it, or export it again."
        ) from None
    if not isinstance(jwks, dict) or type(jwks.get("version")) is not int:
        raise ConfigError(
            f"The registry {path} has no whole number `version`.", 'It looks like {"version": 1, "keys": []}.'
        )
    if not isinstance(jwks.get("keys"), list):
        raise ConfigError(
            f"The registry {path} has no list `keys`, so it is no JWK Set.", "Mend it, or export it again."
        )
    return jwks, hashlib.sha256(raw).hexdigest()


def load_registry(path: Path) -> Registry:
    """The registry in a file. Raises ConfigError; FileNotFoundError where there is none."""
    return load(path)[0]


def load(path: Path) -> tuple[Registry, dict[str, Any]]:
    """The registry in a file, and the JWK Set that it was read from. Raises as `load_registry`."""
    jwks, digest = read_jwks(path)
    try:
        return registry_of(jwks, digest), jwks
    except ValueError as error:
        raise ConfigError(f"The registry {path} can't be used: {error}.", "Mend it, or export it again.") from None


@contextmanager
def changing(folder: Path, workspace: str) -> Iterator[dict[str, Any]]:
    """The JWK Set of a workspace to change in place; written whole under the next version when the block ends well."""
    path = registry_path(folder, workspace)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            jwks = read_jwks(path)[0]
        except FileNotFoundError:
            jwks = {"version": EMPTY["version"], "keys": []}
        yield jwks
        jwks["version"] += 1
        _replace(path, json.dumps(jwks, indent=2, ensure_ascii=True) + "\n")


def _replace(path: Path, text: str) -> None:
    """Put a file in place at once: a reader sees the old one or the new one."""
    file, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(file, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def note(folder: Path, what: str, **told: Any) -> None:
    """Add a line to the log of key operations: who, when, what, and what is told besides. Lines are only ever added."""
    folder.mkdir(parents=True, exist_ok=True)
    row = {"at": datetime.now(UTC).isoformat().replace("+00:00", "Z"), "who": _who(), "what": what, **told}
    line = json.dumps(row, ensure_ascii=True).encode() + b"\n"
    file = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)
        os.fsync(file)
    finally:
        os.close(file)


def _who() -> str:
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"

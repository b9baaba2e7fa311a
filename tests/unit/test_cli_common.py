"""What commands share: times, places, settings, errors and their exit codes."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from agentrun_stream import cli
from agentrun_stream.cli import common
from agentrun_stream.cli.app import app
from agentrun_stream.errors import AgentrunError, ConfigError, EmbeddedError, StoppedError, UnavailableError, UsageError

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NOWHERE = {"AGENTRUN_KAFKA__BOOTSTRAP": "127.0.0.1:1", "AGENTRUN_CLICKHOUSE__URL": "http://127.0.0.1:1"}


def failing(error: BaseException) -> typer.Typer:
    made = typer.Typer(cls=common.Commands, pretty_exceptions_enable=False)

    @made.command()
    def fail() -> None:
        raise error

    @made.callback()
    def root() -> None:
        pass

    return made


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("15m", NOW - timedelta(minutes=15)),
        ("1.5h", NOW - timedelta(minutes=90)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-01-01", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T12:00:00+02:00", datetime(2026, 1, 1, 10, tzinfo=UTC)),
    ],
)
def test_a_time_is_ago_or_iso(text: str, when: datetime) -> None:
    assert common.since(text, NOW) == when
    assert common.since(None, NOW) is None


@pytest.mark.parametrize("text", ["yesterday", "15", "m", "", "99999999999w"])
def test_another_time_is_the_callers_mistake(text: str) -> None:
    with pytest.raises(UsageError):
        common.since(text, NOW)


def test_a_place_is_topic_partition_offset() -> None:
    assert common.place("agentrun.events.v1:3:42") == (("agentrun.events.v1", 3), 42)
    for wrong in ("a:b:c", "topic:1", "", "to pic:1:2", "t:1:2:\x1b[31m"):
        with pytest.raises(UsageError):
            common.place(wrong)


@pytest.mark.parametrize(
    "kind", [AgentrunError, UsageError, ConfigError, UnavailableError, StoppedError, EmbeddedError]
)
def test_an_error_is_one_paragraph_with_the_next_step_and_its_exit_code(kind: type[AgentrunError]) -> None:
    done = CliRunner().invoke(failing(kind("It broke\x1b[31m\nhere.", "Mend it.")), ["fail"])
    assert done.exit_code == kind.exit_code
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("here. Mend it.\n")
    assert "\x1b" not in done.stderr
    assert done.stdout == ""


def test_ctrl_c_is_130_and_says_nothing() -> None:
    done = CliRunner().invoke(failing(KeyboardInterrupt()), ["fail"])
    assert (done.exit_code, done.stderr) == (130, "")


def test_a_defect_is_told_without_traceback_and_without_the_errors_text() -> None:
    done = CliRunner().invoke(failing(ValueError("secret payload")), ["fail"])
    assert done.exit_code == common.EXIT_DEFECT
    assert "ValueError" in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["no-such-command"], 2),
        (["runs", "--no-such-flag"], 2),
        (["runs", "--limit", "0"], 2),
        (["show"], 2),
        (["refuse", "nonsense", "--reason", "x"], 2),
        (["runs", "--since", "yesterday"], 2),
        (["publish", "no-such-file.jsonl"], 2),
        (["runs"], 4),
        (["query", "SELECT 1"], 4),
        (["migrate"], 4),
        (["wait"], 4),
        (["topics", "apply"], 4),
        (["topics", "show"], 4),
        (["dlq", "list"], 4),
        (["status"], 1),
        (["doctor"], 1),
    ],
    ids=str,
)
def test_wrong_words_and_missing_servers_have_their_codes(words: list[str], code: int, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, words, env={**NOWHERE, "AGENTRUN_DATA": str(tmp_path)})
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("words", [["runs"], ["wait"], ["publish", __file__]], ids=str)
def test_without_a_stack_the_error_says_how_to_get_one(words: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, words, env={"AGENTRUN_DATA": str(tmp_path)})
    assert done.exit_code == UnavailableError.exit_code
    assert "agentrun up" in done.stderr


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["runs"], env={"AGENTRUN_WORKER__CACHE_BYTES": "-1"})
    assert done.exit_code == ConfigError.exit_code
    assert "AGENTRUN_WORKER__CACHE_BYTES" in done.stderr


def test_config_show_hides_secrets() -> None:
    env = {
        "AGENTRUN_CLICKHOUSE__PASSWORD": "hunter2",
        "AGENTRUN_CLICKHOUSE__USER": "me",
    }
    for words in (["config", "show"], ["config", "show", "-o", "json"]):
        done = CliRunner().invoke(app, words, env=env)
        assert done.exit_code == 0
        assert "hunter2" not in done.output
        assert "***" in done.output


@pytest.mark.parametrize("module", ["typer", "clickhouse_connect", "chdb", "uvicorn"])
def test_a_missing_package_names_its_extra(module: str) -> None:
    assert cli.EXTRA_OF[module] in cli.missing_text(module)
    assert "pip install 'agentrun-stream[" in cli.missing_text(module)


def test_on_a_base_install_the_command_says_what_to_install() -> None:
    """Without typer there is no command line, only a sentence and exit code 3."""
    hide = (
        "import sys, importlib.abc\n"
        "class Hide(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.partition('.')[0] in ('typer', 'clickhouse_connect', 'rich'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "from agentrun_stream.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", hide, "runs"], capture_output=True, text=True, check=False)
    assert done.returncode == ConfigError.exit_code
    assert "pip install 'agentrun-stream[pipeline]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_has_an_example() -> None:
    """`--help` shows how it is meant."""
    group: Any = typer.main.get_command(app)

    def walk(prefix: str, commands: dict[str, Any]) -> None:
        for name, command in commands.items():
            if hasattr(command, "commands"):
                walk(f"{prefix}{name} ", command.commands)
            elif not command.hidden:
                assert (command.epilog or "").startswith(f"Example: agentrun {prefix}{name}"), name

    walk("", group.commands)


def test_the_plugin_imports_nothing_heavy() -> None:
    """It is loaded in every pytest session of whoever has the package installed."""
    code = (
        "import sys, agentrun_stream.testing.plugin\n"
        "heavy = {'aiokafka', 'clickhouse_connect', 'rich', 'typer', 'pydantic', 'docker'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

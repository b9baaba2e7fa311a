"""Settings: sources and their order, bounds, and errors that name the variable and never the value."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentrun_stream.config import Settings, catalogue, clickhouse_url, find_stack, kafka_bootstrap, load_settings
from agentrun_stream.errors import ConfigError, UnavailableError


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("AGENTRUN_"):
            monkeypatch.delenv(name)


def _endpoints(folder: Path, pid: int) -> None:
    text = json.dumps({"kafka": "127.0.0.1:1", "clickhouse": "http://127.0.0.1:2", "metrics": ["http://m"], "pid": pid})
    (folder / "endpoints.json").write_text(text)


def test_overrides_beat_environment_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source overrides those below it, member by member."""
    file = tmp_path / "a.toml"
    file.write_text('tenancy = "topic"\n[worker]\ngroup = "file"\nbatch_wait_ms = 7\ncache_bytes = 0\n')
    monkeypatch.setenv("AGENTRUN_CONFIG", str(file))
    monkeypatch.setenv("AGENTRUN_WORKER__BATCH_WAIT_MS", "8")
    monkeypatch.setenv("AGENTRUN_WORKER__GROUP", "env")
    settings = load_settings({"worker.group": "flag", "worker.topic_epoch": None})
    assert (settings.worker.group, settings.worker.batch_wait_ms, settings.worker.cache_bytes) == ("flag", 8, 0)
    assert (settings.tenancy, settings.worker.topic_epoch) == ("topic", 0)


def test_a_file_handed_in_is_taken_instead_of_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--config` wins over AGENTRUN_CONFIG."""
    file = tmp_path / "b.toml"
    file.write_text('log_level = "debug"')
    monkeypatch.setenv("AGENTRUN_CONFIG", str(tmp_path / "missing.toml"))
    assert load_settings(file=file).log_level == "debug"


def test_lists_and_maps_come_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics and the workspace mapping are readable from the environment."""
    monkeypatch.setenv("AGENTRUN_EVENTS_TOPICS", '["a", "b"]')
    monkeypatch.setenv("AGENTRUN_WORKSPACES", '{"a": "team-a"}')
    settings = load_settings()
    assert settings.events_topics == ("a", "b")
    assert settings.workspaces == {"a": "team-a"}


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass empty variables through; they mean nothing."""
    monkeypatch.setenv("AGENTRUN_KAFKA__BOOTSTRAP", "")
    assert load_settings().kafka.bootstrap is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AGENTRUN_WORKER__BATCH_RECORDS_MAX", "many"),
        ("AGENTRUN_WORKER__TOPIC_EPOCH", "256"),
        ("AGENTRUN_WORKER__METRICS_PORT", "70000"),
        ("AGENTRUN_WORKER__DLQ_STOP_RATIO", "0"),
        ("AGENTRUN_WORKER__FETCH_PARTITION_BYTES", "1024"),
        ("AGENTRUN_KAFKA__BOOTSTRAP", "http://broker"),
        ("AGENTRUN_CLICKHOUSE__URL", "http://me:swordfish@store:8123"),
        ("AGENTRUN_CLICKHOUSE__DATABASE", "a; DROP"),
        ("AGENTRUN_TENANCY", "none"),
        ("AGENTRUN_WORKSPACES", "not json"),
        ("AGENTRUN_WORKER", "not json"),
        ("AGENTRUN_EVENTS_TOPICS", "[]"),
    ],
)
def test_a_wrong_value_names_its_variable_and_not_itself(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One paragraph, with the variable and the next step, and no value: it may be a secret."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert variable in caught.value.message
    assert "\n" not in caught.value.message
    assert "swordfish" not in caught.value.message
    assert caught.value.next_step
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"worker.session_timeout_ms": 200_000}, "session_timeout_ms"),
        ({"worker.max_poll_interval_ms": 130_000, "clickhouse.insert_timeout_s": 130.0}, "insert_timeout_s"),
        ({"kafka.security_protocol": "SASL_SSL"}, "kafka.username"),
        ({"kafka.username": "me"}, "SASL"),
        ({"workspaces": {"elsewhere": "a"}}, "elsewhere"),
        ({"workspaces": {"a": "w", "b": "w"}, "events_topics": ["a", "b"]}, "two topics"),
        ({"workspaces": {"agentrun.events.v1": "-bad"}}, "workspaces"),
        ({"worker.batch_record_max": 1}, "batch_records_max"),
    ],
)
def test_relations_between_settings_hold(overrides: dict[str, object], words: str) -> None:
    """What can't work together is refused before anything starts."""
    with pytest.raises(ConfigError, match=words):
        load_settings(overrides)


def test_a_mistyped_variable_is_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that silently does nothing is worse than an error."""
    monkeypatch.setenv("AGENTRUN_WORKER__BATCH_RECORD_MAX", "5")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert caught.value.next_step == "Did you mean AGENTRUN_WORKER__BATCH_RECORDS_MAX?"


def test_variables_of_test_runs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """AGENTRUN_TEST_ is no setting and no mistake."""
    monkeypatch.setenv("AGENTRUN_TEST_STACK", "docker")
    load_settings()


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    """The message says which file and what is wrong with it."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml can't be read"):
        load_settings(file=tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("= 1")
    with pytest.raises(ConfigError, match=r"broken\.toml is not TOML"):
        load_settings(file=broken)


def test_secrets_come_from_files_and_never_show(tmp_path: Path) -> None:
    """Neither repr, nor `redacted`, nor a JSON dump shows a password."""
    secret = tmp_path / "password"
    secret.write_text("swordfish\n")
    settings = load_settings(
        {"clickhouse.password_file": secret, "kafka.security_protocol": "SASL_SSL", "kafka.username": "me"}
        | {"kafka.password": "swordfish"}
    )
    for section in (settings.clickhouse, settings.kafka):
        assert section.password is not None
        assert section.password.get_secret_value() == "swordfish"
    assert settings.redacted()["kafka.password"] == "***"
    for shown in (repr(settings), json.dumps(settings.redacted()), settings.model_dump_json()):
        assert "swordfish" not in shown


def test_a_secret_file_that_is_missing_or_doubled_is_refused(tmp_path: Path) -> None:
    """A worker must not start with an empty password by accident."""
    with pytest.raises(ConfigError, match="AGENTRUN_CLICKHOUSE__PASSWORD_FILE"):
        load_settings({"clickhouse.password_file": tmp_path / "none"})
    with pytest.raises(ConfigError, match="both set"):
        load_settings({"clickhouse.password_file": tmp_path / "none", "clickhouse.password": "x"})


def test_folders_follow_xdg_and_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults live where the desktop says; `~` means the home folder."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load_settings().data == tmp_path / "data" / "agentrun-stream"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert load_settings().data == tmp_path / "home/.local/share/agentrun-stream"
    assert load_settings({"data": "~/x"}).data == tmp_path / "home/x"


def test_the_bare_settings_read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `load_settings` reads the environment."""
    monkeypatch.setenv("AGENTRUN_LOG_LEVEL", "debug")
    assert Settings().log_level == "info"


def test_every_setting_says_what_it_is() -> None:
    """Name, variable, type, default, unit and meaning, each of them."""
    rows = catalogue()
    assert len({row.variable for row in rows}) == len(rows)
    for row in rows:
        assert all((row.name, row.variable, row.type, row.default, row.unit)), row
        assert row.meaning.endswith("."), row


def test_a_running_stack_is_found_by_its_folder(tmp_path: Path) -> None:
    """Commands need no address while a local stack runs."""
    _endpoints(tmp_path, os.getpid())
    settings = load_settings({"data": tmp_path})
    assert kafka_bootstrap(settings) == "127.0.0.1:1"
    assert clickhouse_url(settings) == "http://127.0.0.1:2"
    assert kafka_bootstrap(load_settings({"data": tmp_path, "kafka.bootstrap": "b:9"})) == "b:9"


def test_a_stack_whose_process_is_gone_is_no_stack(tmp_path: Path) -> None:
    """A file left behind by a power loss must not send commands into nothing."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    _endpoints(tmp_path, gone.pid)
    assert find_stack(tmp_path) is None
    with pytest.raises(UnavailableError) as caught:
        clickhouse_url(load_settings({"data": tmp_path}))
    assert "agentrun up" in caught.value.next_step


def test_no_folder_is_no_stack_and_a_broken_file_is_an_error(tmp_path: Path) -> None:
    """Absent is normal; unreadable is said."""
    assert find_stack(tmp_path / "none") is None
    (tmp_path / "endpoints.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"endpoints\.json"):
        find_stack(tmp_path)

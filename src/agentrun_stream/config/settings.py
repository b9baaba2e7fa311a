"""The settings as types: sections, bounds, relations, each with its unit and meaning.

Must not live here: reading the environment or a file (`load.py`); anything that connects to what a setting names.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from agentrun_stream import limits, topics
from agentrun_stream.config.folders import cache_folder, data_folder
from agentrun_stream.model.verdict import BAD_HEADLINES

PREFIX: Final = "AGENTRUN_"

_WORKSPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}\Z")
_BOOTSTRAP = re.compile(r"[^\s,/@]+:\d{1,5}(,[^\s,/@]+:\d{1,5})*\Z")
_URL = re.compile(r"https?://[^\s/@]+(/[^\s@]*)?\Z")


def _setting(default: Any, unit: str, meaning: str, **bounds: Any) -> Any:
    """A field with the three things every setting must say."""
    return Field(default=default, description=meaning, json_schema_extra={"unit": unit}, **bounds)


def _folder(default: Callable[[], Path], meaning: str) -> Any:
    return Field(default_factory=default, description=meaning, json_schema_extra={"unit": "path"})


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KafkaSettings(_Section):
    """How to reach the broker."""

    bootstrap: str | None = _setting(None, "host:port,...", "Brokers to start from; unset: the running local stack.")
    client_id: str = _setting("agentrun", "name", "Name of this client in the broker's logs and quotas.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = _setting(
        "PLAINTEXT", "name", "How the connection is secured."
    )
    sasl_mechanism: Literal["PLAIN"] = _setting("PLAIN", "name", "How the user name is proved, with a SASL protocol.")
    username: str | None = _setting(None, "name", "User on the broker, with a SASL protocol.")
    password: SecretStr | None = _setting(None, "secret", "Password on the broker, with a SASL protocol.")
    password_file: Path | None = _setting(None, "path", "File that holds the broker password, instead of the value.")
    request_timeout_ms: int = _setting(40_000, "ms", "Longest wait for one answer of the broker.", ge=1_000, le=600_000)

    @field_validator("bootstrap")
    @classmethod
    def _is_bootstrap(cls, value: str | None) -> str | None:
        if value is not None and not _BOOTSTRAP.match(value):
            raise ValueError("must be host:port, several separated by commas, without blanks or a scheme")
        return value

    @model_validator(mode="after")
    def _has_user(self) -> Self:
        secret = self.password is not None or self.password_file is not None
        if self.security_protocol.startswith("SASL") and not (self.username and secret):
            raise ValueError("a SASL security_protocol needs kafka.username and kafka.password (or password_file)")
        if not self.security_protocol.startswith("SASL") and (self.username or secret):
            raise ValueError("kafka.username and kafka.password are only used with a SASL security_protocol")
        return self


class ClickhouseSettings(_Section):
    """How to reach the store."""

    url: str | None = _setting(None, "URL", "Store's HTTP interface; unset: the running local stack.")
    database: str = _setting("agentrun", "name", "Database that holds the tables.")
    user: str = _setting("default", "name", "User on the store.")
    password: SecretStr | None = _setting(None, "secret", "Password on the store.")
    password_file: Path | None = _setting(None, "path", "File that holds the store password, instead of the value.")
    connect_timeout_s: float = _setting(10.0, "s", "Longest wait for a connection to the store.", gt=0, le=300)
    insert_timeout_s: float = _setting(
        60.0, "s", "Longest wait for one insert; must be below worker.max_poll_interval_ms.", gt=0, le=3_600
    )

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and not _URL.match(value):
            raise ValueError("must be http(s)://host:port, with user and password in their own settings")
        return value

    @field_validator("database")
    @classmethod
    def _is_database(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", value):
            raise ValueError("must be letters, digits and _, starting with no digit, at most 64")
        return value


class WorkerSettings(_Section):
    """How one worker batches, caches, keeps its place in the group, and when it stops."""

    group: str = _setting("agentrun", "name", "Consumer group; also the start of the fencing producers' names.")
    instance_id: str | None = _setting(None, "name", "Static member name; a restart within the session moves nothing.")
    topic_epoch: int = _setting(
        0, "number", "Highest 8 bits of every row version; raised by one when topics are replaced.", ge=0, le=255
    )
    batch_records_max: int = _setting(40_000, "records", "Most records folded into one checkpoint.", ge=1, le=200_000)
    batch_wait_ms: int = _setting(200, "ms", "Longest wait for a first record of a batch.", ge=1, le=10_000)
    cache_bytes: int = _setting(
        256 * limits.MIB, "bytes", "Room for runs kept in memory; 0 reads every run from the store.", ge=0
    )
    lookup_parallel: int = _setting(2, "queries", "Look-ups of unknown runs that may run at a time.", ge=1, le=16)
    session_timeout_ms: int = _setting(
        30_000, "ms", "Silence after which the group takes a worker for dead.", ge=6_000, le=1_800_000
    )
    rebalance_timeout_ms: int = _setting(
        120_000, "ms", "Time a worker has to finish its checkpoint when partitions move.", ge=6_000, le=1_800_000
    )
    max_poll_interval_ms: int = _setting(
        300_000, "ms", "Longest time between two polls before the worker leaves the group.", ge=10_000, le=3_600_000
    )
    fetch_max_bytes: int = _setting(
        64 * limits.MIB, "bytes", "Most bytes one fetch brings from one broker.", ge=limits.FETCH_PARTITION_BYTES_MAX
    )
    fetch_partition_bytes: int = _setting(
        limits.FETCH_PARTITION_BYTES_MAX,
        "bytes",
        "Most bytes one fetch brings from one partition; at least one largest record.",
        ge=limits.EVENTS_MESSAGE_BYTES_MAX,
    )
    fetch_wait_ms: int = _setting(
        100, "ms", "How long the broker may hold a fetch back while nothing is new.", ge=1, le=10_000
    )
    dlq_stop_ratio: float = _setting(
        0.5, "share", "Share of refused records in the window above which a partition stops; 1 never stops.", gt=0, le=1
    )
    dlq_stop_window: int = _setting(1_000, "records", "Records over which the refused share is judged.", ge=1)
    metrics_host: str = _setting("127.0.0.1", "address", "Address on which /metrics, /healthz and /readyz listen.")
    metrics_port: int = _setting(0, "port", "Port of the metrics endpoint; 0 takes a free one.", ge=0, le=65_535)

    @model_validator(mode="after")
    def _timeouts_nest(self) -> Self:
        if not self.session_timeout_ms <= self.rebalance_timeout_ms <= self.max_poll_interval_ms:
            raise ValueError("session_timeout_ms <= rebalance_timeout_ms <= max_poll_interval_ms must hold")
        return self


class LeaseSettings(_Section):
    """When a run that nobody ends is closed. The contract's minimum is 60 s idle and 1 h of age."""

    idle_timeout_s: int = _setting(
        1_800, "s", "Silence after which a run is closed as `timeout`.", ge=limits.LEASE_IDLE_MS_MIN // 1000
    )
    max_age_s: int = _setting(
        86_400, "s", "Age after which an open run is closed as `timeout`.", ge=limits.LEASE_AGE_MS_MIN // 1000
    )
    sweep_every_s: float = _setting(
        15.0, "s", "Pause between two looks for silent, expired and removable runs.", ge=0.1, le=3_600
    )


class RetentionSettings(_Section):
    """How long closed runs are kept. Off unless a horizon is set."""

    horizon_days: float | None = _setting(
        None, "days", "Age of the last change at which a closed run expires; unset: never.", ge=1
    )
    workspaces: dict[str, float] = _setting({}, "workspace=days", "Horizon of single workspaces, instead of that.")
    remove_after_s: float = _setting(
        600.0, "s", "From an expiry in the store to the removal; above the longest time an insert may take.", ge=0
    )

    @field_validator("workspaces")
    @classmethod
    def _are_days(cls, value: dict[str, float]) -> dict[str, float]:
        if not all(_WORKSPACE.match(name) and days >= 1 for name, days in value.items()):
            raise ValueError("must name workspaces, each with a horizon of at least one day")
        return value


class SignalSettings(_Section):
    """What agents are held against: failures, spending, loops, budgets."""

    rules: Path | None = _setting(None, "path", "TOML file with the rules of each workspace; unset: defaults for all.")
    budgets: Path | None = _setting(None, "path", "TOML file with the budgets of workspaces and agents; unset: none.")
    every_s: float = _setting(
        15.0, "s", "Pause between two passes; longer where a pass takes more than a fifth of it.", ge=0.1, le=3_600
    )
    series_max: int = _setting(200, "series", "Most agents shown by one gauge: those with the highest value.", ge=1)

    @field_validator("rules", "budgets")
    @classmethod
    def _home_is_meant(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value is not None else None


class TrustSettings(_Section):
    """Whose signatures are trusted, and what becomes of a run whose verdict is bad."""

    dir: Path | None = _setting(
        None, "path", "Folder of registries, one `<workspace>.jwks.json` each; unset: `trust` in the data folder."
    )
    policy: Literal["off", "warn", "enforce"] = _setting(
        "off",
        "mode",
        "What a bad verdict does: nothing, a flag on the run, or the quarantine topic instead of the runs topic.",
    )
    policies: dict[str, Literal["off", "warn", "enforce"]] = _setting(
        {}, "workspace=mode", "The same for single workspaces."
    )
    quarantine_on: tuple[str, ...] = _setting(
        ("rejected", "mismatch", "revoked"), "headlines", "The verdicts that are bad."
    )
    require_signed: bool = _setting(default=False, unit="yes/no", meaning="Whether an unverifiable run is bad, too.")

    @field_validator("policies")
    @classmethod
    def _are_workspaces(cls, value: dict[str, str]) -> dict[str, str]:
        if not all(_WORKSPACE.match(name) for name in value):
            raise ValueError("must name workspaces")
        return value

    @field_validator("quarantine_on")
    @classmethod
    def _are_headlines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not set(value) <= BAD_HEADLINES:
            raise ValueError(f"must be some of {', '.join(sorted(BAD_HEADLINES))}")
        return value

    orphan_after_s: float = _setting(
        86_400.0, "s", "Wait for a parent, its end or its claim, after which a run is `orphaned`.", gt=0
    )

    @field_validator("dir")
    @classmethod
    def _home_is_meant(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value is not None else None


class PriceSettings(_Section):
    """What runs cost."""

    file: Path | None = _setting(
        None, "path", "File of prices that win over the shipped ones; proposed where no prices are in force yet."
    )


class Settings(BaseSettings):
    """All settings. Built by `load_settings`; the bare constructor reads neither environment nor file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    clickhouse: ClickhouseSettings = Field(default_factory=ClickhouseSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    leases: LeaseSettings = Field(default_factory=LeaseSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    signals: SignalSettings = Field(default_factory=SignalSettings)
    trust: TrustSettings = Field(default_factory=TrustSettings)
    prices: PriceSettings = Field(default_factory=PriceSettings)
    tenancy: Literal["envelope", "topic"] = _setting(
        "envelope", "name", "Who names the workspace: `envelope` (mapping first), or `topic` (the mapping alone)."
    )
    workspaces: dict[str, str] = _setting({}, "topic=workspace", "Workspace of everything on a topic, by topic.")
    events_topics: tuple[str, ...] = _setting((topics.EVENTS,), "topics", "Topics that workers read events from.")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "name", "Least level that is logged.")
    log_style: Literal["auto", "json", "console"] = _setting(
        "auto", "name", "How log lines look; `auto` is console on a terminal and JSON elsewhere."
    )
    data: Path = _folder(data_folder, "Folder of the local stack and its data.")
    cache: Path = _folder(cache_folder, "Folder of downloaded and checked jars.")
    kafka_home: Path | None = _setting(None, "path", "An unpacked Apache Kafka for the local broker; no download then.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings calls it with these names
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is handed in; `load_settings` merges the sources, so that the order is in one place."""
        return (init_settings,)

    @field_validator("events_topics")
    @classmethod
    def _are_topics(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value) or not all(_TOPIC.match(name) for name in value):
            raise ValueError("must be one or more different Kafka topic names")
        return value

    @field_validator("data", "cache", "kafka_home")
    @classmethod
    def _home_is_meant(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value is not None else None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        strange = sorted(set(self.workspaces) - set(self.events_topics))
        if strange:
            raise ValueError(f"workspaces names a topic that events_topics does not: {', '.join(strange)}")
        if len(set(self.workspaces.values())) != len(self.workspaces):
            raise ValueError("workspaces maps two topics to one workspace, which would mix two logs in one run")
        if not all(_WORKSPACE.match(name) for name in self.workspaces.values()):
            raise ValueError(f"workspaces holds a name that is not of the form {_WORKSPACE.pattern[:-2]}")
        if self.clickhouse.insert_timeout_s * 1_000 >= self.worker.max_poll_interval_ms:
            raise ValueError("clickhouse.insert_timeout_s must be below worker.max_poll_interval_ms")
        return self

    @property
    def trust_folder(self) -> Path:
        """The folder of registries."""
        return self.trust.dir or self.data / "trust"

    def redacted(self) -> dict[str, Any]:
        """Every setting by its dotted name, secrets as `***`."""
        return {name: _shown(value_of(self, name)) for name, _ in leaves(type(self))}


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting: its dotted name, and its field."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, _Section):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper().replace(".", "__")


def value_of(settings: Settings, name: str) -> Any:
    """The value of a setting by its dotted name."""
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _shown(value: object) -> object:
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value

"""Typed settings: the only reader of the environment, and of the optional TOML file.

Precedence: overrides (flags) > environment > file > default. Read by `wiring` and `cli` alone; everyone else
is handed what it needs. Must not live here: anything that connects to what a setting names.
"""

from agentrun_stream.config.catalogue import Setting, catalogue
from agentrun_stream.config.load import CRASH_POINT_VARIABLE, crash_point, load_settings
from agentrun_stream.config.opinions import load_budgets, load_rules
from agentrun_stream.config.settings import ClickhouseSettings, KafkaSettings, Settings, WorkerSettings
from agentrun_stream.config.stack import ENDPOINTS_FILE, Endpoints, clickhouse_url, find_stack, kafka_bootstrap

__all__ = [
    "CRASH_POINT_VARIABLE",
    "ENDPOINTS_FILE",
    "ClickhouseSettings",
    "Endpoints",
    "KafkaSettings",
    "Setting",
    "Settings",
    "WorkerSettings",
    "catalogue",
    "clickhouse_url",
    "crash_point",
    "find_stack",
    "kafka_bootstrap",
    "load_budgets",
    "load_rules",
    "load_settings",
]

"""agentrun-stream: agent-run events on Kafka become exact runs in ClickHouse."""

__version__ = "0.1.0"
PROTOCOL_VERSION = "0.1.0"

"""The same stack on containers: Apache Kafka and ClickHouse as Docker runs them, the workers as processes here."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agentrun_stream.broker import admin
from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.childproc import LOOPBACK, free_port, private_folder
from agentrun_stream.errors import EmbeddedError, UnavailableError
from agentrun_stream.store.client import StoreAddress
from agentrun_stream.store.migrate import migrate
from agentrun_stream.supervisor import Workers, local_environment
from agentrun_stream.testing.stack import Stack

KAFKA_IMAGE: Final = "apache/kafka:4.1.1"
CLICKHOUSE_IMAGE: Final = "clickhouse/clickhouse-server:25.8"
START_S_MAX: Final = 120
_KAFKA_PORT: Final = 9092
_HTTP_PORT: Final = 8123


def missing_docker() -> str:
    """Why containers can't run here; empty where they can."""
    try:
        import docker  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra

        docker.from_env().ping()
    except ImportError:
        return "testcontainers not installed: pip install 'agentrun-stream[dev]'"
    except Exception as error:  # noqa: BLE001 - whatever the daemon's client says, it is the reason to skip
        return f"no Docker daemon answers ({type(error).__name__})"
    return ""


def start_containers(folder: Path, workers: int) -> Stack:
    """Start both containers, topics, tables and workers."""
    kafka, clickhouse = _kafka(), _clickhouse()
    started: list[Callable[[], Any]] = []

    def stop() -> None:
        while started:
            started.pop()()

    try:
        for container in (kafka, clickhouse):
            container.start()
            started.append(container.stop)
        address = f"{LOOPBACK}:{kafka.agentrun_port}"
        url = f"http://{clickhouse.get_container_host_ip()}:{clickhouse.get_exposed_port(_HTTP_PORT)}"
        asyncio.run(_set_up(address, url))
        processes = Workers(private_folder(folder), workers, local_environment(address, url, {}))
        started.append(processes.stop)
        processes.start()
        processes.wait_ready()
    except BaseException:
        stop()
        raise
    return Stack(folder, address, url, processes, stop)


def _kafka() -> Any:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - an extra

    port = free_port()  # clients come back to the address that the broker tells them, so it must be known before
    settings = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_LISTENERS": f"PLAINTEXT://:{_KAFKA_PORT},CONTROLLER://localhost:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{LOOPBACK}:{port}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    }
    container: Any = DockerContainer(KAFKA_IMAGE).with_bind_ports(_KAFKA_PORT, port)
    for name, value in settings.items():
        container.with_env(name, value)
    container.agentrun_port = port
    return container


def _clickhouse() -> Any:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - an extra

    # Loopback only, for the length of a test: the user `default` without a password, as the embedded store has it.
    return DockerContainer(CLICKHOUSE_IMAGE).with_exposed_ports(_HTTP_PORT).with_env("CLICKHOUSE_SKIP_USER_SETUP", "1")


async def _set_up(address: str, url: str) -> None:
    """Topics and tables, as soon as both answer."""
    async with asyncio.timeout(START_S_MAX):
        while not await asyncio.to_thread(_answers, url):  # noqa: ASYNC110 - another machine's event
            await asyncio.sleep(0.5)
        await asyncio.to_thread(migrate, StoreAddress(url))
        while True:
            with suppress(UnavailableError):
                await admin.apply_topics(KafkaAddress(address))
                return
            await asyncio.sleep(0.5)
    raise EmbeddedError("The containers did not answer in time.", "See `docker logs`.")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ping", timeout=2) as reply:  # noqa: S310 - our own container
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False

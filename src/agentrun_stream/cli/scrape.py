"""What a worker says at /readyz and /metrics, as `status` and `doctor` want it. Must not live here: what it means."""

import http.client
import json
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from agentrun_stream.cli.common import printable
from agentrun_stream.errors import UsageError
from agentrun_stream.telemetry.catalogue import PREFIX

TIMEOUT_S: Final = 3.0
_SAMPLE: Final = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)\Z")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    """One series: its labels and its value."""

    labels: dict[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker as it answers: `ready`, why not, its series by name without prefix. Not `up`: it does not answer."""

    url: str
    up: bool = False
    ready: bool = False
    reasons: tuple[str, ...] = ()
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def total(self, name: str) -> float | None:
        """The sum of a metric's series; None where there is none."""
        found = self.samples.get(name)
        return sum(s.value for s in found) if found else None

    @property
    def state(self) -> str:
        """One word."""
        return "ready" if self.ready else "not ready" if self.up else "down"


def ask_worker(url: str) -> WorkerState:
    """Ask a worker how it is; one that does not answer is an answer too."""
    try:
        _, ready = _get(url, "/readyz")
        said = json.loads(ready)
        _, page = _get(url, "/metrics")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return WorkerState(url, reasons=(f"does not answer ({type(error).__name__})",))
    reasons = tuple(printable(str(reason)) for reason in said.get("reasons", ()))
    return WorkerState(url, up=True, ready=bool(said.get("ready")), reasons=reasons, samples=parse(page))


def parse(page: str) -> dict[str, list[Sample]]:
    """The series of a metrics page, by name without our prefix."""
    found: dict[str, list[Sample]] = {}
    for line in page.splitlines():
        if not line.startswith(PREFIX) or not (match := _SAMPLE.match(line)):
            continue
        labels = dict(_LABEL.findall(match[2] or ""))
        found.setdefault(match[1].removeprefix(PREFIX), []).append(Sample(labels, float(match[3])))
    return found


def _get(url: str, path: str) -> tuple[int, str]:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise UsageError(
            f"{printable(url)!r} is no metrics address.", "Write http://host:port, as `agentrun work` prints it."
        )
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()

"""Plain HTTP to a store, without any client library."""

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    text: str
    headers: dict[str, str]

    @property
    def code(self) -> int:
        return int(self.headers.get("x-clickhouse-exception-code", "0"))


@dataclass
class Http:
    """Plain HTTP to a store, without any client library."""

    port: int

    def send(
        self,
        query: str | bytes = "",
        *,
        method: str = "POST",
        path: str = "/",
        headers: dict[str, str] | None = None,
        **params: Any,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = query.encode() if isinstance(query, str) else query
        target = f"{path}?{urlencode(params)}" if params else path
        connection.request(method, target, body if method == "POST" else None, headers or {})
        response = connection.getresponse()
        raw = response.read()
        connection.close()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, raw.decode("latin-1"), found)

    def rows(self, query: str) -> list[list[Any]]:
        answer = self.send(query, default_format="JSONCompactEachRow")
        assert answer.status == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

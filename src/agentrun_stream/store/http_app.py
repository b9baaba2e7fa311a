"""The store server as an ASGI application: ClickHouse's HTTP interface over the guard and the engine.

No query text and no body is ever logged here. Engine calls run in threads; the loop never waits for one.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agentrun_stream.store import native
from agentrun_stream.store.engine import DEFAULT_DATABASE, Call, Engine, EngineError, Outcome
from agentrun_stream.store.guard import Guard, Statement, StoreRefusal
from agentrun_stream.store.http_form import with_form
from agentrun_stream.store.http_request import (
    BODY_BYTES_MAX,
    Access,
    Request,
    RequestError,
    Text,
    check_origin,
    check_password,
    encode_body,
    read_text,
    too_large,
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

VALUES_EXPRESSION_BYTES_MAX: Final = 64 * 1024
DEFAULT_FORMAT: Final = "TabSeparated"

# ClickHouse's own mapping of exception codes to HTTP statuses; everything else is 500.
_STATUS: Final[dict[int, int]] = {
    **dict.fromkeys((36, 427, 6, 25, 26, 38, 41, 72, 27, 376, 15, 44, 16, 167, 168, 223, 62, 117, 53, 321), 400),
    **dict.fromkeys((674, 675, 457, 456), 400),
    **dict.fromkeys((60, 46, 47, 50, 56, 81, 115, 63, 73, 336, 78, 511), 404),
    194: 401,
    **dict.fromkeys((192, 193, 516, 497), 403),
    159: 408,
    66: 413,
    48: 501,
    **dict.fromkeys((209, 76, 439), 503),
}

_CONTENT_TYPES: Final = (
    ("JSONEachRow", "application/x-ndjson; charset=UTF-8"),
    ("JSONCompactEachRow", "application/x-ndjson; charset=UTF-8"),
    ("JSON", "application/json; charset=UTF-8"),
    ("CSV", "text/csv; charset=UTF-8; header=absent"),
    ("TabSeparated", "text/tab-separated-values; charset=UTF-8"),
    ("TSV", "text/tab-separated-values; charset=UTF-8"),
    ("XML", "application/xml; charset=UTF-8"),
    ("Pretty", "text/plain; charset=UTF-8"),
    ("Vertical", "text/plain; charset=UTF-8"),
    ("Markdown", "text/markdown; charset=UTF-8"),
)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reply:
    """A response before it is sent."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class StoreApp:
    """Answers HTTP requests; one object per server."""

    def __init__(self, engine: Engine, access: Access, *, threads: int) -> None:
        self._engine = engine
        self._access = access
        self._guard = Guard(engine.ask, engine.names)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="engine")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI calls it."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await _send(send, await self._reply(Request.from_scope(scope), receive))

    def close(self) -> None:
        """Let running calls end; call when no request comes any more."""
        self._threads.shutdown(wait=True)

    async def _reply(self, request: Request, receive: Receive) -> Reply:
        try:
            check_origin(request, self._access)
            if (fixed := _fixed_answer(request)) is not None:
                return fixed
            check_password(request, self._access)
            request = with_form(replace(request, body=await _read_body(request, receive)))
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, request)
        except RequestError as error:
            return self._error(error.code, error.text, error.status)
        except (_GoneError, ValueError):
            return self._error(36, "The request can't be read. (BAD_ARGUMENTS)", 400)
        except Exception as error:  # noqa: BLE001 - the server lives on; only the kind is logged, the text may be data
            log.error("a request failed: %s", type(error).__name__)  # noqa: TRY400 - no traceback, same reason
            return self._error(1001, f"Internal error: {type(error).__name__}. (STD_EXCEPTION)", 500)

    # -- in an engine thread

    def _answer(self, request: Request) -> Reply:
        try:
            return self._run(request)
        except (StoreRefusal, EngineError) as error:
            return self._error(error.code, str(error), _STATUS.get(error.code, 500))
        except RequestError as error:
            return self._error(error.code, error.text, error.status)

    def _run(self, request: Request) -> Reply:
        if request.params.get("compress") == "1" or request.params.get("decompress") == "1":
            raise RequestError(48, "Use Accept-Encoding and Content-Encoding, not compress=1. (NOT_IMPLEMENTED)", 501)
        text = read_text(request)
        if not text.query.strip():
            raise StoreRefusal("Empty query. (SYNTAX_ERROR)", 62)
        settings = request.settings()
        for name in settings:
            self._guard.check_setting(name)
        call = Call(request.database or DEFAULT_DATABASE, settings, request.statement_parameters())
        statement = self._guard.check(text.query, call.params)
        if request.read_only and not statement.reads_only:
            raise StoreRefusal("Cannot execute query in readonly mode; use POST to modify. (READONLY)", 164)
        if statement.insert_format:
            return self._success(request, self._insert(statement, text, call), DEFAULT_FORMAT)
        output_format = statement.output_format or request.default_format or DEFAULT_FORMAT
        if output_format not in self._engine.output_formats:
            raise StoreRefusal(f"Unknown format {output_format[:50]}. (UNKNOWN_FORMAT)", 73)
        outcome = self._engine.query(statement.text, output_format, call)
        if output_format == "Native" and request.protocol_revision >= native.REVISION_WITH_CUSTOM_SERIALIZATION:
            outcome = replace(outcome, body=_revised(outcome.body))
        return self._success(request, outcome, output_format)

    def _insert(self, statement: Statement, text: Text, call: Call) -> Outcome:
        data = text.data or b""
        if statement.insert_format not in self._engine.input_formats:
            raise StoreRefusal(f"Unknown format {statement.insert_format[:50]}. (UNKNOWN_FORMAT)", 73)
        if call.params:
            raise StoreRefusal("An INSERT with data takes no param_*. (NOT_IMPLEMENTED)", 48)
        if (
            statement.insert_format == "Values"
            and len(data) <= VALUES_EXPRESSION_BYTES_MAX
            and self._guard.values_are_plain(data)
        ):
            call = replace(call, settings={**call.settings, "input_format_values_interpret_expressions": "1"})
        header = statement.text[: statement.text.rindex(" FORMAT ")]
        return self._engine.insert(header, statement.insert_format, data, call)

    def _success(self, request: Request, outcome: Outcome, output_format: str) -> Reply:
        body, encoding = outcome.body, ""
        if request.params.get("enable_http_compression") == "1" and body:
            body, encoding = encode_body(body, request.headers.get("accept-encoding", ""))
        headers = {
            "Content-Type": _content_type(output_format),
            "X-ClickHouse-Server-Display-Name": "agentrun-store",
            "X-ClickHouse-Query-Id": request.query_id,
            "X-ClickHouse-Format": output_format,
            "X-ClickHouse-Timezone": self._engine.timezone,
            "X-ClickHouse-Summary": _summary(outcome),
        }
        if encoding:
            headers["Content-Encoding"] = encoding
        return Reply(200, body, headers)

    def _error(self, code: int, text: str, status: int) -> Reply:
        headers = {"Content-Type": "text/plain; charset=UTF-8", "X-ClickHouse-Exception-Code": str(code)}
        if status == 401:  # noqa: PLR2004
            headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        body = f"Code: {code}. DB::Exception: {text} (version {self._engine.version})\n"
        return Reply(status, body.encode(), headers)


def _revised(body: bytes) -> bytes:
    try:
        return native.with_revision(body)
    except native.UnknownLayoutError as error:
        words = f"Native with client_protocol_version can't carry {error} here; convert it to String. (NOT_IMPLEMENTED)"
        raise RequestError(48, words, 501) from None


class _GoneError(Exception):
    """The client left before its body was complete."""


def _fixed_answer(request: Request) -> Reply | None:
    plain = {"Content-Type": "text/plain; charset=UTF-8"}
    if request.path in {"/ping", "/replicas_status"}:
        return Reply(200, b"Ok.\n", plain)
    if request.path != "/":
        return Reply(404, b"There is no handle " + request.path[:100].encode("ascii", "replace") + b"\n", plain)
    if request.method in {"GET", "HEAD"} and not request.params.get("query"):
        return Reply(200, b"Ok.\n", plain)
    if request.method not in {"GET", "HEAD", "POST"}:
        return Reply(501, b"Only GET, HEAD and POST.\n", plain)
    return None


async def _read_body(request: Request, receive: Receive) -> bytes:
    if int(request.headers.get("content-length") or 0) > BODY_BYTES_MAX:
        raise too_large()
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise too_large()
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _send(send: Send, reply: Reply) -> None:
    headers = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in reply.headers.items()]
    headers.append((b"content-length", str(len(reply.body)).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def _content_type(output_format: str) -> str:
    fitting = (kind for prefix, kind in _CONTENT_TYPES if output_format.startswith(prefix))
    return next(fitting, "application/octet-stream")


def _summary(outcome: Outcome) -> str:
    numbers = {
        "read_rows": outcome.rows_read,
        "read_bytes": outcome.bytes_read,
        "written_rows": outcome.rows_written,
        "written_bytes": outcome.bytes_written,
        "total_rows_to_read": outcome.rows_read,
        "result_rows": outcome.rows_written,
        "result_bytes": len(outcome.body) or outcome.bytes_written,
        "elapsed_ns": int(outcome.elapsed_s * 1e9),
    }
    return json.dumps({name: str(number) for name, number in numbers.items()}, separators=(",", ":"))

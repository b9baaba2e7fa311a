"""What arrives at the store server, read as ClickHouse's HTTP interface reads it: who asks, what, under which settings.

Nothing is decided about the statement here, and nothing is run.
"""

import base64
import binascii
import gzip
import hmac
import ipaddress
import re
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from agentrun_stream.limits import MIB
from agentrun_stream.store.sqltext import InsertText, split_insert

BODY_BYTES_MAX: Final = 256 * MIB

# Parameters of ClickHouse's HTTP interface that are no settings of the query.
HTTP_PARAMETERS: Final = frozenset(
    {
        "query",
        "database",
        "default_format",
        "user",
        "password",
        "quota_key",
        "role",
        "query_id",
        "session_id",
        "session_timeout",
        "session_check",
        "compress",
        "decompress",
        "client_protocol_version",
        "stacktrace",
        "readonly",
        "buffer_size",
        "wait_end_of_query",
        "close_session",
        "enable_http_compression",
        "add_http_cors_header",
        "http_zlib_compression_level",
        "http_response_buffer_size",
        "http_wait_end_of_query",
        "http_write_exception_in_output_format",
        "http_headers_progress_interval_ms",
        "http_native_compression_disable_checksumming_on_decompress",
        "send_progress_in_http_headers",
        "cancel_http_readonly_queries_on_client_close",
    }
)


class RequestError(Exception):
    """The request itself is refused. `code` is ClickHouse's, `status` HTTP's."""

    def __init__(self, code: int, text: str, status: int) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.status = status


@dataclass(frozen=True, slots=True)
class Access:
    """Who may talk to the server."""

    hosts: frozenset[str] = frozenset()
    user: str = ""
    password: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, its body complete but still encoded."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""

    @classmethod
    def from_scope(cls, scope: Mapping[str, Any]) -> "Request":
        """Read method, path, parameters and headers; a repeated Host makes none."""
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1")
            headers[key] = "" if key == "host" and key in headers else value.decode("latin-1")
        params = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=2_000))
        return cls(scope["method"], scope["path"], params, headers)

    @property
    def query_id(self) -> str:
        """The client's own id if it is fit for a header, or a new one."""
        given = self.params.get("query_id", "")
        return given if re.fullmatch(r"[\w.:-]{1,128}", given) else str(uuid.uuid4())

    @property
    def default_format(self) -> str:
        """The output format when the statement names none."""
        return self.headers.get("x-clickhouse-format") or self.params.get("default_format") or ""

    @property
    def database(self) -> str:
        """The database the client asked for."""
        return self.headers.get("x-clickhouse-database") or self.params.get("database") or ""

    @property
    def protocol_revision(self) -> int:
        """The revision of Native blocks the client asked for; 0 is the plain one."""
        given = self.params.get("client_protocol_version", "")
        return int(given) if given.isdecimal() else 0

    @property
    def read_only(self) -> bool:
        """Whether this request may only read."""
        return self.method != "POST" or self.params.get("readonly", "0") not in {"", "0"}

    def settings(self) -> dict[str, str]:
        """The query's settings: whatever is neither a parameter of the interface nor of the statement."""
        return {
            name: value
            for name, value in self.params.items()
            if name not in HTTP_PARAMETERS and not name.startswith("param_")
        }

    def statement_parameters(self) -> dict[str, str]:
        """Values for `{name:Type}`, escaped as they arrived."""
        return {name[6:]: value for name, value in self.params.items() if name.startswith("param_")}


@dataclass(frozen=True, slots=True)
class Text:
    """The statement's text and, for an INSERT that brings its rows along, the rows."""

    query: str
    data: bytes | None = field(default=None, repr=False)


def check_origin(request: Request, access: Access) -> None:
    """Refuse pages of other sites and foreign host names (DNS rebinding)."""
    if "origin" in request.headers:
        raise _forbidden("requests with an Origin header")
    if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        raise _forbidden("requests from other sites")
    if not _host_allowed(request.headers.get("host", ""), access.hosts):
        raise _forbidden("this Host name; allow it with --allow-host")


def _forbidden(what: str) -> RequestError:
    return RequestError(497, f"The embedded store does not allow {what}. (ACCESS_DENIED)", 403)


def _host_allowed(header: str, hosts: frozenset[str]) -> bool:
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|([^:\[\]]+)(?::\d+)?", header.strip())
    if match is None:
        return False
    name = (match.group(1) or match.group(2)).lower().rstrip(".")
    if name == "localhost" or name in hosts:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_password(request: Request, access: Access) -> None:
    """Refuse a missing or wrong password, if one is set."""
    if not access.user:
        return
    user, password = _credentials(request)
    if user is None:
        raise RequestError(194, "Password required for this store. (REQUIRED_PASSWORD)", 401)
    same_user = hmac.compare_digest(user.encode(), access.user.encode())
    same_password = hmac.compare_digest(password.encode(), access.password.encode())
    if not (same_user and same_password):
        words = "Authentication failed: password is incorrect, or there is no such user. (AUTHENTICATION_FAILED)"
        raise RequestError(516, words, 403)


def _credentials(request: Request) -> tuple[str | None, str]:
    headers, params = request.headers, request.params
    if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
        return headers.get("x-clickhouse-user", "default"), headers.get("x-clickhouse-key", "")
    kind, _, blob = headers.get("authorization", "").partition(" ")
    if kind.lower() == "basic":
        try:
            user, _, password = base64.b64decode(blob, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, password
    if "user" in params or "password" in params:
        return params.get("user", "default"), params.get("password", "")
    return None, ""


def read_text(request: Request) -> Text:
    """Join the `query` parameter and the body as ClickHouse does, and part an INSERT from its rows."""
    body = _decoded(request)
    query = request.params.get("query", "")
    if not query:
        found = split_insert(body)
        return Text(body.decode("utf-8", "replace")) if found is None else _insert(found, body, request)
    raw = query.encode()
    found = split_insert(raw)
    if found is None:
        return Text(f"{query}\n{body.decode('utf-8', 'replace')}" if body else query)
    rest = raw[found.data_offset :]
    return _insert(found, rest + b"\n" + body if rest.strip() else body, request, offset=0)


def _insert(found: InsertText, raw: bytes, request: Request, offset: int | None = None) -> Text:
    data = raw[found.data_offset if offset is None else offset :]
    if found.has_format:
        return Text(found.header, data)
    return Text(f"{found.header} FORMAT {request.default_format or 'Values'}", data)


def _decoded(request: Request) -> bytes:
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding in {"", "identity"} or not request.body:
        return request.body
    decode = _DECODERS.get(encoding)
    if decode is None:
        raise RequestError(48, f"Unknown Content-Encoding '{encoding[:50]}'. (NOT_IMPLEMENTED)", 501)
    try:
        return decode(request.body)
    except RequestError:
        raise
    except Exception as error:  # noqa: BLE001 - every library has errors of its own
        words = f"The body is not {encoding}: {type(error).__name__}. (CANNOT_DECOMPRESS)"
        raise RequestError(354, words, 400) from None


def _inflate(wbits: int) -> Callable[[bytes], bytes]:
    def decode(body: bytes) -> bytes:
        stream = zlib.decompressobj(wbits)
        return _bounded(stream.decompress(body, BODY_BYTES_MAX + 1))

    return decode


def _bounded(data: bytes) -> bytes:
    if len(data) > BODY_BYTES_MAX:
        raise too_large()
    return data


def too_large() -> RequestError:
    """The body is longer than this server takes."""
    return RequestError(307, f"The body is larger than {BODY_BYTES_MAX // MIB} MiB. (TOO_MANY_BYTES)", 413)


def _lz4_decode(body: bytes) -> bytes:
    import lz4.frame  # type: ignore[import-untyped]  # noqa: PLC0415 - only for clients that use it

    return _bounded(lz4.frame.LZ4FrameDecompressor().decompress(body, BODY_BYTES_MAX + 1))


def _zstd_decode(body: bytes) -> bytes:
    from backports import zstd  # noqa: PLC0415 - only for clients that use it

    return _bounded(zstd.ZstdDecompressor().decompress(body, BODY_BYTES_MAX + 1))


_DECODERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": _inflate(31),
    "deflate": _inflate(15),
    "lz4": _lz4_decode,
    "zstd": _zstd_decode,
}


def encode_body(body: bytes, accepted: str) -> tuple[bytes, str]:
    """The body in the first encoding the client names that we have."""
    for offered in accepted.lower().split(","):
        name = offered.split(";")[0].strip()
        if name == "gzip":
            return gzip.compress(body, 1), name
        if name == "deflate":
            return zlib.compress(body, 1), name
        if name == "lz4":
            import lz4.frame  # noqa: PLC0415

            return lz4.frame.compress(body), name
        if name == "zstd":
            from backports import zstd  # noqa: PLC0415

            return zstd.compress(body, 1), name
    return body, ""

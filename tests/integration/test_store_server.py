"""The embedded store as a real process: what its clients may do, what they may not, and what it promises."""

import gzip
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
import lz4.frame
import pytest

from agentrun_stream.errors import EmbeddedError
from agentrun_stream.store.embedded import MODULE, EmbeddedStore

ONE_PART = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    "input_format_parallel_parsing": 0,
    "max_insert_threads": 1,
    "min_insert_block_size_rows": 1_000_000,
    "min_insert_block_size_bytes": 1_000_000_000,
    "max_insert_block_size": 1_000_000,
}
CANARY = "canary-7f3a91"


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
        self, query: str | bytes = "", *, method: str = "POST", path: str = "/", headers: dict[str, str] | None = None, **params: Any
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


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def web(store: EmbeddedStore) -> Http:
    return Http(int(store.url.rsplit(":", 1)[1]))


@pytest.fixture(scope="module")
def client(web: Http) -> Any:
    return clickhouse_connect.get_client(host="127.0.0.1", port=web.port)


@pytest.fixture
def table(web: Http, request: pytest.FixtureRequest) -> str:
    name = "t_" + "".join(char if char.isalnum() else "_" for char in request.node.name)
    web.send(f"DROP TABLE IF EXISTS {name}")
    made = web.send(f"CREATE TABLE {name} (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
    assert made.status == 200, made.text
    return name


# -- refusals


SECRET = "/etc/passwd"


@pytest.mark.parametrize(
    "query",
    [
        f"SELECT file('{SECRET}')",
        f"SELECT FiLe/* */('{SECRET}')",
        f"SELECT `file`('{SECRET}')",
        f'SELECT "file"(\'{SECRET}\')',
        "SELECT * APPLY(file) FROM system.one",
        f"SELECT * REPLACE (file('{SECRET}') AS dummy) FROM system.one",
        f"SELECT arrayMap(x -> file(x), ['{SECRET}'])",
        f"SELECT * FROM file('{SECRET}', 'LineAsString')",
        f"SELECT * FROM (SELECT * FROM view(SELECT * FROM file('{SECRET}')))",
        f"WITH x AS (SELECT * FROM file('{SECRET}')) SELECT * FROM x",
        f"SELECT 1 UNION ALL SELECT (SELECT count() FROM file('{SECRET}'))",
        f"SELECT 'a' IN file('{SECRET}', 'LineAsString')",
        "SELECT 'a' IN format(Values, 'a String', $$(file('/etc/passwd'))$$)",
        "SELECT * FROM format(Values, 'a String', $$(file('/etc/passwd'))$$)",
        "SELECT * FROM eval('SELECT 1')",
        f"DESCRIBE TABLE file('{SECRET}')",
        f"EXPLAIN SELECT * FROM file('{SECRET}')",
        f"EXPLAIN AST SELECT file('{SECRET}')",
        f"CREATE TABLE x AS file('{SECRET}')",
        f"CREATE VIEW x AS SELECT * FROM file('{SECRET}')",
        f"CREATE TABLE x (a String DEFAULT file('{SECRET}')) ENGINE = Memory",
        "INSERT INTO FUNCTION file('/tmp/x.csv') SELECT 1",
        "INSERT INTO TABLE FUNCTION file('/tmp/x.csv', 'CSV', 'a Int8') FORMAT CSV\n1",
        f"INSERT INTO x FROM INFILE '{SECRET}' FORMAT LineAsString",
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "SELECT 1 INTO/**/OUTFILE '/tmp/x' FORMAT CSV",
        "SELECT * FROM url('http://127.0.0.1:1/')",
        "SELECT * FROM executable('id', 'CSV', 'a String')",
        "SELECT * FROM remote('127.0.0.1', 'system', 'one')",
        "SELECT * FROM s3('http://127.0.0.1:1/x')",
        "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
        "SELECT * FROM sqlite('/tmp/x', 'y')",
        "SELECT * FROM python('x')",
        "SELECT * FROM loop(system.one)",
        "SELECT aiGenerate('x')",
        "SELECT showCertificate()",
        "CREATE TABLE x (a String) ENGINE = URL('http://127.0.0.1:1/', CSV)",
        "CREATE TABLE x (a String) ENGINE = File(CSV)",
        "CREATE TABLE x (a String) ENGINE = Executable('id', CSV)",
        "CREATE TABLE x (a String) ENGINE = Kafka('a', 'b', 'c', 'CSV')",
        "CREATE OR REPLACE TABLE x ENGINE = File(CSV) AS SELECT 1",
        "CREATE MATERIALIZED VIEW x ENGINE = File(CSV) AS SELECT 1 AS a",
        "CREATE TABLE x (a UInt8) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = local, path = '/tmp/')",
        "CREATE TABLE x (a UInt8) ENGINE = MergeTree ORDER BY a SETTINGS index_granularity = 1, `disk` = 'x'",
        "CREATE TABLE x (a UInt8) ENGINE = MergeTree ORDER BY a SETTINGS storage_policy = 'x'",
        "CREATE TABLE x (a Date) ENGINE = MergeTree ORDER BY a TTL a TO DISK 'x'",
        "CREATE DATABASE x ENGINE = Filesystem('/')",
        "CREATE DATABASE x ENGINE = SQLite('/tmp/x')",
        "CREATE DICTIONARY x (a UInt8) PRIMARY KEY a SOURCE(FILE(path '/etc/passwd' format 'CSV')) LAYOUT(FLAT()) LIFETIME(0)",
        "CREATE FUNCTION x AS a -> a",
        "CREATE USER x",
        "CREATE NAMED COLLECTION x AS a = 1",
        "CREATE TEMPORARY TABLE x (a UInt8)",
        "GRANT ALL ON *.* TO default",
        "ATTACH TABLE x FROM '/tmp/x' (a UInt8) ENGINE = MergeTree ORDER BY a",
        "DETACH TABLE x",
        "BACKUP TABLE x TO File('/tmp/x')",
        "RESTORE TABLE x FROM File('/tmp/x')",
        "ALTER TABLE x FREEZE",
        "ALTER TABLE x MODIFY SETTING disk = 'x'",
        "ALTER TABLE x MOVE PARTITION 1 TO DISK 'x'",
        "ALTER TABLE x UPDATE a = file('/etc/passwd') WHERE 1",
        "SYSTEM SHUTDOWN",
        "SYSTEM RELOAD CONFIG",
        "KILL QUERY WHERE 1",
        "SET max_threads = 1",
        "USE system",
        "EXECUTE AS x SELECT 1",
        "SELECT 1 PARALLEL WITH SELECT 2",
        "SELECT 1 SETTINGS format_schema = '/etc/passwd'",
        "SELECT 1 SETTINGS dialect = 'kusto'",
        "SELECT * FROM (SELECT 1 SETTINGS additional_table_filters = {'x': 'file(1)'})",
        "SELECT 1 SETTINGS default_table_engine = 'File'",
        "SELECT 1 AS `a\\nFunction b`",
    ],
)
def test_what_reaches_the_machine_is_refused(web: Http, query: str) -> None:
    """Files, programs, other servers, other disks and administration are refused, with 497 or as wrong syntax."""
    answer = web.send(query)
    assert (answer.status, answer.code) in {(403, 497), (400, 62)}, answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize("query", ["SELECT 1; SELECT 2", "SELECT 1;\nDROP TABLE x", "SELECT 1; -- x\n;SELECT file('/etc/passwd')"])
def test_two_statements_are_refused_and_neither_runs(web: Http, query: str) -> None:
    """Only one statement a request, as ClickHouse has it."""
    answer = web.send(query)
    assert (answer.status, answer.code) == (400, 62)


def test_a_second_statement_after_explain_ast_does_not_run(web: Http, table: str) -> None:
    """EXPLAIN AST on raw text would run what follows it."""
    answer = web.send(f"SELECT 1; DROP TABLE {table}")
    assert answer.code == 62
    assert web.rows(f"EXISTS TABLE {table}") == [[1]]


@pytest.mark.parametrize("name", ["/etc/passwd", "passwd", "../../etc/passwd", "file:///etc/passwd"])
def test_a_table_name_is_never_a_file(web: Http, name: str) -> None:
    """chDB's own default database reads files by table name; here it does not, nor through a parameter."""
    for answer in (
        web.send(f"SELECT * FROM `{name}`"),
        web.send(f"SELECT * FROM default.`{name}`"),
        web.send("SELECT * FROM {t:Identifier}", param_t=name),
        web.send("SELECT * FROM merge('default', '.*passwd.*')"),
    ):
        assert answer.status >= 400
        assert "root:" not in answer.text


@pytest.mark.parametrize("row", ["(1, file('/etc/passwd'))", "(1, `file`('/etc/passwd'))", "(1, (SELECT 'x'))", '(1, "file"(\'/etc/passwd\'))'])
def test_values_do_not_evaluate_what_is_refused(web: Http, table: str, row: str) -> None:
    """Rows of INSERT ... VALUES may be expressions, but not these."""
    assert web.send(f"INSERT INTO {table} VALUES {row}").status >= 400
    assert web.rows(f"SELECT * FROM {table}") == []


def test_values_may_be_plain_expressions(web: Http, table: str) -> None:
    """What people type by hand works."""
    assert web.send(f"INSERT INTO {table} VALUES (1 + 1, upper('x')), (3, 'it''s')").status == 200
    assert web.rows(f"SELECT * FROM {table} ORDER BY a") == [[2, "X"], [3, "it's"]]


@pytest.mark.parametrize(
    "settings",
    [{"format_schema": "/etc/passwd"}, {"input_format_record_errors_file_path": "/tmp/x"}, {"dialect": "prql"}, {"s3_x": 1}, {"allow_ddl": 0}],
)
def test_settings_that_reach_further_are_refused(web: Http, settings: dict[str, Any]) -> None:
    """By URL as in the text."""
    assert web.send("SELECT 1", **settings).code in {497, 115}


def test_an_unknown_setting_is_named(web: Http) -> None:
    answer = web.send("SELECT 1", nonsense=1)
    assert (answer.status, answer.code) == (404, 115)
    assert "nonsense" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "evil.example:8123"},
        {"Host": "localhost.evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "10.0.0.1"},
        {"Host": ""},
    ],
)
def test_pages_of_other_sites_and_foreign_host_names_are_refused(web: Http, headers: dict[str, str]) -> None:
    """Neither a page in the user's browser nor DNS rebinding gets through, not even to /ping."""
    for path in ("/", "/ping"):
        assert web.send("SELECT 1", path=path, headers=headers).status == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1", "127.1.2.3:80", "[::1]:8123"])
def test_loopback_names_are_welcome(web: Http, host: str) -> None:
    assert web.send("SELECT 1", headers={"Host": host, "Sec-Fetch-Site": "none"}).text == "1\n"


# -- errors


def test_errors_are_clickhouses_own(web: Http) -> None:
    """Text, code and HTTP status are what a ClickHouse server sends."""
    for query, status, code, words in (
        ("SELEC 1", 400, 62, "Syntax error"),
        ("SELECT * FROM nope", 404, 60, "nope"),
        ("SELECT nope", 404, 47, "nope"),
        ("SELECT nope()", 404, 46, "nope"),
        ("SELECT 1 FORMAT Nope", 404, 73, "Nope"),
        ("SELECT throwIf(1)", 500, 395, "throwIf"),
        ("SELECT toUInt8('x')", 400, 6, "x"),
        ("", 400, 62, "Empty query"),
    ):
        answer = web.send(query)
        assert (answer.status, answer.code) == (status, code), answer.text
        assert answer.text.startswith(f"Code: {code}. DB::Exception: ")
        assert words in answer.text
    assert web.send("SELECT 1", database="nope").code == 81


def test_get_only_reads(web: Http, table: str) -> None:
    """A GET, and readonly=1, change nothing."""
    assert web.send(method="GET", query="", path="/ping").text == "Ok.\n"
    assert web.send(method="GET", path="/replicas_status").text == "Ok.\n"
    refused = Http(web.port).send(method="GET", path=f"/?{urlencode({'query': f'DROP TABLE {table}'})}")
    assert refused.code == 164
    assert web.send(f"DROP TABLE {table}", readonly=1).code == 164
    assert web.rows(f"EXISTS TABLE {table}") == [[1]]


# -- ClickHouse's interface


def test_query_parameter_and_body_are_joined(web: Http) -> None:
    assert web.send(" + 1", path="/?query=SELECT+1").text == "2\n"


def test_headers_of_the_interface(web: Http) -> None:
    answer = web.send("SELECT number FROM numbers(10)", headers={"X-ClickHouse-Format": "JSONEachRow"}, query_id="mine")
    assert answer.headers["x-clickhouse-format"] == "JSONEachRow"
    assert answer.headers["x-clickhouse-query-id"] == "mine"
    assert answer.headers["x-clickhouse-timezone"]
    assert json.loads(answer.headers["x-clickhouse-summary"])["read_rows"] == "10"


def test_parameters_are_bound_by_the_engine(web: Http) -> None:
    """A value is never part of the text, whatever is in it."""
    answer = web.send("SELECT {s:String}, {n:Array(UInt8)}", param_s="'); DROP TABLE x; --", param_n="[1,2]", default_format="JSONCompactEachRow")
    assert json.loads(answer.text) == ["'); DROP TABLE x; --", [1, 2]]


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("lz4", lz4.frame.compress)],
)
def test_bodies_and_answers_may_be_compressed(web: Http, table: str, encoding: str, encode: Any) -> None:
    body = encode(b'[1,"x"]\n[2,"y"]\n')
    query = f"INSERT INTO {table} FORMAT JSONCompactEachRow"
    sent = _raw(web, body, {"Content-Encoding": encoding}, query=query)
    assert sent.status == 200, sent.text
    answer = web.send(f"SELECT * FROM {table}", headers={"Accept-Encoding": encoding}, enable_http_compression=1)
    assert answer.headers["content-encoding"] == encoding
    damaged = _raw(web, b"nonsense", {"Content-Encoding": encoding}, query=query)
    assert (damaged.status, damaged.code) == (400, 354)
    assert web.rows(f"SELECT count() FROM {table}") == [[2]]


def _raw(web: Http, body: bytes, headers: dict[str, str], **params: Any) -> Answer:
    return web.send(body, path=f"/?{urlencode(params)}", headers=headers)


def test_clickhouse_connect_works_unchanged(client: Any, web: Http, table: str) -> None:
    """Connect, command, insert, raw_insert, query, bound parameters, columns only."""
    client.insert(table, [[1, "one"], [2, "it's\n\ttwo"]], column_names=["a", "b"])
    client.raw_insert(table, ["a", "b"], b'[3,"three"]\n', fmt="JSONCompactEachRow", settings=ONE_PART)
    got = client.query(f"SELECT b FROM {table} WHERE a >= {{least:UInt64}} ORDER BY a", parameters={"least": 2})
    assert got.result_rows == [("it's\n\ttwo",), ("three",)]
    assert client.query(f"SELECT {{x:String}} FROM {table} LIMIT 1", parameters={"x": "a'b\\c\n"}).result_rows == [("a'b\\c\n",)]
    assert client.query(f"SELECT * FROM {table} LIMIT 0").column_names == ("a", "b")
    assert client.command(f"SELECT count() FROM {table}") == 3
    with pytest.raises(clickhouse_connect.driver.exceptions.DatabaseError, match="Code: 60"):
        client.query("SELECT * FROM nope")


def test_settings_of_one_query_do_not_stay(web: Http) -> None:
    """Clients share engine connections; a setting or database given by one must not meet another."""
    web.send("CREATE DATABASE IF NOT EXISTS other")
    for _ in range(30):
        assert web.send("SELECT getSetting('max_block_size'), currentDatabase()", max_block_size=7, database="other").text == "7\tother\n"
        assert web.send("SELECT getSetting('max_block_size') > 7, currentDatabase()").text == "1\tdefault\n"


# -- inserts


def rows_body(count: int) -> bytes:
    return b"".join(b'[%d,"row %d"]\n' % (i, i) for i in range(count))


def test_one_insert_makes_one_part(web: Http, table: str) -> None:
    """With block limits above the batch, whatever the body's size."""
    query = f"INSERT INTO {table} (a, b) FORMAT JSONCompactEachRow"
    answer = _raw(web, rows_body(200_000), {}, query=query, **ONE_PART)
    assert json.loads(answer.headers["x-clickhouse-summary"])["written_rows"] == "200000"
    assert web.rows(f"SELECT count(), sum(rows) FROM system.parts WHERE table = '{table}' AND level = 0") == [[1, 200_000]]


@pytest.mark.parametrize("tail", [b'[1,"x",]\n', b'[1,"x', b'["not a number","x"]\n', b"\xff\xfe"])
def test_a_failing_insert_leaves_nothing(web: Http, table: str, tail: bytes) -> None:
    """An error in the last row of a long body undoes the whole insert, and says why."""
    answer = _raw(web, rows_body(150_000) + tail, {}, query=f"INSERT INTO {table} FORMAT JSONCompactEachRow", **ONE_PART)
    assert answer.status >= 400
    assert answer.text.startswith(f"Code: {answer.code}. DB::Exception: ")
    assert web.rows(f"SELECT count() FROM {table}") == [[0]]


def test_a_client_that_leaves_in_the_middle_of_its_body_inserts_nothing(web: Http, table: str) -> None:
    """Half a body is no insert."""
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
    connection.putrequest("POST", "/?" + urlencode({"query": f"INSERT INTO {table} FORMAT JSONCompactEachRow"}))
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    connection.send(rows_body(100))
    connection.close()
    assert web.rows(f"SELECT count() FROM {table}") == [[0]]


def test_a_quick_query_answers_while_a_long_one_runs(web: Http) -> None:
    """The long query still runs when a hundred quick ones are through."""
    ended = threading.Event()

    def long_query() -> None:
        web.send("SELECT sum(sleepEachRow(0.5)) FROM numbers(6)", max_block_size=1)
        ended.set()

    thread = threading.Thread(target=long_query)
    thread.start()
    for number in range(100):
        assert web.send(f"SELECT {number % 10}").status == 200
    assert not ended.is_set()
    thread.join()


# -- the process


def test_folders_and_files_are_private(store: EmbeddedStore, web: Http, table: str) -> None:
    """0700 and 0600, all the way down."""
    web.send(f"INSERT INTO {table} VALUES (1, 'x')")
    assert not [path for path in (store.folder, *store.folder.rglob("*")) if not path.is_symlink() and path.stat().st_mode & 0o077]


def test_nothing_of_a_query_is_logged(store: EmbeddedStore, web: Http, table: str) -> None:
    """Neither texts nor bodies nor parameters, not even of requests that fail."""
    for query in (f"SELECT '{CANARY}'", f"SELEC '{CANARY}'", f"SELECT file('{CANARY}')", f"INSERT INTO {table} VALUES ('{CANARY}')"):
        web.send(query, param_x=CANARY)
    assert CANARY not in (store.folder / "store.log").read_text()


def test_a_second_server_on_the_folder_is_refused(store: EmbeddedStore) -> None:
    with pytest.raises(EmbeddedError, match="already runs on"):
        EmbeddedStore(store.folder).start()
    done = subprocess.run(
        [sys.executable, "-m", MODULE, "--data", str(store.folder), "--port", "1"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == EmbeddedError.exit_code
    assert "already runs on" in done.stderr


def test_a_busy_port_is_named(store: EmbeddedStore, web: Http, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match=f"Port {web.port} "):
        EmbeddedStore(tmp_path / "other", port=web.port).start()


def test_data_and_port_are_kept_and_sigterm_lets_queries_end(tmp_path: Path) -> None:
    """On SIGTERM a running query gets its answer, the process exits with 0, and the next start has the rows."""
    store = EmbeddedStore(tmp_path)
    url = store.start()
    store.wait_ready()
    web = Http(int(url.rsplit(":", 1)[1]))
    web.send("CREATE TABLE kept (a UInt8) ENGINE = MergeTree ORDER BY a")
    web.send("INSERT INTO kept VALUES (7)")
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(web.send("SELECT sum(sleepEachRow(0.2)) FROM numbers(5)", max_block_size=1)))
    thread.start()
    while web.rows("SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow%' AND query NOT LIKE '%processes%'") == [[0]]:
        pass
    child = store._child  # noqa: SLF001
    assert child is not None
    os.kill(store.pid, signal.SIGTERM)
    thread.join()
    assert answers[0].status == 200
    assert child.stop(30) == 0
    with EmbeddedStore(tmp_path) as again:
        assert again.url == url
        assert Http(web.port).rows("SELECT a FROM kept") == [[7]]


def test_user_and_password(tmp_path: Path) -> None:
    """With a password set, nothing but /ping answers without it; every way of sending it works."""
    secret = tmp_path / "password"
    secret.write_text("p:w\n")
    with EmbeddedStore(tmp_path / "data", user="ann", password_file=secret) as store:
        web = Http(int(store.url.rsplit(":", 1)[1]))
        assert web.send("SELECT 1").status == 401
        for user, password in (("ann", "wrong"), ("bob", "p:w"), ("ann", "")):
            refused = web.send("SELECT 1", user=user, password=password)
            assert (refused.status, refused.code) == (403, 516)
        assert web.send("SELECT 1", user="ann", password="p:w").text == "1\n"
        assert web.send("SELECT 1", headers={"X-ClickHouse-User": "ann", "X-ClickHouse-Key": "p:w"}).text == "1\n"
        assert web.send("SELECT 1", headers={"Authorization": "Basic YW5uOnA6dw=="}).text == "1\n"
        client = clickhouse_connect.get_client(host="127.0.0.1", port=web.port, username="ann", password="p:w")
        assert client.command("SELECT 1") == 1


def test_the_store_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed leaves no store behind, and the folder free."""
    program = f"""
import pathlib, time
from agentrun_stream.store.embedded import EmbeddedStore
store = EmbeddedStore(pathlib.Path({str(tmp_path)!r})); store.start(); store.wait_ready()
print(store.pid, flush=True); time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    _wait_gone(pid)
    with EmbeddedStore(tmp_path):
        pass


def _wait_gone(pid: int) -> None:
    """Block until the process is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([fd], [], [], 30)[0], f"process {pid} lives on"
    os.close(fd)

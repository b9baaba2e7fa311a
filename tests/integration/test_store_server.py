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
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
import lz4.frame  # type: ignore[import-untyped]
import pytest

from agentrun_stream.errors import EmbeddedError
from agentrun_stream.store.embedded import MODULE, EmbeddedStore
from integration.store_http import Answer, Http

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

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def client(web: Http) -> Any:
    return clickhouse_connect.get_client(host="127.0.0.1", port=web.port)


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


def test_parameters_that_are_too_long_for_an_address_come_as_a_form(client: Any) -> None:
    """As the client sends them by itself above a few kilobytes."""
    ids = [f"run-{number:06d}-\u00fc'" for number in range(3_000)]
    found = client.query("SELECT length({ids:Array(String)}), {ids:Array(String)}[3000]", parameters={"ids": ids})
    assert found.result_rows == [(3_000, ids[-1])]


def test_parameters_are_bound_by_the_engine(web: Http) -> None:
    """A value is never part of the text, whatever is in it."""
    answer = web.send(
        "SELECT {s:String}, {n:Array(UInt8)}",
        param_s="'); DROP TABLE x; --",
        param_n="[1,2]",
        default_format="JSONCompactEachRow",
    )
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
    assert client.query(f"SELECT {{x:String}} FROM {table} LIMIT 1", parameters={"x": "a'b\\c\n"}).result_rows == [
        ("a'b\\c\n",)
    ]
    assert client.query(f"SELECT * FROM {table} LIMIT 0").column_names == ("a", "b")
    assert client.command(f"SELECT count() FROM {table}") == 3
    with pytest.raises(clickhouse_connect.driver.exceptions.DatabaseError, match="Code: 60"):
        client.query("SELECT * FROM nope")


def test_settings_of_one_query_do_not_stay(web: Http) -> None:
    """Clients share engine connections; a setting or database given by one must not meet another."""
    web.send("CREATE DATABASE IF NOT EXISTS other")
    for _ in range(30):
        assert (
            web.send("SELECT getSetting('max_block_size'), currentDatabase()", max_block_size=7, database="other").text
            == "7\tother\n"
        )
        assert web.send("SELECT getSetting('max_block_size') > 7, currentDatabase()").text == "1\tdefault\n"


# -- inserts


def rows_body(count: int) -> bytes:
    return b"".join(b'[%d,"row %d"]\n' % (i, i) for i in range(count))


def test_one_insert_makes_one_part(web: Http, table: str) -> None:
    """With block limits above the batch, whatever the body's size."""
    query = f"INSERT INTO {table} (a, b) FORMAT JSONCompactEachRow"
    answer = _raw(web, rows_body(200_000), {}, query=query, **ONE_PART)
    assert json.loads(answer.headers["x-clickhouse-summary"])["written_rows"] == "200000"
    assert web.rows(f"SELECT count(), sum(rows) FROM system.parts WHERE table = '{table}' AND level = 0") == [
        [1, 200_000]
    ]


@pytest.mark.parametrize("tail", [b'[1,"x",]\n', b'[1,"x', b'["not a number","x"]\n', b"\xff\xfe"])
def test_a_failing_insert_leaves_nothing(web: Http, table: str, tail: bytes) -> None:
    """An error in the last row of a long body undoes the whole insert, and says why."""
    answer = _raw(
        web, rows_body(150_000) + tail, {}, query=f"INSERT INTO {table} FORMAT JSONCompactEachRow", **ONE_PART
    )
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
    assert not [
        path
        for path in (store.folder, *store.folder.rglob("*"))
        if not path.is_symlink() and path.stat().st_mode & 0o077
    ]


def test_nothing_of_a_query_is_logged(store: EmbeddedStore, web: Http, table: str) -> None:
    """Neither texts nor bodies nor parameters, not even of requests that fail."""
    for query in (
        f"SELECT '{CANARY}'",
        f"SELEC '{CANARY}'",
        f"SELECT file('{CANARY}')",
        f"INSERT INTO {table} VALUES ('{CANARY}')",
    ):
        web.send(query, param_x=CANARY)
    assert CANARY not in (store.folder / "store.log").read_text()


def test_a_second_server_on_the_folder_is_refused(store: EmbeddedStore) -> None:
    with pytest.raises(EmbeddedError, match="already runs on"):
        EmbeddedStore(store.folder).start()
    done = subprocess.run(
        [sys.executable, "-m", MODULE, "--data", str(store.folder), "--port", "1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
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
    thread = threading.Thread(
        target=lambda: answers.append(web.send("SELECT sum(sleepEachRow(0.2)) FROM numbers(5)", max_block_size=1))
    )
    thread.start()
    while web.rows(
        "SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow%' AND query NOT LIKE '%processes%'"
    ) == [[0]]:
        pass
    child = store._child
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
    ended = select.poll()  # `select` itself takes no descriptor above 1023
    ended.register(fd, select.POLLIN)
    assert ended.poll(30_000), f"process {pid} lives on"
    os.close(fd)

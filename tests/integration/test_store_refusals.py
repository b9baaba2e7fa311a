"""The embedded store is not a hole: what reaches the machine is refused, by a real server, request by request."""

from typing import Any

import pytest

from integration.store_http import Http

pytestmark = pytest.mark.stack


SECRET = "/etc/passwd"


@pytest.mark.parametrize(
    "query",
    [
        f"SELECT file('{SECRET}')",
        f"SELECT FiLe/* */('{SECRET}')",
        f"SELECT `file`('{SECRET}')",
        f"SELECT \"file\"('{SECRET}')",
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
        "DELETE FROM url('http://x', 'CSV', 'a String') WHERE a = 'x'",
        "DELETE FROM t WHERE a IN url('http://x', 'CSV', 'a String')",
        "DELETE FROM t WHERE file('/etc/passwd') = 'x' AND a = 'y'",
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
        "CREATE DICTIONARY x (a UInt8) PRIMARY KEY a SOURCE(NULL()) LAYOUT(FLAT()) LIFETIME(0)",
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


@pytest.mark.parametrize(
    "query", ["SELECT 1; SELECT 2", "SELECT 1;\nDROP TABLE x", "SELECT 1; -- x\n;SELECT file('/etc/passwd')"]
)
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


@pytest.mark.parametrize(
    "row",
    ["(1, file('/etc/passwd'))", "(1, `file`('/etc/passwd'))", "(1, (SELECT 'x'))", "(1, \"file\"('/etc/passwd'))"],
)
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
    [
        {"format_schema": "/etc/passwd"},
        {"input_format_record_errors_file_path": "/tmp/x"},
        {"dialect": "prql"},
        {"s3_x": 1},
        {"allow_ddl": 0},
    ],
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

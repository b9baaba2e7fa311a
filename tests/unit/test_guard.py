"""The guard's parts that need no engine: reading SQL text, telling settings apart, stepping over native blocks."""

import pytest

from agentrun_stream.store import guard_rules, native
from agentrun_stream.store.guard import Guard, Names, StoreRefusal, escape_parameter
from agentrun_stream.store.sqltext import split_insert, tokens

NAMES = Names(
    table_functions=frozenset({"file", "url", "numbers", "format", "view"}),
    functions=frozenset({"file", "format", "now", "upper"}),
    settings=frozenset({"max_threads", "format_schema", "dialect"}),
    merge_tree_settings=frozenset({"disk", "index_granularity"}),
)


def guard_with(text: str, tree: str) -> Guard:
    """A guard whose engine reads every statement as `text` and explains it as `tree`."""
    return Guard(lambda query, _: tree if query.startswith("EXPLAIN AST") else text, NAMES)


@pytest.mark.parametrize(
    ("raw", "header", "data"),
    [
        (b"INSERT INTO t FORMAT CSV\n1,2", "INSERT INTO t FORMAT CSV", b"1,2"),
        (b"insert into t (a, `format`) format CSV 1,2", "insert into t (a, `format`) format CSV", b"1,2"),
        (b"INSERT INTO t FORMAT CSV\n\n1", "INSERT INTO t FORMAT CSV", b"\n1"),
        (
            b"/* FORMAT x */ INSERT INTO t -- VALUES\n(a) VALUES (1)",
            "/* FORMAT x */ INSERT INTO t -- VALUES\n(a) VALUES",
            b" (1)",
        ),
        (
            b"INSERT INTO t SETTINGS a = 'FORMAT x' FORMAT Native \r\n\x01\xff",
            "INSERT INTO t SETTINGS a = 'FORMAT x' FORMAT Native",
            b"\x01\xff",
        ),
        ("INSERT INTO `ü` FORMAT CSV\nä".encode(), "INSERT INTO `ü` FORMAT CSV", "ä".encode()),
    ],
)
def test_an_insert_is_parted_from_its_rows(raw: bytes, header: str, data: bytes) -> None:
    """At ClickHouse's own place: blanks and one line end after the format, nothing else."""
    found = split_insert(raw)
    assert found is not None
    assert (found.header, raw[found.data_offset :]) == (header, data)


@pytest.mark.parametrize(
    "raw", [b"SELECT 1", b"", b"INSERT INTO t SELECT 1 FORMAT CSV", b"INSERT INTO t FROM INFILE 'x' FORMAT CSV"]
)
def test_what_brings_no_rows_along_stays_whole(raw: bytes) -> None:
    assert split_insert(raw) is None


def test_tokens_see_through_quotes_and_comments() -> None:
    """Nothing inside a string, a quoted name or a comment is a word."""
    text = "SELECT 'a''b\\' OUTFILE' /* INTO */ , `a\\`b` -- x\n, $h$ FILE $h$ FROM t"
    assert [token.text for token in tokens(text) if token.kind == "word"] == ["SELECT", "FROM", "t"]


@pytest.mark.parametrize(
    "name",
    ["max_threads", "async_insert", "input_format_parallel_parsing", "do_not_merge_across_partitions_select_final"],
)
def test_settings_of_a_query_are_allowed(name: str) -> None:
    assert guard_rules.setting_allowed(name)


@pytest.mark.parametrize(
    "name",
    [
        "format_schema",
        "output_format_schema",
        "input_format_record_errors_file_path",
        "input_format_values_interpret_expressions",
        "default_table_engine",
        "dialect",
        "additional_table_filters",
        "filter",
        "select",
        "allow_introspection_functions",
        "allow_python_table_function",
        "format_avro_schema_registry_url",
        "storage_file_read_method",
        "readonly",
        "url_base",
    ],
)
def test_settings_that_reach_further_are_not(name: str) -> None:
    assert not guard_rules.setting_allowed(name)


def test_the_engines_own_text_runs_not_the_clients() -> None:
    """What is returned is what was checked."""
    guard = guard_with("SELECT 1", "SelectWithUnionQuery (children 1)")
    assert guard.check("select/**/1", {}).text == "SELECT 1"


def test_an_unknown_statement_or_an_empty_tree_is_refused() -> None:
    """Only what is listed runs."""
    for tree in ("", "SYSTEM query", "BrandNewQuery (children 1)"):
        with pytest.raises(StoreRefusal):
            guard_with("SELECT 1", tree).check("x", {})


def test_text_and_tree_are_checked_each_on_its_own() -> None:
    """A trick that hides a function from one of the two readings is caught by the other."""
    harmless = "SelectWithUnionQuery (children 1)"
    with pytest.raises(StoreRefusal, match="file"):
        guard_with("SELECT file('x')", harmless).check("x", {})
    with pytest.raises(StoreRefusal, match="file"):
        guard_with("SELECT 1", f"{harmless}\n Function file (children 1)").check("x", {})
    with pytest.raises(StoreRefusal, match="table function format"):
        guard_with("SELECT 1", f"{harmless}\n TableExpression (children 1)\n  Function format (children 1)").check(
            "x", {}
        )


def test_control_characters_can_not_forge_the_tree() -> None:
    with pytest.raises(StoreRefusal, match="control"):
        guard_with("SELECT 1 AS `a\nb`", "SelectWithUnionQuery").check("x", {})


@pytest.mark.parametrize("data", [b"(1, now())", b"(1 + 1, 'it''s')", b"([1,2], NULL)"])
def test_plain_expressions_in_values(data: bytes) -> None:
    assert guard_with("", "").values_are_plain(data)


@pytest.mark.parametrize(
    "data", [b"(file('x'))", b"('file')", b"(`file`('x'))", b'("file"(1))', b"((SELECT 1))", b"(FILE(1))", b"($$x$$)"]
)
def test_other_expressions_in_values(data: bytes) -> None:
    """Refused for the word alone, wherever it stands."""
    assert not guard_with("", "").values_are_plain(data)


def test_a_parameter_is_escaped_as_tab_separated_text() -> None:
    assert escape_parameter("a\\b\tc\nd") == "a\\\\b\\tc\\nd"


def test_native_blocks_get_info_and_flags() -> None:
    """Every column is found by stepping over the one before it."""
    plain = b"\x02\x02" + b"\x01a\x06String" + b"\x01x\x02yz" + b"\x01b\x0fNullable(UInt8)" + b"\x00\x01\x07\x00"
    wanted = (
        b"\x01\x00\x02\xff\xff\xff\xff\x00\x02\x02"
        b"\x01a\x06String\x00"
        b"\x01x\x02yz"
        b"\x01b\x0fNullable(UInt8)\x00"
        b"\x00\x01\x07\x00"
    )
    assert native.with_revision(plain) == wanted
    assert native.with_revision(plain + plain) == wanted + wanted


def test_a_native_type_of_unknown_layout_is_said_so() -> None:
    with pytest.raises(native.UnknownLayoutError, match="JSON"):
        native.with_revision(b"\x01\x01\x01a\x04JSON\x00")

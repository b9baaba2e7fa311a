"""What a client of the embedded store may use: lists and patterns, no logic.

Everything that reaches files, other machines or other programs is absent from the allow-lists.
"""

import re
from typing import Final

# Statements, by the name of their root in EXPLAIN AST.
STATEMENTS_READ: Final = frozenset(
    {
        "SelectWithUnionQuery",
        "SelectIntersectExceptQuery",
        "DescribeQuery",
        "ShowTables",
        "ShowColumns",
        "ShowIndexes",
        "ShowFunctions",
        "ShowEngines",
        "ShowSetting",
        "ShowProcesslistQuery",
        "ShowCreateTableQuery",
        "ShowCreateViewQuery",
        "ShowCreateDatabaseQuery",
        "ExistsTableQuery",
        "ExistsViewQuery",
        "ExistsDatabaseQuery",
        "CheckQuery",
        "Explain",
    }
)
STATEMENTS_WRITE: Final = frozenset(
    {
        "InsertQuery",
        "CreateQuery",
        "DropQuery",
        "TruncateQuery",
        "AlterQuery",
        "Rename",
        "OptimizeQuery",
        "DeleteQuery",
        "UpdateQuery",
    }
)

TABLE_FUNCTIONS: Final = frozenset(
    {
        "numbers",
        "numbers_mt",
        "zeros",
        "zeros_mt",
        "primes",
        "values",
        "null",
        "generateseries",
        "generate_series",
        "generaterandom",
        "view",
        "merge",
    }
)

TABLE_ENGINES: Final = frozenset(
    {
        "mergetree",
        "replacingmergetree",
        "summingmergetree",
        "aggregatingmergetree",
        "collapsingmergetree",
        "versionedcollapsingmergetree",
        "coalescingmergetree",
        "graphitemergetree",
        "memory",
        "null",
        "buffer",
        "merge",
    }
)
DATABASE_ENGINES: Final = frozenset({"atomic"})

# Functions in expressions are a closed set of the engine's (CREATE FUNCTION is refused), nearly all of them
# pure. These are not: they read files, call out, look into the process or stall it. Table functions that
# are not allowed above are added by the guard, because `x IN url(...)` calls one from an expression.
FUNCTIONS_REFUSED: Final = frozenset(
    {
        "file",
        "catboostevaluate",
        "evalmlmethod",
        "fuzzquery",
        "addresstoline",
        "addresstolinewithinlines",
        "addresstosymbol",
        "trap",
        "logtrace",
        "reversednsquery",
        "showcertificate",
        "getclienthttpheader",
        "getserversetting",
        "getmacro",
        "lemmatize",
        "synonyms",
        "detectcharset",
        "zookeepersessionuptime",
    }
)
FUNCTIONS_REFUSED_PREFIXES: Final = ("ai", "regionto", "regionin", "regionhierarchy", "timeseriesstore")

ALTER_COMMANDS: Final = frozenset(
    f"{verb}_{what}"
    for verb, things in {
        "ADD": ("COLUMN", "INDEX", "PROJECTION", "CONSTRAINT", "STATISTICS"),
        "DROP": ("COLUMN", "INDEX", "PROJECTION", "CONSTRAINT", "STATISTICS", "PARTITION"),
        "MODIFY": ("COLUMN", "ORDER_BY", "SAMPLE_BY", "TTL", "SETTING", "QUERY", "COMMENT", "STATISTICS"),
        "MATERIALIZE": ("COLUMN", "INDEX", "PROJECTION", "TTL", "STATISTICS"),
        "RESET": ("SETTING",),
        "REMOVE": ("TTL", "SAMPLE_BY"),
        "RENAME": ("COLUMN",),
        "COMMENT": ("COLUMN",),
        "REPLACE": ("PARTITION",),
    }.items()
    for what in things
) | {"DELETE", "UPDATE"}

# Pairs of keywords that reach the machine, wherever they stand.
KEYWORD_PAIRS_REFUSED: Final = frozenset(
    {
        ("INTO", "OUTFILE"),
        ("FROM", "INFILE"),
        ("TO", "DISK"),
        ("TO", "VOLUME"),
        ("TO", "SHARD"),
        ("CREATE", "TEMPORARY"),
        ("ON", "CLUSTER"),
        ("FREEZE", "PARTITION"),
        ("TABLE", "OVERRIDE"),
    }
)

_SETTINGS_ALLOWED: Final = re.compile(
    r"^(max_|min_|async_insert|wait_for_async_insert|insert_deduplicat|insert_select_deduplicate|insert_null_as_default"
    r"|insert_quorum|deduplicate_|input_format_|output_format_|format_(csv|tsv|custom|regexp|binary|json|hive)"
    r"|date_time_|cast_|optimize_|join_|joined_|group_by_|distinct_overflow|sort_overflow|set_overflow|read_overflow"
    r"|result_overflow|transfer_overflow|timeout_|totals_|transform_null_in|union_default|intersect_default|except_default|query_plan_"
    r"|query_cache_|use_(skip|query_c|uncompressed|index|primary|partition|projection|statistics|top_k|variant)"
    r"|merge_tree_(max|min|coarse|generic)|enable_(analyzer|optimize|order_by|positional|vertical_final|lightweight"
    r"|global|scopes|software|early|reads_from_query|writes_to_query|extended|json|dynamic|variant)|force_primary"
    r"|force_index|force_data_skipping|force_optimize_projection|force_aggregation|compile_|count_distinct"
    r"|aggregat|empty_result|any_join|prefer_|preferred_|read_in_order|read_priority|short_circuit|precise_float"
    r"|decimal_|describe_|asterisk_|flatten_nested|data_type_default|low_cardinality|session_timezone$|log_comment$"
    r"|log_queries$|final$|extremes$|select_sequential|skip_unavailable_shards$|fallback_to_stale|do_not_merge_across"
    r"|receive_timeout$|send_timeout$|connect_timeout$|lock_acquire|mutations_sync$|alter_sync$|lightweight_delete"
    r"|apply_(deleted|mutations|patch|prewhere)|throw_if_no_data|throw_on_max_part|parallel_view|priority$"
    r"|materialized_views_ignore|allow_(suspicious|experimental_(analyzer|json_type|variant_type|dynamic_type"
    r"|lightweight|bigint|map_type|window_functions|projection|statistic)|nondeterministic_mut|nullable|simdjson"
    r"|special|hyperscan|reorder_prewhere|push|deprecated_synt)|type_json|variant_throw|validate_|splitby_"
    r"|function_(range|sleep|json|date|locate|visible)|functions_h3|geo|h3|partial_merge|grace_hash|trace_profile"
    r"|send_logs_level$|calculate_text|checksum_on_read$|local_filesystem_read_pre|storage_file_never)"
)
_SETTINGS_REFUSED: Final = re.compile(
    r"path|_file|file_|schema|url|disk|fuzz|fault|interpret_expressions|deduce_temp|s3|remote"
)

# Settings of MergeTree tables that place data elsewhere.
MERGE_TREE_SETTINGS_REFUSED: Final = re.compile(r"disk|storage_policy|path|zero_copy|fault|jbod|sleep")


def setting_allowed(name: str) -> bool:
    """Whether a client may set this query setting."""
    return _SETTINGS_ALLOWED.match(name) is not None and _SETTINGS_REFUSED.search(name) is None

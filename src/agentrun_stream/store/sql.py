"""SQL literals and the settings that queries pin. Must not live here: table names."""

from typing import Final

_ESCAPES: Final = {ord("\\"): "\\\\", ord("'"): "\\'"}

# A partial answer that looks like success would switch the guard against folding twice off.
LOOKUP_SETTINGS: Final = {
    "final": 0,
    "max_query_size": 64 * 1024 * 1024,
    "read_overflow_mode": "throw",
    "result_overflow_mode": "throw",
    "timeout_overflow_mode": "throw",
    "set_overflow_mode": "throw",
    "wait_end_of_query": 1,
    "skip_unavailable_shards": 0,
    "do_not_merge_across_partitions_select_final": 0,
    "use_query_cache": 0,
    "output_format_json_quote_64bit_integers": 0,
}

# One insert makes one part, and what returned is durable.
INSERT_SETTINGS: Final = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    "input_format_parallel_parsing": 0,
    "max_insert_threads": 1,
    "max_insert_block_size": 4_000_000,
    "min_insert_block_size_rows": 4_000_000,
    "min_insert_block_size_bytes": 4 * 1024 * 1024 * 1024,
    "input_format_skip_unknown_fields": 0,
    "date_time_input_format": "basic",
}


def literal(text: str) -> str:
    """`text` as a string literal, whatever characters it holds.

    The embedded store refuses statements in which a control character stands, however it is escaped.
    """
    return f"'{text.translate(_ESCAPES)}'" if text.isprintable() else f"unhex('{text.encode().hex()}')"

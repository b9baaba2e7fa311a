"""The store server's guard: which statements a client may run, decided on the engine's own reading of them.

A query reaches the engine first as a *parameter* of a formatting function, which executes nothing. Its
one-statement output is read for clauses and settings, then explained as a tree for functions, engines and
statement kinds; that same text is what runs. Raw client text is never explained or executed.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from agentrun_stream.store import guard_rules as rules
from agentrun_stream.store.sqltext import Token, tokens

CACHED_STATEMENTS_MAX: Final = 2_000
CACHED_STATEMENT_CHARS_MAX: Final = 16 * 1024
ACCESS_DENIED: Final = 497
NOT_IMPLEMENTED: Final = 48

_IN: Final = re.compile(r"(global)?(not)?(null)?in(ignoreset)?")
_EXPRESSION_WORDS_REFUSED: Final = frozenset({"select", "with", "settings"})

Ask = Callable[[str, Mapping[str, str]], str]


class StoreRefusal(Exception):  # noqa: N818 - a verdict, not a fault of ours
    """The statement is not run. `code` is ClickHouse's for the like."""

    def __init__(self, message: str, code: int = ACCESS_DENIED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that may run: the engine's own text of it, and what kind it is."""

    text: str
    kind: str
    output_format: str
    insert_format: str

    @property
    def reads_only(self) -> bool:
        """Whether it changes nothing."""
        return self.kind in rules.STATEMENTS_READ


@dataclass(frozen=True, slots=True)
class Names:
    """The engine's own lists, lower case: what exists, so that what is not allowed is known by name."""

    table_functions: frozenset[str]
    functions: frozenset[str]
    settings: frozenset[str]
    merge_tree_settings: frozenset[str]


class Guard:
    """Checks statements; remembers those that passed."""

    def __init__(self, ask: Ask, names: Names) -> None:
        self._ask = ask
        self._names = names
        foreign = names.table_functions - rules.TABLE_FUNCTIONS
        self._foreign_table_functions = foreign
        self._refused_functions = rules.FUNCTIONS_REFUSED | (foreign - names.functions)
        self._passed: OrderedDict[str, Statement] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, query: str, params: Mapping[str, str]) -> Statement:
        """The statement to run; raises StoreRefusal, or the engine's error for wrong SQL."""
        with self._lock:
            if (known := self._passed.get(query)) is not None:
                self._passed.move_to_end(query)
                return known
        statement = self._judge(query, params)
        if len(query) <= CACHED_STATEMENT_CHARS_MAX:
            with self._lock:
                self._passed[query] = statement
                if len(self._passed) > CACHED_STATEMENTS_MAX:
                    self._passed.popitem(last=False)
        return statement

    def check_setting(self, name: str) -> None:
        """Refuse a setting that reaches beyond the query."""
        if name not in self._names.settings:
            raise StoreRefusal(f"Unknown setting '{name[:200]}'. (UNKNOWN_SETTING)", 115)
        if not rules.setting_allowed(name):
            raise _refused(f"the setting {name}")

    def values_are_plain(self, data: bytes) -> bool:
        """Whether VALUES data may be evaluated as expressions: nothing in it can name a refused function.

        Deliberately coarse: it looks at every word, in strings too, so no trick of quoting gets past it.
        """
        if b"`" in data or b'"' in data or b"$" in data:
            return False
        words = {word.lower() for word in re.findall(r"[A-Za-z_]\w*", data.decode("utf-8", "replace"))}
        refused = _EXPRESSION_WORDS_REFUSED | self._names.table_functions
        return words.isdisjoint(refused) and not any(self._function_refused(word) for word in words)

    # -- one statement

    def _judge(self, query: str, params: Mapping[str, str]) -> Statement:
        argument = {"statement": escape_parameter(query)}
        text = self._ask("SELECT formatQuerySingleLineOrNull({statement:String})", argument)
        if text == "\\N":
            self._ask("SELECT formatQuerySingleLine({statement:String})", argument)  # raises the engine's own words
            raise StoreRefusal("Only one statement at a time. (SYNTAX_ERROR)", 62)
        parts = list(tokens(text))
        self._check_text(text, parts)
        kind = self._check_tree(self._ask("EXPLAIN AST " + text, params))
        return Statement(text, kind, *_formats(parts, kind))

    def _check_text(self, text: str, parts: list[Token]) -> None:
        if any(ord(char) < 0x20 for char in text):  # noqa: PLR2004 - control characters would forge lines of the tree
            raise _refused("a control character in a name")
        for before, token, after in _windows(parts):
            if (token.upper, after.upper) in rules.KEYWORD_PAIRS_REFUSED:
                raise _refused(f"{token.upper} {after.upper}")
            if token.kind == "quoted" and re.search(r"\\[^`\\\"']", token.text):
                raise _refused("an escape sequence in a name")
            called = token.name if after.text == "(" or before.upper == "APPLY" else ""
            if called and self._function_refused(called.lower()):
                raise _refused(f"the function {called}")
            if before.upper == "ENGINE" and token.text == "=" and not _engine_allowed(parts, after.name.lower()):
                raise _refused(f"the engine {after.name}")
        for name in _setting_names(parts):
            self._check_setting_in_text(name, parts)

    def _check_setting_in_text(self, name: str, parts: list[Token]) -> None:
        is_table_setting = name in self._names.merge_tree_settings and parts[0].upper in {"CREATE", "ALTER", "REPLACE"}
        if not is_table_setting:
            self.check_setting(name)
        elif rules.MERGE_TREE_SETTINGS_REFUSED.search(name):
            raise _refused(f"the table setting {name}")

    def _check_tree(self, tree: str) -> str:
        root = _statement_kind(tree)
        if root not in rules.STATEMENTS_READ | rules.STATEMENTS_WRITE:
            raise _refused(f"this kind of statement ({root})")
        for depth, node, ancestors in _nodes(tree):
            kind = _statement_kind(node)
            if depth == 1 and root == "Explain" and kind not in rules.STATEMENTS_READ:
                raise _refused("EXPLAIN of anything but a query")
            if kind == "Dictionary":
                raise _refused("a dictionary")
            if kind == "AlterCommand" and (command := node.split()[1]) not in rules.ALTER_COMMANDS:
                raise _refused(f"ALTER ... {command}")
            if kind == "Function":
                self._check_function(node, ancestors)
        return root

    def _check_function(self, node: str, ancestors: list[str]) -> None:
        name = _function_name(node)
        parent = ancestors[-1] if ancestors else ""
        # The condition of a DELETE stands directly below it; a table function can't, as only a name may follow FROM.
        in_table_position = parent.startswith("TableExpression") or (
            len(ancestors) == 1 and not parent.startswith("DeleteQuery")
        )
        if parent.startswith("InsertQuery"):
            raise _refused("INSERT INTO FUNCTION")
        if in_table_position and name not in rules.TABLE_FUNCTIONS:
            raise _refused(f"the table function {name}")
        if self._function_refused(name):
            raise _refused(f"the function {name}")
        # `x IN format(...)` calls the table function of that name.
        called_by = _function_name(ancestors[-2]) if len(ancestors) > 1 else ""
        if name in self._foreign_table_functions and _IN.fullmatch(called_by):
            raise _refused(f"the table function {name}")

    def _function_refused(self, name: str) -> bool:
        return name in self._refused_functions or name.startswith(rules.FUNCTIONS_REFUSED_PREFIXES)


def escape_parameter(value: str) -> str:
    """A value as the engine expects a parameter: escaped as in tab separated text."""
    return (
        value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r").replace("\0", "\\0")
    )


def _refused(what: str) -> StoreRefusal:
    return StoreRefusal(f"The embedded store does not allow {what[:200]}. (ACCESS_DENIED)")


def _windows(parts: list[Token]) -> Iterator[tuple[Token, Token, Token]]:
    edge = Token("other", "", 0)
    return zip([edge, *parts], parts, [*parts[1:], edge], strict=False)


def _setting_names(parts: list[Token]) -> Iterator[str]:
    """Names in `SETTINGS a = 1, b = 2` and `MODIFY SETTING a = 1`: every `name =` until another clause begins."""
    reading = False
    for before, token, after in _windows(parts):
        if token.upper in {"SETTINGS", "SETTING"}:
            reading = True
        elif reading and after.text == "=":
            yield token.name
        elif (
            token.kind == "word" and before.text not in {"=", ",", "."} and before.upper not in {"SETTINGS", "SETTING"}
        ):
            reading = False


def _engine_allowed(parts: list[Token], engine: str) -> bool:
    creates_database = any(token.upper == "DATABASE" for token in parts[:4])
    return engine in (rules.DATABASE_ENGINES if creates_database else rules.TABLE_ENGINES)


def _formats(parts: list[Token], kind: str) -> tuple[str, str]:
    """The statement's output format and, for an INSERT with data, its input format."""
    name = ""
    depth = 0
    for before, token, _ in _windows(parts):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0 and before.upper == "FORMAT" and token.name:
            name = token.name
    if kind == "InsertQuery":
        has_rows = not any(token.upper == "SELECT" for token in parts)
        return ("", name) if has_rows else ("", "")
    return name, ""


def _nodes(tree: str) -> Iterator[tuple[int, str, list[str]]]:
    """The lines of EXPLAIN AST with their depth and the nodes above them."""
    path: list[str] = []
    for line in tree.splitlines():
        node = line.lstrip(" ")
        if not node:
            continue
        depth = len(line) - len(node)
        del path[depth:]
        yield depth, node, path
        path.append(node)


def _statement_kind(node: str) -> str:
    return node.split(maxsplit=1)[0] if node.strip() else ""


def _function_name(node: str) -> str:
    return re.split(r" \((?:alias|children)\b", node.removeprefix("Function "), maxsplit=1)[0].strip().lower()

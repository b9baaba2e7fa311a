"""Reading SQL text: tokens, the names that follow keywords, and where the data of an INSERT begins.

Nothing here decides what is allowed, and nothing here is trusted to: what runs is the engine's own
rendering of the statement, read again by `guard`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

INSERT_HEADER_BYTES_MAX: Final = 256 * 1024

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|--[^\n]*|\#[ !][^\n]*|/\*.*?\*/)
      | (?P<string>'(?:[^'\\]|\\.|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
      | (?P<quoted>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
      | (?P<word>[A-Za-z_]\w*)
      | (?P<number>\d[\w.]*)
      | (?P<other>.)""",
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """One token. `kind` is string, quoted, word, number or other; `end` the offset after it."""

    kind: str
    text: str
    end: int

    @property
    def upper(self) -> str:
        """The keyword this may be; a quoted name is none."""
        return self.text.upper() if self.kind == "word" else self.text if self.kind == "other" else ""

    @property
    def name(self) -> str:
        """The name this stands for, without its quotes; empty if it is no name."""
        if self.kind == "quoted":
            return re.sub(r"\\(.)", r"\1", self.text[1:-1], flags=re.DOTALL)
        return self.text if self.kind == "word" else ""


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a text, without spaces and comments."""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "other"
        if kind == "tag":
            kind = "string"
        if kind != "space":
            yield Token(kind, match.group(), match.end())


@dataclass(frozen=True, slots=True)
class InsertText:
    """An INSERT cut in two: the statement's text, and the offset where its data starts."""

    header: str
    data_offset: int
    has_format: bool


def split_insert(raw: bytes) -> InsertText | None:
    """Find where the data of `INSERT ... FORMAT x <data>` or `... VALUES <data>` starts; None for anything else."""
    text = raw[:INSERT_HEADER_BYTES_MAX].decode("latin-1")  # one character a byte, so offsets are the same
    stream = tokens(text)
    if (first := next(stream, None)) is None or first.upper != "INSERT":
        return None
    depth, end = 0, first.end
    for token in stream:
        if token.text in "()":
            depth += 1 if token.text == "(" else -1
        elif depth == 0 and token.upper == "VALUES":
            return _cut(raw, token.end, token.end)
        elif depth == 0 and token.upper == "FORMAT" and (name := next(stream, None)) is not None and name.name:
            return _cut(raw, name.end, _after_newline(text, name.end))
        elif token.upper in {"SELECT", "WATCH", "INFILE"}:
            return None  # the rows come from a query; a file is for the guard to refuse
        end = token.end
    return InsertText(raw[:end].decode("utf-8", "replace"), end, has_format=False)


def _cut(raw: bytes, header_end: int, data_offset: int) -> InsertText:
    return InsertText(raw[:header_end].decode("utf-8", "replace"), data_offset, has_format=True)


def _after_newline(text: str, offset: int) -> int:
    """ClickHouse's own rule: blanks, then at most one line end, then data."""
    match = re.compile(r"[ \t\f]*\r?\n?").match(text, offset)
    return match.end() if match else offset

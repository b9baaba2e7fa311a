"""Structured logs on stderr, and `clean`, through which every text of a record goes before anybody sees it.

The logger is built and handed in; nothing process-wide is configured. Must not live here: what is worth a line.
"""

import logging
import re
import sys
from typing import Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

CLEAN_CHARS_MAX: Final = 200
LOG_VALUE_CHARS_MAX: Final = 2_000
LOG_TRACE_CHARS_MAX: Final = 20_000
_INPUT_FACTOR: Final = 8  # how much longer than its result a text may be before it is cut unread

Level = Literal["debug", "info", "warning", "error"]
Style = Literal["auto", "json", "console"]

# Terminal sequences: OSC, DCS and their kin up to their end; CSI; two-character escapes. Also the 8-bit forms.
_TERMINAL = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[ -/]*[0-~]?"
)
_BLANK = re.compile(r"[\t\n\r\v\f\x85\u2028\u2029 ]+")
# Controls, surrogates, and what is invisible or turns the direction of the text around it.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f]"
)
_MARKUP = re.compile(r"\[[a-z#/@][^\[\]]*\]|</?[a-z!][^<>]*>", re.IGNORECASE)

_BRACKET = re.compile(r"[\[\]<>]")
_NESTING_MAX: Final = 8


def clean(text: object, most: int = CLEAN_CHARS_MAX) -> str:
    """Text from a record, fit for a terminal or a log line: one line, no control, no markup, at most `most` characters.

    A text that had to be cut ends in an ellipsis.
    """
    raw = str(text)
    cut = len(raw) > most * _INPUT_FACTOR
    kept = _TERMINAL.sub("", raw[: most * _INPUT_FACTOR])
    kept = _CONTROL.sub("", _BLANK.sub(" ", kept))
    kept = _BLANK.sub(" ", _without_markup(kept))  # what went may have stood between two blanks
    # A last backslash would escape the tag that the caller writes behind the text.
    kept = kept.strip().rstrip("\\")
    return kept[: most - 1] + "…" if cut or len(kept) > most else kept


def _without_markup(text: str) -> str:
    """Taking a tag away may close another one around it; text nested deeper than anybody writes loses its brackets."""
    for _ in range(_NESTING_MAX):
        kept = _MARKUP.sub("", text)
        if kept == text:
            return kept
        text = kept
    return _BRACKET.sub("", text)


def make_logger(level: Level = "info", style: Style = "auto", stream: TextIO | None = None) -> FilteringBoundLogger:
    """A logger on `stream` (stderr): console lines on a terminal, JSON lines elsewhere."""
    out = stream or sys.stderr
    console = style == "console" or (style == "auto" and out.isatty())
    last: Processor = (
        structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False)
    )
    # Tracebacks are plain: a rich one prints local variables, and those hold payloads.
    chain: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _clean_values,
        last,
    ]
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=chain,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        cache_logger_on_first_use=True,
    )
    return logger


class Bridge(logging.Handler):
    """Lines of libraries that log in the standard way, on our logger."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """One line, with the library's name."""
        try:
            self._logger.log(record.levelno, record.getMessage(), library=record.name)
        except Exception:  # noqa: BLE001 - a log line must never stop the work it speaks about
            self.handleError(record)


def adopt(library: str, logger: FilteringBoundLogger) -> None:
    """Take over the warnings and errors of `library`, such as `aiokafka`."""
    theirs = logging.getLogger(library)
    theirs.handlers = [Bridge(logger)]
    theirs.propagate = False


def _clean_values(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if key == "exception":
            event[key] = "\n".join(clean(line, LOG_VALUE_CHARS_MAX) for line in _lines(str(value)))
        elif key not in {"timestamp", "level"} and not isinstance(value, (bool, int, float, type(None))):
            event[key] = clean(value, LOG_VALUE_CHARS_MAX)
    return event


def _lines(text: str) -> list[str]:
    return text[-LOG_TRACE_CHARS_MAX:].split("\n")

"""Every error the package raises, by whose fault it is and whether a retry helps.

AgentrunError                      base: a message, and the next step for the person who reads it
├── UsageError            exit 2   the caller's words are off; never retried
├── ConfigError           exit 3   a setting, a topic or a schema is wrong; an operator mends it
├── UnavailableError      exit 4   broker, store or network; retried with back-off
│   ├── StoreError                 the store did not take or give rows (transient)
│   └── TopicError                 a topic is missing or does not take a record, though the broker answers
├── StoppedError          exit 5   a partition stopped: going on would lose or count twice
│   ├── StoreRejectedError         the store refuses a row; `agentrun refuse` decides
│   ├── LostOffsetError            the log no longer holds what the store still needs
│   ├── DeadLetterError            the dead letters can't be written: nothing may be dropped
│   ├── LackingPricesError         the price book in force can't be opened: runs would go back to older prices
│   ├── RefusedShareError          too many records are refused: a bad deploy must not drain the topic
│   └── FencedError                another worker owns the partition now
└── EmbeddedError         exit 6   the embedded broker or store could not be set up or started

Must not live here: anything that formats for a terminal or logs.
"""

from typing import ClassVar


class AgentrunError(Exception):
    """An error with the next step that mends it.

    `message` says what happened, in one paragraph; `next_step` what to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step


class UsageError(AgentrunError):
    """The caller's words are off."""

    exit_code = 2


class ConfigError(AgentrunError):
    """A setting, a topic or a stored schema is not as it must be."""

    exit_code = 3


class UnavailableError(AgentrunError):
    """Something the pipeline needs does not answer; trying again may help."""

    exit_code = 4


class StoreError(UnavailableError):
    """The store did not take or give rows this time. `code` is ClickHouse's, 0 for a lost connection."""

    def __init__(self, message: str, next_step: str = "", *, code: int = 0) -> None:
        super().__init__(message, next_step)
        self.code = code


class TopicError(UnavailableError):
    """A topic is missing, too small for a record, or not writable."""


class StoppedError(AgentrunError):
    """A partition stopped, because going on would lose a record or count it twice."""

    exit_code = 5


class StoreRejectedError(StoppedError):
    """The store refuses what it was given, and will refuse it again."""

    def __init__(self, message: str, next_step: str = "", *, code: int = 0) -> None:
        super().__init__(message, next_step)
        self.code = code


class LostOffsetError(StoppedError):
    """The log starts after an offset that the store still needs."""


class DeadLetterError(StoppedError):
    """Refused records can't be kept in the dead letters."""


class LackingPricesError(StoppedError):
    """The installed prices are not those in force."""


class RefusedShareError(StoppedError):
    """More records are refused than the settings allow."""


class FencedError(StoppedError):
    """Another worker owns this partition now."""


class EmbeddedError(AgentrunError):
    """The embedded broker or store could not be set up or started."""

    exit_code = 6

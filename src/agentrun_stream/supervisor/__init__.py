"""The local stack as one thing, for `up`, `demo` and test fixtures."""

from agentrun_stream.supervisor.stack import StackOptions, Supervisor
from agentrun_stream.supervisor.workers import Workers, local_environment

__all__ = ["StackOptions", "Supervisor", "Workers", "local_environment"]

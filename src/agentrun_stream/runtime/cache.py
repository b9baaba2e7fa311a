"""The bounded cache of run states. The store is the state; this only saves look-ups.

An entry is dirty until the checkpoint of the last batch that touched it is acknowledged; only clean ones are evicted. Must
not live here: reading from the store.
"""

from collections.abc import Iterable
from typing import Final

from agentrun_stream.model.run import RunState
from agentrun_stream.ports import RunKey

# Measured on CPython 3.11: a run with its snapshot, and one step with usage.
RUN_BYTES: Final = 2_200
STEP_BYTES: Final = 340
_YOUNG_BATCHES: Final = 4


class Cache:
    """The states of one partition's runs, evicted oldest first with a second chance for those in use."""

    def __init__(self) -> None:
        self.runs: dict[RunKey, RunState] = {}
        self.bytes = 0

    def add(self, state: RunState) -> None:
        """Take a run in."""
        self.runs[state.workspace, state.run_id] = state
        self.weigh((state,))

    def weigh(self, states: Iterable[RunState]) -> None:
        """Count these runs again, after they changed."""
        for state in states:
            size = RUN_BYTES + STEP_BYTES * len(state.steps)
            self.bytes += size - state.cached_bytes
            state.cached_bytes = size

    def trim(self, bytes_max: int, acknowledged: int) -> None:
        """Evict clean entries until at most `bytes_max` stay. `acknowledged` is the newest batch that is safe in the store."""
        runs = self.runs
        for key in list(runs) if self.bytes > bytes_max else ():
            state = runs[key]
            if state.mark > acknowledged:
                continue
            if bytes_max and state.mark > acknowledged - _YOUNG_BATCHES and not state.closed:
                runs[key] = runs.pop(key)
                continue
            del runs[key]
            self.bytes -= state.cached_bytes
            state.cached_bytes = 0
            if self.bytes <= bytes_max:
                return
        # Everything left is dirty or in use: a second pass takes those in use.
        for key in list(runs) if self.bytes > bytes_max else ():
            state = runs[key]
            if state.mark <= acknowledged:
                del runs[key]
                self.bytes -= state.cached_bytes
                state.cached_bytes = 0
                if self.bytes <= bytes_max:
                    return

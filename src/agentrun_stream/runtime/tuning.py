"""How the interpreter of a worker's process is set up for the loop.

Must not live here: anything that decides what is stored.
"""

import asyncio
import contextlib
import ctypes
import gc
import sys
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
_SWITCH_S: Final = 0.0005


def tune() -> None:
    """Set the interpreter up for the loop.

    The loop makes no reference cycles that matter, and the collector costs a third of its speed (measured): objects die by
    their reference count. What aiokafka leaves is collected now and then, outside the hot loop. The threads that talk to the
    store need the interpreter for moments only; by default each waits 5 ms for it, ten times an insert: 33 k records/s with
    5 ms, 40 k with this (measured on a drain).
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    _steady_heap()
    sys.setswitchinterval(_SWITCH_S)


def _steady_heap() -> None:
    """Keep big buffers out of glibc's heap: each batch's bodies would leave holes that never close (700 MB became 430)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)


async def collect() -> None:
    """Collect, now and then, what the reference counts leave."""
    while True:
        await asyncio.sleep(60)
        gc.collect(1)

"""The faults, one row each: what is done to a bed, and what was seen. The catalogue that tests, command and page share.

Each leaves the bed mended, but for workers that are dead. Must not live here: how a part is struck (bed.py), or the verdict.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from agentrun_stream.errors import UnavailableError
from agentrun_stream.runtime.crash import POINTS
from agentrun_stream.testing.chaos.bed import NOTICE_S, SESSION_S, Bed, Seen
from agentrun_stream.testing.chaos.disasters import (
    dead_letters_removed,
    disk_full,
    lost_offset,
    power_cut,
    store_emptied,
    store_restored,
)

CRASH_S: Final = 60.0
_STORM_ROUNDS: Final = 4
# How often a point is passed at most before the worker dies there; it comes by once a checkpoint, the others rarely.
_NTH_MAX: Final = {"assigned": 2, "looked-up": 4, "folding": 30}
_WITHIN_MAX: Final = 2
_NTH: Final = 6
_TABLES: Final = ("accruals", "refused", "run_objects", "runs", "settlements", "batches")

Inject = Callable[[Bed, Random], Seen]


@dataclass(frozen=True, slots=True)
class Fault:
    """`inject` returns what was seen. `drawn`: how often `agentrun chaos` draws it; 0 where it needs a bed of its own."""

    name: str
    what: str
    inject: Inject
    drawn: int = 0


def _crash(point: str) -> Inject:
    def inject(bed: Bed, rng: Random) -> Seen:
        index = rng.randrange(len(bed.workers.children))
        nth = rng.randint(1, _NTH_MAX.get(point, _WITHIN_MAX if point.startswith(("within", "in-")) else _NTH))
        bed.kill(index)
        bed.start_worker(index, f"{point}:{nth}")
        bed.wait_dead(index, CRASH_S)
        return Seen("died there")

    return inject


def _killed(bed: Bed, rng: Random) -> Seen:
    bed.heal()
    time.sleep(rng.uniform(0, 1.5))
    bed.kill(rng.randrange(len(bed.workers.children)))
    return Seen("killed")


def _paused(bed: Bed, rng: Random) -> Seen:
    bed.heal()
    pid = bed.pid(rng.randrange(len(bed.workers.children)))
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(SESSION_S + rng.uniform(2, 4))
        if len(bed.workers.children) > 1:
            bed.caught_up()  # all partitions, its own among them
            seen = "the others did its work meanwhile"
        else:
            seen = "nobody did its work meanwhile"
    finally:
        os.kill(pid, signal.SIGCONT)
    return Seen(seen, bed.caught_up())


def _twins(bed: Bed, rng: Random) -> Seen:
    bed.heal()
    index = rng.randrange(len(bed.workers.children))
    twin = bed.crew(f"twin-{rng.getrandbits(32):08x}", 1, AGENTRUN_WORKER__INSTANCE_ID=f"local-{index}")
    twin.start()
    try:
        time.sleep(rng.uniform(6, 10))
        left = sum((bed.alive(index), twin.children[0] is not None and twin.children[0].alive))
    finally:
        twin.stop()
    return Seen(f"{left} of the two went on", bed.caught_up())


def _storm(bed: Bed, rng: Random) -> Seen:
    bed.heal()
    for _ in range(_STORM_ROUNDS):
        guest = bed.crew(f"guest-{rng.getrandbits(32):08x}", 1, AGENTRUN_WORKER__INSTANCE_ID="")
        guest.start()
        time.sleep(rng.uniform(2, 4))
        if rng.random() < 1 / 2 and (child := guest.children[0]) is not None:
            os.kill(child.pid, signal.SIGKILL)
            bed.kills["worker"] += 1
        guest.stop()
    return Seen(f"{_STORM_ROUNDS} came and went", bed.caught_up())


def _broker_killed(bed: Bed, rng: Random) -> Seen:
    bed.heal()
    bed.kill_broker()
    time.sleep(rng.uniform(0, 3))
    bed.supervisor.restart_broker()
    return Seen("started again", bed.caught_up())


def _store_killed(bed: Bed, rng: Random) -> Seen:
    bed.heal()
    struck = threading.Event()

    def strike() -> None:
        time.sleep(rng.uniform(0, 0.004))  # an insert takes some milliseconds
        bed.kill_store()
        struck.set()

    bed.proxy.on_insert(strike)
    if not struck.wait(NOTICE_S):
        raise UnavailableError("No insert came by.", "Is the load running?")
    time.sleep(rng.uniform(0, 2))
    bed.supervisor.restart_store()
    return Seen("started again", bed.caught_up())


def _answers_cut(bed: Bed, rng: Random) -> Seen:
    bed.heal()
    number = rng.randint(1, 8)
    bed.proxy.cut_answers(number)
    bed.until(lambda: not bed.proxy.to_cut, NOTICE_S, "The cut of an answer")
    return Seen("inserted again", bed.caught_up())


def _too_many_parts(bed: Bed, rng: Random) -> Seen:
    return _refusing(
        bed,
        rng,
        "parts_to_throw_insert = 1, parts_to_delay_insert = 1",
        "parts_to_throw_insert = 3000, parts_to_delay_insert = 1000",
    )


def _read_only(bed: Bed, rng: Random) -> Seen:
    return _refusing(bed, rng, "table_readonly = 1", "table_readonly = 0")


def _refusing(bed: Bed, rng: Random, bad: str, good: str) -> Seen:
    bed.heal()
    table, before = rng.choice(_TABLES), bed.hear()
    bed.sql(f"ALTER TABLE {table} MODIFY SETTING {bad}")
    try:
        reaction = bed.noticed(before)
    finally:
        bed.sql(f"ALTER TABLE {table} MODIFY SETTING {good}")
    return Seen(reaction, bed.caught_up())


# `drawn` follows what happens to a fleet: workers die often, a disk fills rarely.
FAULTS: Final = (
    *(Fault(f"killed at {name}", f"SIGKILL of a worker when {what}", _crash(name), 1) for name, what in POINTS.items()),
    Fault("killed at random", "SIGKILL of a worker at any moment", _killed, 8),
    Fault("paused", "SIGSTOP of a worker for longer than its session, then SIGCONT", _paused, 3),
    Fault("two with one id", "a second worker with the instance id of one that runs", _twins, 2),
    Fault("rebalance storm", "workers added, and stopped or killed, every few seconds", _storm, 2),
    Fault("broker killed", "SIGKILL of the broker, started again up to 3 s later", _broker_killed, 3),
    Fault(
        "store killed",
        "SIGKILL of the store in the middle of an insert, started again up to 2 s later",
        _store_killed,
        4,
    ),
    Fault("answers cut", "up to 8 inserts reach the store, its answers do not come back", _answers_cut, 4),
    Fault("too many parts", "a table answers with code 252", _too_many_parts, 1),
    Fault("read only", "a table answers with code 774", _read_only, 1),
    Fault(
        "dead letters removed",
        "the dead-letter topic is gone while bad records come, and made again",
        dead_letters_removed,
    ),
    Fault("disk full", "the store's disk has no byte left, and later has again", disk_full),
    Fault("lost offset", "the log starts above a committed offset", lost_offset),
    Fault("power cut", "store and workers killed, the store's last seconds of writes gone", power_cut),
    Fault("backup restored", "the store's folder is one of an earlier moment", store_restored),
    Fault("store emptied", "the store's folder is gone, the log is still there", store_emptied),
)
BY_NAME: Final = {fault.name: fault for fault in FAULTS}

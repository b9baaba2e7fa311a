"""Faults that need a bed of their own: topics and log taken away, disks without room, stores that go back in time.

Must not live here: faults that pass by (faults.py).
"""

import asyncio
import errno
import shutil
import time
from pathlib import Path
from random import Random
from typing import Final

from agentrun_stream import topics
from agentrun_stream.broker import admin, mishap
from agentrun_stream.errors import ConfigError
from agentrun_stream.ports import Part
from agentrun_stream.testing.chaos.bed import NOTICE_S, Bed, Seen

_LOAD_S: Final = 4.0
_LOST_S: Final = 2.0
_BLOCK: Final = b"\0" * 65_536


def dead_letters_removed(bed: Bed, _rng: Random) -> Seen:
    """Before the first bad record: letters that were on the topic would be gone with it, for whoever removed it."""
    if bed.load.acknowledged:
        raise ConfigError("This bed has dead letters already.", "Use a new one.")
    before = bed.hear()
    asyncio.run(mishap.remove_topic(bed.kafka, topics.DEAD_LETTERS))
    bed.load.start()
    reaction = bed.noticed(before)
    asyncio.run(admin.apply_topics(bed.kafka))
    return Seen(reaction, bed.caught_up())


def disk_full(bed: Bed, _rng: Random) -> Seen:
    """On a store folder that is a small disk of its own."""
    if not bed.store_folder.is_mount():
        raise ConfigError(f"{bed.store_folder} is no disk of its own.", "Mount a small one there first.")
    before, filler = bed.hear(), bed.store_folder / "filler"
    _fill(filler)
    try:
        reaction = bed.noticed(before)
        time.sleep(_LOAD_S)
    finally:
        filler.unlink()
    return Seen(reaction, bed.caught_up())


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(_BLOCK):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def lost_offset(bed: Bed, rng: Random) -> Seen:
    """One partition of the log is cut above what the group has committed. It stands still until somebody decides."""
    bed.heal()
    bed.caught_up()
    _kill_workers(bed)
    time.sleep(_LOAD_S)
    bed.load.stop()
    lag = rng.choice([lag for lag in bed.lags() if lag.committed is not None and lag.end > lag.committed + 1])
    asyncio.run(mishap.cut_log(bed.kafka, lag.part, lag.end - 1))
    before = bed.hear()
    for index in range(len(bed.workers.children)):
        bed.start_worker(index)
    bed.until(lambda: bed.hear()["partition stopped"] > before["partition stopped"], NOTICE_S, "The stop")
    bed.until(lambda: all(other.part == lag.part or not other.lag for other in bed.lags()), NOTICE_S, "The others' end")
    stood = next(other for other in bed.lags() if other.part == lag.part)
    if stood.committed != lag.committed:
        return Seen(f"WENT ON from {lag.committed} to {stood.committed}")
    return Seen("that partition stopped and said why, the others went on")


def stopped_partition(bed: Bed) -> Part:
    """The partition that `lost_offset` cut."""
    return next(lag.part for lag in bed.lags() if lag.committed is not None and lag.committed < lag.start)


def power_cut(bed: Bed, _rng: Random) -> Seen:
    """Every part of every table that was written in the last seconds is gone, as from a disk that lied about its cache."""
    bed.heal()
    bed.caught_up()
    time.sleep(_LOAD_S)
    kept_until = time.time()
    time.sleep(_LOST_S)
    bed.kill_store()
    _kill_workers(bed)
    lost = 0
    for checksums in bed.store_data.glob("store/*/*/*/checksums.txt"):
        if checksums.stat().st_mtime > kept_until:
            shutil.rmtree(checksums.parent)
            lost += 1
    bed.supervisor.restart_store()
    words, seconds = _rewound(bed)
    return Seen(f"{lost} parts lost, {words}", seconds)


def store_restored(bed: Bed, _rng: Random) -> Seen:
    """The backup is of some seconds ago; workers start after the restore."""
    bed.heal()
    time.sleep(_LOAD_S)
    bed.stop_store()
    backup = bed.folder / "backup"
    shutil.copytree(bed.store_data, backup, symlinks=True)
    bed.supervisor.restart_store()
    bed.caught_up()
    time.sleep(_LOAD_S)
    _kill_workers(bed)
    bed.stop_store()
    bed.replace_store_data(backup)
    return _rewound(bed)


def store_emptied(bed: Bed, _rng: Random) -> Seen:
    """Nothing is left but the log."""
    bed.heal()
    time.sleep(_LOAD_S)
    bed.caught_up()
    _kill_workers(bed)
    bed.stop_store()
    bed.replace_store_data(None)
    return _rewound(bed)


def _kill_workers(bed: Bed) -> None:
    for index in range(len(bed.workers.children)):
        bed.kill(index)


def _rewound(bed: Bed) -> Seen:
    before = bed.hear()
    bed.heal()
    bed.until(lambda: bed.hear()["rewound"] > before["rewound"], NOTICE_S, "A rewind")
    seconds = bed.caught_up()
    return Seen(f"{bed.hear()['rewound'] - before['rewound']} partitions rewound", seconds)

"""Apache Kafka's jars: fetched once by jgo, checked against the committed list, kept in a cache folder.

Nothing is run here. A jar that is not exactly the one listed in `kafka_jars.sha256` is never used.
"""

import errno
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from agentrun_stream.childproc import user_cache_folder
from agentrun_stream.errors import EmbeddedError
from agentrun_stream.limits import MIB

KAFKA_VERSION: Final = "4.4.0"
# slf4j-simple is not among Kafka's dependencies, but without it Kafka can't say why it stopped.
COORDINATES: Final = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")
HASH_THREADS: Final = 4
FETCH_TIMEOUT_S: Final = 60

INSTALL: Final = "pip install 'agentrun-stream[embedded]'"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the committed list."""

    sha256: str
    size_bytes: int
    name: str


def listed_jars() -> tuple[Jar, ...]:
    """The committed list: checksum, size, name."""
    lines = files("agentrun_stream.broker").joinpath("kafka_jars.sha256").read_text("ascii").splitlines()
    return tuple(Jar(parts[0], int(parts[1]), parts[2]) for line in lines if (parts := line.split()))


def jars_folder(cache: Path) -> Path:
    """Where this version's jars are kept in a cache folder."""
    return cache / f"kafka-{KAFKA_VERSION}"


def default_cache_dir() -> Path:
    """Where the jars are kept when no setting says otherwise."""
    return jars_folder(user_cache_folder())


def prepare_jars(cache_dir: Path, progress: Progress) -> Path:
    """The folder with all listed jars, fetched if it is not there, checked in any case."""
    if not cache_dir.is_dir():
        _fetch(cache_dir, progress)
    check_jars(cache_dir)
    return cache_dir


def check_jars(folder: Path) -> None:
    """Compare every jar with the list by name, size and SHA-256; raise on the first that differs."""
    jars = listed_jars()
    extra = {path.name for path in folder.glob("*.jar")} - {jar.name for jar in jars}
    if extra:
        raise EmbeddedError(
            f"{folder / min(extra)} is not one of Kafka's jars and would be run with them.",
            f"Delete {folder} and run again.",
        )
    with ThreadPoolExecutor(HASH_THREADS) as pool:  # hashing releases the interpreter: 45 MB take about 50 ms
        for jar, problem in zip(jars, pool.map(lambda jar: _problem(folder, jar), jars), strict=True):
            if problem:
                raise EmbeddedError(f"{folder / jar.name} {problem}.", f"Delete {folder} and run again.")


def _problem(folder: Path, jar: Jar) -> str:
    try:
        content = (folder / jar.name).read_bytes()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"can't be read: {error.strerror}"
    if len(content) != jar.size_bytes:
        return f"has {len(content)} bytes instead of {jar.size_bytes}, so it is truncated or not the right file"
    if hashlib.sha256(content).hexdigest() != jar.sha256:
        return "has the wrong SHA-256, so it is damaged or not the right file"
    return ""


def _fetch(cache_dir: Path, progress: Progress) -> None:
    jars = listed_jars()
    size = f"{len(jars)} jars, {sum(jar.size_bytes for jar in jars) / MIB:.0f} MB"
    progress(f"Fetching Apache Kafka {KAFKA_VERSION} from Maven Central: {size}, once.")
    with _disk_errors(cache_dir):
        cache_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".kafka-", dir=cache_dir.parent) as scratch:
            fetched = Path(scratch) / "jars"
            fetched.mkdir(mode=0o700)
            for path in _resolve(Path(scratch) / "m2", progress):
                path.rename(fetched / path.name)
            check_jars(fetched)
            try:
                fetched.rename(cache_dir)
            except OSError as error:
                # Another process was faster; its jars are checked like ours.
                if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                    raise
    progress(f"Apache Kafka {KAFKA_VERSION} is in {cache_dir}, checked.")


def _resolve(repository: Path, progress: Progress) -> Iterator[Path]:
    """Resolve the dependency tree and fetch jar after jar into a local repository."""
    try:
        from jgo.maven import MavenContext  # noqa: PLC0415 - only the first start needs it
    except ImportError as error:
        raise EmbeddedError("The package jgo is not installed.", INSTALL) from error
    context = MavenContext(repo_cache=repository, local_repos=[], timeout=FETCH_TIMEOUT_S)
    sizes = {jar.name: jar.size_bytes for jar in listed_jars()}
    total, done, told = sum(sizes.values()), 0, 0
    try:
        inputs, others = context.resolver.resolve([context.create_dependency(name) for name in COORDINATES])
        wanted = [*inputs, *(other for other in others if other.scope in {"compile", "runtime"})]
        for dependency in wanted:
            path = Path(dependency.artifact.resolve())
            done += sizes.get(path.name, 0)
            if done * 10 // total > told:
                told = done * 10 // total
                progress(f"  {done / MIB:.0f} of {total / MIB:.0f} MB ({path.name})")
            yield path
    except OSError:
        raise
    except Exception as error:
        raise EmbeddedError(
            f"Apache Kafka's jars could not be fetched: {type(error).__name__}: {str(error)[:300]}.",
            "Check the network and run again, or set AGENTRUN_KAFKA_HOME to an unpacked Kafka.",
        ) from error


@contextmanager
def _disk_errors(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError) or error.errno is None:  # the network's, not the disk's
            raise EmbeddedError(
                f"Apache Kafka's jars could not be fetched: {type(error).__name__}.",
                "Check the network and run again, or set AGENTRUN_KAFKA_HOME to an unpacked Kafka.",
            ) from error
        free_mb = shutil.disk_usage(_existing(cache_dir)).free / MIB
        raise EmbeddedError(
            f"Apache Kafka's jars can't be written to {cache_dir.parent}: {error.strerror}"
            f" ({free_mb:.0f} MB free, 100 needed).",
            "Free some space or set XDG_CACHE_HOME to a folder on another disk, then run again.",
        ) from error


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def kafka_home_classpath(kafka_home: Path) -> str:
    """The class path of an unpacked Kafka distribution."""
    libs = kafka_home / "libs"
    if not any(libs.glob("kafka_*.jar")):
        raise EmbeddedError(
            f"{kafka_home} is no Kafka folder: there is no libs/kafka_*.jar in it.",
            "Set AGENTRUN_KAFKA_HOME to an unpacked Kafka, or unset it to have one fetched.",
        )
    return f"{libs}/*"

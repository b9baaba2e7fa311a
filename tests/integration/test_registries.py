"""Registries on the real stack: a file proposes, the store decides for all workers, nothing is folded before it is known."""

import shutil
from pathlib import Path

import orjson
import pytest

from agentrun_stream.testing.events import run_event
from agentrun_stream.testing.stack import Stack
from integration.harness import PARTITIONS, Lane, Told, lane, run_on, soon

pytestmark = pytest.mark.stack

SWEPT = {"AGENTRUN_LEASES__SWEEP_EVERY_S": "0.2", "AGENTRUN_CLICKHOUSE__INSERT_TIMEOUT_S": "2"}


def keys(made: Lane, *words: str) -> Told:
    told = made.agentrun("keys", *words, "-w", "acme", "-o", "json")
    assert told.code == 0, told
    return told


def check(made: Lane, name: str) -> dict[str, str]:
    """One line of `agentrun doctor`."""
    found = orjson.loads(made.agentrun("doctor", "-o", "json").out)
    return next(line for line in found if line["name"] == name)


def versions(made: Lane) -> list[int]:
    return [row["version"] for row in made.rows("SELECT version FROM trust_versions ORDER BY version")]


def test_a_file_is_in_force_for_all_and_never_goes_back(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Also for a worker without the file, and after a restart; the log and the doctor say why, and what to do."""
    folder = tmp_path / "trust"
    path = folder / "acme.jwks.json"
    with lane(agentrun_stack, tmp_path, "registries", AGENTRUN_TRUST__DIR=str(folder)) as made:
        made.start()
        kid = orjson.loads(keys(made, "new", "--out", str(tmp_path / "key.pem")).out)["kid"]
        soon(lambda: made.metric("trust_version", workspace="acme") == 1, what="the first version")
        before = tmp_path / "before"
        shutil.copy(path, before)
        keys(made, "revoke", kid, "--yes")
        soon(lambda: made.metric("trust_version", workspace="acme") == 2, what="the second version")
        assert check(made, "trust of acme")["verdict"] == "ok"
        row = made.one("SELECT * FROM trust_versions WHERE version = 2")
        assert (row["workspace"], row["changed"]) == ("acme", [kid])
        assert orjson.loads(row["content"]) == orjson.loads(path.read_bytes())

        made.stop()
        made.start(AGENTRUN_TRUST__DIR=str(tmp_path / "none"))
        soon(lambda: made.metric("trust_version", workspace="acme") == 2, what="the version without the file")

        made.stop()
        shutil.copy(before, path)
        made.start()
        soon(lambda: "goes back from version 2 to 1" in made.log(), what="the refusal")
        assert made.metric("trust_version", workspace="acme") == 2
        assert made.reasons() == []
        assert versions(made) == [1, 2]
        line = check(made, "trust of acme")
        assert line["verdict"] == "warn"
        assert "version 2 in force" in line["found"]
        assert "goes back from version 2 to 1" in line["found"]
        assert "agentrun keys" in line["fix"]


def test_the_doctor_tells_what_is_wrong_with_registries(agentrun_stack: Stack, tmp_path: Path) -> None:
    """A file that nobody proposed yet, one that can't be read, and entries that count as not there."""
    folder = tmp_path / "trust"
    with lane(agentrun_stack, tmp_path, "registries_doctor", AGENTRUN_TRUST__DIR=str(folder)) as made:
        assert check(made, "trust")["found"] == f"0 registries in force; 0 in {folder}"
        keys(made, "new", "--out", str(tmp_path / "key.pem"))
        line = check(made, "trust of acme")
        assert (line["verdict"], "agentrun work" in line["fix"]) == ("warn", True)
        path = folder / "acme.jwks.json"
        jwks = orjson.loads(path.read_bytes())
        path.write_bytes(orjson.dumps({"version": 2, "keys": [*jwks["keys"], {"kty": "RSA", "kid": "mine"}]}))
        made.start()
        soon(lambda: versions(made) == [2], what="the version")
        line = check(made, "trust of acme")
        assert (line["verdict"], "keys list" in line["fix"]) == ("warn", True)
        assert "1 keys" in line["found"]
        assert "keys[1] (mine) counts as not there" in line["found"]
        assert "counts as not there" in made.log()
        path.write_bytes(b"{")
        line = check(made, "trust of acme")
        assert (line["verdict"], "no strict JSON" in line["found"]) == ("warn", True)
        soon(lambda: "Version 2 stays in force" in made.log(), what="the problem of the file")


def test_a_changed_registry_is_followed_on_every_partition(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Once what was made before it is written, and not before an insert of an earlier owner must have ended."""
    with lane(
        agentrun_stack, tmp_path, "registries_followed", AGENTRUN_TRUST__DIR=str(tmp_path / "t"), **SWEPT
    ) as made:
        made.start(2)
        made.produce([run_event(run_on(number, "followed")) for number in range(PARTITIONS)])
        made.wait()
        keys(made, "new", "--out", str(tmp_path / "key.pem"))
        followed = "SELECT DISTINCT partition, version FROM trust_progress"
        soon(lambda: len(made.rows(followed)) == PARTITIONS, what="the progress")
        row = made.one(
            "SELECT min(done_at) - (SELECT min(stored_at) FROM trust_versions) AS seconds, count() AS n FROM trust_progress"
        )
        assert (row["n"], float(row["seconds"]) > 12) == (PARTITIONS, True)


def test_nothing_is_folded_before_the_registries_are_known(agentrun_stack: Stack, tmp_path: Path) -> None:
    """A partition waits for them, says so, and goes on by itself."""
    with lane(agentrun_stack, tmp_path, "registries_first", AGENTRUN_TRUST__DIR=str(tmp_path / "t")) as made:
        made.produce([run_event("first")])
        made.execute("RENAME TABLE trust_versions TO put_away")
        made.launch()
        soon(lambda: "partition stopped" in made.log(), what="the stop")
        assert any("stopped" in reason for reason in made.reasons())
        assert made.rows("SELECT * FROM run_objects") == []
        made.execute("RENAME TABLE put_away TO trust_versions")
        made.wait()
        assert made.one("SELECT count() AS n FROM runs_latest")["n"] == 1
        soon(lambda: made.reasons() == [], what="being ready")

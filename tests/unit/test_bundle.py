"""Bundles, and the words of verdicts: a file that verifies by itself, of which nothing that counts can be changed unseen."""

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from agentrun_stream.cli.app import app
from agentrun_stream.codec.fast import STEP_MEMBERS
from agentrun_stream.codec.jwks import registry_of
from agentrun_stream.codec.keynames import base64url
from agentrun_stream.model.dossier import Dossier, Evidence, Keys, Snapshot, StoredClaim, StoredStep
from agentrun_stream.model.lineage import REASONS as LINEAGE_REASONS
from agentrun_stream.model.opinions import Opinions
from agentrun_stream.model.projection import PRICED_COLUMNS
from agentrun_stream.model.words import FINDINGS, REASONS, meaning, sentence
from agentrun_stream.ports import Part
from agentrun_stream.runtime.recheck import recheck
from agentrun_stream.runtime.recheck.bundle import write_bundle
from agentrun_stream.sdk.signing import RunSigner, SignedUnder, SigningKey
from agentrun_stream.store.evidence import STEP_COLUMNS
from agentrun_stream.store.rows import OBJECT_COLUMNS, stored_body
from agentrun_stream.testing.events import cloud_event, eval_event
from agentrun_stream.testing.folding import fold_batch
from shared_vectors import VECTORS, needed

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
APPENDED_MS = round(NOW.timestamp() * 1000)
KEY, OTHER = SigningKey(bytes(32)), SigningKey(bytes(range(32)))
ACME = {"workspaceid": "acme"}
RUN: dict[str, Any] = {
    "id": "r",
    "agent_id": "team/a",
    "status": "completed",
    "started_at": "2026-05-01T10:00:00Z",
    "steps": [],
    "cost": {"cost_usd": 0.5, "input_tokens": 3},
    "provenance": {},
    "workspace_id": "acme",
    "tags": ["x"],
}


@dataclass
class Sent:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


def jwks(key: SigningKey = KEY) -> dict[str, Any]:
    entry = {"kty": "OKP", "crv": "Ed25519", "x": base64url(key.public), "kid": key.kid, "status": "active"}
    return {"version": 1, "keys": [entry]}


def events(key: SigningKey = KEY, **members: object) -> list[bytes]:
    run = RUN | members
    signer = RunSigner(key, run, SignedUnder("acme"))
    steps = [signer.chain({"id": f"s{n}", "type": "message", "output_preview": "said"}) for n in range(2)]
    return [
        *(cloud_event("step", "r", step["id"], step, ACME) for step in steps),
        cloud_event("run", "r", "end", signer.sign(run), ACME),
        eval_event("r", envelope=ACME | {"source": "/judge"}),
    ]


def dossier(records: list[bytes], keys: dict[str, Any]) -> Dossier:
    """As the store would tell it, from the rows that a worker writes."""
    sent = [Sent(at, APPENDED_MS, b"r", value) for at, value in enumerate(records)]
    registry = registry_of(keys)
    rows = fold_batch(Part("t", 0), sent, Opinions(registry=lambda _workspace: registry)).rows
    objects = [dict(zip(OBJECT_COLUMNS, one, strict=True)) for one in lines(rows["run_objects"])]
    newest = {(one["kind"], one["object_id"]): one for one in sorted(objects, key=lambda one: one["_version"])}
    of = {
        kind: [one for one in newest.values() if one["kind"] == kind]
        for kind in ("run", "claim", "step", "eval", "mark")
    }
    run = of["run"][0]
    return Dossier(
        "acme",
        "r",
        tuple(
            Evidence(e["version"], e["topic"], e["partition"], e["offset"], round(e["appended_at"] * 1000), e["raw"])
            for e in lines(rows["evidence"])
        ),
        Snapshot(orjson.loads(run["doc"]), orjson.loads(run["extra"]), run["_source"], APPENDED_MS, APPENDED_MS),
        tuple(claim(one) for one in of["claim"]),
        tuple(step(one) for one in of["step"]),
        {one["object_id"]: orjson.loads(one["doc"]) for one in of["mark"]},
        {one["object_id"]: one["_source"] for one in of["eval"]},
        told_row(lines(rows["runs"])[-1]),
        Keys(1, "", keys),
    )


def lines(rows: list[bytes]) -> list[Any]:
    return [orjson.loads(line) for line in b"\n".join(rows).splitlines()]


def told_row(row: dict[str, Any]) -> dict[str, Any]:
    """Times as the store tells them; prices are no part of a dossier."""
    row = {name: value for name, value in row.items() if name not in PRICED_COLUMNS}
    times = {"started_at", "ended_at", "created_at", "judged_at"} & row.keys()
    return row | {name: datetime.fromtimestamp(row[name], UTC).isoformat() for name in times}


def claim(row: dict[str, Any]) -> StoredClaim:
    told = orjson.loads(row["extra"])
    return StoredClaim(row["object_id"], APPENDED_MS, told["fork"], hashlib.sha256(row["doc"].encode()).hexdigest())


def step(row: dict[str, Any]) -> StoredStep:
    place = orjson.loads(row["chain"])
    del place["times"]
    columns = {name: row[name] for name in STEP_COLUMNS}
    return StoredStep(row["object_id"], stored_body(row).decode(), place, columns)


def made(records: list[bytes], keys: dict[str, Any] | None = None) -> dict[str, Any]:
    """A bundle as JSON."""
    keys = jwks() if keys is None else keys
    whole = dossier(records, keys)
    found: dict[str, Any] = json.loads(write_bundle(whole, recheck(whole, registry_of(keys)).verdict, NOW))
    return found


def verify(folder: Path, bundle: dict[str, Any], *words: object) -> Result:
    path = folder / "bundle.json"
    path.write_text(json.dumps(bundle))
    return CliRunner().invoke(app, ["verify", str(path), *map(str, words)])


def findings(folder: Path, bundle: dict[str, Any]) -> tuple[str, set[str]]:
    """The headline, and the codes of what differs."""
    done = verify(folder, bundle, "-o", "json")
    assert done.exit_code == 1, done.output
    told = json.loads(done.stdout)
    return told["headline"], {one["code"] for one in told["findings"]}


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of everything that is no object and no list."""
    children: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if children is None:
        yield path
    else:
        for name, child in children:
            yield from leaves(child, (*path, name))


def changed(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    return value + 1 if isinstance(value, int | float) else f"{value}x"


# What nobody signs and nothing else in the dossier says again: told apart on the screen, or of no weight for the verdict.
FREE = re.compile(
    r"/made_(at|by)"
    r"|/dossier/(evals/.*|keys/digest|keys/jwks/version)"
    r"|/dossier/evidence/0/(version|topic|partition|offset)"
    r"|/dossier/snapshot/(facts/.*|source|first_appended_ms|appended_ms)"
    r"|/dossier/row/(workspace|run_id|workspace_id|verifier|trust_version|flag|eval|evals|evals_passed|first_event_at"
    r"|last_event_at|steps_refused|closed_by|reopened|corrections|revision|projection|topic|partition|_version|projected_at)"
)


def test_a_bundle_verifies_by_itself_and_says_whose_keys_it_used(tmp_path: Path) -> None:
    bundle = made(events())
    done = verify(tmp_path, bundle)
    assert done.exit_code == 0, done.output
    for words in (
        "VERIFIED",
        "team/a",
        KEY.kid,
        "came with the bundle",
        "/judge",
        "workspace_id acme",
        "not show that",
    ):
        assert words in done.stdout
    (tmp_path / "mine.json").write_text(json.dumps(jwks()))
    done = verify(tmp_path, bundle, "--registry", tmp_path / "mine.json")
    assert (done.exit_code, "came with the bundle" in done.stdout) == (0, False)


def test_who_brings_his_own_key_along_is_trusted_by_nobody_else(tmp_path: Path) -> None:
    bundle = made(events(OTHER), jwks(OTHER))
    assert verify(tmp_path, bundle).exit_code == 0
    (tmp_path / "mine.json").write_text(json.dumps(jwks()))
    done = verify(tmp_path, bundle, "--registry", tmp_path / "mine.json", "-o", "json")
    assert (done.exit_code, json.loads(done.stdout)["signature"]) == (1, "valid_untrusted")


def test_whatever_is_changed_in_a_bundle_shows(tmp_path: Path) -> None:
    """Each leaf by itself: the run is no longer verified, or something is said to differ, or the file is refused."""
    bundle = made(events())
    unseen = set()
    for path in leaves(bundle):
        forged = copy.deepcopy(bundle)
        at: Any = forged
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = changed(at[path[-1]])
        done = verify(tmp_path, forged)
        assert done.exit_code in {0, 1, 2}, done.output
        if done.exit_code == 0:
            unseen.add("/" + "/".join(map(str, path)))
    assert {path for path in unseen if not FREE.fullmatch(path)} == set()
    assert len(unseen) > 20  # so the change itself is no flaw of form


@pytest.mark.parametrize(
    ("part", "headline", "code"),
    [
        ("evidence", "unverifiable", "evidence_missing"),
        ("claims", "verified", "claim_missing"),
        ("steps", "mismatch", "verdict_differs"),
        ("row", "verified", "row_missing"),
    ],
)
def test_a_part_that_is_gone_is_named(tmp_path: Path, part: str, headline: str, code: str) -> None:
    bundle = made(events())
    bundle["dossier"][part] = None if part == "row" else []
    found, codes = findings(tmp_path, bundle)
    assert (found, code in codes) == (headline, True)


def test_two_contents_under_one_revision_are_a_fork(tmp_path: Path) -> None:
    """Both are evidence, so a bundle shows it, with the reason in words."""
    bundle = made([*events(), events(outcome="failed")[2]])
    assert len(bundle["dossier"]["evidence"]) == 2
    done = verify(tmp_path, bundle)
    assert done.exit_code == 1
    assert done.stdout.startswith("REJECTED")
    assert sentence("rev_conflict") in done.stdout


def test_a_mark_of_another_version_is_believed(tmp_path: Path) -> None:
    bundle = made([*events(), *events(started_at="2026-05-01T10:00:01Z")[:1]])
    assert bundle["dossier"]["marks"]["s0"]["conflict"]
    assert findings(tmp_path, bundle) == ("rejected", set())


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("version", 2, 2),
        ("surprise", 1, 2),
        ("dossier", {}, 2),
        ("dossier", {"workspace": "acme", "run_id": "r", "row": {}, "snapshot": None}, 1),
    ],
)
def test_a_file_of_another_form_is_refused_in_words(tmp_path: Path, name: str, value: object, code: int) -> None:
    done = verify(tmp_path, made(events()) | {name: value})
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output


def test_broken_parts_are_no_defect(tmp_path: Path) -> None:
    """A form that the pipeline never writes is said to be somebody's change."""
    bundle = made(events())
    bundle["dossier"]["snapshot"]["facts"]["proof"] = {"signature": "holds"}
    done = verify(tmp_path, bundle)
    assert (done.exit_code, "somebody changed it" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    "words", [("--at", "1h"), ("--steps", "x"), ("--bundle", "x"), ("--data", "x"), ("-w", "other")]
)
def test_flags_that_say_nothing_of_a_bundle_are_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert verify(tmp_path, made(events()), *words).exit_code == 2


def test_without_a_store_only_files_are_found(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["verify", "run-42", "--data", str(tmp_path)])
    assert done.exit_code == 4
    for words in ("is no file", "agentrun up"):
        assert words in done.stderr


@needed
def test_every_reason_code_of_the_suite_has_a_sentence() -> None:
    """So have those of lineage, and every finding; no sentence is said twice."""
    text = (VECTORS / "README.md").read_text("utf-8").partition("### Reason codes used")[2].partition("\n## ")[0]
    codes = set(re.findall(r"`(\w+)`", text)) | LINEAGE_REASONS
    assert len(codes) > 40
    assert codes <= REASONS.keys()
    sentences = [*REASONS.values(), *FINDINGS.values()]
    assert len(set(sentences)) == len(sentences)
    assert [s for s in sentences if not s.endswith(".")] == []


def test_every_value_of_an_axis_has_words() -> None:
    values = {
        "hash": "match mismatch absent",
        "chain": "intact gap fork truncated wrong_run absent",
        "signature": "trusted valid_untrusted invalid unsigned malformed unsupported_suite key_expired key_revoked "
        "scope_violation tenant_mismatch",
        "lineage": "root linked pending orphaned mismatch cycle too_deep",
        "log": "unlogged",
    }
    assert [(axis, word) for axis, words in values.items() for word in words.split() if not meaning(axis, word)] == []


def test_a_step_is_compared_in_all_its_columns() -> None:
    assert set(STEP_COLUMNS) == {*STEP_MEMBERS[1:], "extra"}

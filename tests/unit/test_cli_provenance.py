"""`agentrun hash`, `verify`, `keys` and `bench verify` as a person uses them: files in, words and exit codes out."""

import base64
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import CliRunner, Result

from agentrun_stream.cli.app import app
from agentrun_stream.codec.canonical import run_hash
from agentrun_stream.sdk.signing import RunSigner, SignedUnder, SigningKey

RUN: dict[str, Any] = {
    "id": "r1",
    "agent_id": "team/a",
    "status": "completed",
    "started_at": "2026-05-01T10:00:00Z",
    "steps": [],
    "cost": {"cost_usd": 0.5},
    "provenance": {},
}


def agentrun(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def answer(*words: object, code: int = 0) -> Any:
    done = agentrun(*words, "-o", "json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


@pytest.fixture
def lot(tmp_path: Path) -> Path:
    """A folder with a registry, a key, a signed run and its streamed steps among other events."""
    answer("keys", "new", "--out", tmp_path / "k.pem", "--agent", "team/*", "-w", "acme", "--trust", tmp_path / "trust")
    signer = RunSigner(SigningKey.load(tmp_path / "k.pem"), RUN, SignedUnder("acme"))
    steps = [signer.chain({"id": f"s{i}", "type": "message"}) for i in range(3)]
    head = {"specversion": "1.0", "id": "e", "source": "s"}
    events = [head | {"type": "agentrun.step.v1", "subject": "r1", "data": step} for step in steps]
    others = [{**events[0], "subject": "r2"}, {**head, "type": "agentrun.run.v1", "subject": "r1", "data": RUN}]
    (tmp_path / "steps.jsonl").write_bytes(b"\n".join(map(orjson.dumps, events + others)) + b"\n")
    (tmp_path / "run.json").write_bytes(orjson.dumps(signer.sign(RUN)) + b"\n")
    return tmp_path


def verify(lot: Path, *more: object, code: int = 0) -> Any:
    return answer("verify", lot / "run.json", "--trust", lot / "trust", "-w", "acme", *more, code=code)


def test_a_good_run_is_verified_against_the_registry(lot: Path) -> None:
    verdict = verify(lot, "--steps", lot / "steps.jsonl")
    assert (verdict["headline"], verdict["chain"], verdict["signature"]) == ("verified", "intact", "trusted")
    assert (verdict["registry_version"], verdict["workspace"]) == (1, "acme")
    assert len(verdict["raw_sha256"]) == 64


def test_the_screen_says_what_was_checked_and_what_it_does_not_prove(lot: Path) -> None:
    done = agentrun("verify", lot / "run.json", "--steps", lot / "steps.jsonl", "--trust", lot / "trust", "-w", "acme")
    kid = answer("keys", "list", "-w", "acme", "--trust", lot / "trust")["keys"][0]["kid"]
    for words in ("VERIFIED", "r1", "team/*", kid, "version 1", "acme", "does not show that they are true", "eval"):
        assert words in done.stdout
    assert len(done.stdout.splitlines()) < 30


def test_a_missing_step_is_named(lot: Path) -> None:
    lines = (lot / "steps.jsonl").read_bytes().splitlines()
    (lot / "steps.jsonl").write_bytes(b"\n".join(lines[:1] + lines[2:]))
    verdict = verify(lot, "--steps", lot / "steps.jsonl", code=1)
    assert (verdict["headline"], verdict["chain"]) == ("mismatch", "gap")
    assert verdict["details"] == ["seq_missing: step 1 did not arrive"]


def test_a_tampered_run_is_rejected(lot: Path) -> None:
    raw = (lot / "run.json").read_bytes()
    (lot / "run.json").write_bytes(raw.replace(b'"cost_usd":0.5', b'"cost_usd":0.1'))
    verdict = verify(lot, "--steps", lot / "steps.jsonl", code=1)
    assert (verdict["headline"], verdict["signature"]) == ("rejected", "invalid")


def test_a_revoked_key_counts_from_its_time(lot: Path) -> None:
    kid = answer("keys", "list", "-w", "acme", "--trust", lot / "trust")["keys"][0]["kid"]
    words: tuple[object, ...] = ("keys", "revoke", kid, "-w", "acme", "--trust", lot / "trust", "--why", "lost")
    assert agentrun(*words).exit_code == 2  # nobody is there to confirm
    assert answer(*words, "--yes")["jwk"]["status"] == "revoked"
    assert verify(lot, "--steps", lot / "steps.jsonl", code=1)["headline"] == "revoked"
    assert verify(lot, "--steps", lot / "steps.jsonl", "--at", "2026-05-01T12:00:00Z")["headline"] == "verified"
    words = (
        "keys",
        "revoke",
        kid,
        "-w",
        "acme",
        "--trust",
        lot / "trust",
        "--compromised-since",
        "2026-05-01",
        "--yes",
    )
    answer(*words)
    verdict = verify(lot, "--steps", lot / "steps.jsonl", "--at", "2026-05-01T12:00:00Z", code=1)
    assert verdict["reasons"] == ["key_compromised"]
    assert [row["what"] for row in map(json.loads, (lot / "trust/key-operations.jsonl").open())] == [
        "add",
        "revoke",
        "revoke",
    ]


def test_without_a_registry_no_key_is_trusted(lot: Path) -> None:
    done = agentrun("verify", lot / "run.json", "--trust", lot / "nowhere", "-w", "acme")
    assert done.exit_code == 1
    assert "no registry" in done.stderr
    assert "valid_untrusted" in done.stdout


def test_an_exported_envelope_holds_for_tools_that_know_dsse(lot: Path) -> None:
    """Checked by another library, by the words of the DSSE protocol."""
    verdict = verify(lot, "--steps", lot / "steps.jsonl", "--export-dsse", lot / "dsse.json")
    envelope = json.loads((lot / "dsse.json").read_text())
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    message = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind.encode(), str(len(payload)).encode(), payload])
    private: Any = load_pem_private_key((lot / "k.pem").read_bytes(), None)
    public: Ed25519PublicKey = private.public_key()
    public.verify(base64.b64decode(envelope["signatures"][0]["sig"]), message)
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [{"name": "r1", "digest": {"sha256": verdict["run_digest"]}}]
    (lot / "run.json").write_bytes(orjson.dumps(RUN))
    assert agentrun("verify", lot / "run.json", "--export-dsse", lot / "d2.json").exit_code == 2


def test_anyone_can_reproduce_the_hashes(lot: Path) -> None:
    told = answer("hash", lot / "run.json")
    verdict = verify(lot, code=1)  # its steps are missing
    assert {name: told[name] for name in ("genesis", "run_digest")} == {
        n: verdict[n] for n in ("genesis", "run_digest")
    }
    assert told["run_hash"] == told["stated_run_hash"] == run_hash(RUN)
    (lot / "bare.json").write_text(json.dumps(RUN, indent=1))
    bare = answer("hash", lot / "bare.json", "-w", "acme")
    assert (bare["run_hash"], bare["genesis"], bare["stated_run_hash"]) == (told["run_hash"], told["genesis"], None)
    (lot / "bare.json").write_text('{"a":1,"a":2}')
    assert agentrun("hash", lot / "bare.json").exit_code == 2


def test_an_encrypted_key_signs_with_its_passphrase(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("secret\n")
    words = ("keys", "new", "--out", tmp_path / "k.pem", "--passphrase-file", tmp_path / "word", "--no-register")
    told = answer(*words, "--trust", tmp_path / "trust")
    assert told["encrypted"]
    assert not (tmp_path / "trust").exists()
    key = SigningKey.load(tmp_path / "k.pem", "secret")
    assert key.kid == told["kid"]
    assert agentrun(*words).exit_code == 2  # never overwritten
    jwk = tmp_path / "key.jwk"
    jwk.write_text(json.dumps(told["jwk"]))
    answer("keys", "add", jwk, "--agent", "a", "--expires", "90d", "--trust", tmp_path / "trust")
    rows = answer("keys", "list", "--trust", tmp_path / "trust")["keys"]
    assert [(row["kid"], row["agents"], row["state"]) for row in rows] == [(key.kid, "a", "active")]
    exported = answer("keys", "export", "--trust", tmp_path / "trust")
    assert [entry["kid"] for entry in exported["keys"]] == [key.kid]
    assert "d" not in exported["keys"][0]


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "add", "did:web:x"),
        ("keys", "add", "missing.pem"),
        ("keys", "list", "-w", "nobody"),
        ("keys", "list", "-w", "../x"),
        ("keys", "new", "--expires", "2001-01-01"),
        ("keys", "new", "--expires", "999999999d"),
        ("verify", "missing.json"),
        ("hash", "missing.json"),
    ],
    ids=" ".join,
)
def test_wrong_words_end_with_the_next_step(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = agentrun(*words, *(("--trust", "trust") if words[0] == "keys" else ()))
    assert done.exit_code == 2
    assert len(done.stderr.strip()) > 20
    assert list(tmp_path.glob("*.pem")) == []


def test_a_run_can_not_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(orjson.dumps(RUN | {"id": "\x1b[31mred\x07"}))
    assert "\x1b" not in agentrun("verify", tmp_path / "run.json").stdout


def test_the_benchmark_prints_its_yardstick() -> None:
    figures = answer("bench", "verify", "--seconds", "0.2")
    assert figures["raw_verify_per_second"] > figures["terminal_per_second"] > figures["embedded_per_second"] > 0
    assert 900 <= figures["terminal_bytes"] <= 1_200
    assert 11_000 <= figures["embedded_bytes"] <= 13_000

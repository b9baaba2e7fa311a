"""Signing for producers: what they sign is verified, what can't be verified is not signed, and importing stays light."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream import verify_run
from agentrun_stream.errors import ConfigError, UsageError
from agentrun_stream.sdk.signing import RunSigner, SignedUnder, SigningKey
from agentrun_stream.trust import pem

KEY = SigningKey(bytes(32))
RUN: dict[str, Any] = {
    "id": "r",
    "agent_id": "a",
    "status": "completed",
    "started_at": "2026-05-01T10:00:00Z",
    "steps": [],
    "cost": {"cost_usd": 2e-05},
    "provenance": {},
}


def test_a_key_file_goes_round(tmp_path: Path) -> None:
    pem.write_private(tmp_path / "plain.pem", bytes(range(32)), None)
    pem.write_private(tmp_path / "locked.pem", bytes(range(32)), b"secret")
    assert (tmp_path / "plain.pem").stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in (tmp_path / "locked.pem").read_bytes()
    wanted = SigningKey(bytes(range(32))).kid
    assert SigningKey.load(tmp_path / "plain.pem").kid == wanted
    assert SigningKey.load(tmp_path / "locked.pem", "secret").kid == wanted
    for passphrase in (None, "wrong"):
        with pytest.raises(ConfigError):
            SigningKey.load(tmp_path / "locked.pem", passphrase)
    with pytest.raises(UsageError):
        pem.write_private(tmp_path / "plain.pem", bytes(32), None)
    (tmp_path / "other.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigError):
        SigningKey.load(tmp_path / "other.pem")


def test_a_key_does_not_show_itself() -> None:
    assert repr(SigningKey(bytes(range(32)))) == f"SigningKey({SigningKey(bytes(range(32))).kid})"


def test_a_correction_is_signed_with_a_higher_revision() -> None:
    signer = RunSigner(KEY, RUN)
    step = orjson.dumps(signer.chain({"id": "s", "type": "message"}))
    first, second = signer.sign(RUN), signer.sign(RUN | {"outcome": "success"}, rev=2)
    for run in (first, second):
        verdict = verify_run(orjson.dumps(run), steps=[step])
        assert (verdict.signature, verdict.chain, verdict.reasons) == ("valid_untrusted", "intact", ("key_unknown",))
    assert second["metadata"]["arsig"]["rev"] == 2


def test_signing_again_gives_the_same_signature() -> None:
    moment = datetime(2026, 5, 1, 10, 0, 3, tzinfo=UTC)
    first, second = (RunSigner(KEY, RUN).sign(RUN, signed_at=moment) for _ in range(2))
    assert first == second
    assert first["metadata"]["arsig"]["signed_at"] == "2026-05-01T10:00:03.000Z"


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "running"},
        {"id": "another"},
        {"model": "another"},
        {"id": "with a space"},
        {"tags": "no list"},
        {"metadata": {"x": 2**53}},
        {"metadata": {"x": object()}},
        {"metadata": {"x": "\ud800"}},
        {"provenance": {"lineage": ["x"] * 257}},
    ],
    ids=[*map(str, range(9))],
)
def test_what_would_not_hold_is_not_signed(changed: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        RunSigner(KEY, RUN).sign(RUN | changed)


def test_a_run_without_identity_can_not_be_begun() -> None:
    with pytest.raises(UsageError):
        RunSigner(KEY, {"id": "r"})


def test_members_of_the_producer_stay() -> None:
    signer = RunSigner(KEY, RUN, SignedUnder("acme"))
    step = signer.chain({"id": "s", "type": "message", "metadata": {"mine": 1, "arsig": {"nonce": "n"}}})
    assert step["metadata"]["mine"] == 1
    assert step["metadata"]["arsig"] == {"nonce": "n", "seq": 0, "prev": signer.genesis}
    run = signer.sign(RUN | {"metadata": {"mine": 2}})
    assert run["metadata"]["mine"] == 2
    assert run["metadata"]["arsig"]["tenant"] == "acme"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import agentrun_stream", ("nacl", "orjson", "rfc8785", "cryptography")),
        (
            "import agentrun_stream.sdk.signing",
            ("cryptography", "typer", "clickhouse_connect", "jsonschema_rs", "msgspec"),
        ),
        (
            "import agentrun_stream; agentrun_stream.verify_run(b'{}')",
            ("cryptography", "typer", "aiokafka", "jsonschema_rs"),
        ),
    ],
)
def test_importing_stays_light(statement: str, absent: tuple[str, ...]) -> None:
    code = f"import sys; {statement}; print([n for n in {absent!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("missing", ["nacl", "rfc8785"])
def test_without_the_extra_verifying_says_what_to_install(missing: str) -> None:
    """Whether it is missed at once or by a number that is written in a rare way: a sentence, and no bare import error."""
    code = (
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "from agentrun_stream import verify_run\n"
        "from agentrun_stream.errors import ConfigError\n"
        "try:\n"
        "    verify_run(sys.stdin.buffer.read())\n"
        "except ConfigError as error:\n"
        "    print(error.message, error.next_step)\n"
    )
    signed = orjson.dumps(RunSigner(KEY, RUN).sign(RUN))
    done = subprocess.run([sys.executable, "-c", code], input=signed, capture_output=True, check=True)
    said = done.stdout.decode()
    assert f"needs the package {missing}" in said
    assert "pip install 'agentrun-stream[signing]'" in said

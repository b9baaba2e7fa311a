"""Registries: which entries count, what a key is trusted for and when, and files that change, break or go back."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agentrun_stream.codec import ed25519, keynames
from agentrun_stream.codec.jwks import registry_of
from agentrun_stream.errors import ConfigError, UsageError
from agentrun_stream.model.trust import Registry, judge_key
from agentrun_stream.trust import manage
from agentrun_stream.trust.folder import LOG, load_registry, registry_path
from agentrun_stream.trust.manage import Revocation, Scope, entry_of
from agentrun_stream.trust.watch import RegistryWatch

PUBLIC = ed25519.public_of(bytes(32))
OTHER = ed25519.public_of(bytes([1]) * 32)
KID = keynames.kid_of(PUBLIC)
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def entry(**members: Any) -> dict[str, Any]:
    return {**entry_of(PUBLIC, Scope()), **members}


def axis(members: dict[str, Any], at: datetime = NOW, agent: str = "a") -> tuple[str, str | None]:
    registry = registry_of({"version": 1, "keys": [{k: v for k, v in entry(**members).items() if v != "gone"}]})
    return judge_key(registry, KID, agent, at.timestamp())


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, ("trusted", None)),
        ({"agents": ["a"]}, ("trusted", None)),
        ({"agents": ["b", "a*"]}, ("trusted", None)),
        ({"agents": ["*"]}, ("trusted", None)),
        ({"agents": []}, ("scope_violation", "agent_scope")),
        ({"agents": ["ab"]}, ("scope_violation", "agent_scope")),
        ({"agents": ["A"]}, ("scope_violation", "agent_scope")),
        ({"nbf": NOW.timestamp()}, ("trusted", None)),
        ({"nbf": NOW.timestamp() + 0.001}, ("key_expired", "key_not_yet_valid")),
        ({"exp": NOW.timestamp()}, ("key_expired", "key_expired")),
        ({"exp": NOW.timestamp() + 0.001}, ("trusted", None)),
        ({"status": "revoked"}, ("key_revoked", "key_revoked")),
        ({"status": "revoked", "revoked_at": "2026-05-01T12:00:00Z"}, ("key_revoked", "key_revoked")),
        ({"status": "revoked", "revoked_at": "2026-05-01T14:00:00+02:00"}, ("key_revoked", "key_revoked")),
        ({"status": "active", "revoked_at": "2026-05-01T12:00:00Z"}, ("key_revoked", "key_revoked")),
        ({"status": "revoked", "revoked_at": "2026-05-01T12:00:00.001Z"}, ("trusted", None)),
        ({"status": "revoked", "compromised_since": "2026-05-01T12:00:00Z"}, ("key_revoked", "key_compromised")),
        ({"status": "revoked", "compromised_since": "2026-05-01T12:00:01Z"}, ("trusted", None)),
        ({"status": "revoked", "agents": [], "exp": 1}, ("scope_violation", "agent_scope")),
        ({"status": "revoked", "exp": 1}, ("key_revoked", "key_revoked")),
        ({"kid": keynames.kid_of(OTHER)}, ("valid_untrusted", "key_refused")),
        ({"kid": None}, ("valid_untrusted", "key_refused")),
        ({"status": "retired"}, ("valid_untrusted", "key_refused")),
        ({"status": "gone"}, ("valid_untrusted", "key_refused")),
        ({"agents": "a"}, ("valid_untrusted", "key_refused")),
        ({"agents": None}, ("valid_untrusted", "key_refused")),
        ({"exp": "2030"}, ("valid_untrusted", "key_refused")),
        ({"nbf": True}, ("valid_untrusted", "key_refused")),
        ({"revoked_at": "yesterday"}, ("valid_untrusted", "key_refused")),
        ({"revoked_at": "2026-05-01T12:00:00"}, ("valid_untrusted", "key_refused")),
        ({"kty": "EC"}, ("valid_untrusted", "key_refused")),
        ({"d": "secret"}, ("valid_untrusted", "key_refused")),
    ],
    ids=str,
)
def test_what_an_entry_is_trusted_for(members: dict[str, Any], expected: tuple[str, str | None]) -> None:
    assert axis(members) == expected


def test_a_bad_entry_takes_no_good_one_down() -> None:
    """An entry that claims another key's kid counts as not there; the other stays."""
    thief = entry_of(OTHER, Scope()) | {"kid": KID}
    for keys in ([entry(), thief, "nothing"], [thief, 7, entry()]):
        registry = registry_of({"version": 1, "keys": keys})
        assert judge_key(registry, KID, "a", 0)[0] == "trusted"
        assert len(registry.warnings) == 2
        assert "thumbprint" in registry.warnings[0] + registry.warnings[1]


def test_two_different_entries_of_one_key_are_none() -> None:
    twice = [entry(), entry(status="revoked", revoked_at="2026-05-01T12:00:00Z")]
    registry = registry_of({"version": 1, "keys": twice})
    assert judge_key(registry, KID, "a", 0) == ("valid_untrusted", "key_refused")
    assert judge_key(registry_of({"version": 1, "keys": [entry(), entry()]}), KID, "a", 0)[0] == "trusted"


def write(folder: Path, version: Any, keys: list[Any], workspace: str = "acme") -> None:
    """As an operator would: another file moved into place."""
    fresh = folder / "fresh"
    fresh.write_text(json.dumps({"version": version, "keys": keys}))
    os.replace(fresh, registry_path(folder, workspace))  # noqa: PTH105


def test_a_registry_follows_its_file(tmp_path: Path) -> None:
    watch = RegistryWatch(tmp_path)
    assert watch.poll() == []
    assert watch.current("acme") == Registry()
    write(tmp_path, 1, [entry()])
    assert [(c.workspace, c.registry.version, c.problem) for c in watch.poll()] == [("acme", 1, None)]
    assert watch.poll() == []
    write(tmp_path, 2, [entry(status="revoked")])
    assert [c.registry.version for c in watch.poll()] == [2]
    assert judge_key(watch.current("acme"), KID, "a", 0)[0] == "key_revoked"


@pytest.mark.parametrize("bad", ["back", "same", "broken", "gone", "no version", "duplicate"])
def test_a_file_that_can_not_be_believed_changes_nothing_and_is_told_once(tmp_path: Path, bad: str) -> None:
    watch = RegistryWatch(tmp_path)
    write(tmp_path, 5, [entry(status="revoked")])
    watch.poll()
    path = registry_path(tmp_path, "acme")
    spoil: dict[str, Callable[[], object]] = {
        "back": lambda: write(tmp_path, 4, [entry()]),
        "same": lambda: write(tmp_path, 5, [entry()]),
        "broken": lambda: path.write_text("{"),
        "gone": path.unlink,
        "no version": lambda: write(tmp_path, None, [entry()]),
        "duplicate": lambda: path.write_text('{"version":6,"keys":[],"keys":[]}'),
    }
    spoil[bad]()
    problems = [change.problem for change in watch.poll()]
    assert len(problems) == 1
    assert problems[0]
    assert watch.poll() == []
    assert judge_key(watch.current("acme"), KID, "a", 0)[0] == "key_revoked"
    write(tmp_path, 6, [entry(agents=["a"])])
    assert [change.problem for change in watch.poll()] == [None]


def test_versions_outlive_the_watch_where_somebody_remembers_them(tmp_path: Path) -> None:
    class Kept:
        """What a store would be."""

        def __init__(self) -> None:
            self.rows: dict[str, tuple[int, str]] = {}

        def highest(self, workspace: str) -> tuple[int, str] | None:
            return self.rows.get(workspace)

        def remember(self, workspace: str, registry: Registry) -> None:
            self.rows[workspace] = (registry.version, registry.digest)

    kept = Kept()
    write(tmp_path, 5, [])
    RegistryWatch(tmp_path, kept).poll()
    write(tmp_path, 4, [entry()])
    restarted = RegistryWatch(tmp_path, kept)
    assert "goes back from version 5 to 4" in str(restarted.poll()[0].problem)
    assert restarted.current("acme").keys == {}


def test_a_bad_file_says_what_is_wrong(tmp_path: Path) -> None:
    path = registry_path(tmp_path, "acme")
    for text, said in (
        ("[]", "version"),
        ('{"version":1,"keys":{}}', "JWK Set"),
        ('{"version":1,"version":2}', "duplicate"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            load_registry(path)
    with pytest.raises(UsageError):
        registry_path(tmp_path, "../acme")


def test_operations_raise_the_version_and_leave_a_log(tmp_path: Path) -> None:
    added = manage.add(tmp_path, "acme", PUBLIC, Scope(agents=("a",), exp=NOW, why="new agent"))
    with pytest.raises(UsageError, match="already"):
        manage.add(tmp_path, "acme", PUBLIC, Scope())
    manage.add(tmp_path, "acme", OTHER, Scope())
    manage.revoke(tmp_path, "acme", KID[:10], Revocation(NOW, NOW - timedelta(hours=3), "stolen"))
    later = manage.revoke(tmp_path, "acme", keynames.did_of(PUBLIC), Revocation(NOW + timedelta(hours=1), NOW))
    assert (later["revoked_at"], later["compromised_since"]) == ("2026-05-01T12:00:00Z", "2026-05-01T09:00:00Z")
    with pytest.raises(UsageError):
        manage.revoke(tmp_path, "acme", "nobody", Revocation(NOW))
    assert not list(tmp_path.glob(".acme*"))
    assert load_registry(registry_path(tmp_path, "acme")).version == 4
    rows = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [(row["what"], row["version"]) for row in rows] == [("add", 1), ("add", 2), ("revoke", 3), ("revoke", 4)]
    assert rows[0]["kid"] == added["kid"]
    assert (rows[0]["why"], rows[2]["why"]) == ("new agent", "stolen")
    assert all(row["who"] and row["at"].endswith("Z") for row in rows)


@pytest.mark.parametrize("text", ["did:web:example.com", "{}", "nothing", '{"kty":"OKP","crv":"X25519"}', ""])
def test_what_is_no_public_key_is_not_added(text: str) -> None:
    with pytest.raises(UsageError):
        manage.public_of_text(text)


def test_a_weak_point_is_refused_with_the_reason() -> None:
    weak = keynames.did_of(b"\x01" + bytes(31))
    with pytest.raises(UsageError, match="small order"):
        manage.public_of_text(weak)
    jwk = entry_of(PUBLIC, Scope())
    assert manage.public_of_text(json.dumps(jwk)) == manage.public_of_text(keynames.did_of(PUBLIC)) == PUBLIC


def test_a_broken_time_does_not_keep_a_key_from_being_revoked(tmp_path: Path) -> None:
    write(tmp_path, 1, [entry(revoked_at="soon", exp=1e30)])
    revoked = manage.revoke(tmp_path, "acme", KID, Revocation(NOW))
    assert revoked["revoked_at"] == "2026-05-01T12:00:00Z"


def test_a_new_key_can_be_named_on_a_command_line() -> None:
    kids = {keynames.kid_of(manage.public_of_seed(manage.new_seed())) for _ in range(300)}
    assert len(kids) == 300
    assert not [kid for kid in kids if kid.startswith("-")]

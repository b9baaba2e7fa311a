"""Ed25519 is strict: what the shared edge cases say must fail, fails, and what must hold, holds."""

from typing import Any

import pytest

from agentrun_stream.codec import ed25519, edwards
from shared_vectors import load, needed

LOOSE = {"low_order_A", "low_order_R", "non_canonical_A", "non_canonical_R", "low_order_residue"}
# Points of small order, RFC 8032 and their non-canonical spellings: public mathematics.
SMALL_ORDER = (
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
)


def holds(key: str, signature: str, message: bytes) -> bool:
    raw_key, raw_signature = bytes.fromhex(key), bytes.fromhex(signature)
    # Lengths are the reader's business: `arsig1.` knows one.
    return len(raw_key) == 32 and len(raw_signature) == 64 and ed25519.holds(raw_key, raw_signature, message)


@needed
def test_wycheproof_accepts_exactly_the_valid() -> None:
    groups: list[dict[str, Any]] = load("wycheproof/ed25519_test.json")["testGroups"]
    cases = [(group["publicKey"]["pk"], case) for group in groups for case in group["tests"]]
    assert len(cases) == 151
    found = [holds(key, case["sig"], bytes.fromhex(case["msg"])) for key, case in cases]
    assert found == [case["result"] == "valid" for _, case in cases]


@needed
def test_cctv_accepts_exactly_the_43_strict_ones() -> None:
    cases: list[dict[str, Any]] = load("cctv/ed25519vectors.json")
    assert len(cases) == 914
    found = [holds(case["key"], case["sig"], case["msg"].encode()) for case in cases]
    assert found == [not LOOSE.intersection(case["flags"] or ()) for case in cases]
    assert sum(found) == 43


@needed
def test_speccheck_accepts_the_fourth_alone() -> None:
    cases: list[dict[str, Any]] = load("speccheck/cases.json")
    found = [holds(case["pub_key"], case["signature"], bytes.fromhex(case["message"])) for case in cases]
    assert found == [at == 3 for at in range(12)]


@needed
def test_keys_of_the_edge_cases_that_libsodium_lets_through_are_not_registered() -> None:
    """Mixed order passes the equation, so the registry refuses it."""
    keys = {bytes.fromhex(case["key"]) for case in load("cctv/ed25519vectors.json") if case["flags"]}
    assert keys
    assert all(edwards.flaw(key) for key in keys if key not in _good_keys())
    mixed = bytes.fromhex(load("speccheck/cases.json")[3]["pub_key"])
    assert "mixed order" in (edwards.flaw(mixed) or "")


def _good_keys() -> set[bytes]:
    cases = load("cctv/ed25519vectors.json")
    bad = {"low_order_A", "non_canonical_A", "low_order_component_A"}
    return {bytes.fromhex(case["key"]) for case in cases if not bad.intersection(case["flags"] or ())}


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_a_point_of_small_order_is_no_key(key: str) -> None:
    assert "small order" in (edwards.flaw(bytes.fromhex(key)) or "")


def test_other_bytes_that_are_no_key_say_why() -> None:
    assert "32" in (edwards.flaw(b"x") or "")
    assert "canonical" in (edwards.flaw(bytes.fromhex("ee" + "ff" * 30 + "7f")) or "")
    assert "not a point" in (edwards.flaw((2).to_bytes(32, "little")) or "")


def test_every_generated_key_is_in_the_main_subgroup() -> None:
    for n in range(20):
        assert edwards.flaw(ed25519.public_of(bytes([n]) * 32)) is None


def test_a_signature_holds_for_its_message_and_key_alone() -> None:
    seed, other = bytes(32), bytes([1]) * 32
    signature = ed25519.sign(seed, b"message")
    assert ed25519.holds(ed25519.public_of(seed), signature, b"message")
    assert not ed25519.holds(ed25519.public_of(seed), signature, b"massage")
    assert not ed25519.holds(ed25519.public_of(other), signature, b"message")

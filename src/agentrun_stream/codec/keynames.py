"""The names of an Ed25519 key: did:key, RFC 7638 thumbprint, JWK; and the text form of a signature.

Must not live here: whether a key is trusted, or verifies anything.
"""

import base64
import binascii
import hashlib
from functools import lru_cache
from typing import Final, NamedTuple

SUITE: Final = "arsig1."
_DID: Final = "did:key:z"
_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUE: Final = {char: value for value, char in enumerate(_ALPHABET)}
_ED25519: Final = b"\xed\x01"
_KEY_BYTES: Final = 32
# Base64url to base64; what is in base64 alone becomes what is in neither.
_TO_STANDARD: Final = bytes.maketrans(b"-_+/=", b"+/!!!")
# Characters, and the last ones that are canonical: it carries bits that belong to no byte, and they must be zero.
_SIGNATURE: Final = (86, "AQgw")
_X: Final = (43, "AEIMQUYcgkosw048")


class KeyName(NamedTuple):
    """A public key and its kid, the RFC 7638 thumbprint."""

    public: bytes
    kid: str


def base64url(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def kid_of(public: bytes) -> str:
    """The RFC 7638 thumbprint of a public key."""
    text = f'{{"crv":"Ed25519","kty":"OKP","x":"{base64url(public)}"}}'
    return base64url(hashlib.sha256(text.encode()).digest())


def did_of(public: bytes) -> str:
    """`did:key:z6Mk...` of a public key."""
    number, digits = int.from_bytes(_ED25519 + public, "big"), []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    return _DID + "".join(reversed(digits))


_DID_CHARS: Final = len(did_of(bytes(_KEY_BYTES)))


@lru_cache(maxsize=4_096)
def named_by_did(did: str) -> KeyName:
    """The key that a did:key names. Raises ValueError for anything but the one spelling of an Ed25519 key."""
    if len(did) != _DID_CHARS or not did.startswith(_DID):
        raise ValueError("not a did:key of an Ed25519 key")
    number = 0
    for char in did[len(_DID) :]:
        value = _VALUE.get(char)
        if value is None:
            raise ValueError("not base58btc")
        number = number * 58 + value
    data = number.to_bytes(len(_ED25519) + _KEY_BYTES + 1, "big")
    public = data[-_KEY_BYTES:]
    if did_of(public) != did:
        raise ValueError("not a did:key of an Ed25519 key")
    return KeyName(public, kid_of(public))


def signature_bytes(text: str) -> bytes:
    """The 64 bytes behind `arsig1.`. Raises ValueError unless it is the one canonical spelling."""
    body = text.removeprefix(SUITE)
    return _exact(body, _SIGNATURE)


def signature_text(signature: bytes) -> str:
    """`arsig1.` and the signature in base64url."""
    return SUITE + base64url(signature)


def public_of_x(x: str) -> bytes:
    """The 32 bytes of a JWK's `x`. Raises ValueError unless it is their one canonical spelling."""
    return _exact(x, _X)


def _exact(text: str, form: tuple[int, str]) -> bytes:
    chars, last = form
    if len(text) != chars or text[-1] not in last:
        raise ValueError("not unpadded, canonical base64url of the right length")
    try:
        return binascii.a2b_base64(text.encode().translate(_TO_STANDARD) + b"=" * (-chars % 4), strict_mode=True)
    except binascii.Error:
        raise ValueError("not base64url") from None

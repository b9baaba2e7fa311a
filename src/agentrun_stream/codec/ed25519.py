"""Ed25519 by libsodium: strict verification (S < L, canonical and no small-order A and R, no cofactor), and signing.

Must not live here: OpenSSL, which takes edge cases that must fail; what is signed (arsig.py).
"""

from nacl.bindings import crypto_sign, crypto_sign_BYTES, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError


def holds(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the signature fits the message under this key. libsodium lets other threads run meanwhile."""
    try:
        crypto_sign_open(signature + message, key)
    except BadSignatureError:
        return False
    return True


def public_of(seed: bytes) -> bytes:
    """The public key of a private one."""
    public: bytes = crypto_sign_seed_keypair(seed)[0]
    return public


def sign(seed: bytes, message: bytes) -> bytes:
    """The signature of a message, 64 bytes."""
    signed: bytes = crypto_sign(message, crypto_sign_seed_keypair(seed)[1])
    return signed[:crypto_sign_BYTES]

"""Private keys as PKCS#8 PEM files: written for their owner alone, read with or without a passphrase.

Must not live here: registries, signing.
"""

import base64
import binascii
import os
import re
from pathlib import Path
from typing import Final

from agentrun_stream.errors import ConfigError, UsageError

MODE: Final = 0o600
_PLAIN: Final = re.compile(rb"-----BEGIN PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END PRIVATE KEY-----\s*\Z")
_ENCRYPTED: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
# RFC 8410: version 0, algorithm 1.3.101.112, an octet string in an octet string.
_PKCS8_ED25519: Final = bytes.fromhex("302e020100300506032b657004220420")
_SEED_BYTES: Final = 32


def write_private(path: Path, seed: bytes, passphrase: bytes | None) -> None:
    """Write a private key, encrypted when a passphrase is given. Never over a file that is there."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    key = Ed25519PrivateKey.from_private_bytes(seed)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    except FileExistsError:
        raise UsageError(
            f"{path} is there already, and a private key is never overwritten.", "Name another file with --out."
        ) from None
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}.", "Name another file with --out.") from None
    with os.fdopen(file, "wb") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def read_private(path: Path, passphrase: bytes | None = None) -> bytes:
    """The 32 bytes of a private key. Raises ConfigError with the next step."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"The key file {path} can't be read: {error.strerror}.", "Check its path and mode.") from None
    if _ENCRYPTED in text:
        return _decrypted(path, text, passphrase)
    found = _PLAIN.search(text)
    try:
        data = base64.b64decode(b"".join(found[1].split()), validate=True) if found else b""
    except binascii.Error:
        data = b""
    if not data.startswith(_PKCS8_ED25519) or len(data) != len(_PKCS8_ED25519) + _SEED_BYTES:
        raise ConfigError(f"{path} holds no Ed25519 key in PKCS#8 PEM.", "Make one with `agentrun keys new`.")
    return data[len(_PKCS8_ED25519) :]


def _decrypted(path: Path, text: bytes, passphrase: bytes | None) -> bytes:
    if not passphrase:
        raise ConfigError(f"The key file {path} is encrypted.", "Give its passphrase.")
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ConfigError(
            "Reading an encrypted key needs the package cryptography.", "Run: pip install 'agentrun-stream[keys]'"
        ) from None
    try:
        key = load_pem_private_key(text, passphrase)
    except (ValueError, TypeError):
        raise ConfigError(f"The key file {path} does not open with this passphrase.", "Check the passphrase.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} holds no Ed25519 key.", "Make one with `agentrun keys new`.")
    return key.private_bytes_raw()


def read_public(text: bytes) -> bytes | None:
    """The 32 bytes of an Ed25519 public key in PEM (SubjectPublicKeyInfo); None where it is none."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        key = load_pem_public_key(text)
    except ValueError:
        return None
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None

"""Made-up keys for made-up runs, and their registries. Anyone can work the private halves out: never trust one elsewhere.

Must not live here: what is signed with them.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from agentrun_stream.errors import UsageError
from agentrun_stream.model.trust import ACTIVE, REVOKED
from agentrun_stream.sdk.signing import SigningKey
from agentrun_stream.trust.folder import changing, registry_path
from agentrun_stream.trust.manage import Scope, entry_of

REASON: Final = "a made-up test key, which anyone can work out: never trust it elsewhere"
WORKSPACE: Final = "default"
_KEYS_MAX: Final = 256


@lru_cache(_KEYS_MAX)
def made_up_key(seed: int, name: str) -> SigningKey:
    """The key of this name under this seed, always the same."""
    return SigningKey(hashlib.sha256(f"agentrun-stream/made-up/{seed}/{name}".encode()).digest())


def made_up_entry(key: SigningKey, agent_id: str, *, revoked: bool = False) -> dict[str, Any]:
    """A key's entry in a registry, for one agent alone; `revoked` at all times."""
    status = REVOKED if revoked else ACTIVE
    return entry_of(key.public, Scope((agent_id,))) | {"status": status, "reason": REASON}


def register(folder: Path, jwks: Mapping[str, Any]) -> None:
    """Put made-up keys into a folder of registries, beside earlier ones.

    Raises UsageError where somebody's own keys are in force: who trusts those must not come to trust these.
    """
    with changing(folder, WORKSPACE) as registry:
        kept = registry["keys"]
        if any(entry.get("reason") != REASON for entry in kept):
            raise UsageError(
                f"The registry {registry_path(folder, WORKSPACE)} holds keys that are not made up.",
                "Made-up keys don't belong beside them: name another folder with --data.",
            )
        known = {entry.get("kid") for entry in kept}
        kept += [entry for entry in jwks["keys"] if entry["kid"] not in known]

"""Trust: the keys of a workspace, and what they say of a signature whose equation holds. An opinion, never a fact.

Must not live here: reading a registry (codec/jwks.py), cryptography, a clock.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

TRUSTED: Final = "trusted"
ACTIVE: Final = "active"
REVOKED: Final = "revoked"
STATUSES: Final = (ACTIVE, REVOKED)


@dataclass(frozen=True, slots=True)
class Key:
    """One registered key. Times are seconds since 1970; `agents` None means every agent, () none."""

    kid: str
    public: bytes
    status: str = ACTIVE
    agents: tuple[str, ...] | None = None
    nbf: float | None = None
    exp: float | None = None
    revoked_at: float | None = None
    compromised_since: float | None = None
    reason: str | None = None
    unbounded: bool = field(init=False)  # active at all times, as most keys are

    def __post_init__(self) -> None:
        times = (self.nbf, self.exp, self.revoked_at, self.compromised_since)
        object.__setattr__(self, "unbounded", self.status == ACTIVE and times == (None,) * len(times))

    def covers(self, agent_id: str) -> bool:
        """Whether the key may sign for this agent: by its exact name, or by a prefix that ends in `*`."""
        return self.agents is None or any(
            agent_id.startswith(scope[:-1]) if scope.endswith("*") else agent_id == scope for scope in self.agents
        )


@dataclass(frozen=True, slots=True)
class Registry:
    """The keys of one workspace at one version. `refused` are entries that count as not there: kid -> why."""

    version: int = 0
    digest: str = ""
    keys: dict[str, Key] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


NOBODY: Final = Registry()


def judge_key(registry: Registry, kid: str, agent_id: str, at_s: float) -> tuple[str, str | None]:
    """The signature axis of a signature that holds, judged at `at_s`, and the reason code where it is not `trusted`."""
    key = registry.keys.get(kid)
    if key is None:
        return "valid_untrusted", "key_refused" if kid in registry.refused else "key_unknown"
    if not key.covers(agent_id):
        return "scope_violation", "agent_scope"
    if key.unbounded:
        return TRUSTED, None
    for axis, reason, applies in _DOUBTS:
        if applies(key, at_s):
            return axis, reason
    return TRUSTED, None


def _reached(moment: float | None, at_s: float) -> bool:
    return moment is not None and moment <= at_s


def _revoked_at_all_times(key: Key) -> bool:
    return key.status == REVOKED and key.revoked_at is None and key.compromised_since is None


# The first that applies.
_DOUBTS: Final[tuple[tuple[str, str, Callable[[Key, float], bool]], ...]] = (
    ("key_revoked", "key_revoked", lambda key, at_s: _reached(key.revoked_at, at_s) or _revoked_at_all_times(key)),
    ("key_revoked", "key_compromised", lambda key, at_s: _reached(key.compromised_since, at_s)),
    ("key_expired", "key_not_yet_valid", lambda key, at_s: key.nbf is not None and at_s < key.nbf),
    ("key_expired", "key_expired", lambda key, at_s: _reached(key.exp, at_s)),
)

"""What an attacker tries against signed runs, one row a trick: what is published, and which verdict must come of it.

Must not live here: publishing, or a look at the store (test_attacks.py).
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentrun_stream.codec.edwards import L
from agentrun_stream.codec.keynames import did_of, signature_text
from agentrun_stream.sdk.signing import RunSigner, SignedUnder, SigningKey
from agentrun_stream.testing.events import cloud_event
from integration.signing_kit import (
    AGENT,
    COMPROMISED,
    EARLY,
    EXPIRED,
    FOREIGN,
    NOW,
    REVOKED,
    SCOPED,
    TRUSTED,
    Events,
    Honest,
    Json,
    altered,
    finished,
    key,
    rfc,
    signature,
    step,
    with_signature,
)


@dataclass(frozen=True, slots=True)
class Attack:
    """A trick. `axis` is where it must show and how; where `headline` is 'dead letter' it is refused as malformed."""

    name: str
    axis: str
    headline: str
    make: Callable[[str], Sequence[bytes]]


# ---- the tricks that need more than a line


def seventeen_foreigners(run_id: str) -> list[bytes]:
    honest = Honest(run_id)
    *first, end = honest.events()
    return [*first, *(honest.signed_by(key(100 + i), outcome="failed") for i in range(17)), end]


def stolen_key(run_id: str) -> list[bytes]:
    """Whoever has a key that is no longer good signs a higher revision than the owner of the other key."""
    honest = Honest(run_id)
    return [*honest.events(), honest.signed_by(COMPROMISED, rev=9, outcome="failed")]


def spliced(run_id: str) -> list[bytes]:
    honest, other = Honest(run_id), Honest(f"{run_id}-other")
    return honest.events([*honest.steps[:2], other.steps[2]])


def moved(run_id: str) -> list[bytes]:
    """The whole chain of another run, with an end of its own over it."""
    honest, other = Honest(run_id), Honest(f"{run_id}-other")
    return honest.events(other.steps)


def old_revision(run_id: str) -> list[bytes]:
    """The first revision is sent again after the second."""
    honest = Honest(run_id)
    first = honest.run(honest.end)
    second = honest.run(honest.signer.sign(finished(honest.begin) | {"outcome": "partial"}, rev=2), time=rfc(NOW))
    return [*honest.events(), second, first]


def rev_told_twice(run_id: str) -> list[bytes]:
    """The owner of the key signs one revision with two contents."""
    honest = Honest(run_id)
    again = honest.signer.sign(finished(honest.begin) | {"outcome": "failed"})
    return [*honest.events(), honest.run(again, time=rfc(NOW))]


def inserted(run_id: str) -> list[bytes]:
    honest = Honest(run_id)
    extra = altered(honest.steps[1], "id", to="s1-and-a-half")
    return honest.events([honest.steps[0], honest.steps[1], extra, honest.steps[2]])


def swapped(run_id: str) -> list[bytes]:
    """Two steps change places: each gets the other's number and link."""
    honest = Honest(run_id)
    one, two = honest.steps[1], honest.steps[2]
    places = one["metadata"]["arsig"], two["metadata"]["arsig"]
    return honest.events(
        [
            honest.steps[0],
            altered(one, "metadata", "arsig", to=places[1]),
            altered(two, "metadata", "arsig", to=places[0]),
        ]
    )


def not_canonical(run_id: str) -> list[bytes]:
    """S + L verifies under a lax rule and is refused by a strict one."""
    honest = Honest(run_id)
    raw = signature(honest.end)
    high = int.from_bytes(raw[32:], "little") + L
    return honest.events(end=with_signature(honest.end, signature_text(raw[:32] + high.to_bytes(32, "little"))))


def small_order(run_id: str) -> list[bytes]:
    """The neutral point as key and as R: the equation holds for any message, where nobody looks at the points."""
    honest = Honest(run_id)
    neutral = (1).to_bytes(32, "little")
    forged = altered(honest.end, "provenance", "signed_by", to=did_of(neutral))
    return honest.events(end=with_signature(forged, signature_text(neutral + bytes(32))))


def with_text(honest: Honest, old: bytes, new: bytes) -> list[bytes]:
    """The end as other bytes: what no JSON writer would write."""
    *first, end = honest.events()
    assert old in end
    return [*first, end.replace(old, new, 1)]


def deep(run_id: str) -> list[bytes]:
    honest = Honest(run_id)
    return with_text(honest, b'"ticket"', b'"deep":' + b"[" * 100_000 + b"]" * 100_000 + b',"ticket"')


def shifted_configuration(run_id: str) -> list[bytes]:
    """The fingerprint joins with `|`, so parts may be shifted between its members; the signature covers each by itself."""
    honest = Honest(run_id, model="m|n", trigger=None)
    stated = honest.end["provenance"]["run_hash"]
    shifted = altered(altered(honest.end, "agent_id", to=f"{AGENT}|m"), "model", to="n")
    assert stated == shifted["provenance"]["run_hash"]
    return honest.events(end=shifted)


def flips(obj: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], object]]:
    """Every leaf of an object, and another value for it."""
    items = obj.items() if isinstance(obj, dict) else enumerate(obj)
    for name, value in items:
        here = (*path, name)
        if isinstance(value, dict | list) and value:
            yield from flips(value, here)
        elif isinstance(value, bool) or value is None or isinstance(value, dict | list):
            continue
        elif isinstance(value, int | float):
            yield here, value + 1
        else:
            yield here, value[:-1] + ("0" if value[-1] != "0" else "1")


def late_flip(path: tuple[str | int, ...], to: object) -> Callable[[str], list[bytes]]:
    def make(run_id: str) -> list[bytes]:
        honest = Honest(run_id)
        return honest.events(end=altered(honest.end, *path, to=to))

    return make


def flip_attacks() -> Iterator[Attack]:
    """One attack for each covered leaf of the end. What the record's own rules refuse is left to other tests."""
    refused = {("id",), ("outcome",), ("status",), ("started_at",), ("ended_at",), ("metadata", "arsig", "v")}
    sample = Honest("sample").end
    for path, to in flips(sample):
        if path in refused or path[0] == "provenance":
            continue
        name = "flip " + "/".join(map(str, path))
        axis = "chain wrong_run" if path == ("agent_id",) else "signature"
        yield Attack(name, axis.split(maxsplit=1)[0], "rejected", late_flip(path, to))


def by(signer: SigningKey, under: SignedUnder | None = None) -> Callable[[str], list[bytes]]:
    return lambda run_id: Honest(run_id, signer, under).events()


def end_with(change: Callable[[Json], Json]) -> Callable[[str], list[bytes]]:
    def make(run_id: str) -> list[bytes]:
        honest = Honest(run_id)
        return honest.events(end=change(honest.end))

    return make


def and_then(later: Callable[[Honest], Sequence[bytes]]) -> Callable[[str], list[bytes]]:
    def make(run_id: str) -> list[bytes]:
        honest = Honest(run_id)
        return [*honest.events(), *later(honest)]

    return make


def steps_as(change: Callable[[list[Json]], Sequence[Json]]) -> Callable[[str], list[bytes]]:
    def make(run_id: str) -> list[bytes]:
        honest = Honest(run_id)
        return honest.events(change(honest.steps))

    return make


def bytes_as(old: bytes, new: bytes) -> Callable[[str], list[bytes]]:
    return lambda run_id: with_text(Honest(run_id), old, new)


def padded(obj: Json) -> Json:
    return with_signature(obj, obj["provenance"]["signature"] + "==")


def trailing_bits(obj: Json) -> Json:
    text = obj["provenance"]["signature"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return with_signature(obj, text[:-1] + alphabet[alphabet.index(text[-1]) + 1])


def short(obj: Json) -> Json:
    return with_signature(obj, "arsig1." + base64.urlsafe_b64encode(bytes(63)).decode())


def other_suite(obj: Json) -> Json:
    return with_signature(obj, obj["provenance"]["signature"].replace("arsig1.", "arsig2."))


def own_key(obj: Json) -> Json:
    """The key comes with the message, and the message says where to look it up."""
    with_jku = altered(obj, "metadata", "jku", to="https://attacker.example/keys.json")
    signer = RunSigner(FOREIGN, with_jku | {"status": "running"})
    return signer.sign({k: v for k, v in with_jku.items() if k != "provenance"} | {"provenance": {}})


def alter_answer(steps: list[Json]) -> list[Json]:
    return [steps[0], altered(steps[1], "output_preview", to="another answer"), steps[2]]


def unsigned_end(honest: Honest) -> list[bytes]:
    return [honest.run(finished(honest.begin) | {"outcome": "failed", "cost": {"cost_usd": 0}}, time=rfc(NOW))]


def unsigned_with_step(honest: Honest) -> list[bytes]:
    inside = step(1) | {"output_preview": "another answer"}
    return [honest.run(finished(honest.begin) | {"steps": [inside]}, time=rfc(NOW))]


def self_signed_with_step(honest: Honest) -> list[bytes]:
    inside = step(1) | {"output_preview": "another answer"}
    signer = RunSigner(FOREIGN, honest.begin)
    return [honest.run(signer.sign(finished(honest.begin) | {"steps": [inside]}), time=rfc(NOW))]


def before_the_end(run_id: str) -> list[bytes]:
    """Members that the end does not have are said before it, unsigned; a claim inherits nothing."""
    honest = Honest(run_id)
    return [honest.run(honest.begin | {"task_id": "planted", "error": "planted"}), *honest.events()[1:]]


ATTACKS: Final = (
    Attack("nothing at all", "", "verified", lambda run_id: Honest(run_id).events()),
    Attack("seventeen foreign signers first", "", "verified", seventeen_foreigners),
    Attack("an unsigned correction afterwards", "", "verified", and_then(unsigned_end)),
    Attack(
        "a self-signed correction afterwards",
        "",
        "verified",
        and_then(lambda h: [h.signed_by(FOREIGN, rev=5, outcome="failed")]),
    ),
    Attack("unsigned members before the end", "", "verified", before_the_end),
    Attack("an old revision again", "", "verified", old_revision),
    Attack("a key that is no longer good signs higher", "", "verified", stolen_key),
    Attack("one revision with two contents", "chain", "rejected", rev_told_twice),
    Attack(
        "a step replaced after the end",
        "chain",
        "rejected",
        and_then(lambda h: [h.step(step(1) | {"output_preview": "another"}, time=rfc(NOW))]),
    ),
    Attack(
        "a step replaced by a late one",
        "chain",
        "rejected",
        and_then(lambda h: [h.step(step(1) | {"output_preview": "another"}, time="2026-01-01T11:00:00Z")]),
    ),
    Attack(
        "a chained step with other content",
        "chain",
        "rejected",
        and_then(lambda h: [h.step(altered(h.steps[1], "output_preview", to="another"), time=rfc(NOW))]),
    ),
    Attack("an altered step inside an unsigned run", "chain", "rejected", and_then(unsigned_with_step)),
    Attack("an altered step inside a self-signed run", "chain", "rejected", and_then(self_signed_with_step)),
    Attack("a step more", "chain", "rejected", and_then(lambda h: [h.step(step(7), time=rfc(NOW))])),
    Attack("a step dropped", "chain", "mismatch", steps_as(lambda steps: [steps[0], steps[2]])),
    Attack("the tail cut", "chain", "mismatch", steps_as(lambda steps: steps[:2])),
    Attack("a step altered", "chain", "rejected", steps_as(alter_answer)),
    Attack("two steps swapped", "chain", "rejected", swapped),
    Attack("a step inserted", "chain", "rejected", inserted),
    Attack("a step of another run spliced in", "chain", "rejected", spliced),
    Attack("the chain of another run", "chain", "rejected", moved),
    Attack("signed for another tenant", "signature", "rejected", by(TRUSTED, SignedUnder("another"))),
    Attack("a key outside of its agents", "signature", "rejected", by(SCOPED)),
    Attack("a revoked key that back-dates", "signature", "revoked", by(REVOKED)),
    Attack("a key known to be stolen", "signature", "revoked", by(COMPROMISED)),
    Attack("an expired key", "signature", "unverifiable", by(EXPIRED)),
    Attack("a key that is not valid yet", "signature", "unverifiable", by(EARLY)),
    Attack("a foreign key", "signature", "unverifiable", by(FOREIGN)),
    Attack("another suite", "signature", "unverifiable", end_with(other_suite)),
    Attack("padded base64", "signature", "rejected", end_with(padded)),
    Attack("base64 with stray bits", "signature", "rejected", end_with(trailing_bits)),
    Attack("a short signature", "signature", "rejected", end_with(short)),
    Attack(
        "did:web",
        "signature",
        "rejected",
        end_with(lambda obj: altered(obj, "provenance", "signed_by", to="did:web:attacker.example")),
    ),
    Attack("a key inside the message", "signature", "unverifiable", end_with(own_key)),
    Attack(
        "another's did:key",
        "signature",
        "rejected",
        end_with(lambda obj: altered(obj, "provenance", "signed_by", to=FOREIGN.did)),
    ),
    Attack("S beyond L", "signature", "rejected", not_canonical),
    Attack("a small-order key", "signature", "rejected", small_order),
    Attack("the configuration shifted under one fingerprint", "signature", "rejected", shifted_configuration),
    Attack(
        "the fingerprint of another configuration",
        "hash",
        "rejected",
        end_with(lambda obj: altered(obj, "provenance", "run_hash", to="0" * 64)),
    ),
    Attack("a member twice", "", "dead letter", bytes_as(b'"outcome":', b'"outcome":"failed","outcome":')),
    Attack("a lone surrogate", "", "dead letter", bytes_as(b'"nightly"', b'"\\ud800"')),
    Attack("an integer beyond 2^53", "", "dead letter", bytes_as(b'{"id":7}', b'{"id":9007199254740993}')),
    Attack("depth 100,000", "", "dead letter", deep),
    Attack("flip outcome", "signature", "rejected", late_flip(("outcome",), "failed")),
    *flip_attacks(),
)


def untouched(count: int) -> Iterator[Events]:
    """So many honest runs; some embed their steps, some have none."""
    for i in range(count):
        run_id = f"untouched-{i}"
        if i % 3 == 0:
            yield Events(run_id, Honest(run_id).events())
            continue
        begin = Honest(run_id).begin
        signer = RunSigner(TRUSTED, begin)
        inside = [signer.chain(step(0)), signer.chain(step(1))] if i % 3 == 1 else []
        end = signer.sign(finished(begin) | {"steps": inside})
        yield Events(run_id, [cloud_event("run", run_id, "run/completed", end)])

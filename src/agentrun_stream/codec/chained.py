"""The fast way for a chained step. It only ever accepts: whatever it is not sure of goes to `processors.verify.read_step`.

A property test holds the two together. Must not live here: any rule that `read_step` does not have.
"""

import hashlib
from typing import Final

import msgspec

from agentrun_stream.codec.fast import PlainStep
from agentrun_stream.codec.strict_json import is_plain
from agentrun_stream.model.chain import Link

_canonical: Final = msgspec.json.Encoder(order="sorted").encode
_QUOTES: Final = 6 * 4 + 2  # of the six members that an envelope must have, and of the name of the data
_new: Final = tuple.__new__


def chained_plainly(value: bytes, step: PlainStep) -> Link | None:
    """The link of the commonest chained step, one in canonical form in a compact envelope; None for another.

    The decoder has read and checked all members already. Written canonically they are what stands in the record, so no name
    came twice and nothing else is there; what is left of the record is the envelope, all of it text. Numbers that two writers
    might spell differently are in the metadata alone.
    """
    metadata = step[6]
    arsig = metadata["arsig"] if metadata is not None else None
    seq, prev = (arsig.get("seq"), arsig.get("prev")) if type(arsig) is dict else (None, None)
    if type(seq) is not int or seq < 0 or type(prev) is not str:
        return None
    body = _canonical(step[8])  # the metadata in it are the bytes that came; `plain_step` saw that they are compact
    envelope = value[: -len(body) - 1]
    if not value.endswith(body + b"}") or not envelope.endswith(b'"data":') or b"\\" in envelope:
        return None
    # Its members are texts, each between four quotes with its name: a name that comes twice makes more of them.
    quotes = _QUOTES if step[1] is None else _QUOTES + 4
    if envelope.count(b'"') != quotes + (4 if b'"datacontenttype":' in envelope else 0):
        return None
    ordered = (step[7] or "").encode()
    if ordered not in body or not is_plain(ordered):
        return None
    return _new(Link, (seq, prev, hashlib.sha256(body).hexdigest()))

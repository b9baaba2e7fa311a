"""The fast way for a chained step. It only ever accepts: whatever it is not sure of goes to `processors.verify.read_step`.

A property test holds the two together. Must not live here: any rule that `read_step` does not have.
"""

import hashlib
from typing import Final

import orjson

from agentrun_stream.codec.fast import STEP_MEMBERS, PlainStep
from agentrun_stream.codec.strict_json import is_plain
from agentrun_stream.model.chain import Link

_SORTED: Final = orjson.OPT_SORT_KEYS
_QUOTES: Final = 6 * 4 + 2  # of the six members that an envelope must have, and of the name of the data
_new: Final = tuple.__new__


def chained_plainly(value: bytes, step: PlainStep) -> tuple[Link, bytes] | None:
    """Link and canonical bytes of the commonest chained step, one in canonical form in a compact envelope; None for another.

    The decoder has read and checked all members already. Written canonically they are what stands in the record, so no name
    came twice and nothing else is there; what is left of the record is the envelope, all of it text. Numbers that two writers
    might spell differently are in the metadata alone.
    """
    members, metadata = step[4], step[6]
    arsig = metadata["arsig"] if metadata is not None else None
    seq, prev = (arsig.get("seq"), arsig.get("prev")) if type(arsig) is dict else (None, None)
    if type(seq) is not int or seq < 0 or type(prev) is not str:
        return None
    obj = {name: member for name, member in zip(STEP_MEMBERS, members, strict=True) if member is not None}
    obj["metadata"] = metadata
    body = orjson.dumps(obj, option=_SORTED)
    envelope = value[: -len(body) - 1]
    if not value.endswith(body + b"}") or not envelope.endswith(b'"data":') or b"\\" in envelope:
        return None
    # Its members are texts, each between four quotes with its name: a name that comes twice makes more of them.
    quotes = _QUOTES if step[1] is None else _QUOTES + 4
    if envelope.count(b'"') != quotes + (4 if b'"datacontenttype":' in envelope else 0):
        return None
    if not is_plain((step[7] or "").encode()):
        return None
    return _new(Link, (seq, prev, hashlib.sha256(body).hexdigest())), body

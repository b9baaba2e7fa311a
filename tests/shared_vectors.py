"""Test vectors that stand beside the checkout: where they are, and what it means when they are not."""

import base64
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "vectors"
MISSING = not VECTORS.is_dir() and os.environ.get("CI") != "true"  # CI does not forgive
needed = pytest.mark.skipif(MISSING, reason="the test vectors are not beside the checkout (../shared/vectors)")


@cache
def load(name: str) -> Any:
    """A file of vectors; nothing where there are none."""
    return [] if MISSING else json.loads((VECTORS / name).read_text("utf-8"))


def raw_of(case: dict[str, Any]) -> bytes:
    """The bytes of a case as they are on the wire."""
    return base64.b64decode(case["raw_b64"]) if "raw_b64" in case else case["raw"].encode()

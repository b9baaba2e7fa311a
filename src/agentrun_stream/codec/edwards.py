"""Points of edwards25519, as far as a key must be looked at before it is registered: is it in the main subgroup?

Plain integer arithmetic, slow (a millisecond) and not constant in time, which public keys do not need. Must not live here:
signing or verifying; libsodium does that.
"""

from functools import lru_cache
from typing import Final

P: Final = 2**255 - 19
L: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, P - 2, P) % P
_SQRT_MINUS_1: Final = pow(2, (P - 1) // 4, P)
_KEY_BYTES: Final = 32

_Point = tuple[int, int, int, int]  # extended coordinates x, y, z, x*y
_ZERO: Final[_Point] = (0, 1, 1, 0)


@lru_cache(maxsize=4_096)
def flaw(key: bytes) -> str | None:
    """Why these bytes can't be a registered key; None for a point of the main subgroup."""
    if len(key) != _KEY_BYTES:
        return f"it has {len(key)} bytes, not 32"
    y = int.from_bytes(key, "little") & (1 << 255) - 1
    if y >= P:
        return "its point is not in canonical form"
    x = _x(y, key[-1] >> 7)
    if x is None:
        return "it is not a point of the curve"
    point = (x, y, 1, x * y % P)
    if _is_zero(_times(8, point)):
        return "its point has small order, so one signature would fit every message"
    if not _is_zero(_times(L, point)):
        return "its point has mixed order (it lies outside the main subgroup)"
    return None


def _x(y: int, sign: int) -> int | None:
    u, v = (y * y - 1) % P, (_D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if (v * x * x - u) % P:
        x = x * _SQRT_MINUS_1 % P
        if (v * x * x - u) % P:
            return None
    if not x and sign:
        return None
    return P - x if x & 1 != sign else x


def _add(a: _Point, b: _Point) -> _Point:
    p, q = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    r, s = 2 * a[3] * b[3] * _D % P, 2 * a[2] * b[2] % P
    e, f, g, h = q - p, s - r, s + r, q + p
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(n: int, point: _Point) -> _Point:
    total = _ZERO
    while n:
        if n & 1:
            total = _add(total, point)
        point = _add(point, point)
        n >>= 1
    return total


def _is_zero(point: _Point) -> bool:
    return point[0] % P == 0 and (point[1] - point[2]) % P == 0

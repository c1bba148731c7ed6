"""Numbers and times as the venues print them."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable
from decimal import Decimal

NumberText = Callable[[int], str]

MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000


def padded(tick: Decimal, decimals: int | None = None) -> NumberText:
    """Make a printer of counts of ticks with a fixed number of decimals, by default those of the tick.

    ``padded(Decimal("0.05"))(3)`` is ``0.15``.
    """
    own = decimals_of(tick)
    places = own if decimals is None else decimals
    unit = int(tick.scaleb(own)) * 10 ** (places - own)
    if places == 0:
        return lambda count: str(count * unit)
    scale = 10**places
    form = f"%d.%0{places}d"
    return lambda count: form % divmod(count * unit, scale)


def trimmed(tick: Decimal) -> NumberText:
    """Make a printer without zeros at the end: ``87956``, ``0.00002263``."""
    full = padded(tick)
    if decimals_of(tick) == 0:
        return full
    return lambda count: full(count).rstrip("0").rstrip(".")


def decimals_of(tick: Decimal) -> int:
    """How many decimals a tick has as written: 2 for ``0.10``."""
    exponent = tick.as_tuple().exponent
    assert isinstance(exponent, int), "a tick is a finite number"
    return max(-exponent, 0)


def milliseconds(time_ns: int) -> int:
    """Cut to milliseconds."""
    return time_ns // MILLISECOND_NS


def rfc3339(time_ns: int) -> str:
    """``2023-10-06T17:35:55.440295Z``, cut to microseconds."""
    seconds, rest_ns = divmod(time_ns, SECOND_NS)
    return f"{_second(seconds)}.{rest_ns // 1000:06d}Z"


@functools.lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")

"""Kraken's times -> whole nanoseconds since the epoch, exactly: a float could only hold a tenth of a microsecond.

Websocket v2 says RFC 3339 text, with six digits after the point ("2023-10-06T17:35:55.440295Z"), and nine for the begin
of a candle. Websocket v1 says decimal seconds as text ("1534614057.321597"), REST as a number (1762795433.9717445).
"""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from marketd.clock import SECOND_NS
from marketd.errors import WireError

_SCALES = (10**9, 10**8, 10**7, 10**6, 10**5, 10**4, 10**3, 100, 10, 1)  # by digits after the point
_MINUTE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):")
_WHOLE = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:)([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_SECONDS_END = 10**10  # in the year 2286
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339_ns(text: str) -> int:
    """Read an RFC 3339 time; digits beyond the ninth after the point are cut off.

    Raises:
        WireError: it is no such time. A leap second ("23:59:60") is none either: nothing of ours could tell it from
            the second after it.
    """
    # The one form that Kraken sends, taken apart at fixed places; the minute changes seldom enough to be remembered.
    digits = len(text) - 21
    if 0 < digits <= 9 and text[19] == "." and text[-1] == "Z" and text.isascii():
        second, fraction = text[17:19], text[20:-1]
        if fraction.isdigit() and second.isdigit() and second < "60":
            return _minute_ns(text[:17]) + int(second) * SECOND_NS + int(fraction) * _SCALES[digits]
    return _read_any(text)


def seconds_ns(text: str) -> int:
    """Read decimal seconds, as websocket v1 says them; digits beyond the ninth after the point are cut off.

    Raises:
        WireError: it is no such number.
    """
    seconds, _, fraction = text.partition(".")
    if not (seconds.isdigit() and (fraction.isdigit() or not fraction) and text.isascii() and len(seconds) <= 10):
        raise WireError(f"{text[:40]!r} is no time in seconds")
    return int(seconds) * SECOND_NS + int(fraction[:9].ljust(9, "0"))


def decimal_ns(seconds: Decimal) -> int:
    """Turn seconds, as REST says them, into nanoseconds; what is less than one is cut off.

    Raises:
        WireError: it is no time.
    """
    if not (seconds.is_finite() and 0 <= seconds < _SECONDS_END):
        raise WireError(f"{str(seconds)[:40]} is no time in seconds")
    return int(seconds * SECOND_NS)


@functools.lru_cache(maxsize=256)
def _minute_ns(text: str) -> int:
    """Read the beginning of a time, up to the seconds."""
    match = _MINUTE.fullmatch(text)
    if match is None:
        raise WireError(f"{text!r} does not begin an RFC 3339 time")
    year, month, day, hour, minute = map(int, match.groups())
    try:
        moment = datetime(year, month, day, hour, minute, tzinfo=UTC)
    except ValueError as error:
        raise WireError(f"{text!r} does not begin an RFC 3339 time: {error}") from error
    return (moment - _EPOCH) // timedelta(seconds=1) * SECOND_NS


def _read_any(text: str) -> int:
    match = _WHOLE.fullmatch(text[:80])
    if match is None or match[3] >= "60" or (match[6] or "") >= "24" or (match[7] or "") >= "60":
        raise WireError(f"{text[:40]!r} is no RFC 3339 time")
    date, minute, second, fraction, sign, hours, minutes = match.groups()
    ahead_s = 0
    if sign:
        ahead_s = (int(hours) * 3600 + int(minutes) * 60) * (1 if sign == "+" else -1)
    base_ns = _minute_ns(f"{date}T{minute}")
    return base_ns + (int(second) - ahead_s) * SECOND_NS + int((fraction or "")[:9].ljust(9, "0"))

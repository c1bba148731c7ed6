"""Times as people and programs give them, in nanoseconds since 1970-01-01 UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import numpy as np

Time = int | datetime | str

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS = re.compile(r"(\d{9,10})(?:\.(\d{1,9}))?")
_NANOSECONDS = re.compile(r"\d{18,19}")
_DATE_DIGITS = 8


def to_ns(time: Time) -> int:
    """Read a time: nanoseconds, a datetime, or text as :func:`parse_ns` reads it. Without a zone it is UTC.

    Raises:
        ValueError: the text is no time.
    """
    if isinstance(time, int | np.integer):
        return int(time)
    if isinstance(time, str):
        return parse_ns(time)
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1) * 1000


def parse_ns(text: str) -> int:
    """Read a date, an ISO 8601 time to the microsecond, or seconds or nanoseconds since 1970.

    What has no zone is UTC. Numbers of other lengths, milliseconds say, are refused: they would be another time than
    was meant.

    Raises:
        ValueError: it is none of these.
    """
    text = text.strip()
    if _NANOSECONDS.fullmatch(text):
        return int(text)
    if seconds := _SECONDS.fullmatch(text):
        return int(seconds[1] + (seconds[2] or "").ljust(9, "0"))
    # `fromisoformat` takes any character between date and time, even the ninth of a row of digits.
    if not text.isdecimal() or len(text) == _DATE_DIGITS:
        try:
            return to_ns(datetime.fromisoformat(text))
        except ValueError:
            pass
    raise ValueError(
        f"{text!r} is no time: 2026-11-25, 2026-11-25T12:30, 2026-11-25T12:30:00+01:00 are (UTC where there is no "
        "zone), and seconds or nanoseconds since 1970"
    )

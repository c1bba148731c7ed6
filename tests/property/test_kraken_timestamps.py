"""Times of Kraken's messages, against the standard library and pendulum."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.kraken.timestamps import decimal_ns, rfc3339_ns, seconds_ns
from marketd.errors import WireError

SECOND_NS = 10**9
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
moments = st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31, 23, 59, 59)).map(lambda at: at.replace(tzinfo=UTC))
digits = st.integers(1, 9)


def whole_seconds(moment):
    return (moment - EPOCH) // timedelta(seconds=1)


def printed(moment, fraction, zone="Z"):
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}{zone}"


@given(moments, digits, st.data())
def test_every_time_is_exact_to_the_nanosecond(moment, count, data):
    """R28: the venue's time as an integer, whatever the number of digits."""
    fraction = data.draw(st.integers(0, 10**count - 1))
    expected = whole_seconds(moment) * SECOND_NS + fraction * 10 ** (9 - count)
    assert rfc3339_ns(printed(moment, f".{fraction:0{count}d}")) == expected


@given(moments)
def test_microseconds_agree_with_the_standard_library_and_pendulum(moment):
    text = printed(moment, f".{moment.microsecond:06d}")
    read = rfc3339_ns(text)
    assert read == (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1) * 1000
    there = pendulum.parse(text)
    assert read // SECOND_NS == there.int_timestamp
    assert read % SECOND_NS // 1000 == there.microsecond


@given(moments, st.integers(-23 * 60 - 59, 23 * 60 + 59))
def test_offsets_and_missing_fractions_are_understood(moment, ahead_minutes):
    sign = "-" if ahead_minutes < 0 else "+"
    zone = f"{sign}{abs(ahead_minutes) // 60:02d}:{abs(ahead_minutes) % 60:02d}"
    expected = (whole_seconds(moment) - ahead_minutes * 60) * SECOND_NS
    assert rfc3339_ns(printed(moment, "", zone)) == expected
    assert rfc3339_ns(printed(moment, ".5", zone)) == expected + SECOND_NS // 2
    assert rfc3339_ns(printed(moment, "").replace("T", "t").replace("Z", "z")) == whole_seconds(moment) * SECOND_NS


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_a_wire_error(text):
    for read in (rfc3339_ns, seconds_ns):
        with contextlib.suppress(WireError):
            assert isinstance(read(text), int)


@given(st.integers(0, 39), st.characters())
def test_one_wrong_character_is_never_taken_for_another_time_format(place, character):
    text = "2023-10-06T17:35:55.440295Z"
    changed = text[:place] + character + text[place + 1 :]
    try:
        read = rfc3339_ns(changed)
    except WireError:
        return
    if len(changed) == len(text):
        assert read == (datetime.fromisoformat(changed.upper()) - EPOCH) // timedelta(microseconds=1) * 1000


@pytest.mark.parametrize(
    "text",
    [
        *("", "Z", "2023-10-06", "2023-10-06T17:35:55", "2023-10-06T17:35:55.Z", "2023-10-06T17:35:60.000000Z"),
        *("2023-13-06T17:35:55.440295Z", "2023-02-30T17:35:55.440295Z", "2023-10-06T24:35:55.440295Z"),
        *("2023-10-06T17:35:55.44029xZ", "2023-10-06T17:35:5x.440295Z", "2023-10-06T17:35: 5.440295Z"),
        *("2023-10-06T17:35:55.440295+24:00", "2023-10-06T17:35:55.440295+01:60", "2023-10-06T17:35:55.44029\uff15Z"),
        *("0000-10-06T17:35:55.440295Z", "2023-10-06T17:35:55.1234567890123456789Z" * 3),
    ],
)
def test_other_texts_are_no_times(text):
    with pytest.raises(WireError):
        rfc3339_ns(text)


def test_digits_beyond_nanoseconds_are_cut_off():
    assert rfc3339_ns("2023-10-06T17:35:55.1234567899Z") == rfc3339_ns("2023-10-06T17:35:55.123456789Z")
    assert seconds_ns("1618678142.5575351239") == 1_618_678_142_557_535_123


@given(st.integers(0, 10**10 - 1), digits, st.data())
def test_decimal_seconds_are_exact(seconds, count, data):
    fraction = data.draw(st.integers(0, 10**count - 1))
    text = f"{seconds}.{fraction:0{count}d}"
    expected = seconds * SECOND_NS + fraction * 10 ** (9 - count)
    assert seconds_ns(text) == expected
    assert decimal_ns(Decimal(text)) == expected


@pytest.mark.parametrize("text", ["-1", "1e9", "1e999999999", "NaN", "Infinity", "99999999999"])
def test_impossible_seconds_are_refused_without_being_computed(text):
    with pytest.raises(WireError):
        seconds_ns(text)
    if text != "1e9":
        with pytest.raises(WireError):
            decimal_ns(Decimal(text))


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone of the process can't be set here")
def test_time_zone_of_the_machine_does_not_matter(monkeypatch):
    """R63: epochs are the venue's own, in any TZ."""
    before = os.environ.get("TZ")
    try:
        monkeypatch.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        assert rfc3339_ns("2031-07-06T17:35:55.440295Z") == 1_941_125_755_440_295_000
    finally:
        monkeypatch.undo()
        assert os.environ.get("TZ") == before
        time.tzset()

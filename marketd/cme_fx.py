"""Hours of CME's currency futures (6E and the like), which the library has not: a calendar in its own terms.

The library's `CMES` is one calendar for all of CME, "the most conservative hours": open from 17:00 to 17:00, with early
closes at noon. A month of one-minute bars of 6E, January 2024 (`tests/unit/test_calendars.py`), says otherwise:

- Each day has a break from 16:00 to 17:00 Chicago time. `CMES` has none.
- On Martin Luther King's day, 15 January, trading went on until 16:00. `CMES` closes at noon.
- After New Year's day it begins at 17:00 of 1 January; weekends are from Friday 16:00 to Sunday 17:00. `CMES` agrees on
  the beginnings.

The holidays beyond that month are from CME's schedules (https://www.cmegroup.com/tools-information/holiday-calendar.html)
and those who repeat them. Where they leave doubt the market counts as open here: an hour that is wrongly open is looked
for and not found, one that is wrongly closed would never be missed.

- Closed: New Year, Good Friday and Christmas. But a Good Friday with the jobs report, one of 1 to 7 April, is open
  until 10:15.
- Until 12:15 on the day after Thanksgiving and on 24 December.
- Until 12:00 on the other federal holidays, but only to the end of 2021. Since 2022 they end at 16:00 like other days
  (seen for 15 January 2024; so said for 20 February 2023 and 4 July 2024).
"""

from __future__ import annotations

from datetime import time
from zoneinfo import ZoneInfo

import pandas as pd
from exchange_calendars.exchange_calendar import ExchangeCalendar, HolidayCalendar
from exchange_calendars.us_holidays import (
    Christmas,
    ChristmasEveInOrAfter1993,
    USBlackFridayInOrAfter1993,
    USIndependenceDay,
    USMartinLutherKingJrAfter1998,
    USMemorialDay,
    USNewYearsDay,
)
from pandas.tseries.holiday import GoodFriday, USLaborDay, USPresidentsDay, USThanksgivingDay

_GOOD_FRIDAYS = GoodFriday.dates(pd.Timestamp("1990-01-01"), pd.Timestamp("2050-01-01"))
_WITH_JOBS_REPORT = _GOOD_FRIDAYS[(_GOOD_FRIDAYS.month == 4) & (_GOOD_FRIDAYS.day <= 7)]
_NOON_RULES = [
    USMartinLutherKingJrAfter1998,
    USPresidentsDay,
    USMemorialDay,
    USIndependenceDay,
    USLaborDay,
    USThanksgivingDay,
]
_NOON_DAYS = HolidayCalendar(_NOON_RULES).holidays(pd.Timestamp("1990-01-01"), pd.Timestamp("2021-12-31"))


class CmeFxCalendar(ExchangeCalendar):  # type: ignore[misc]  # the library has no types
    """See the module; the properties are the library's."""

    name = "CME_FX"
    tz = ZoneInfo("America/Chicago")
    open_times = ((None, time(17)),)
    close_times = ((None, time(16)),)
    open_offset = -1  # a session begins on the evening before

    @property
    def regular_holidays(self) -> HolidayCalendar:
        """Days without a session."""
        return HolidayCalendar([USNewYearsDay, Christmas])

    @property
    def adhoc_holidays(self) -> list[pd.Timestamp]:
        """More of them."""
        return list(_GOOD_FRIDAYS.difference(_WITH_JOBS_REPORT))

    @property
    def special_closes(self) -> list[tuple[time, HolidayCalendar]]:
        """Early closes by rule."""
        return [(time(12, 15), HolidayCalendar([USBlackFridayInOrAfter1993, ChristmasEveInOrAfter1993]))]

    @property
    def special_closes_adhoc(self) -> list[tuple[time, pd.DatetimeIndex]]:
        """Early closes by date."""
        return [(time(10, 15), _WITH_JOBS_REPORT), (time(12), _NOON_DAYS)]

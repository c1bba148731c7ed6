"""What a simulated feed can be told."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from backends.sim.instruments import INSTRUMENTS_MAX, full_name
from backends.sim.sessions import DAY_S, Session, Sessions

RATE_HZ_MAX = 200_000


class Outage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The venue is away for ``for_s`` seconds, ``after_s`` seconds after the feed has started."""

    after_s: Annotated[float, msgspec.Meta(ge=0)]
    for_s: Annotated[float, msgspec.Meta(gt=0)]


class SimConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sim feed's table.

    Attributes:
        instruments: how many, or their names: ``btc/usdt``, or in full ``btc/usdt.spot.sim``.
        seed: another seed is another venue.
        rate_hz: ticks a second, all instruments together.
        trade_share: the part of the ticks that are trades; the others are quotes.
        correlation: how much of each price's movement is common to all: 0 none, 1 all of it.
        volatility: how much prices move, as a part of themselves in a year.
        bursts: how unevenly the ticks lie within each second: 0 evenly, 0.95 half of them in a fifth of it.
        sessions: when the venue is open, in UTC; never closed when empty.
        session_period_s: what the sessions repeat in; a day, or less for tests.
        outages: when the venue is away.
        timeline: ``absolute``: the venue has always been there, and a feed that starts again, anywhere, sees it go on;
            ``zero``: the venue begins when the feed does, so that every run has the same values.
    """

    instruments: Annotated[int, msgspec.Meta(ge=1, le=INSTRUMENTS_MAX)] | list[str] = 8
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 1
    rate_hz: Annotated[int, msgspec.Meta(ge=1, le=RATE_HZ_MAX)] = 200
    trade_share: Annotated[float, msgspec.Meta(ge=0, le=0.9)] = 0.2
    correlation: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.6
    volatility: Annotated[float, msgspec.Meta(ge=0, le=5)] = 0.8
    bursts: Annotated[float, msgspec.Meta(ge=0, le=0.95)] = 0.5
    sessions: list[Session] = []
    session_period_s: Annotated[int, msgspec.Meta(ge=1, le=7 * DAY_S)] = DAY_S
    outages: list[Outage] = []
    timeline: Literal["absolute", "zero"] = "absolute"

    def __post_init__(self) -> None:
        if isinstance(self.instruments, list):
            names = [full_name(name) for name in self.instruments]
            if not names or len(names) > INSTRUMENTS_MAX:
                raise ValueError(f"instruments: give 1 to {INSTRUMENTS_MAX} names")
            twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
            if twice:
                raise ValueError(f"instruments: {', '.join(twice)} is there more than once")
        Sessions(self.sessions, self.session_period_s)

"""Saved REST trades as a track of a replay: each trade happens when the venue says that it did.

A saved answer is no live stream: the file has all there will be, so its trades are put in order first. What is missing
is then a hole in the ids, wherever in the file their neighbours stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from backends.backend import NAMES, MessageCounts, load
from backends.live import TradeRow
from backends.recording import read_companions
from backends.replay.gate import Gate
from backends.replay.track import Moment
from backends.saved import SavedSeries, SavedTrades, read_bodies
from marketd.errors import RecordingError, WireError
from marketd.model import Flag, GapReason, Kind, MktPair

_TRADE, _LAST = int(Kind.TRADE), int(Flag.LAST)  # plain numbers, as rows have them
_BY_TIME = attrgetter("time_ns")


class Gap(NamedTuple):
    """What is missing before a trade, or where one can't be used."""

    reason: GapReason
    from_ns: int
    lost: int


class Judged(NamedTuple):
    """What becomes of one trade of a file: a row, or nothing if it is there twice or its text can't be used."""

    time_ns: int
    row: TradeRow | None = None
    gap: Gap | None = None
    bad: bytes | None = None


class SavedTrack:
    """See :class:`backends.replay.track.Track`. A row's ``received_ns`` is its ``event_ns``.

    Raises:
        RecordingError: the file has no trades that a backend can read; the text says what is expected.
    """

    def __init__(self, path: Path) -> None:
        self.url = ""  # nobody was connected: what is played can't be recorded again
        self._series = [(series.market, judge(series.trades)) for series in read_series(path)]
        self._counts = MessageCounts()
        self._numbers: dict[str, int] = {}
        self._gate: Gate | None = None

    @property
    def begin_ns(self) -> int:
        """See :class:`backends.replay.track.Track`: the time of the first trade."""
        return min(trades[0].time_ns for _, trades in self._series if trades)

    def open(self, gate: Gate) -> None:
        """See :class:`backends.replay.track.Track`."""
        self._gate = gate
        self._numbers = {market.fqme: gate.instrument(market) for market, _ in self._series}

    def moments(self) -> Iterator[Moment]:
        """See :class:`backends.replay.track.Track`."""
        every = [(trade.time_ns, market, trade) for market, trades in self._series for trade in trades]
        every.sort(key=lambda item: item[0])
        return (Moment(time_ns, None, partial(self._take, market, trade)) for time_ns, market, trade in every)

    def counts(self) -> MessageCounts:
        """See :class:`backends.replay.track.Track`; each trade is a message."""
        return self._counts

    def _take(self, market: MktPair, trade: Judged) -> None:
        assert self._gate is not None
        number = self._numbers[market.fqme]
        if trade.gap is not None:
            reason, from_ns, lost = trade.gap
            self._gate.gap(number, reason, from_ns, trade.time_ns, lost)
        if trade.row is not None:
            event_ns, trade_id, price, size, side = trade.row
            self._gate.append((event_ns, event_ns, trade_id, number, _TRADE, side, _LAST, price, size, 0.0, 0.0))
            self._counts.used["trade"] = self._counts.used.get("trade", 0) + 1
        elif trade.bad is not None:
            self._counts.note_bad(trade.bad)
        else:
            self._counts.unused["duplicate"] = self._counts.unused.get("duplicate", 0) + 1


def judge(trades: Sequence[TradeRow | bytes]) -> list[Judged]:
    """Say what becomes of each trade of one instrument; in order of time, and of ids within a time.

    A trade that can't be used lies between its neighbours in the file.
    """
    rows = sorted((trade for trade in trades if not isinstance(trade, bytes)), key=lambda row: (row[1], row[0]))
    judged = _judge_bad(trades)
    before: TradeRow | None = None
    for row in rows:
        event_ns, trade_id = row[:2]
        if before is None or trade_id == before[1] + 1:
            judged.append(Judged(event_ns, row))
        elif trade_id == before[1]:
            judged.append(Judged(event_ns))
        else:
            gap = Gap(GapReason.SEQUENCE, min(before[0], event_ns), trade_id - before[1] - 1)
            judged.append(Judged(event_ns, row, gap))
        before = row
    return sorted(judged, key=_BY_TIME)


def _judge_bad(trades: Sequence[TradeRow | bytes]) -> list[Judged]:
    """Place what can't be used. How many are missing is not said here: the hole in the ids says it."""
    judged: list[Judged] = []
    waiting: list[bytes] = []
    before_ns = next((trade[0] for trade in trades if not isinstance(trade, bytes)), 0)
    for trade in trades:
        if isinstance(trade, bytes):
            waiting.append(trade)
            continue
        judged += [_bad(text, before_ns, trade[0]) for text in waiting]
        waiting.clear()
        before_ns = trade[0]
    return judged + [_bad(text, before_ns, before_ns) for text in waiting]


def _bad(text: bytes, before_ns: int, after_ns: int) -> Judged:
    gap = Gap(GapReason.MALFORMED, min(before_ns, after_ns), -1)
    return Judged(max(before_ns, after_ns), gap=gap, bad=text)


def read_series(path: Path) -> list[SavedSeries]:
    """Read a file with the backend whose answers it holds.

    Raises:
        RecordingError: there is no such backend, or there is not one trade in it.
    """
    bodies = read_bodies(path)
    format_ = _find_format(bodies[0], path)
    try:
        series = format_.read(bodies, read_companions(path))
    except WireError as error:
        raise RecordingError(f"{path}: {error}; expected is {format_.description}") from error
    if not any(found.trades for found in series):
        raise RecordingError(f"{path} has no trades; expected is {format_.description}")
    return series


def _find_format(body: bytes, path: Path) -> SavedTrades:
    known = [backend.saved_trades for backend in map(load, NAMES) if backend.saved_trades is not None]
    for format_ in known:
        if format_.recognise(body):
            return format_
    descriptions = "; ".join(format_.description for format_ in known)
    raise RecordingError(f"{path}: no backend reads this file as saved trades; known are {descriptions}")

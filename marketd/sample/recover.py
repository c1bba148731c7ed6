"""What a sampler that was killed in the middle of a change has left half done: made anew from the ticks, or missing.

Its successor finds an odd version, and between ``applied`` and ``applying`` the ticks that may be in some bars and not
in others. The bars that these belong to are made once more from all ticks that the ring still holds. Where the ring
does not reach back to a bar's begin, a gap is put there: the bar is missing, until somebody fills it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marketd.errors import Lapped
from marketd.model import Kind
from marketd.ring import layout
from marketd.ring.reader import RingReader
from marketd.sample import kernel
from marketd.sample.bars import AHEAD_NS_MAX, BarSet, private_level

ROWS_MAX = 65_536


def recover(bars: BarSet, ring: RingReader, applied: int, applying: int) -> None:
    """Mend bars whose writer died.

    Args:
        bars: as they were found, with ``opened`` and ``closed`` as they last were for certain.
        ring: of the ticks.
        applied, applying: the ticks in between are those in doubt.
    """
    bars.distrust()
    if applying <= applied:
        return
    try:
        doubtful = ring.read_range(applied + 1, applying)
    except Lapped:
        from_ns, to_ns = bars.oldest_open_ns, _received_ns(ring, ring.published) + 1
        bars.advance(to_ns)
        _note_gap(bars, 0, from_ns, to_ns)
        return
    bars.advance(int(doubtful["received_ns"][0]))
    trades = doubtful[doubtful["kind"] == Kind.TRADE]
    misdated = trades["event_ns"] > trades["received_ns"] + AHEAD_NS_MAX
    _replace_bars(bars, ring, applying, trades[~misdated])
    # Gaps come last: they are noted in bars that have begun.
    bars.advance(int(doubtful["received_ns"][-1]))
    for gap in doubtful[doubtful["kind"] == Kind.GAP].view(layout.GAP):
        _note_gap(bars, int(gap["instrument"]), int(gap["from_ns"]), int(gap["to_ns"]))
    for trade in trades[misdated]:
        _note_gap(bars, int(trade["instrument"]), int(trade["received_ns"]), int(trade["received_ns"]))


def _note_gap(bars: BarSet, instrument: int, from_ns: int, to_ns: int) -> None:
    bars.gap(instrument, from_ns, to_ns)
    bars.tell_again(instrument, from_ns)


def _replace_bars(bars: BarSet, ring: RingReader, applying: int, trades: NDArray[np.void]) -> None:
    """Make the bars that trades belong to once more."""
    if not len(trades):
        return
    instruments = np.unique(trades["instrument"])
    fresh, from_ns = _make_anew(bars, ring, applying, instruments)
    for instrument in instruments.tolist():
        events_ns = trades["event_ns"][trades["instrument"] == instrument]
        bars.replace(instrument, events_ns, fresh, from_ns)
        bars.tell_again(instrument, int(events_ns.min()))


def _make_anew(bars: BarSet, ring: RingReader, last: int, instruments: NDArray[np.uint32]) -> tuple[BarSet, int]:
    """Make the bars of all ticks that the ring holds up to a cursor.

    Returns:
        The bars, and from when on they are whole.
    """
    fresh = BarSet(
        [private_level(level.period, level.words.shape[1], bars.capacity) for level in bars.levels],
        lateness_ns=bars.time.lateness_ns,
    )
    fresh.live[:] = kernel.LIVE
    first = ring.oldest
    from_ns = 0 if first == 1 else _whole_from_ns(ring, first)
    while first <= last:
        end = min(last, first + ROWS_MAX - 1)
        try:
            rows = ring.read_range(first, end)
        except Lapped as lapped:
            first = lapped.cursor_last + 1
            from_ns = _whole_from_ns(ring, first)
            continue
        fresh.take(rows[np.isin(rows["instrument"], [0, *instruments.tolist()])])
        first = end + 1
    fresh.flush()
    return fresh, from_ns


def _whole_from_ns(ring: RingReader, cursor: int) -> int:
    """Say from which event time on there are no others than the rows from a cursor on: clocks may differ."""
    return _received_ns(ring, cursor) + kernel.AHEAD_NS


def _received_ns(ring: RingReader, cursor: int) -> int:
    return int(ring.read_range(cursor, cursor)["received_ns"][0]) if cursor else 0

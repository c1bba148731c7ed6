"""Bars that are ended by what is traded: the loops of `activity.py`, compiled."""

from __future__ import annotations

from marketd.sample.bar import (
    CLOSED,
    COUNT,
    FRAC,
    GAP_NS,
    MEASURED,
    MISSING,
    NUMBER,
    OPEN_NS,
    STATE,
    STATE_MASK,
    WHOLE,
    Floats,
    Ints,
    add_trade,
    begin_bar,
    note_change,
    slot_of,
)
from marketd.sample.compiled import compiled
from marketd.sample.kernel import (
    GAP,
    ROW_EVENT,
    ROW_GAP_FROM,
    ROW_GAP_TO,
    ROW_KIND,
    ROW_PRICE,
    ROW_SEQUENCE,
    ROW_SIZE,
    TRADE,
)

MEASURES = ("time", "trades", "volume", "value")
ROUNDING = 1e-12  # what a sum of floats may be short of


@compiled
def gap_activity(
    instrument: int, to_ns: int, selected: Ints, ints: Ints, floats: Floats, rows: int, current: Ints
) -> None:
    """Note that something may be missing of the bar that the next trade belongs to, of all instruments with 0.

    One that has not begun begins here; but nothing is missing of the first bar before its first trade.
    """
    first, last = (instrument, instrument) if instrument else (1, len(selected) - 1)
    for each in range(first, last + 1):
        number = current[each]
        at = slot_of(each, number, rows)
        if not selected[each] or (number == 1 and ints[at, NUMBER] != 1):
            continue
        if ints[at, NUMBER] != number:
            begin_bar(ints, floats, at, number, 0, 0)
            ints[at, OPEN_NS] = to_ns
        ints[at, GAP_NS] = max(ints[at, GAP_NS], to_ns)


@compiled
def take_activity(
    words: Ints,
    row_floats: Floats,
    selected: Ints,
    measure: int,
    size: float,
    size_whole: int,
    size_frac: int,
    ints: Ints,
    floats: Floats,
    rows: int,
    current: Ints,
    changes: Ints,
    counts: Ints,
) -> None:
    """Put trades into bars that end when they have so many trades, so much volume or so much value.

    Args:
        words, row_floats: rows of a tick ring. Gaps among them are noted where they stand.
        selected: by instrument, whether there are such bars of it.
        measure: its index in :data:`MEASURES`.
        size, size_whole, size_frac: how much of it makes a bar; the last two are that as a volume.
        current: by instrument, the number of the bar that the next trade belongs to.
        changes, counts: the bars that came out.
    """
    for n in range(len(words)):
        tag = words[n, ROW_KIND]
        instrument, kind = tag & 0xFFFFFFFF, tag >> 32 & 0xFF
        if kind == GAP:
            to_ns = max(words[n, ROW_GAP_FROM] + 1, words[n, ROW_GAP_TO])
            gap_activity(instrument, to_ns, selected, ints, floats, rows, current)
        if kind != TRADE or not selected[instrument]:
            continue
        number = current[instrument]
        at = slot_of(instrument, number, rows)
        event_ns, price, volume = words[n, ROW_EVENT], row_floats[n, ROW_PRICE], row_floats[n, ROW_SIZE]
        if ints[at, NUMBER] != number:
            begin_bar(ints, floats, at, number, 0, 0)
        if ints[at, COUNT] == 0:
            ints[at, OPEN_NS] = event_ns
        add_trade(ints, floats, at, event_ns, words[n, ROW_SEQUENCE], price, volume)
        if measure == 1:
            full = ints[at, COUNT] >= size
        elif measure == 2:
            whole = ints[at, WHOLE]
            full = whole > size_whole or (whole == size_whole and ints[at, FRAC] >= size_frac)
        else:
            floats[at, MEASURED] += price * volume
            full = floats[at, MEASURED] >= size * (1 - ROUNDING)
        if full:
            ints[at, STATE] = (ints[at, STATE] & ~STATE_MASK) | (MISSING if ints[at, GAP_NS] != 0 else CLOSED)
            note_change(changes, counts, ints, at, 0, instrument)
            current[instrument] = number + 1

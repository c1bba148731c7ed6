"""Bars that a dead writer has left half done, or that lacked something which their venue has told since: compiled."""

from __future__ import annotations

import numpy as np

from marketd.sample.bar import (
    BACKFILLED,
    CHANGED,
    CLOSE,
    CLOSED,
    COMPOSED,
    COUNT,
    FIRST_ID,
    FIRST_NS,
    FORMING,
    FRAC,
    GAP_NS,
    GAP_OPEN,
    HIGH,
    LAST_ID,
    LAST_NS,
    LOW,
    MISSING,
    NUMBER,
    OPEN,
    OPEN_NS,
    REVISED,
    STATE,
    STATE_MASK,
    SYNTHETIC,
    WHOLE,
    WORDS,
    Floats,
    Ints,
    begin_bar,
    revise,
    settle,
    slot_of,
)
from marketd.sample.compiled import compiled
from marketd.sample.kernel import (
    ripple,
)


@compiled
def distrust(count: int, ints: Ints, floats: Floats, rows: int, period_ns: int, opened: int, closed: int) -> None:
    """Make a level consistent whose writer may have died between any two stores, of the instruments 1 to ``count``.

    A bar that was being made is not there, nor is one that was begun after ``opened`` and has no trades: it begins
    again. One that was being made flat is unknown, until the bars before it say more. What came out after ``closed``
    comes out again.
    """
    for instrument in range(1, count + 1):
        for row in range(rows):
            at = slot_of(instrument, row, rows)
            number, state = ints[at, NUMBER], ints[at, STATE]
            traded = ints[at, COUNT] != 0
            whole = ints[at, OPEN_NS] == number * period_ns and number % rows == row and state & STATE_MASK != 0
            if not whole or (ints[at, FIRST_NS] // period_ns != number if traded else number > opened):
                ints[at, NUMBER] = ints[at, STATE] = 0
                continue
            flat = floats[at, OPEN] == floats[at, HIGH] == floats[at, LOW] == floats[at, CLOSE]
            if not traded and not (flat and state & SYNTHETIC):
                floats[at, OPEN] = floats[at, HIGH] = floats[at, LOW] = floats[at, CLOSE] = np.nan
                state &= ~SYNTHETIC
            if number >= closed:
                state = (state & ~STATE_MASK) | FORMING
            ints[at, STATE] = state


@compiled
def tell_again(instrument: int, from_ns: int, ints: Ints, rows: int, period_ns: int, closed: int) -> None:
    """Mark all bars of an instrument as changed that are out and end after ``from_ns``."""
    for number in range(max(1, from_ns // period_ns, closed - rows), closed):
        at = slot_of(instrument, number, rows)
        if ints[at, NUMBER] != number:
            continue
        if ints[at, STATE] & STATE_MASK in (FORMING, MISSING):
            state = REVISED if settle(ints, at) == CLOSED else MISSING
            ints[at, STATE] = (ints[at, STATE] & ~STATE_MASK) | state
        ints[at, STATE] |= CHANGED


@compiled
def replace_bar(
    bar: Ints,
    number: int,
    level: int,
    instrument: int,
    ints: Ints,
    floats: Floats,
    rows: int,
    period_ns: int,
    opened: int,
    closed: int,
    covered_ns: Ints,
    calendars: Ints,
    spans: Ints,
    changes: Ints,
    counts: Ints,
) -> None:
    """Let a bar be another one, with trades, but for its state and for what is known to be missing of it."""
    at = slot_of(instrument, number, rows)
    if ints[at, NUMBER] > number or (ints[at, NUMBER] == number and ints[at, STATE] & BACKFILLED):
        return
    state, gap_ns = FORMING, 0
    if ints[at, NUMBER] == number:
        state, gap_ns = ints[at, STATE] & (CHANGED | STATE_MASK), ints[at, GAP_NS]
    for word in range(WORDS):
        ints[at, word] = bar[word]
    ints[at, GAP_NS] = GAP_OPEN if gap_ns == GAP_OPEN else max(gap_ns, bar[GAP_NS])
    ints[at, STATE] = (bar[STATE] & ~(CHANGED | STATE_MASK)) | state
    revise(changes, counts, ints, at, level, instrument, closed)
    ripple(
        ints, floats, rows, spans, calendars[instrument], level, instrument, number, period_ns,
        opened, closed, covered_ns[instrument], True, changes, counts,
    )  # fmt: skip


@compiled
def fill_bar(
    number: int,
    open: float,
    high: float,
    low: float,
    close: float,
    whole: int,
    frac: int,
    count: int,
    composed: bool,
    level: int,
    instrument: int,
    ints: Ints,
    floats: Floats,
    rows: int,
    period_ns: int,
    opened: int,
    closed: int,
    covered_ns: Ints,
    calendars: Ints,
    spans: Ints,
    changes: Ints,
    counts: Ints,
) -> bool:
    """Let a bar that is missing be as its venue tells it, or its parts do; return whether that changed it.

    Args:
        whole, frac: the volume.
        count: of trades; -1 where the venue does not say, 0 for a bar without any.
        composed: the bar is made of shorter ones, and may have been so before.
    """
    at = slot_of(instrument, number, rows)
    if number >= closed or ints[at, NUMBER] > number:
        return False
    if ints[at, NUMBER] < number:
        begin_bar(ints, floats, at, number, period_ns, covered_ns[instrument])
    elif settle(ints, at) == CLOSED and not (composed and ints[at, STATE] & COMPOSED):
        return False
    floats[at, OPEN], floats[at, HIGH], floats[at, LOW], floats[at, CLOSE] = open, high, low, close
    ints[at, WHOLE], ints[at, FRAC], ints[at, COUNT] = whole, frac, count
    ints[at, FIRST_NS] = ints[at, LAST_NS] = number * period_ns
    ints[at, FIRST_ID] = ints[at, LAST_ID] = -1
    ints[at, GAP_NS] = 0
    ints[at, STATE] = (ints[at, STATE] | BACKFILLED) & ~SYNTHETIC if count else ints[at, STATE] | BACKFILLED | SYNTHETIC
    ints[at, STATE] = ints[at, STATE] | COMPOSED if composed else ints[at, STATE] & ~COMPOSED
    revise(changes, counts, ints, at, level, instrument, closed)
    ripple(
        ints, floats, rows, spans, calendars[instrument], level, instrument, number, period_ns,
        opened, closed, covered_ns[instrument], False, changes, counts,
    )  # fmt: skip
    return True

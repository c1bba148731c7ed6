"""One bar: what its words mean, and what trades, gaps and the end of its time make of it. Compiled, and pure.

A bar is a row of 16 words, once as integers and once as floats over the same memory; `marketd/ring/bars.py` has the
meaning of each. What it holds in the end depends only on which trades and gaps there were and not on their order:

- open is the trade with the smallest (time, id), close the one with the greatest; ties go by arrival.
- the volume is added exactly, in decimals: each size is taken for the decimal number of 15 digits that it stands for.
- a bar without trades is flat at the close of the bar before it, if that is known; else its prices are NaN.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from marketd.model import Flag
from marketd.ring import bars
from marketd.ring.bars import BLOCK
from marketd.ring.steps import BarState
from marketd.sample.compiled import compiled, inlined

NUMBER, OPEN_NS, OPEN, HIGH, LOW, CLOSE, WHOLE, FRAC, COUNT = range(9)
FIRST_NS, LAST_NS, FIRST_ID, LAST_ID, GAP_NS, MEASURED, STATE = range(9, 16)
WORDS = 16

FRACTION = 10**15  # parts of a unit in which volumes are kept
WHOLE_MAX = 9 * 10**18
GAP_OPEN = -1
NEVER_NS = 2**63 - 1  # nothing is covered yet

FORMING, CLOSED = int(BarState.FORMING), int(BarState.CLOSED)
REVISED, MISSING = int(BarState.REVISED), int(BarState.MISSING)
SYNTHETIC = int(Flag.SYNTHETIC) << 8
BACKFILLED = int(Flag.BACKFILLED) << 8  # as its venue has told it afterwards: nothing changes that any more
CHANGED = 1 << 16  # in STATE: it is in the list of changes already
COMPOSED = 1 << 17  # made of shorter bars some of which are as their venue has told them; when those change, it does
STATE_MASK = 0xFF

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

_POWERS = np.array([10**n for n in range(19)], np.int64)
_FLOAT_POWERS = _POWERS[:16].astype(np.float64)


@inlined
def slot_of(instrument: int, number: int, rows: int) -> int:
    """Return where a bar lies."""
    place = instrument - 1
    return (place // BLOCK * rows + number % rows) * BLOCK + place % BLOCK


@inlined
def _split(size: float) -> tuple[np.int64, np.int64]:
    """Take a size for the decimal number of at most 15 digits that it stands for: whole units, and 10^-15 of one."""
    if size >= WHOLE_MAX:
        return np.int64(WHOLE_MAX), np.int64(0)
    whole = np.int64(size)
    digits = int(whole >= 1) + int(whole >= 10) + int(whole >= 100)  # of most sizes, and without a jump
    if whole >= 1000:
        while digits < 15 and whole >= _POWERS[digits]:
            digits += 1
    frac = np.int64(np.rint((size - whole) * _FLOAT_POWERS[15 - digits])) * _POWERS[digits]
    if frac >= FRACTION:
        return whole + 1, frac - FRACTION
    return whole, frac


volume_of = compiled(bars.volume_of)


@compiled
def split_volume(volume: float) -> tuple[np.int64, np.int64]:
    """The inverse of :func:`volume_of`, for volumes of at most 15 digits."""
    return _split(volume)


@inlined
def _add_volume(ints: Ints, at: int, whole: np.int64, frac: np.int64) -> None:
    whole += ints[at, WHOLE]
    frac += ints[at, FRAC]
    carry = np.int64(frac >= FRACTION)  # half of the time, unpredictably: without a jump
    frac -= carry * FRACTION
    whole += carry
    ints[at, WHOLE] = whole if whole < WHOLE_MAX else WHOLE_MAX
    ints[at, FRAC] = frac


@inlined
def add_trade(ints: Ints, floats: Floats, at: int, event_ns: int, trade_id: int, price: float, size: float) -> None:
    """Put one trade into the bar in the slot ``at``."""
    whole, frac = _split(size)
    if ints[at, COUNT] == 0:
        floats[at, OPEN] = floats[at, HIGH] = floats[at, LOW] = floats[at, CLOSE] = price
        ints[at, FIRST_NS] = ints[at, LAST_NS] = event_ns
        ints[at, FIRST_ID] = ints[at, LAST_ID] = trade_id
        ints[at, WHOLE] = whole
        ints[at, FRAC] = frac
        ints[at, COUNT] = 1
        return
    floats[at, HIGH] = max(floats[at, HIGH], price)
    floats[at, LOW] = min(floats[at, LOW], price)
    if event_ns < ints[at, FIRST_NS] or (event_ns == ints[at, FIRST_NS] and trade_id < ints[at, FIRST_ID]):
        floats[at, OPEN] = price
        ints[at, FIRST_NS], ints[at, FIRST_ID] = event_ns, trade_id
    if event_ns > ints[at, LAST_NS] or (event_ns == ints[at, LAST_NS] and trade_id >= ints[at, LAST_ID]):
        floats[at, CLOSE] = price
        ints[at, LAST_NS], ints[at, LAST_ID] = event_ns, trade_id
    _add_volume(ints, at, whole, frac)
    ints[at, COUNT] += 1


@inlined
def merge(ints: Ints, floats: Floats, at: int, parts: Ints, part_floats: Floats, n: int) -> None:
    """Put trades into a bar that were put together before. There is at least one, and they came later."""
    if ints[at, COUNT] == 0:
        for word in range(OPEN, GAP_NS):
            ints[at, word] = parts[n, word]
        return
    floats[at, HIGH] = max(floats[at, HIGH], part_floats[n, HIGH])
    floats[at, LOW] = min(floats[at, LOW], part_floats[n, LOW])
    if parts[n, FIRST_NS] < ints[at, FIRST_NS] or (
        parts[n, FIRST_NS] == ints[at, FIRST_NS] and parts[n, FIRST_ID] < ints[at, FIRST_ID]
    ):
        floats[at, OPEN] = part_floats[n, OPEN]
        ints[at, FIRST_NS], ints[at, FIRST_ID] = parts[n, FIRST_NS], parts[n, FIRST_ID]
    if parts[n, LAST_NS] > ints[at, LAST_NS] or (
        parts[n, LAST_NS] == ints[at, LAST_NS] and parts[n, LAST_ID] >= ints[at, LAST_ID]
    ):
        floats[at, CLOSE] = part_floats[n, CLOSE]
        ints[at, LAST_NS], ints[at, LAST_ID] = parts[n, LAST_NS], parts[n, LAST_ID]
    _add_volume(ints, at, parts[n, WHOLE], parts[n, FRAC])
    ints[at, COUNT] += parts[n, COUNT]


@inlined
def note_change(changes: Ints, counts: Ints, ints: Ints, at: int, level: int, instrument: int) -> None:
    """List a bar whose contents readers have seen otherwise; once, and only counted when the list is full."""
    if ints[at, STATE] & CHANGED:
        return
    ints[at, STATE] |= CHANGED
    count = counts[0]
    if count < len(changes):
        changes[count, 0], changes[count, 1], changes[count, 2] = level, instrument, ints[at, NUMBER]
    counts[0] = count + 1


@inlined
def settle(ints: Ints, at: int) -> int:
    """Return the state of a bar that is over for the first time."""
    broken = ints[at, GAP_NS] != 0 or (ints[at, COUNT] == 0 and not ints[at, STATE] & SYNTHETIC)
    return MISSING if broken else CLOSED


@inlined
def revise(changes: Ints, counts: Ints, ints: Ints, at: int, level: int, instrument: int, closed: int) -> None:
    """Note that a bar has changed, if it was out already."""
    if ints[at, NUMBER] >= closed:
        return
    state = REVISED if settle(ints, at) == CLOSED else MISSING
    ints[at, STATE] = (ints[at, STATE] & ~STATE_MASK) | state
    note_change(changes, counts, ints, at, level, instrument)


@inlined
def carries_on(ints: Ints, at: int) -> bool:
    """Whether the bar's close is the price at its end: no gap comes after its last trade."""
    if ints[at, COUNT] == 0:
        return bool(ints[at, STATE] & SYNTHETIC) and ints[at, GAP_NS] == 0
    return bool(ints[at, GAP_NS] == 0 or (ints[at, GAP_NS] > 0 and ints[at, LAST_NS] >= ints[at, GAP_NS]))


@inlined
def flatten(ints: Ints, floats: Floats, at: int, known: bool, price: float) -> bool:
    """Let a bar without trades be flat, or unknown; return whether that changes it."""
    if known and ints[at, GAP_NS] == 0:
        if ints[at, STATE] & SYNTHETIC and floats[at, CLOSE] == price:
            return False
        floats[at, OPEN] = floats[at, HIGH] = floats[at, LOW] = floats[at, CLOSE] = price
        ints[at, STATE] |= SYNTHETIC
        return True
    if not ints[at, STATE] & SYNTHETIC and floats[at, CLOSE] != floats[at, CLOSE]:
        return False
    floats[at, OPEN] = floats[at, HIGH] = floats[at, LOW] = floats[at, CLOSE] = np.nan
    ints[at, STATE] &= ~SYNTHETIC
    return True


@inlined
def uncovered_until_ns(number: int, period_ns: int, covered_ns: int) -> int:
    """Return up to when a bar is missing because nobody listened yet; 0 if it is not."""
    open_ns = number * period_ns
    return min(covered_ns, open_ns + period_ns) if open_ns < covered_ns else 0


@inlined
def begin_bar(ints: Ints, floats: Floats, at: int, number: int, period_ns: int, covered_ns: int) -> None:
    """Make an empty bar of a slot."""
    open_ns = number * period_ns
    for word in range(WORDS):
        ints[at, word] = 0
    ints[at, NUMBER], ints[at, OPEN_NS], ints[at, STATE] = number, open_ns, FORMING
    floats[at, OPEN] = floats[at, HIGH] = floats[at, LOW] = floats[at, CLOSE] = np.nan
    ints[at, GAP_NS] = uncovered_until_ns(number, period_ns, covered_ns)

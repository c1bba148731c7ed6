"""Bars of all periods out of trades: the loops, compiled. Pure but for the arrays that they are given.

A *level* is all bars of one period: an array of slots, ``(n, 16)`` words, whose order `marketd/ring/bars.py` has. Rows
of a tick ring come as words as well, ``(n, 9)``. Trades are put together for the shortest period first, and such parts
are then merged into the levels, each level's into the next: so a trade costs hardly more with many levels, and a bar is
the same as if it were made of its trades directly. When a trade comes late, the flat bars after it follow.
"""

from __future__ import annotations

import numpy as np

from marketd.clock import SECOND_NS
from marketd.model import Kind, Quality
from marketd.sample.bar import (
    BACKFILLED,
    CHANGED,
    CLOSE,
    COMPOSED,
    COUNT,
    FIRST_ID,
    FORMING,
    FRAC,
    GAP_NS,
    GAP_OPEN,
    LAST_ID,
    NUMBER,
    OPEN,
    OPEN_NS,
    STATE,
    STATE_MASK,
    SYNTHETIC,
    WHOLE,
    Floats,
    Ints,
    add_trade,
    begin_bar,
    carries_on,
    flatten,
    merge,
    note_change,
    revise,
    settle,
    slot_of,
    uncovered_until_ns,
    volume_of,
)
from marketd.sample.compiled import compiled, inlined

ROW_EVENT, ROW_RECEIVED, ROW_SEQUENCE, ROW_KIND, ROW_PRICE, ROW_SIZE = range(1, 7)  # words of a tick ring's row
ROW_GAP_FROM, ROW_GAP_TO, ROW_CODE = 5, 6, 5
TRADE, GAP, STATUS, LAST_DATA_KIND = int(Kind.TRADE), int(Kind.GAP), int(Kind.STATUS), int(Kind.LEVEL)
OK, MARKET_CLOSED, UNKNOWN = int(Quality.OK), int(Quality.CLOSED), int(Quality.UNKNOWN)
NOW, WATERMARK, NEWEST, HEARD = range(4)  # words of a feed's time
# A venue's clock may be so much ahead of ours, or its messages so long on their way; an event that claims more says
# nothing of the time.
AHEAD_NS = SECOND_NS

NOT_LIVE, LIVE, SHUT = range(3)  # an instrument's data does not come, comes, or the venue has closed its market


@inlined
def neighbour(spans: Ints, calendar: int, number: int, period_ns: int, step: int) -> int:
    """Return the next bar, in either direction, during which a market is open. Calendar 0 never closes.

    ``spans`` has a row for each session: calendar, begin, end; in order. Beyond its ends the market counts as open.
    """
    number += step
    if calendar == 0:
        return number
    low, high = np.searchsorted(spans[:, 0], calendar), np.searchsorted(spans[:, 0], calendar + 1)
    open_ns, end_ns = number * period_ns, (number + 1) * period_ns
    after = low + np.searchsorted(spans[low:high, 2], open_ns + 1)  # the first session that ends later
    if after in (low, high) or spans[after, 1] < end_ns:
        return number
    if step > 0:
        return int(spans[after, 1] // period_ns)
    return int((spans[after - 1, 2] - 1) // period_ns)


@compiled
def ripple(
    ints: Ints,
    floats: Floats,
    rows: int,
    spans: Ints,
    calendar: int,
    level: int,
    instrument: int,
    number: int,
    period_ns: int,
    opened: int,
    closed: int,
    covered_ns: int,
    fill: bool,
    changes: Ints,
    counts: Ints,
) -> None:
    """After the bar ``number`` has changed, let the bars without trades after it follow, up to the next with any.

    With ``fill`` those that are not there are made: from the first trade on every bar is there.
    """
    at = slot_of(instrument, number, rows)
    known = carries_on(ints, at)
    price = floats[at, CLOSE]
    while True:
        number = neighbour(spans, calendar, number, period_ns, 1)
        if number > opened:
            return
        at = slot_of(instrument, number, rows)
        if ints[at, NUMBER] > number:
            return
        absent = ints[at, NUMBER] < number
        if absent:
            if not fill:
                return
            begin_bar(ints, floats, at, number, period_ns, covered_ns)
        if ints[at, COUNT] != 0:
            return
        if flatten(ints, floats, at, known, price) or absent:
            revise(changes, counts, ints, at, level, instrument, closed)
        known = known and ints[at, GAP_NS] == 0


@compiled
def highest_instrument(words: Ints) -> int:
    """Return the greatest instrument id in rows of a tick ring."""
    highest = 0
    for n in range(len(words)):
        highest = max(highest, words[n, ROW_KIND] & 0xFFFFFFFF)
    return highest


@compiled
def scan(words: Ints, start: int, time_ns: Ints, lateness_ns: int, base_ns: int, opened: int, closed: int) -> int:
    """Note when rows came, from ``start`` on, up to one before which bars must be opened or closed.

    Args:
        words: rows of a tick ring.
        time_ns: the feed's time; see `marketd/sample/feed_time.py`.
        opened, closed: of the shortest period.

    Returns:
        The index of that row, or how many there are.
    """
    open_due_ns, close_due_ns = (opened + 1) * base_ns, (closed + 1) * base_ns
    for n in range(start, len(words)):
        clock_ns = max(time_ns[NOW], words[n, ROW_RECEIVED])
        watermark_ns = time_ns[NEWEST] - lateness_ns
        if clock_ns - time_ns[HEARD] >= lateness_ns:
            watermark_ns = max(watermark_ns, clock_ns - lateness_ns)
        if n > start and (clock_ns >= open_due_ns or watermark_ns >= close_due_ns):
            return n
        time_ns[NOW] = clock_ns
        if words[n, ROW_KIND] >> 32 & 0xFF <= LAST_DATA_KIND:
            time_ns[HEARD] = clock_ns
            time_ns[NEWEST] = max(time_ns[NEWEST], min(words[n, ROW_EVENT], words[n, ROW_RECEIVED] + AHEAD_NS))
    return len(words)


@compiled
def make_parts(
    words: Ints,
    floats: Floats,
    base_ns: int,
    ahead_ns: int,
    covered_ns: Ints,
    begun: Ints,
    parts: Ints,
    part_floats: Floats,
    count: int,
    current: Ints,
    others: Ints,
) -> tuple[int, int]:
    """Put trades of any instruments together, as long as one's next belongs to the same bar of the shortest period.

    Args:
        words, floats: rows of a tick ring.
        ahead_ns: a trade that claims to be so much later than it came has a wrong time.
        covered_ns, begun: by instrument: from when on its data is known whole, and whether it ever traded; noted here
            for those that are new.
        parts, part_floats, count: where the parts go, and how many there are already; there must be room for as many
            as there are rows. Their STATE is the instrument.
        current: by instrument, which part it has last; -1 for none.
        others: where the indexes of rows go that are no trades of a right time but matter: gaps, trades of a wrong
            time, and word that an instrument's data does not come any more.

    Returns:
        How many parts and how many others there are.
    """
    other = 0
    for n in range(len(words)):
        tag = words[n, ROW_KIND]
        kind = tag >> 32 & 0xFF
        event_ns, received_ns = words[n, ROW_EVENT], words[n, ROW_RECEIVED]
        code = words[n, ROW_CODE]
        away = kind == STATUS and code != OK and code != MARKET_CLOSED and code != UNKNOWN
        if kind == GAP or away or (kind == TRADE and event_ns > received_ns + ahead_ns):
            others[other] = n
            other += 1
        elif kind == TRADE:
            instrument = tag & 0xFFFFFFFF
            part = current[instrument]
            if part < 0 or not 0 <= event_ns - parts[part, OPEN_NS] < base_ns:
                part = current[instrument] = count
                count += 1
                number = event_ns // base_ns
                parts[part, NUMBER], parts[part, STATE], parts[part, COUNT] = number, instrument, 0
                parts[part, OPEN_NS] = number * base_ns
                begun[instrument] = 1
                # It was on its way already when it happened, unless it tells of times before anyone listened.
                known_ns = min(received_ns, max(event_ns, received_ns - AHEAD_NS))
                covered_ns[instrument] = min(covered_ns[instrument], known_ns)
            add_trade(
                parts, part_floats, part, event_ns, words[n, ROW_SEQUENCE], floats[n, ROW_PRICE], floats[n, ROW_SIZE]
            )
    return count, other


@compiled
def forget(parts: Ints, count: int, current: Ints) -> None:
    """Let the next trade of each instrument begin a new part."""
    for n in range(count):
        current[parts[n, STATE]] = -1


@compiled
def pass_on(
    parts: Ints,
    part_floats: Floats,
    count: int,
    ratio: int,
    into: Ints,
    into_floats: Floats,
    into_count: int,
    current: Ints,
) -> int:
    """Put one level's parts together to those of a level whose bars are ``ratio`` times as long.

    Args:
        into, into_floats, into_count, current: theirs, as for :func:`make_parts`.

    Returns:
        How many those are.
    """
    for n in range(count):
        instrument, number = parts[n, STATE], parts[n, NUMBER] // ratio
        part = current[instrument]
        if part < 0 or into[part, NUMBER] != number:
            part = current[instrument] = into_count
            into_count += 1
            into[part, NUMBER], into[part, STATE], into[part, COUNT] = number, instrument, 0
        merge(into, into_floats, part, parts, part_floats, n)
    return into_count


@compiled
def merge_parts(
    parts: Ints,
    part_floats: Floats,
    count: int,
    level: int,
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
    composed: Ints,
) -> int:
    """Put what :func:`make_parts` has made, or :func:`pass_on`, into the bars of one level.

    Args:
        level: its number, for ``changes``.
        ints, floats: its slots.
        opened, closed: the newest bar that has begun, the oldest that is not out.
        covered_ns: by instrument: from when on its data is known whole; :data:`NEVER_NS` while it is not yet.
        calendars, spans: which calendar each instrument has, and the sessions; see :func:`neighbour`.
        changes, counts: where bars that were out and have changed are listed, ``(level, instrument, number)``; how
            many there are is ``counts[0]``, and ``counts[1 + level]`` counts trades of bars that are not held any more.
        composed: where the indexes of parts go whose bars are made of shorter ones: those may have changed.

    Returns:
        How many those are.
    """
    found = 0
    for n in range(count):
        instrument, number = parts[n, STATE], parts[n, NUMBER]
        at = slot_of(instrument, number, rows)
        if ints[at, NUMBER] > number:
            counts[1 + level] += parts[n, COUNT]  # the ring holds that bar no more
            continue
        if ints[at, NUMBER] == number and ints[at, STATE] & BACKFILLED:
            if ints[at, STATE] & COMPOSED:
                composed[found] = n
                found += 1
            continue
        if ints[at, NUMBER] < number:
            begin_bar(ints, floats, at, number, period_ns, covered_ns[instrument])
        close, carried_on, fill = floats[at, CLOSE], carries_on(ints, at), ints[at, COUNT] == 0
        ints[at, STATE] &= ~SYNTHETIC
        merge(ints, floats, at, parts, part_floats, n)
        revise(changes, counts, ints, at, level, instrument, closed)
        if number < opened and (fill or floats[at, CLOSE] != close or carried_on != carries_on(ints, at)):
            ripple(
                ints, floats, rows, spans, calendars[instrument], level, instrument, number, period_ns,
                opened, closed, covered_ns[instrument], fill, changes, counts,
            )  # fmt: skip
    return found


@compiled
def take_gap(
    instrument: int,
    from_ns: int,
    to_ns: int,
    level: int,
    ints: Ints,
    floats: Floats,
    rows: int,
    period_ns: int,
    opened: int,
    closed: int,
    covered_ns: Ints,
    live: Ints,
    doubted_ns: int,
    calendars: Ints,
    spans: Ints,
    changes: Ints,
    counts: Ints,
) -> bool:
    """Note that something of ``[from_ns, to_ns)`` may be missing of an instrument; an empty range is one moment.

    That is the whole of an outage, if its data comes again: bars that began while it did not seem to come, from
    ``doubted_ns`` on, have all that there was, unless a gap says otherwise.

    Returns:
        Whether a bar that was made of shorter ones lacks something now: one of those may.
    """
    last = max(from_ns, to_ns - 1) // period_ns
    first = max(from_ns // period_ns, last - rows + 1)
    newest = -1
    decomposed = False
    for number in range(first, last + 1):
        at = slot_of(instrument, number, rows)
        if ints[at, NUMBER] > number:
            continue
        if ints[at, NUMBER] == number and ints[at, STATE] & BACKFILLED:
            if not ints[at, STATE] & COMPOSED:
                continue
            ints[at, STATE] &= ~(BACKFILLED | COMPOSED)
            decomposed = True
        if ints[at, NUMBER] < number:
            if number > opened:
                continue
            if neighbour(spans, calendars[instrument], number - 1, period_ns, 1) != number:
                continue
            begin_bar(ints, floats, at, number, period_ns, covered_ns[instrument])
        ints[at, GAP_NS] = max(ints[at, GAP_NS], min(max(to_ns, from_ns + 1), (number + 1) * period_ns))
        if ints[at, COUNT] == 0:
            flatten(ints, floats, at, False, 0.0)
        revise(changes, counts, ints, at, level, instrument, closed)
        newest = number
    if newest >= 0:
        ripple(
            ints, floats, rows, spans, calendars[instrument], level, instrument, newest, period_ns,
            opened, closed, covered_ns[instrument], False, changes, counts,
        )  # fmt: skip
    if live[instrument] != LIVE:
        return decomposed
    for number in range(max(min(doubted_ns // period_ns, last + 1), opened - rows + 1), opened + 1):
        at = slot_of(instrument, number, rows)
        if ints[at, NUMBER] != number or ints[at, GAP_NS] != GAP_OPEN:
            continue
        ints[at, GAP_NS] = uncovered_until_ns(number, period_ns, covered_ns[instrument])
        if ints[at, COUNT] == 0:
            before = neighbour(spans, calendars[instrument], number, period_ns, -1)
            previous = slot_of(instrument, before, rows)
            known = ints[previous, NUMBER] == before and carries_on(ints, previous)
            flatten(ints, floats, at, known, floats[previous, CLOSE])
        revise(changes, counts, ints, at, level, instrument, closed)
        ripple(
            ints, floats, rows, spans, calendars[instrument], level, instrument, number, period_ns,
            opened, closed, covered_ns[instrument], False, changes, counts,
        )  # fmt: skip
    return decomposed


@compiled
def open_bars(
    first: int,
    last: int,
    count: int,
    ints: Ints,
    floats: Floats,
    rows: int,
    period_ns: int,
    covered_ns: Ints,
    begun: Ints,
    live: Ints,
    doubted_ns: Ints,
    calendars: Ints,
    spans: Ints,
) -> None:
    """Let the bars ``first`` to ``last`` of one level begin, of the instruments 1 to ``count`` that ever traded.

    Args:
        live: by instrument, :data:`LIVE`, :data:`NOT_LIVE` (its bars begin with a gap) or :data:`SHUT` (none begin).
        doubted_ns: by instrument: when the first bar began that did so while its data did not come; noted here.
    """
    for number in range(max(first, last - rows + 1), last + 1):
        for instrument in range(1, count + 1):
            if not begun[instrument] or live[instrument] == SHUT:
                continue
            at = slot_of(instrument, number, rows)
            if ints[at, NUMBER] >= number:
                continue  # a venue whose clock is ahead of ours
            before = neighbour(spans, calendars[instrument], number, period_ns, -1)
            if calendars[instrument] and neighbour(spans, calendars[instrument], before, period_ns, 1) != number:
                continue  # the market is closed
            previous = slot_of(instrument, before, rows)
            known = ints[previous, NUMBER] == before and carries_on(ints, previous)
            price = floats[previous, CLOSE]
            begin_bar(ints, floats, at, number, period_ns, covered_ns[instrument])
            if not live[instrument]:
                ints[at, GAP_NS] = GAP_OPEN
                doubted_ns[instrument] = min(doubted_ns[instrument], number * period_ns)
            flatten(ints, floats, at, known, price)


@compiled
def close_bars(
    level: int, first: int, last: int, count: int, ints: Ints, rows: int, changes: Ints, counts: Ints
) -> None:
    """Let the bars ``first`` to ``last`` of one level be out, of the instruments 1 to ``count``, and list them."""
    for number in range(max(first, last - rows + 1), last + 1):
        for instrument in range(1, count + 1):
            at = slot_of(instrument, number, rows)
            if ints[at, NUMBER] == number and ints[at, STATE] & STATE_MASK == FORMING:
                ints[at, STATE] = (ints[at, STATE] & ~STATE_MASK) | settle(ints, at)
                note_change(changes, counts, ints, at, level, instrument)


@compiled
def find_changes(level: int, count: int, ints: Ints, rows: int, changes: Ints) -> int:
    """List all bars of a level that are marked as changed; return how many there are."""
    found = 0
    for instrument in range(1, count + 1):
        for row in range(rows):
            at = slot_of(instrument, row, rows)
            if ints[at, STATE] & CHANGED:
                if found < len(changes):
                    changes[found, 0], changes[found, 1], changes[found, 2] = level, instrument, ints[at, NUMBER]
                found += 1
    return found


@compiled
def tell_changes(
    changes: Ints,
    level: int,
    ints: Ints,
    rows: int,
    made_ns: int,
    period_ns: int,
    kind: int,
    out: Ints,
    out_floats: Floats,
) -> None:
    """Write a row of a step ring for each bar of one level that is listed, and forget that they are listed.

    Args:
        out, out_floats: shape ``(n, 14)``, the same memory as integers and as floats; see `marketd/ring/steps.py`.
    """
    for n in range(len(changes)):
        if changes[n, 0] != level:
            continue
        instrument, number = changes[n, 1], changes[n, 2]
        at = slot_of(instrument, number, rows)
        ints[at, STATE] &= ~CHANGED
        if ints[at, NUMBER] != number:
            continue
        state = ints[at, STATE]
        out[n, 1], out[n, 2], out[n, 3] = ints[at, OPEN_NS], made_ns, period_ns
        out[n, 4] = instrument | kind << 32 | (state & STATE_MASK) << 40 | (state >> 8 & 0xFF) << 48
        for word in range(4):
            out[n, 5 + word] = ints[at, OPEN + word]
        out_floats[n, 9] = volume_of(ints[at, WHOLE], ints[at, FRAC])
        out[n, 10], out[n, 11], out[n, 12] = ints[at, COUNT], ints[at, FIRST_ID], ints[at, LAST_ID]
        out[n, 13] = number

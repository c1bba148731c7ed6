"""The model that streams are held to: it takes what a contract allows, and refuses everything else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from marketd.rpc.messages import Position
from tests.stream_model import (
    Epoch,
    Event,
    Gap,
    History,
    News,
    Opened,
    Paused,
    Row,
    Start,
    Told,
    Unpaused,
    Wrong,
    check,
)

OLD, NEW = 7, 9  # two epochs
A, B = "a/usd.sim", "b/usd.sim"
ROWS = [("trade", A), ("quote", A), ("quote", B), ("gap", "*"), ("quote", A), ("trade", B), ("status", B), ("quote", B)]


def history(*, oldest: int = 1, replaced: bool = False) -> History:
    """A feed with eight rows; the same again in a new epoch if it was replaced."""
    found = History({("sim", OLD): Epoch([A, B], list(ROWS), oldest)}, {"sim": OLD})
    if replaced:
        found.epochs["sim", NEW] = Epoch([A, B], list(ROWS))
        found.current["sim"] = NEW
    return found


def opened(
    *instruments: str, cursor: int = 0, epoch: int = OLD, names: Sequence[str] = (A, B), by_update: bool = False
) -> Opened:
    start = Start(epoch, cursor, frozenset(names), 2)
    return Opened(instruments or ("*",), {"sim": start}, by_update)


def told(
    first: int,
    last: int,
    *cursors: int,
    epoch: int = OLD,
    merged: tuple[int, ...] | None = None,
    reach: int | None = None,
) -> Told:
    """A frame of these rows, of the kind of the first; ``reach`` is its ``last`` if the rest of its message follows."""
    rows = tuple(Row(cursor, *ROWS[cursor - 1], float(cursor)) for cursor in cursors)
    return Told("sim", epoch, first, last if reach is None else reach, rows[0].kind, rows, merged)


def each(first: int = 1, last: int = 8, *, epoch: int = OLD) -> list[Event]:
    """A frame for each row."""
    return [told(cursor, cursor, cursor, epoch=epoch) for cursor in range(first, last + 1)]


def lapped(first: int, last: int, lost: int | None = None, *, reason: str = "lapped", epoch: int = OLD) -> Gap:
    return Gap("sim", epoch, first, last, reason, last - first + 1 if lost is None else lost)


def lossless(
    *events: Event, truth: History | None = None, kinds: Sequence[str] = ("trade", "quote"), **how: object
) -> None:
    check(events, truth or history(), "lossless", kinds, **how)  # type: ignore[arg-type]


# --- lossless ---


def test_every_row_once_and_in_order_is_lossless() -> None:
    lossless(opened(), *each())
    lossless(opened(), told(1, 1, 1), told(2, 3, 2, 3), *each(4), token={"sim": Position(OLD, 8)})
    lossless(opened(cursor=4), *each(5))
    lossless(opened(A, names=[A]), told(1, 1, 1), told(2, 3, 2), told(4, 4, 4), told(5, 8, 5))
    lossless(opened(), told(1, 1, 1), told(4, 4, 4), told(6, 6, 6), told(7, 7, 7), kinds=["trade"])


def test_every_row_once_or_in_a_gap_is_lossless() -> None:
    lossless(opened(), told(1, 1, 1), lapped(2, 5), *each(6), truth=history(oldest=6))


@pytest.mark.parametrize(
    ("says", "events"),
    [
        ("missing", [*each(1, 4), *each(6)]),
        ("missing", [*each(1, 7)]),
        ("missing", [told(1, 1, 1), told(2, 4, 2, 3), *each(5)]),
        ("told already", [*each(1, 4), *each(4)]),
        ("missing", [*each(2, 3), *each(1)]),
        ("out of order", [told(1, 1, 1), told(2, 3, 3, 2), *each(4)]),
        ("out of order", [told(1, 1, 1), told(2, 3, 2, 2, 3), *each(4)]),
        ("should not be there", [told(1, 1, 1), told(2, 2, 2, 3), *each(3)]),
        ("there is no row", [*each(), Told("sim", OLD, 9, 9, "trade", (Row(9, "trade", A, 9.0),))]),
        ("was written as", [Told("sim", OLD, 1, 1, "trade", (Row(1, "trade", B, 1.0),)), *each(2)]),
        ("was written as", [Told("sim", OLD, 1, 1, "trade", (Row(1, "trade", A, 2.0),)), *each(2)]),
        ("not of the frame's kind", [told(1, 2, 1, 2), *each(3)]),
        ("another epoch", [*each(epoch=8)]),
    ],
)
def test_what_is_not_lossless_is_refused(says: str, events: list[Event]) -> None:
    with pytest.raises(Wrong, match=says):
        lossless(opened(), *events)


@pytest.mark.parametrize(
    ("says", "events"),
    [
        ("not overwritten", [told(1, 1, 1), lapped(2, 6), *each(7)]),
        ("does not add up", [told(1, 1, 1), lapped(2, 5, 3), *each(6)]),
        ("does not add up", [told(1, 1, 1), lapped(2, 5, -1), *each(6)]),
        ("missing", [told(1, 1, 1), lapped(3, 5), *each(6)]),
        ("told already", [*each(1, 2), lapped(2, 5), *each(6)]),
        ("no such rows", [*each(), lapped(9, 9)]),
        ("no reason", [told(1, 1, 1), lapped(2, 5, reason="sequence"), *each(6)]),
        ("no later one", [told(1, 1, 1), lapped(1, 5, -1, reason="epoch"), *each(6)]),
    ],
)
def test_gap_that_lies_is_refused(says: str, events: list[Event]) -> None:
    with pytest.raises(Wrong, match=says):
        lossless(opened(), *events, truth=history(oldest=6))


def test_row_that_is_not_wanted_is_refused() -> None:
    with pytest.raises(Wrong, match="is not wanted"):
        lossless(opened(A, names=[A]), *each())
    with pytest.raises(Wrong, match="is not wanted"):
        lossless(opened(), *each(), kinds=["trade"])
    with pytest.raises(Wrong, match="not asked for"):
        lossless(opened(A), *each())


def test_selection_changes_where_the_answer_says() -> None:
    change = opened(A, cursor=3, names=[A], by_update=True)
    lossless(opened(), *each(1, 3), change, told(4, 4, 4), told(5, 8, 5))
    with pytest.raises(Wrong, match="missing"):
        lossless(opened(), *each(1, 2), change, told(4, 4, 4), told(5, 8, 5))
    with pytest.raises(Wrong, match="is not wanted"):
        lossless(opened(), *each(1, 3), change, *each(4))
    with pytest.raises(Wrong, match="told already"):
        lossless(opened(), *each(1, 4), change, told(5, 8, 5))
    only_a = [opened(A, names=[A]), told(1, 1, 1), told(2, 2, 2)]
    lossless(*only_a, opened(A, B, cursor=3, by_update=True), *each(4))
    with pytest.raises(Wrong, match="missing"):
        lossless(*only_a, opened(A, B, cursor=4, by_update=True), *each(5))


def test_feed_that_an_update_leaves_is_not_missed_and_begins_anew() -> None:
    left = Opened((), {}, by_update=True)
    lossless(opened(), *each(1, 3), left)
    lossless(opened(), *each(1, 3), left, opened(cursor=6, by_update=True), *each(7))
    with pytest.raises(Wrong, match="missing"):
        lossless(opened(), *each(1, 3), left, opened(cursor=6, by_update=True), *each(8))
    with pytest.raises(Wrong, match="sequence"):
        lossless(
            opened(), *each(1, 3), left, opened(cursor=6, by_update=True), lapped(4, 6, reason="sequence"), *each(7)
        )
    with pytest.raises(Wrong, match="missing"):
        lossless(opened(), *each(1, 3))


def test_feed_of_a_token_is_left_once_its_instruments_are_known() -> None:
    """Before that nobody knows whether they were among those that were taken out of the stream."""
    away = Opened(("*",), {})
    stand = {"sim": Position(OLD, 3)}
    lossless(away, Opened((), {}, by_update=True), resume=stand, token=stand, complete=False)
    with pytest.raises(Wrong, match="the token"):
        lossless(away, Opened((), {}, by_update=True), resume=stand, token={}, complete=False)
    known = Opened((), {}, by_update=True, met=frozenset({"sim"}))
    lossless(away, known, resume=stand, token={}, complete=False)
    lossless(away, known, opened(cursor=6, by_update=True), *each(7), resume=stand)


def test_feed_of_a_token_that_an_update_brings_in_begins_there() -> None:
    stand = {"sim": Position(OLD, 3)}
    unheard = Opened(("other",), {})
    lossless(unheard, opened(cursor=6, by_update=True), *each(7), resume=stand)
    with pytest.raises(Wrong, match="missing"):
        lossless(opened(cursor=6), *each(7), resume=stand)
    with pytest.raises(Wrong, match="missing"):
        lossless(opened(), *each(1, 3), opened(cursor=6, by_update=True), *each(7))


def test_what_is_wanted_after_the_end_of_a_feed_is_not_missed_there() -> None:
    rows = [event for event in each() if isinstance(event, Told) and event.rows[0].name == A]
    end = {"sim": Position(OLD, 8)}
    some, every = opened(A, names=(A,)), Opened(("*",), {}, by_update=True)
    gap = told(4, 4, 4)
    lossless(some, *rows[:2], gap, *rows[2:], News("stopped", "sim"), every, token=end, complete=False)


def test_end_of_an_epoch_that_had_nothing_to_tell_says_nothing_of_the_one_before() -> None:
    stopped, truth = News("stopped", "sim"), history(replaced=True)
    begun = lapped(1, 0, -1, reason="epoch", epoch=NEW)
    some = opened(A, names=(A,))
    rows = [event for event in each() if isinstance(event, Told) and event.rows[0].name != B]
    lossless(some, *rows, stopped, Opened(("*",), {}, by_update=True), stopped, begun, *each(epoch=NEW), truth=truth)
    with pytest.raises(Wrong, match="missing"):
        lossless(some, stopped, begun, *each(epoch=NEW), truth=truth)


def test_rows_about_all_are_owed_from_when_a_later_feed_has_something_that_is_wanted() -> None:
    truth = History(
        {("sim", OLD): Epoch([A, B], [("gap", "*"), ("trade", A), ("gap", "*")], born=[0, 2])}, {"sim": OLD}
    )
    gap = Told("sim", OLD, 3, 3, "gap", (Row(3, "gap", "*", 3.0),))
    lossless(Opened((B,), {}), gap, truth=truth)
    with pytest.raises(Wrong, match="missing"):
        lossless(Opened((B,), {}), truth=truth)
    with pytest.raises(Wrong, match="missing"):
        lossless(Opened(("b*.sim",), {}), gap, truth=truth)


def test_new_epoch_is_told_by_a_gap() -> None:
    truth = history(replaced=True)
    begin, begun = opened(epoch=NEW, cursor=3), lapped(1, 3, -1, reason="epoch", epoch=NEW)
    lossless(opened(), *each(1, 2), begin, begun, *each(4, epoch=NEW), truth=truth)
    for says, events in {
        "nothing was said of another epoch": [begin, *each(4, epoch=NEW)],
        "missing": [begin, begun, *each(5, epoch=NEW)],
        "begins at 1": [begin, lapped(2, 3, -1, reason="epoch", epoch=NEW), *each(4, epoch=NEW)],
        "nobody knows": [begin, lapped(1, 3, 3, reason="epoch", epoch=NEW), *each(4, epoch=NEW)],
        "is in its epoch": [begin],
    }.items():
        with pytest.raises(Wrong, match=says):
            lossless(opened(), *each(1, 2), *events, truth=truth)


def test_feed_that_goes_is_told_to_its_end() -> None:
    truth = history(replaced=True)
    begun, stopped = lapped(1, 0, -1, reason="epoch", epoch=NEW), News("stopped", "sim")
    lossless(opened(), *each(), stopped, begun, *each(epoch=NEW), truth=truth)
    with pytest.raises(Wrong, match="missing"):
        lossless(opened(), *each(1, 7), stopped, *each(8), begun, *each(epoch=NEW), truth=truth)
    with pytest.raises(Wrong, match="stream that was open"):
        lossless(opened(), *each(), begun, *each(epoch=NEW), truth=truth)


def test_stream_goes_on_where_it_stood() -> None:
    again = opened(cursor=3)
    lossless(opened(), *each(1, 3), News("disconnected"), again, News("reconnected"), *each(4))
    lossless(opened(cursor=3), *each(4), resume={"sim": Position(OLD, 3)})
    for says, events in {
        "missing": [News("disconnected"), opened(cursor=5), News("reconnected"), *each(6)],
        "told already": [News("disconnected"), opened(cursor=2), News("reconnected"), *each(3)],
        "was not broken": [again, News("reconnected"), *each(4)],
        "made again": [News("disconnected"), again, *each(4)],
    }.items():
        with pytest.raises(Wrong, match=says):
            lossless(opened(), *each(1, 3), *events)
    with pytest.raises(Wrong, match="missing"):
        lossless(opened(cursor=5), *each(6), resume={"sim": Position(OLD, 3)})


def test_paused_stream_tells_nothing_new() -> None:
    lossless(opened(), *each(1, 2), Paused({("sim", OLD): 3}), *each(3, 3), Unpaused(), *each(4))
    with pytest.raises(Wrong, match="paused"):
        lossless(opened(), *each(1, 2), Paused({("sim", OLD): 3}), *each(3))


@pytest.mark.parametrize("token", [{}, {"sim": Position(OLD, 4)}, {"sim": Position(OLD, 6)}, {"sim": Position(NEW, 5)}])
def test_token_that_loses_or_doubles_is_refused(token: dict[str, Position]) -> None:
    with pytest.raises(Wrong, match=r"the token|missing"):
        lossless(opened(), *each(1, 5), token=token, complete=False)


# --- frames and trade_safe ---

FRAMES = [told(1, 6, 1, 6, reach=0), told(1, 6, 2, 3, 5, reach=0), told(1, 6, 4), told(7, 8, 8, reach=6), told(7, 8, 7)]
SAFE = [
    told(1, 6, 1, 6, reach=0, merged=(1, 1)),
    told(1, 6, 3, 5, reach=0, merged=(1, 2)),
    told(1, 6, 4, merged=(1,)),
    told(7, 8, 8, reach=6, merged=(1,)),
    told(7, 8, 7, merged=(1,)),
]


def test_rows_put_by_kind_are_frames() -> None:
    check([opened(), *FRAMES], history(), "frames", ["trade", "quote"])
    check([opened(), *SAFE], history(), "trade_safe", ["trade", "quote"])


@pytest.mark.parametrize(
    ("says", "place", "instead"),
    [
        ("missing", 0, [told(1, 6, 1, reach=0)]),
        ("missing", 1, [told(1, 6, 3, 5, reach=0)]),
        ("quote after gap", 1, [told(1, 6, 4, reach=0), told(1, 6, 2, 3, 5)]),
        ("has no end", 2, []),
        ("out of order", 1, [told(1, 6, 3, 2, 5, reach=0)]),
        ("outside", 1, [told(1, 6, 2, 3, 5, 8, reach=0)]),
        ("merged is", 2, [told(1, 6, 4, merged=(1,))]),
    ],
)
def test_frames_that_lack_or_mix_something_are_refused(says: str, place: int, instead: list[Event]) -> None:
    events: list[Event] = [*FRAMES[:place], *instead, *FRAMES[place + (1 if says != "quote after gap" else 2) :]]
    with pytest.raises(Wrong, match=says):
        check([opened(), *events], history(), "frames", ["trade", "quote"])


@pytest.mark.parametrize(
    ("says", "place", "instead"),
    [
        ("missing", 0, told(1, 6, 6, reach=0, merged=(1,))),
        ("missing", 1, told(1, 6, 2, 3, reach=0, merged=(2, 1))),
        ("should not be there", 1, told(1, 6, 2, 3, 5, reach=0, merged=(1, 1, 1))),
        ("merged", 1, told(1, 6, 3, 5, reach=0, merged=(1, 1))),
        ("merged", 0, told(1, 6, 1, 6, reach=0, merged=(1, 2))),
        ("merged is", 2, told(1, 6, 4)),
    ],
)
def test_trade_safe_without_a_trade_or_with_wrong_counts_is_refused(says: str, place: int, instead: Told) -> None:
    events = [*SAFE[:place], instead, *SAFE[place + 1 :]]
    with pytest.raises(Wrong, match=says):
        check([opened(), *events], history(), "trade_safe", ["trade", "quote"])


# --- latest ---

FIRST = [
    told(1, 3, 1, reach=1, merged=(1,)),
    told(2, 3, 2, 3, merged=(1, 1)),
]
REST = [
    told(4, 4, 4, merged=(1,)),
    told(5, 5, 5, merged=(1,)),
    told(6, 6, 6, merged=(1,)),
    told(7, 7, 7, merged=(1,)),
    told(8, 8, 8, merged=(1,)),
]


def latest(*events: Event, truth: History | None = None, **how: object) -> None:
    check(events, truth or history(), "latest", ["trade", "quote"], **how)  # type: ignore[arg-type]


def test_newest_state_of_each_instrument_is_latest() -> None:
    latest(opened(), *FIRST, *REST)
    whole = [told(1, 4, 1, reach=1, merged=(1,)), told(2, 4, 2, 3, merged=(1, 1)), *REST[1:]]
    latest(opened(), *(event._replace(published=4) for event in whole))


@pytest.mark.parametrize(
    ("says", "events"),
    [
        ("newest quote", [*FIRST, *REST[:-1]]),
        ("newest trade", [*FIRST, *REST[:2], *REST[3:]]),
        ("no newer", [*FIRST, *REST[:2], told(6, 6, 2, merged=(1,)), *REST[2:]]),
        ("no newer", [*FIRST, *REST[:2], told(6, 6, 5, merged=(1,)), *REST[2:]]),
        ("stands for", [*FIRST, REST[0], told(5, 5, 5, merged=(2,)), *REST[2:]]),
        ("stands for", [told(1, 3, 1, merged=(2,)), *FIRST[1:], *REST]),
        ("was told already", [*FIRST, *REST[:2], told(6, 6, 4, merged=(1,)), *REST[2:]]),
        ("merged is", [*FIRST, told(4, 4, 4), *REST[1:]]),
        ("was written as", [Told("sim", OLD, 1, 1, "trade", (Row(1, "trade", A, 5.0),), (1,)), *FIRST[1:], *REST]),
        ("out of order", [FIRST[0], told(2, 3, 3, 2, merged=(1, 1)), *REST]),
    ],
)
def test_states_that_are_old_or_miscounted_are_refused(says: str, events: list[Event]) -> None:
    with pytest.raises(Wrong, match=says):
        latest(opened(), *events)


def test_gap_and_status_rows_are_not_merged_away() -> None:
    """But for those from before the first message, which is how things stand and no more."""
    merged = [told(1, 3, 1, reach=1, merged=(1,)), told(2, 5, 5, merged=(1,)), *REST[2:]]
    with pytest.raises(Wrong, match="the gap row 4"):
        latest(opened(), *merged)
    latest(opened(), *(event._replace(published=4) for event in merged))
    with pytest.raises(Wrong, match="the status row 7"):
        latest(opened(), *FIRST, *REST[:3], told(7, 8, 8, merged=(1,)))


def test_message_of_states_may_be_a_frame_for_each_kind_of_which_the_last_has_the_range() -> None:
    def frames(*gap: int) -> list[Event]:
        trade, quote = told(1, 8, 1, 6, reach=0, merged=(1, 1)), told(1, 8, 5, 8, reach=0, merged=(1, 1))
        events = [told(1, 8, cursor, reach=0, merged=(1,)) for cursor in gap]
        return [trade, quote, *events, told(1, 8, 7, merged=(1,))]

    latest(opened(), *frames(4))
    with pytest.raises(Wrong, match="the gap row 4"):
        latest(opened(), *frames())
    with pytest.raises(Wrong, match="told already"):
        latest(opened(), *frames(4, 4))


def test_state_that_was_lost_is_excused_by_a_gap_alone() -> None:
    truth = history(oldest=9)
    events = [opened(), *FIRST, lapped(4, 8, -1)]
    latest(*events, truth=truth)
    latest(opened()._replace(feeds={"sim": Start(OLD, 0, frozenset((A, B)), 2, oldest=9)}), truth=truth)
    for says, wrong in {"newest": events[:-1], "not overwritten": [*events[:-1], lapped(4, 9, -1)]}.items():
        with pytest.raises(Wrong, match=says if says == "newest" else "no such rows"):
            latest(*wrong, truth=truth)


def test_token_of_states_may_name_an_epoch_that_had_none_until_the_next_has_some() -> None:
    truth, later = history(replaced=True), Opened(("*",), {"sim": Start(NEW, 0)}, by_update=True)
    for contract in ("latest", "lossless"):
        events, token = [Opened(("*",), {}), later], {"sim": Position(OLD, 8)}
        check(events, truth, contract, ("trade", "quote"), token=token, complete=False)
        with pytest.raises(Wrong, match="the token"):
            check([opened(epoch=NEW), later], truth, contract, ("trade",), token=token, complete=False)


def test_state_that_was_overwritten_before_its_feed_came_is_not_owed() -> None:
    came_later = Opened(("*",), {})
    latest(came_later, truth=history(oldest=9))
    with pytest.raises(Wrong, match="newest"):
        latest(came_later, truth=history(oldest=8))


def test_state_of_an_instrument_that_is_added_is_owed() -> None:
    added = opened(A, B, by_update=True)
    states = [told(1, 8, 1, reach=1, merged=(1,)), told(2, 8, 5, merged=(1,))]
    begun = [opened(A, names=[A]), *(state._replace(published=8) for state in states)]
    latest(*begun, added, told(9, 8, 6, merged=(1,)), told(9, 8, 8, merged=(1,)))
    with pytest.raises(Wrong, match="newest quote"):
        latest(*begun, added, told(9, 8, 6, merged=(1,)))
    with pytest.raises(Wrong, match="newest"):
        latest(*begun, added)

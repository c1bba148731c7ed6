"""What the commands draw and print: pure functions of what a daemon said."""

import io
import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from marketd.cli import lines, replay, status_board
from marketd.cli.bar_board import BarBoard
from marketd.cli.board import Board, number_text
from marketd.cli.output import bytes_text, duration_text
from marketd.client.frames import Frame
from marketd.client.sources import EventSource, RowsSource
from marketd.ring import layout
from marketd.rpc import messages
from tests.fake_server import FakeSteps

NAMES = {1: "btc/usdt.spot.sim", 2: "eth/usdt.spot.sim"}
NOON_NS = 1_700_000_000_000_000_000


def _frames(*rows, merged=None, feed="sim"):
    """Frames of one message with these rows: (instrument, kind, side, four values), cursors from 1."""
    packed = b"".join(
        (layout.PACK_INTEGERS if kind in (4, 5) else layout.PACK).pack(
            cursor, NOON_NS + cursor, NOON_NS + 5, 77, instrument, kind, side, 0, *values
        )
        for cursor, (instrument, kind, side, *values) in enumerate(rows, 1)
    )
    message = messages.Rows(1, feed, 9, 1, len(rows), packed, merged)
    return list(RowsSource(message, NAMES, 1, latest=merged is not None).frames())


def _trade(instrument, price, size=1.0, side=1):
    return (instrument, 1, side, price, size, 0.0, 0.0)


def _quote(instrument, bid, ask):
    return (instrument, 2, 0, bid, 1.0, ask, 2.0)


def _gap(instrument, reason=1, lost=-1):
    return (instrument, 4, 0, NOON_NS, NOON_NS + 10, reason, lost)


def _drawn(renderable, width=140):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def _row(picture, name):
    return next(line for line in picture.splitlines() if line.strip().startswith(name)).split()


@pytest.fixture
def board():
    return Board(clock=lambda: 100.0)


def _apply(target, *frames):
    for frame in frames:
        target.apply(frame)


# --- the board --------------------------------------------------------------------------------------------------------


def test_board_shows_the_newest_trade_and_quote_of_each_instrument(board):
    _apply(board, *_frames(_trade(1, 10.0), _trade(2, 5.0, 3.0, -1), _trade(1, 11.0, 0.25), _quote(1, 10.5, 11.5)))
    picture = _drawn(board.render())
    assert _row(picture, "btc/usdt")[1:7] == ["10.5", "11.5", "11", "0.25", "2", "0.00"]
    assert _row(picture, "eth/usdt")[1:6] == ["-", "-", "5", "3", "1"]
    assert "2 instruments, 4 rows" in picture


def test_board_counts_the_trades_that_a_merged_row_stands_for(board):
    _apply(board, *_frames(_trade(1, 10.0), _trade(2, 5.0), merged=[7, 2]), *_frames(_trade(1, 10.0), merged=[3]))
    assert [(line.fqme, line.trades) for line in board.lines("name")] == [(NAMES[1], 10), (NAMES[2], 2)]


def test_board_marks_a_gap_until_the_next_tick(board):
    _apply(board, *_frames(_trade(1, 10.0), _trade(2, 5.0)), *_frames(_gap(1)))
    assert _row(_drawn(board.render()), "btc/usdt")[-1] == "gap"
    assert "gap" not in _row(_drawn(board.render()), "eth/usdt")
    _apply(board, *_frames(_trade(1, 10.0)))
    assert _row(_drawn(board.render()), "btc/usdt")[-2:] == ["1", "gap"]


def test_board_marks_all_of_a_feed_for_a_gap_of_instrument_zero(board):
    _apply(board, *_frames(_trade(1, 10.0)), *_frames(_trade(2, 10.0), feed="other"), *_frames(_gap(0)))
    assert [(line.fqme, line.gaps) for line in board.lines("name")] == [(NAMES[1], 1), (NAMES[2], 0)]


def test_board_marks_a_line_stale_when_nothing_comes():
    now_s = 100.0
    board = Board(clock=lambda: now_s)
    _apply(board, *_frames(_trade(1, 10.0)))
    now_s = 115.0
    assert _row(_drawn(board.render()), "btc/usdt")[-3:] == ["15", "s", "stale"]


def test_board_shows_the_gap_of_a_server_and_news_of_a_feed(board):
    message = messages.Gap(1, "sim", 9, 5, 9, 5, "lapped")
    _apply(board, *_frames(_trade(1, 10.0)))
    _apply(board, *EventSource.gap(message, NAMES, form="rows").frames())
    _apply(board, *EventSource.news("down", "cut", feed="sim", form="rows").frames())
    picture = _drawn(board.render())
    assert _row(picture, "btc/usdt")[-1] == "gap"
    assert "sim: down cut" in picture


def test_board_fits_the_terminal_and_says_how_many_more_there_are(board):
    _apply(board, *_frames(_trade(1, 10.0), _trade(2, 5.0), _trade(2, 5.0)))
    picture = _drawn(board.render("activity", height=6))
    assert "eth/usdt" in picture, "the busiest is on top"
    assert "btc/usdt" not in picture
    assert "(+1 more)" in picture
    assert len(picture.splitlines()) <= 6


@pytest.mark.parametrize(
    ("value", "text"),
    [(float("nan"), "-"), (0.1, "0.1"), (30123.0, "30123"), (1e-8, "0.00000001"), (123456789.125, "123456789.125")],
)
def test_prices_are_printed_shortest_and_without_exponent(value, text):
    assert number_text(value) == text


# --- lines ------------------------------------------------------------------------------------------------------------


def _printed(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_json_lines_carry_what_the_rows_do(capsys):
    _apply(lines.LineOutput(lines.json), *_frames(_trade(1, 10.5, 2.0, -1), _quote(2, 9.0, 11.0), _gap(0, 4, 17)))
    trade, quote, gap = _printed(capsys)
    common = {"feed": "sim", "epoch": 9, "received_ns": NOON_NS + 5, "sequence": 77}
    assert trade == common | {
        "fqme": NAMES[1],
        "kind": "trade",
        "cursor": 1,
        "event_ns": NOON_NS + 1,
        "price": 10.5,
        "size": 2.0,
        "side": "sell",
    }
    assert quote == common | {
        "fqme": NAMES[2],
        "kind": "quote",
        "cursor": 2,
        "event_ns": NOON_NS + 2,
        "bid": 9.0,
        "bid_size": 1.0,
        "ask": 11.0,
        "ask_size": 2.0,
    }
    assert gap == common | {
        "fqme": "*",
        "kind": "gap",
        "cursor": 3,
        "event_ns": NOON_NS + 3,
        "from_ns": NOON_NS,
        "to_ns": NOON_NS + 10,
        "lost": 17,
        "reason": "lapped",
    }


def test_levels_are_lines_with_their_side(capsys):
    frames = _frames((1, 3, 0, 0.0, 0.0, 0.0, 0.0), (1, 3, 1, 10.5, 2.0, 0.0, 0.0), (1, 3, -1, 11.0, 0.0, 0.0, 0.0))
    _apply(lines.LineOutput(lines.json), *frames)
    said = [(line["side"], line["price"], line["size"]) for line in _printed(capsys)]
    assert said == [("unknown", 0.0, 0.0), ("buy", 10.5, 2.0), ("sell", 11.0, 0.0)]
    _apply(lines.LineOutput(lines.text), *frames)
    printed = [line.split(maxsplit=3)[3] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["unknown 0 @ 0", "buy 2 @ 10.5", "sell 0 @ 11"]


def test_json_lines_say_how_many_rows_a_merged_one_stands_for(capsys):
    _apply(lines.LineOutput(lines.json), *_frames(_trade(1, 10.5), merged=[3]))
    assert _printed(capsys)[0]["merged"] == 3


def test_news_of_a_feed_is_a_line_too(capsys):
    news = list(EventSource.news("down", "cut", feed="sim", form="rows").frames())
    _apply(lines.LineOutput(lines.json), *news)
    assert _printed(capsys) == [{"kind": "news", "feed": "sim", "state": "down", "detail": "cut"}]
    _apply(lines.LineOutput(lines.text), *news)
    assert capsys.readouterr().out == "-- sim: down cut\n"


def test_no_more_lines_than_wanted_are_printed(capsys):
    output = lines.LineOutput(lines.json, rows_max=3)
    _apply(output, *_frames(_trade(1, 1.0), _trade(1, 2.0)), *_frames(_trade(1, 3.0), _trade(1, 4.0)))
    assert [record["price"] for record in _printed(capsys)] == [1.0, 2.0, 3.0]
    assert output.rows == 3


def test_lines_a_second_are_limited_and_go_on_in_the_next(capsys):
    now_s = 10.2
    output = lines.LineOutput(lines.text, per_second_max=2, clock=lambda: now_s)
    frames = _frames(_trade(1, 1.0), _trade(1, 2.0), _trade(1, 3.0))
    _apply(output, *frames)
    now_s = 11.0
    _apply(output, *frames)
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["1", "2", "1", "2"]


def test_text_lines_are_for_people(capsys):
    _apply(lines.LineOutput(lines.text), *_frames(_trade(1, 10.5, 2.0), _quote(2, 9.0, 11.0), _gap(0, 250)))
    assert [line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()] == [
        ["btc/usdt.spot.sim", "trade  buy 2 @ 10.5"],
        ["eth/usdt.spot.sim", "quote  9 x 1 | 11 x 2"],
        ["*", "gap    unknown, unknown number of rows"],
    ]


# --- bars -------------------------------------------------------------------------------------------------------------


def _bar_frames(*rows, kinds=None):
    """Frames of one message of a step feed: (kind, instrument, state, values)."""
    feed = FakeSteps()
    packed = [
        feed.row(cursor, kind, instrument, state, **values)
        for cursor, (kind, instrument, state, values) in enumerate(rows, 1)
    ]
    message = messages.Bars(1, "sim/bars", 9, 1, len(rows), b"".join(packed))
    return list(RowsSource(message, NAMES, 1, latest=False, kinds=feed.kinds).frames())


def _bar(number, close=1.0, instrument=1, state=2, kind="bar.1m", **values):
    return (kind, instrument, state, {"number": number, "open_ns": number * 60 * 10**9, "close": close, **values})


def test_board_of_bars_shows_the_newest_bar_of_each_series():
    board = BarBoard()
    _apply(board, *_bar_frames(_bar(7, 101.5, trade_count=3), _bar(7, 5.0, 2), _bar(8, 102.0, state=1, trade_count=9)))
    _apply(board, *_bar_frames(_bar(7, 99.0, state=3)))  # a revision of a bar that is not the newest
    picture = _drawn(board.render("name"))
    btc = _row(picture, "btc/usdt")
    assert btc[1:4] == ["1m", "1970-01-01", "00:08:00"]
    assert btc[-4:] == ["102", "3", "9", "forming"]
    assert _row(picture, "eth/usdt")[-3:] == ["2", "0", "closed"]
    assert "2 series, 4 rows" in picture


def test_board_of_bars_has_what_is_told_of_most_on_top():
    board = BarBoard()
    _apply(board, *_bar_frames(_bar(7, trade_count=9), _bar(7, instrument=2), _bar(8, instrument=2)))
    pictures = {order: _drawn(board.render(order)) for order in ("name", "activity")}
    assert {order: picture.index("btc") < picture.index("eth") for order, picture in pictures.items()} == {
        "name": True,
        "activity": False,
    }


def test_board_of_bars_replaces_a_bar_by_its_newer_row_and_shows_unknown_prices_as_none():
    board = BarBoard()
    nobody_knows = dict.fromkeys(("open", "high", "low", "close"), math.nan)
    _apply(board, *_bar_frames(_bar(7, 101.5), _bar(7, **nobody_knows, state=4)))
    assert _row(_drawn(board.render()), "btc/usdt")[-7:] == ["-", "-", "-", "-", "2", "0", "missing"]


def test_board_of_bars_fits_the_terminal_and_tells_news():
    board = BarBoard()
    _apply(board, *_bar_frames(*(_bar(7, kind=kind, instrument=n) for kind in ("bar.1s", "bar.1m") for n in (1, 2))))
    _apply(board, *EventSource.news("down", "cut", feed="sim/bars", form="rows").frames())
    picture = _drawn(board.render(height=7))
    assert "4 series  (+2 more)" in picture
    assert "sim/bars: down cut" in picture
    _apply(board, *EventSource.gap(messages.Gap(1, "sim/bars", 9, 5, 9, 5, "lapped"), NAMES, form="rows").frames())
    assert "sim/bars: bars were lost" in _drawn(board.render())


def test_json_lines_of_bars_have_words_for_states(capsys):
    flat = _bar(3, state=3, flags=16, trade_count=0, first_id=5, last_id=6)
    event = ("index.1m", 0, 1, {"open_ns": 5, "instruments": 2, "revised": 1})
    unknown = _bar(4, math.nan, 2, state=4)
    _apply(lines.LineOutput(lines.json), *_bar_frames(flat, event, unknown))
    bar, opened, missing = _printed(capsys)
    common = {"feed": "sim/bars", "epoch": 9, "period_ns": 60 * 10**9}
    prices = dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)
    assert bar == common | prices | {
        "fqme": NAMES[1],
        "kind": "bar.1m",
        "cursor": 1,
        "made_ns": 1000,
        "open_ns": 180 * 10**9,
        "trade_count": 0,
        "first_id": 5,
        "last_id": 6,
        "state": "revised",
        "provenance": "synthetic",
    }
    assert opened == common | {
        "fqme": "*",
        "kind": "index.1m",
        "cursor": 2,
        "made_ns": 2000,
        "open_ns": 5,
        "instruments": 2,
        "revised": 1,
        "state": "opened",
    }
    assert (missing["close"], missing["state"], missing["provenance"]) == (None, "missing", "observed")


def test_text_lines_of_bars_are_for_people(capsys):
    _apply(
        lines.LineOutput(lines.text),
        *_bar_frames(_bar(3, 2.5, trade_count=7), ("index.1m", 0, 2, {"instruments": 2})),
    )
    bar, ended = capsys.readouterr().out.splitlines()
    assert " ".join(bar.split()) == f"00:03:00.000 {NAMES[1]} bar.1m 1 1 1 2.5 volume 1 in 7 trades, closed"
    assert " ".join(ended.split()) == "00:00:00.000 * index.1m instruments=2 revised=0 state=ended"


# --- status -----------------------------------------------------------------------------------------------------------


def _status(**changes):
    actors = [
        messages.ActorStatus("supervisor", "live", 10, 0, 3700.0, 50 << 20, 1.5),
        messages.ActorStatus("feed.sim", "failing", None, 7, 0.5, detail="killed by SIGKILL [9]"),
    ]
    feed = messages.FeedStatus(
        "sim", "sim", "failing", 200, 9, 30, 1024, 3, {"trade": 1234, "quote": 5}, {}, 1, NOON_NS - 2 * 10**9, "why"
    )
    client = messages.ClientStatus(1, "marketd watch", "127.0.0.1:5", 2, 5000, 3 << 20, 0, 61.0)
    fields = {"ready": False, "actors": actors, "feeds": [feed], "clients": [client]} | changes
    return messages.StatusResult(version="0.1.0", instance="eu", pid=10, uptime_s=3700.0, now_ns=NOON_NS, **fields)


def test_status_shows_actors_feeds_and_clients():
    picture = _drawn(status_board.render(_status()))
    assert "marketd 0.1.0  instance eu  pid 10  up 62 min  not ready" in picture
    assert _row(picture, "supervisor")[1:] == ["live", "10", "62", "min", "0", "50.0", "MiB", "1.50", "s", "-", "-"]
    assert _row(picture, "└─ feed.sim")[2:7] == ["failing", "-", "0.50", "s", "7"]
    assert "killed by SIGKILL [9]" in picture, "brackets are text here and no markup"
    assert _row(picture, "sim ")[1:] == [
        *("sim", "failing", "200", "-", "0", "-", "1,234", "5", "3", "2.00", "s", "ago", "why"),
    ]
    assert "marketd watch" in picture


def test_status_shows_what_lags_and_what_is_missing():
    venue = messages.VenueStatus(5, 4, 1, 2, losses=3, used={"rest": 7}, capacity={"rest": 9},
                                 resting_until_ns={"rest": NOON_NS + 60 * 10**9})  # fmt: skip
    clock = messages.VenueClock(-12.4, 30.0, "server_time", 5.0, 1.25)
    extra = {"venue": venue, "clock": clock, "qualities": {"ok": 4, "stale": 1}, "rows_per_s": 1234.5, "lag_ms": 25.1}
    feed = msgspec.structs.replace(_status().feeds[0], **extra)
    client = msgspec.structs.replace(_status().clients[0], kinds=["quote", "trade"], lag_rows=1500, lag_s=2.5)
    history = messages.HistoryStatus(
        4, 5, 6, 0, backfill={"sim": messages.BackfillStatus(2, 3000, NOON_NS), "x": messages.BackfillStatus()},
        store=messages.StoreStatus(7, 3 << 20, 5 << 30, 1),
    )  # fmt: skip
    skewed = messages.HostClock(True, -900.0, "this machine's clock is 0.900 s behind that of sim")
    picture = _drawn(status_board.render(_status(feeds=[feed], clients=[client], history=history, clock=skewed)))
    assert "this machine's clock is 0.900 s behind that of sim" in picture
    assert _row(picture, "sim ")[3:12] == ["200", "4", "ok,", "1", "stale", "1,234", "25", "ms", "1,234"]
    venue_row = next(line for line in picture.splitlines() if "4/5" in line)
    assert " ".join(venue_row.split()) == "sim 4/5 2 3 -12 ± 30 ms 1.25 ms rest 7/9, rest rests for 60 s"
    assert "quote trade" in picture
    assert "1,500 rows, 2.50 s" in picture
    assert "store    3.0 MiB, 7 files, 5.0 GiB free" in picture
    assert "backfill sim: 3,000 bars of 2 series to ask for, since 2023-11-14" in picture
    assert "backfill x" not in picture
    only_events = msgspec.structs.replace(feed, clock=messages.VenueClock(-900.0, None, "events", -900.0, 1.0))
    assert "-900 ms at most" in _drawn(status_board.render(_status(feeds=[only_events])))


def test_status_of_a_replay_shows_when_it_was_and_not_how_long_ago():
    feed = msgspec.structs.replace(_status().feeds[0], last_received_ns=NOON_NS - 400 * 86_400 * 10**9)
    assert "2022-10-10 22:13:20" in _drawn(status_board.render(_status(feeds=[feed])))
    feed = msgspec.structs.replace(feed, last_received_ns=0)
    assert "never" in _drawn(status_board.render(_status(feeds=[feed])))


def test_status_of_a_daemon_that_has_nothing_yet_is_drawn():
    picture = _drawn(status_board.render(_status(ready=True, actors=[], feeds=[], clients=[])))
    assert "ready" in picture
    assert "not ready" not in picture
    assert "connected" not in picture


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.00 s"), (0.256, "0.26 s"), (59, "59 s"), (130, "2 min"), (3600 * 5, "5 h"), (86_400 * 3, "3 d")],
)
def test_durations_are_short(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(5, "5 B"), (2048, "2.0 KiB"), (3 << 20, "3.0 MiB"), (5 << 30, "5.0 GiB")],
)
def test_sizes_are_short(count, text):
    assert bytes_text(count) == text


# --- replay -----------------------------------------------------------------------------------------------------------


def test_feeds_are_named_after_their_files_uniquely():
    files = ["a/Monday 1.ws", "b/monday-1.ws.gz", "binance-us-spot.ws", "---.ws", "x" * 60 + ".ws", "x" * 70]
    names = replay.feed_names([Path(file) for file in files])
    assert names == ["monday-1", "monday-1-2", "binance-us-spot", "recording", "x" * 28, "x" * 28 + "-2"]
    assert replay.feed_names([Path("trades.json"), Path("trades.json.gz")]) == ["trades", "trades-2"]


def test_summary_accounts_for_messages_rows_and_gaps():
    feed = messages.FeedStatus(
        "monday",
        "replay",
        "finished",
        2,
        9,
        30,
        1024,
        1,
        {"trade": 5, "gap": 1},
        {"used.aggTrade": 5, "unused.depthUpdate": 7, "bad": 1, "unknown": 2},
        NOON_NS,
        NOON_NS,
    )
    summary = replay.summarize([feed], {"monday": Path("/x/monday.ws")}, {"monday": NOON_NS - 90_500_000_000})
    assert summary == {
        "feeds": [
            {
                "feed": "monday",
                "file": "/x/monday.ws",
                "messages": {"used": {"aggTrade": 5}, "unused": {"depthUpdate": 7}, "bad": 1, "unknown": 2},
                "rows": {"trade": 5, "quote": 0},
                "gaps": 1,
                "seconds": 90.5,
            }
        ]
    }
    picture = _drawn(replay.render(summary))
    assert _row(picture, "monday") == ["monday", "5", "aggTrade", "5", "0", "1", "90.5"]
    assert "7 depthUpdate, unused" in picture
    assert "1 bad, 2 unknown" in picture


def test_frames_of_the_tests_are_whole():
    frames = _frames(_trade(1, 10.0), _quote(1, 1.0, 2.0))
    assert all(isinstance(frame, Frame) for frame in frames)
    assert np.array_equal(frames[0].columns["price"], [10.0])

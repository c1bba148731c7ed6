from __future__ import annotations

import numpy as np
import pytest

from marketd.client.errors import ProtocolError
from marketd.client.frames import Gap, Level, Quote, Trade
from marketd.client.sources import ColumnsSource, EventSource, RowsSource
from marketd.model import GapReason, Kind
from marketd.ring import layout
from marketd.rpc import messages
from marketd.rpc.messages import Position
from marketd.rpc.positions import format_token, parse_token
from tests.fake_server import NAMES, FakeFeed


def _rows(*kinds: Kind, first: int = 1, last: int | None = None) -> messages.Rows:
    feed = FakeFeed()
    for kind in kinds:
        feed.append(kind)
    return messages.Rows(1, "fake", 4242, first, last or len(kinds), b"".join(feed.rows))


def _source(message: messages.Rows, first: int = 1, *, latest: bool = False) -> RowsSource:
    return RowsSource(message, NAMES, first, latest=latest)


def test_each_run_of_a_kind_is_a_frame_and_their_ranges_partition_the_messages() -> None:
    kinds = (Kind.TRADE, Kind.TRADE, Kind.QUOTE, Kind.GAP, Kind.TRADE)
    frames = list(_source(_rows(*kinds, last=9)).frames())
    assert [frame.kind for frame in frames] == ["trade", "quote", "gap", "trade"]
    assert [(frame.cursor_first, frame.cursor_last) for frame in frames] == [(1, 2), (3, 3), (4, 4), (5, 9)]
    assert [len(frame) for frame in frames] == [2, 1, 1, 1]


def test_rows_are_views_on_the_received_bytes_with_the_fields_of_their_kind() -> None:
    message = _rows(Kind.TRADE, Kind.QUOTE, Kind.QUOTE)
    trade, quote = _source(message).frames()
    assert trade.rows.dtype == layout.TRADE
    assert trade.rows["price"].tolist() == [1.0]
    assert quote.rows.dtype == layout.QUOTE
    assert quote.rows["bid"].tolist() == [2.0, 3.0]
    assert np.shares_memory(quote.rows, np.frombuffer(message.data, np.uint8))
    assert not quote.rows.flags.writeable
    assert trade.fqme(trade.rows["instrument"][0]) == "btc/usdt.spot.fake"
    assert trade.fqme(0) == "*"


def test_what_was_had_before_is_left_out() -> None:
    kinds = (Kind.TRADE, Kind.TRADE, Kind.QUOTE, Kind.QUOTE)
    frames = list(_source(_rows(*kinds), first=4).frames())
    assert [(frame.kind, frame.cursor_first, frame.cursor_last, len(frame)) for frame in frames] == [("quote", 4, 4, 1)]
    assert frames[0].rows["cursor"].tolist() == [4]


def test_states_older_than_the_messages_range_are_kept() -> None:
    feed = FakeFeed()
    for kind in (Kind.TRADE, Kind.QUOTE, Kind.TRADE):
        feed.append(kind)
    message = messages.Rows(1, "fake", 4242, 3, 3, b"".join(feed.rows), [5, 1, 2])
    frames = list(_source(message, first=3, latest=True).frames())
    assert [frame.kind for frame in frames] == ["trade", "quote", "trade"]
    assert frames[-1].cursor_last == 3
    assert [frame.merged.tolist() for frame in frames if frame.merged is not None] == [[5], [1], [2]]


def test_a_message_without_rows_has_no_frame() -> None:
    assert list(_source(messages.Rows(1, "fake", 4242, 1, 9, b"")).frames()) == []
    empty = messages.Columns(1, "fake", 4242, 1, 9, "trade", {})
    assert list(ColumnsSource(empty, NAMES, 1, latest=False).frames()) == []


def test_half_a_row_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="whole rows"):
        _source(messages.Rows(1, "fake", 4242, 1, 1, b"\0" * 71))


def _columns(**values: list[int] | list[float]) -> messages.Columns:
    common: dict[str, list[int] | list[float]] = {
        name: [1, 2] for name in ("cursor", "event_ns", "received_ns", "sequence", "instrument", "side", "flags")
    }
    return messages.Columns(1, "fake", 4242, 1, 2, "trade", common | values)


def test_columns_are_small_structs_and_arrays() -> None:
    source = ColumnsSource(_columns(price=[1.5, 2.5], size=[3.0, 4.0]), NAMES, 1, latest=False)
    (frame,) = source.frames()
    assert frame.rows == [
        Trade(cursor=1, event_ns=1, received_ns=1, sequence=1, instrument=1, side=1, flags=1, price=1.5, size=3.0),
        Trade(cursor=2, event_ns=2, received_ns=2, sequence=2, instrument=2, side=2, flags=2, price=2.5, size=4.0),
    ]
    assert frame.columns["price"].tolist() == [1.5, 2.5]
    assert frame.columns["cursor"].dtype == np.uint64
    (rest,) = ColumnsSource(_columns(price=[1.5, 2.5], size=[3.0, 4.0]), NAMES, 2, latest=False).frames()
    assert [row.cursor for row in rest.rows] == [2]


def test_columns_that_do_not_fit_together_are_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="different lengths"):
        ColumnsSource(_columns(price=[1.5], size=[3.0, 4.0]), NAMES, 1, latest=False)
    with pytest.raises(ProtocolError, match="lacks size"):
        ColumnsSource(_columns(price=[1.5, 2.5]), NAMES, 1, latest=False)


def test_structs_have_the_fields_of_their_rows() -> None:
    for struct, dtype in ((Trade, layout.TRADE), (Quote, layout.QUOTE), (Level, layout.LEVEL), (Gap, layout.GAP)):
        assert {"kind", *struct.__struct_fields__} == set(dtype.names or ())


@pytest.mark.parametrize("reason", [*GapReason, None])
def test_the_servers_gap_is_a_frame_with_one_gap_row(reason: GapReason | None) -> None:
    text = reason.name.lower() if reason else "solar flare"
    message = messages.Gap(1, "fake", 4242, 5, 9, 5, text, 100, 200)
    (frame,) = EventSource.gap(message, NAMES, form="rows").frames()
    assert (frame.kind, frame.epoch, frame.cursor_first, frame.cursor_last) == ("gap", 4242, 5, 9)
    assert frame.detail == text
    row = frame.rows[0]
    assert (row["reason"], row["lost"], row["from_ns"], row["to_ns"], row["kind"]) == (reason or 0, 5, 100, 200, 4)
    (frame,) = EventSource.gap(message, NAMES, form="columns").frames()
    assert (frame.rows[0].lost, frame.rows[0].instrument) == (5, 0)
    assert frame.columns["lost"].tolist() == [5]


@pytest.mark.parametrize("form", ["rows", "columns"])
def test_news_is_a_status_frame_without_rows(form: messages.Format) -> None:
    (frame,) = EventSource.news("down", "the venue is away", feed="fake", form=form).frames()
    assert (frame.kind, frame.feed, frame.state, frame.detail) == ("status", "fake", "down", "the venue is away")
    assert (len(frame), len(frame.rows), frame.epoch) == (0, 0, 0)


def test_tokens_are_read_and_printed_inversely() -> None:
    positions = {"sim": Position(1, 2), "binance-futures": Position(1 << 52, 0)}
    assert parse_token(format_token(positions)) == positions
    assert parse_token("") == {}
    for bad in ("sim", "sim@1", "@1:2", "sim@1:-2", "sim@a:2"):
        with pytest.raises(ValueError, match="resume token"):
            parse_token(bad)

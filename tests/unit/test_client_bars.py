"""What a client makes of bars: frames of a stream, series of an answer, and the times that they are asked for by."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import cast

import msgspec
import numpy as np
import pytest

from marketd.client.bars import COLUMNS, bars_params, series_of
from marketd.client.errors import PackageMissing, ProtocolError
from marketd.client.frames import Bar, Frame, IndexEvent
from marketd.client.protocol import ClientProtocol
from marketd.client.subscription import Subscription
from marketd.client.times import to_ns
from marketd.model import Flag, Kind
from marketd.ring import layout, steps
from marketd.ring.steps import BarState, IndexState
from marketd.rpc import messages
from marketd.rpc.messages import Position
from tests.conftest import PROJECT
from tests.fake_server import MINUTE_NS, FakeFeed, FakeProtocol, FakeSteps, World, notify


class Talk:
    """A client with one stream, and a fake daemon that it hears at once."""

    def __init__(self, kinds: tuple[str, ...], form: messages.Format = "rows", **params: object) -> None:
        self.steps = FakeSteps()
        self.world = World({"fake": FakeFeed(), "fake/bars": self.steps})
        self.client = ClientProtocol(messages.HelloParams())
        self.connect()
        wanted = messages.SubscribeParams(["btc*", "eth*"], kinds, format=form, **params)  # type: ignore[arg-type]
        self.stream = cast(Subscription, self.client.subscribe(wanted).subscription)
        self.exchange()

    def connect(self) -> None:
        self.server = FakeProtocol(self.world)
        self.client.connection_made()
        self.exchange()

    def exchange(self) -> None:
        while self.client.has_data_to_send:
            self.client.receive_data(self.server.receive(self.client.data_to_send()))
        self.client.receive_data(self.server.stream())

    def take(self) -> list[Frame]:
        self.exchange()
        return list(iter(self.stream.next_nowait, None))


# --- streams ----------------------------------------------------------------------------------------------------------


def test_bars_and_index_events_are_frames_by_the_name_of_their_series() -> None:
    talk = Talk(("bar.1m", "index.1m"))
    talk.steps.append_step("index.1m", 0, IndexState.OPENED, open_ns=MINUTE_NS, instruments=2)
    talk.steps.append_step("bar.1m", 1, BarState.CLOSED, open_ns=0, close=101.5, trade_count=7)
    talk.steps.append_step("bar.1s", 1, BarState.CLOSED)
    talk.steps.append_step("bar.1m", 2, BarState.REVISED, open_ns=0)
    opened, bars = talk.take()
    assert (opened.kind, opened.rows.dtype, opened.rows["instruments"].tolist()) == ("index.1m", steps.INDEX, [2])
    assert opened.fqme(opened.rows["instrument"][0]) == "*"
    assert (bars.kind, bars.rows.dtype, bars.feed) == ("bar.1m", steps.BAR, "fake/bars")
    assert bars.rows["close"].tolist() == [101.5, 4.0]
    assert [bars.fqme(row["instrument"]) for row in bars.rows] == ["btc/usdt.spot.fake", "eth/usdt.spot.fake"]
    assert bars.rows["state"].tolist() == [BarState.CLOSED, BarState.REVISED]
    assert not bars.rows.flags.writeable
    assert talk.stream.positions == {"fake/bars": Position(5151, 4)}


def test_bars_as_columns_are_small_structs_with_nan_where_there_was_null() -> None:
    talk = Talk(("bar.1m", "index.1m"), "columns")
    talk.steps.append_step("bar.1m", 1, BarState.MISSING, open=math.nan, volume=0, number=3)
    talk.steps.append_step("index.1m", 0, IndexState.ENDED, revised=1)
    bars, ended = talk.take()
    [bar] = bars.rows
    assert isinstance(bar, Bar)
    assert math.isnan(bar.open)
    assert (bar.close, bar.volume, bar.number, bar.state) == (1.0, 0.0, 3, BarState.MISSING)
    assert math.isnan(bars.columns["open"][0])
    assert bars.columns["open"].dtype == np.float64
    [event] = ended.rows
    assert isinstance(event, IndexEvent)
    assert (event.revised, event.state, event.cursor) == (1, IndexState.ENDED, 2)


def test_structs_have_the_fields_of_their_rows() -> None:
    for struct, dtype in ((Bar, steps.BAR), (IndexEvent, steps.INDEX)):
        assert {"kind", *struct.__struct_fields__} == set(dtype.names or ())


@pytest.mark.parametrize("form", ["rows", "columns"])
@pytest.mark.parametrize("contract", ["lossless", "latest"])
def test_bars_that_are_forming_move_no_position(form: messages.Format, contract: messages.Contract) -> None:
    talk = Talk(("bar.1m",), form, contract=contract, forming_hz=4)
    talk.steps.append_step("bar.1m", 1, BarState.CLOSED)
    talk.steps.forming = [talk.steps.row(0, "bar.1m", n, BarState.FORMING) for n in (1, 2)]
    frames = talk.take()
    assert [frame.forming for frame in frames] == [False] + [True] * (len(frames) - 1)
    assert [row for frame in frames[1:] for row in frame.columns["instrument"].tolist()] == [1, 2]
    assert talk.stream.positions == {"fake/bars": Position(5151, 1)}
    # What a server says of the range that it is at need not be where this stream is.
    row = talk.steps.row(0, "bar.1m", 1, BarState.FORMING)
    talk.client.receive_data(notify("bars", messages.Bars(1, "fake/bars", 5151, 1, 0, row)))
    [late] = talk.take()
    assert late.forming
    assert talk.stream.positions == {"fake/bars": Position(5151, 1)}
    assert talk.stream.resume_params().resume == {"fake/bars": Position(5151, 1)}


def test_ticks_and_bars_are_resumed_each_where_they_were() -> None:
    talk = Talk(("trade", "bar.1m"))
    talk.world.feeds["fake"].append(Kind.TRADE)
    for _ in range(3):
        talk.steps.append_step("bar.1m", 1, BarState.CLOSED)
    talk.take()
    assert talk.stream.token == "fake@4242:1,fake/bars@5151:3"
    talk.client.connection_lost("cut")
    talk.steps.append_step("bar.1m", 1, BarState.CLOSED)
    talk.steps.append_step("bar.1m", 1, BarState.CLOSED)
    talk.steps.oldest = 5
    talk.connect()
    frames = [frame for frame in talk.take() if frame.epoch]
    assert [(f.kind, f.feed, f.cursor_first, f.cursor_last) for f in frames] == [
        ("gap", "fake/bars", 4, 4),
        ("bar.1m", "fake/bars", 5, 5),
    ]
    assert frames[0].fqme(frames[0].rows["instrument"][0]) == "*"


def test_bars_are_lossless_in_a_stream_of_newest_states_too() -> None:
    talk = Talk(("trade", "bar.1m"), contract="latest")
    rows = [talk.steps.row(cursor, "bar.1m", 1, BarState.CLOSED) for cursor in range(1, 6)]
    for first, last in ((1, 2), (1, 3), (5, 5)):
        data = b"".join(rows[first - 1 : last])
        talk.client.receive_data(notify("bars", messages.Bars(1, "fake/bars", 5151, first, last, data)))
    frames = talk.take()
    assert [(frame.kind, frame.columns["cursor"].tolist()) for frame in frames] == [
        ("bar.1m", [1, 2]),
        ("bar.1m", [3]),
        ("gap", [4]),
        ("bar.1m", [5]),
    ]


def test_frames_keep_the_names_of_the_series_that_they_came_with() -> None:
    talk = Talk(("bar.1m", "bar.1s"))
    talk.steps.append_step("bar.1s", 1, BarState.CLOSED)
    talk.exchange()
    talk.client.connection_lost("cut")
    talk.steps = talk.world.feeds["fake/bars"] = FakeSteps(epoch=6, kinds={16: "bar.1m"})
    talk.connect()
    talk.steps.append_step("bar.1m", 1, BarState.CLOSED)
    assert [frame.kind for frame in talk.take() if frame.kind.startswith("bar")] == ["bar.1s", "bar.1m"]


def test_the_first_feed_with_bars_may_join_later() -> None:
    talk = Talk(("trade", "bar.1m"))
    row = FakeSteps(kinds={30: "bar.50v"}).row(8, "bar.50v", 1, BarState.CLOSED)
    late = messages.Instruments(1, "late/bars", 77, {1: "btc/usdt.spot.late"}, {30: "bar.50v"})
    talk.client.receive_data(notify("instruments", late))
    talk.client.receive_data(notify("bars", messages.Bars(1, "late/bars", 77, 8, 8, row)))
    [frame] = talk.take()
    assert (frame.kind, frame.fqme(1), talk.stream.positions["late/bars"].cursor) == (
        "bar.50v",
        "btc/usdt.spot.late",
        8,
    )


def test_rows_of_a_series_that_nobody_named_can_be_passed_over() -> None:
    talk = Talk(("bar.1m",))
    row = FakeSteps(kinds={99: "bar.1m"}).row(1, "bar.1m", 1, BarState.CLOSED)
    talk.client.receive_data(notify("bars", messages.Bars(1, "fake/bars", 5151, 1, 1, row)))
    [frame] = talk.take()
    assert (frame.kind, len(frame.rows)) == ("unknown", 1)


def test_half_a_bar_is_a_protocol_error() -> None:
    talk = Talk(("bar.1m",))
    with pytest.raises(ProtocolError, match="whole rows of 112"):
        talk.client.receive_data(notify("bars", messages.Bars(1, "fake/bars", 5151, 1, 1, b"\0" * 72)))


@pytest.mark.parametrize(
    ("kinds", "form", "row_hash", "step_hash", "refused"),
    [
        (("bar.1m",), "rows", "other", None, False),
        (("bar.1m",), "rows", None, "other", True),
        (("trade", "bar.1m"), "rows", None, "other", True),
        (("trade", "bar.1m"), "rows", "other", None, True),
        (("trade",), "rows", None, "other", False),
        (("bar.1m",), "columns", None, "other", False),
    ],
)
def test_only_the_layouts_that_a_stream_needs_must_be_known(
    kinds: tuple[str, ...], form: messages.Format, row_hash: str | None, step_hash: str | None, refused: bool
) -> None:
    world = World({"fake": FakeFeed(), "fake/bars": FakeSteps()})
    world.row_hash = row_hash or world.row_hash
    world.step_hash = step_hash or world.step_hash
    client, server = ClientProtocol(messages.HelloParams()), FakeProtocol(world)
    params = messages.SubscribeParams(["*"], kinds, format=form)
    early = client.subscribe(params)
    client.connection_made()
    while client.has_data_to_send:
        client.receive_data(server.receive(client.data_to_send()))
    if not refused:
        assert early.result()
        return
    with pytest.raises(ProtocolError, match=r"another layout .*other"):
        early.result()
    with pytest.raises(ProtocolError, match="format='columns'"):
        client.subscribe(params)


# --- series -----------------------------------------------------------------------------------------------------------


def _answer() -> messages.BarsResult:
    feed = FakeSteps()
    rows = [
        feed.row(0, "bar.1m", 1, BarState.CLOSED, open_ns=0, open=0.1, volume=1e-8, trade_count=3),
        feed.row(0, "bar.1m", 1, BarState.CLOSED, open_ns=MINUTE_NS, flags=Flag.SYNTHETIC),
        feed.row(0, "bar.1m", 1, BarState.REVISED, open_ns=2 * MINUTE_NS, flags=Flag.BACKFILLED | Flag.SYNTHETIC),
        feed.row(0, "bar.1m", 1, BarState.MISSING, open_ns=3 * MINUTE_NS, open=math.nan, close=math.nan),
        feed.row(0, "bar.1m", 1, BarState.FORMING, open_ns=5 * MINUTE_NS),
    ]
    return messages.BarsResult(
        "btc/usdt.spot.fake",
        "fake",
        "1m",
        MINUTE_NS,
        5 * MINUTE_NS,
        [(3 * MINUTE_NS, 5 * MINUTE_NS)],
        False,
        b"".join(rows),
    )


def _as_columns(answer: messages.BarsResult) -> messages.BarsResult:
    rows = np.frombuffer(answer.data, steps.BAR)
    columns = {
        name: [None if value != value else value for value in rows[name].tolist()] for name in rows.dtype.names or ()
    }
    return msgspec.structs.replace(answer, data=b"", columns=columns)


def _server(step_hash: str = f"{steps.STEPS.hash():016x}") -> messages.HelloResult:
    rows = (layout.ROW_BYTES, "x", steps.STEP_BYTES, step_hash)
    return messages.HelloResult(1, "fake", "test", 0.0, messages.Limits(1, 1, 1, 1), *rows)


@pytest.mark.parametrize("form", ["rows", "columns"])
def test_a_series_has_the_columns_that_it_promises(form: str) -> None:
    series = series_of(_answer() if form == "rows" else _as_columns(_answer()))
    assert tuple(series.columns) == COLUMNS
    assert series.columns["state"].tolist() == ["closed", "closed", "revised", "missing", "forming"]
    assert series.columns["provenance"].tolist() == ["observed", "synthetic", "backfilled", "observed", "observed"]
    assert series.columns["open_ns"].tolist() == [0, MINUTE_NS, 2 * MINUTE_NS, 3 * MINUTE_NS, 5 * MINUTE_NS]
    assert series.columns["volume"][0] == 1e-8
    assert np.isnan(series.rows["open"]).tolist() == [False, False, False, True, False]
    assert series.rows.dtype == steps.BAR
    assert (series.missing, series.complete_until_ns) == ([(3 * MINUTE_NS, 5 * MINUTE_NS)], 5 * MINUTE_NS)
    assert len(series) == 5


def test_a_state_of_a_later_version_has_no_text() -> None:
    answer = msgspec.structs.replace(_answer(), data=FakeSteps().row(0, "bar.1m", 1, 200))
    assert series_of(answer).columns["state"].tolist() == [""]


def test_an_empty_series_has_all_columns_too() -> None:
    empty = series_of(msgspec.structs.replace(_answer(), data=b""))
    assert (len(empty), tuple(empty.columns), empty.to_arrow().num_rows) == (0, COLUMNS, 0)
    assert empty.to_polars().schema.names() == list(COLUMNS)
    assert empty.to_arrow().schema == series_of(_answer()).to_arrow().schema


def test_half_a_bar_of_an_answer_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="whole rows"):
        series_of(msgspec.structs.replace(_answer(), data=b"\0" * 100))


def test_tables_have_null_where_nobody_knows_a_price_and_arrow_the_unit() -> None:
    series = series_of(_answer())
    frame, table = series.to_polars(), series.to_arrow()
    assert frame.columns == table.column_names == list(COLUMNS)
    assert frame["open"].to_list() == table["open"].to_pylist() == [0.1, 0.0, 0.0, None, 0.0]
    assert frame["state"].to_list() == table["state"].to_pylist()
    assert str(table.schema.field("open_ns").type) == "int64"
    assert table.schema.field("open_ns").metadata == {b"unit": b"ns"}
    assert table.schema.metadata == {b"fqme": b"btc/usdt.spot.fake", b"period": b"1m"}


def test_a_missing_package_is_named_and_the_rest_needs_none() -> None:
    script = """
import sys
for name in ("pandas", "polars", "pyarrow"):
    sys.modules[name] = None
from marketd.client import PackageMissing
from marketd.client.bars import series_of
from marketd.rpc.messages import BarsResult
series = series_of(BarsResult("x", "f", "1m", 1, 0, [], False))
assert len(series.columns["state"]) == 0
for method, package in (("to_polars", "polars"), ("to_pandas", "pandas"), ("to_arrow", "pyarrow")):
    try:
        getattr(series, method)()
    except PackageMissing as error:
        assert f"pip install {package}" in str(error) and error.package == package
    else:
        raise AssertionError(method)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert issubclass(PackageMissing, ImportError)


def test_pandas_gets_the_columns() -> None:
    frame = series_of(_answer()).to_pandas()
    assert tuple(frame.columns) == COLUMNS
    assert frame["open"].isna().tolist() == [False, False, False, True, False]
    assert frame["open_ns"].dtype == "int64"


def test_bars_are_asked_for_as_rows_unless_the_server_has_others() -> None:
    params = bars_params(_server(), "btc", "1m", 5, "1970-01-01T00:00:01", None, "oldest")
    assert params == messages.BarsParams("btc", "1m", 5, 1_000_000_000, order="oldest")
    assert bars_params(_server("other"), "btc", "5m", None, None, 7, "newest") == messages.BarsParams(
        "btc", "5m", limit=7, format="columns"
    )


# --- times ------------------------------------------------------------------------------------------------------------


NOON_NS = 1_764_072_000_000_000_000


@pytest.mark.parametrize(
    "time",
    [
        NOON_NS,
        np.int64(NOON_NS),
        datetime(2025, 11, 25, 12, tzinfo=UTC),
        datetime(2025, 11, 25, 12),
        datetime(2025, 11, 25, 17, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        "2025-11-25T12:00:00Z",
        "2025-11-25 12:00",
        "2025-11-25T13:00:00+01:00",
        "20251125T120000",
        "1764072000",
        "1764072000.0",
        "1764072000000000000",
        " 2025-11-25T12 ",
    ],
)
def test_one_moment_can_be_said_in_many_ways(time: int | datetime | str) -> None:
    assert to_ns(time) == NOON_NS


def test_times_are_exact_and_a_date_is_its_midnight() -> None:
    assert to_ns("2025-11-25T12:00:00.000001") == NOON_NS + 1000
    assert to_ns("1764072000.000000001") == NOON_NS + 1
    assert to_ns("2025-11-25") == to_ns("20251125") == NOON_NS - 12 * 3600 * 10**9
    assert to_ns(-5) == -5


@pytest.mark.parametrize(
    "text", ["", "yesterday", "1764072000000", "1764072000000000", "7", "20251125112", "2025-13-01"]
)
def test_what_is_no_time_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no time: 2026-11-25, .*UTC"):
        to_ns(text)

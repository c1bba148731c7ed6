"""HTTP, its pure parts: files of tables, parameters, metrics, and which pages may talk to us."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.datastructures import QueryParams

from marketd.gateway.decode import Refusal
from marketd.gateway.totals import add, plus
from marketd.observe.histogram import Histogram, HistogramReport
from marketd.observe.vitals import Vitals
from marketd.periods import parse_period
from marketd.ring.steps import BarState
from marketd.rpc import messages
from marketd.supervise.messages import Measures
from marketd.web import formats
from marketd.web.formats import open_writer, rows_batch, rows_schema
from marketd.web.metrics import exposition
from marketd.web.origin import OriginGuard
from marketd.web.query import Query
from storage.schema import BARS, Provenance
from tests.conftest import PROJECT

NAMES = ["btc/usdt.spot.sim", "eth/usdt.spot.sim"]
FACTS = {"period": "1s", "series": [{"fqme": NAMES[0], "missing": [[1, 2]]}]}


def stored(first: int, rows: int, columns: Sequence[str] = formats.BAR_COLUMNS) -> pa.RecordBatch:
    """Bars as the store has them; the second one is missing, and nobody knows its prices."""
    values: dict[str, Any] = {name: np.arange(first, first + rows) + 0.1 for name in BARS.floats}
    for name in ("open", "high", "low", "close"):
        values[name][1] = math.nan
    values["open_ns"] = (first + np.arange(rows)) * 10**9
    values["state"] = np.full(rows, BarState.CLOSED)
    values["state"][1] = BarState.MISSING
    values["provenance"] = np.full(rows, Provenance.BACKFILLED)
    values |= {name: np.arange(rows) for name in ("trade_count", "first_id", "last_id")}
    schema = pa.schema([BARS.arrow.field(name) for name in columns])
    return pa.RecordBatch.from_arrays(
        [pa.array(values[field.name]).cast(field.type) for field in schema], schema=schema
    )


def file_of(form: str, *, named: bool, columns: Sequence[str] = formats.BAR_COLUMNS, rows: int = 3) -> bytes:
    schema = rows_schema(BARS.arrow, columns, named=named)
    writer = open_writer(form, "bars", schema)
    parts = [writer.begin()]
    for place in range(2 if named else 1):
        parts += [writer.rows(rows_batch(stored(n, rows, columns), schema, NAMES, place)) for n in (0, 100)]
    return b"".join([*parts, writer.end(FACTS)])


def read(form: str, data: bytes) -> pl.DataFrame:
    if form == "json":
        return pl.DataFrame(json.loads(data)["bars"])
    file = io.BytesIO(data)
    readers = {"csv": pl.read_csv, "arrow": pl.read_ipc_stream, "parquet": pl.read_parquet}
    return readers[form](file).with_columns(pl.col(pl.Categorical).cast(pl.String))


@pytest.mark.parametrize("form", formats.FORMATS)
@pytest.mark.parametrize("named", [True, False])
def test_every_format_says_the_same(form: str, named: bool) -> None:
    frame = read(form, file_of(form, named=named))
    assert frame.columns == ["instrument"] * named + list(formats.BAR_COLUMNS)
    assert len(frame) == (12 if named else 6)
    assert frame["open_ns"][:6].to_list() == [0, 10**9, 2 * 10**9, 100 * 10**9, 101 * 10**9, 102 * 10**9]
    assert frame["close"][:3].to_list() == [0.1, None, 2.1]
    assert frame["state"][:3].to_list() == ["closed", "missing", "closed"]
    assert set(frame["provenance"]) == {"backfilled"}
    if named:
        assert frame["instrument"].to_list() == [NAMES[0]] * 6 + [NAMES[1]] * 6


@pytest.mark.parametrize("form", formats.FORMATS)
def test_file_without_rows_is_one_of_that_format(form: str) -> None:
    schema = rows_schema(BARS.arrow, formats.BAR_COLUMNS, named=False)
    writer = open_writer(form, "bars", schema)
    frame = read(form, writer.begin() + writer.end(FACTS))
    assert len(frame) == 0
    assert form == "json" or frame.columns == list(formats.BAR_COLUMNS)


def test_what_is_missing_is_said_where_the_format_has_a_place() -> None:
    assert json.loads(file_of("json", named=False))["series"] == FACTS["series"]
    metadata = pa.parquet.read_metadata(io.BytesIO(file_of("parquet", named=True))).metadata
    assert json.loads(metadata[b"marketd"]) == FACTS


def test_columns_are_those_of_the_store_in_the_order_asked_for() -> None:
    frame = read("csv", file_of("csv", named=False, columns=["close", "open_ns", "first_id"]))
    assert frame.columns == ["close", "open_ns", "first_id"]
    with pytest.raises(ValueError, match="there is no column 'vwap'; there are open_ns, open"):
        rows_schema(BARS.arrow, ["vwap"], named=False)


def test_parquet_has_row_groups_of_a_good_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "ROW_GROUP_ROWS", 5)
    metadata = pa.parquet.read_metadata(io.BytesIO(file_of("parquet", named=True)))
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [6, 6]


# --- parameters -------------------------------------------------------------------------------------------------------


def query(text: str) -> Query:
    return Query(QueryParams(text))


def test_parameters_are_read_by_name() -> None:
    asked = query("instrument=a,b&instrument=c&start=2026-11-25&limit=5&format=csv&period=5m")
    assert asked.names("instrument") == ["a", "b", "c"]
    assert asked.time("start") == 1795564800 * 10**9
    assert asked.time("end") is None
    assert asked.read("limit", int, None) == 5
    assert asked.read("period", parse_period, "1m").name == "5m"
    assert asked.form() == "csv"
    asked.finish()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "say which: instrument=btc/usdt.spot.binance"),
        ("instrument=,,", "say which"),
        ("instrument=a&limit=five", "limit=five: invalid literal"),
        ("instrument=a&limit=1&limit=2", "limit is there 2 times"),
        ("instrument=a&start=yesterday", "start=yesterday: 'yesterday' is no time"),
        ("instrument=a&format=xls", "format=xls: it is one of json, csv, arrow, parquet"),
        ("instrument=a&perod=1m", "there is no parameter 'perod'; there are: instrument, start, limit, format"),
        ("instrument=" + "a," * 10_001, "10001 names; 10000 are as many as one asks for"),
    ],
)
def test_wrong_parameter_is_named(text: str, said: str) -> None:
    def read_all(asked: Query) -> None:
        asked.names("instrument")
        asked.time("start")
        asked.read("limit", int, None)
        asked.form()
        asked.finish()

    with pytest.raises(Refusal, match="^" + said):
        read_all(query(text))


# --- metrics and readiness --------------------------------------------------------------------------------------------


def status(state: str = "live") -> messages.StatusResult:
    return messages.StatusResult(
        version="1",
        instance="x",
        pid=1,
        uptime_s=2.0,
        ready=state == "live",
        now_ns=0,
        actors=[messages.ActorStatus("feed.sim", "live", 2, 0, 1.0), messages.ActorStatus("history", state, 3, 7, 1.0)],
        feeds=[
            messages.FeedStatus("sim", "sim", state, 3, 9, 5, 8, 2, {"trade": 4}, {"bad": 1}, 10**9, 2 * 10**9, "why")
        ],
        clients=[],
        history=messages.HistoryStatus(1, 2, 3, 4, trouble={"sim": "banned"}),
        served=messages.Served(5, 6, 7, 8),
    )


def measures() -> Measures:
    """A daemon with something of everything."""
    told = status("down")
    venue = messages.VenueStatus(used={"rest": 7}, capacity={"rest": 10}, rests={"rest": 2}, losses=3)
    clock = messages.VenueClock(-1500.0, 20.0, "server_time", -1490.0, 2.0)
    extra = {"venue": venue, "clock": clock, "gaps_by_reason": {"stale": 2}, "qualities": {"ok": 3}}
    feed = msgspec.structs.replace(told.feeds[0], **extra)
    clients = [messages.ClientStatus(n, "same", "", 1, 0, 0, 0, 0.0, lag_rows=n, slow=n > 1) for n in (1, 2)]
    store = messages.StoreStatus(4, 5, 6, 7)
    backfill = {"sim": messages.BackfillStatus(1, 2, 3 * 10**9)}
    history = msgspec.structs.replace(told.history, store=store, backfill=backfill)
    histogram = Histogram()
    histogram.observe_many(np.array([-5, 10_000, 10_001, 3 * 10**11]))
    return Measures(
        msgspec.structs.replace(told, feeds=[feed], clients=clients, history=history),
        {"supervisor": Vitals(1, 2.0, 3, 4, 5, histogram.report())},
        {"sim": histogram.report()},
        {"sim": HistogramReport()},
        histogram.report(),
        {"sampler": {"sim": 4}},
    )


def test_metrics_are_what_prometheus_reads() -> None:
    text = exposition(measures(), 1_800_000_000_500_000_000).decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["marketd_ready",] == 0
    assert samples["marketd_actor_restarts_total", "history"] == 7
    assert samples["marketd_feed_state", "sim", "down"] == 1
    assert samples["marketd_feed_state", "sim", "live"] == 0
    assert samples["marketd_feed_rows_total", "sim", "trade"] == 4
    assert samples["marketd_feed_gaps_total", "sim"] == 2
    assert samples["marketd_feed_last_event_timestamp_seconds", "sim"] == 1
    assert samples["marketd_client_rows_lost_total",] == 8
    assert samples["marketd_history_trouble", "sim"] == 1
    assert samples["marketd_feed_event_lag_seconds_bucket", "sim", "1e-05"] == 2  # what is below 0, and 10 us
    assert samples["marketd_feed_event_lag_seconds_bucket", "sim", "2e-05"] == 3
    assert samples["marketd_feed_event_lag_seconds_bucket", "sim", "100"] == 3
    assert samples["marketd_feed_event_lag_seconds_bucket", "sim", "+Inf"] == 4
    assert samples["marketd_feed_event_lag_seconds_sum", "sim"] == pytest.approx(300.000020001)
    assert samples["marketd_feed_publish_lag_seconds_count", "sim"] == 0
    assert samples["marketd_venue_budget_used", "rest", "sim"] == 7
    assert samples["marketd_venue_bans_total", "rest", "sim"] == 2
    assert samples["marketd_venue_clock_offset_seconds", "sim"] == -1.5
    assert samples["marketd_ring_reader_lag_rows", "sim", "sampler"] == 4
    assert samples["marketd_client_lag_rows", "same"] == 2  # the slowest of that name
    assert samples["marketd_clients_slow",] == 1
    assert all(family.documentation for family in text_string_to_metric_families(text))


def test_documentation_lists_every_metric_and_no_other() -> None:
    page = (PROJECT / "docs" / "http.md").read_text()
    rows = page[page.index("## Metrics") : page.index("## Errors")].splitlines()
    told = {name for row in rows for name in re.findall(r"`(marketd_\w+)`", row.split("|")[1] if "|" in row else "")}
    counters = {"counter": "_total"}
    shown = {
        family.name + counters.get(family.type, "")
        for family in text_string_to_metric_families(exposition(measures(), 1_800_000_000_500_000_000).decode())
    }
    assert told == shown


def test_what_is_not_known_has_no_sample() -> None:
    one = measures()
    feed = msgspec.structs.replace(one.status.feeds[0], clock=messages.VenueClock())
    text = exposition(msgspec.structs.replace(one, status=msgspec.structs.replace(one.status, feeds=[feed]))).decode()
    assert "marketd_venue_clock_offset_seconds{" not in text


def test_totals_keep_what_was_sent_to_clients_that_have_left() -> None:
    class Gone:
        rows_sent, bytes_sent, lost = 1, 20, 3

    served = plus(messages.Served(1, 1, 1, 1), [Gone(), Gone()])
    assert served == messages.Served(3, 3, 41, 7)
    assert add(served, served) == messages.Served(6, 6, 82, 14)


# --- pages of a browser -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "origin", "let_in"),
    [
        ("127.0.0.1:7601", None, True),
        ("[::1]:7601", None, True),
        ("localhost", "http://localhost:3000", True),
        ("10.1.2.3:7601", "http://10.1.2.3:7601", True),
        ("md.example.com", "https://md.example.com", True),
        ("127.0.0.1:7601", "http://127.0.0.1:3000", True),
        ("127.0.0.1:7601", "http://evil.example", False),
        ("127.0.0.1:7601", "http://198.51.100.7", False),
        ("127.0.0.1:7601", "null", False),
        ("evil.example:7601", None, False),
        ("evil.example:7601", "http://evil.example:7601", False),
        ("", None, False),
        ("127.0.0.1:7601", "http://[", False),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_page_of_somebody_else_is_kept_out(kind: str, host: str, origin: str | None, let_in: bool) -> None:
    """A page that a browser on this machine shows, and one whose name was made to mean this machine (DNS rebinding)."""
    told: list[str] = []

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        told.append("app")

    async def send(message: Any) -> None:
        told.append(f"{message['type']} {message.get('status', message.get('code', ''))}")

    async def receive() -> Any:
        raise AssertionError("nobody has to read a request that is refused")

    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin is not None else [])]
    await OriginGuard(app, ["md.example.com"])({"type": kind, "headers": headers}, receive, send)
    refused = {"http": "http.response.start 403", "websocket": "websocket.close 1008"}[kind]
    assert told[0] == ("app" if let_in else refused)

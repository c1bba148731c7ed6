"""`marketd store import`: files of others, as they come and as they should not."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, datetime

import polars as pl
import pytest
from typer.testing import CliRunner

from marketd import calendars
from marketd.cli.app import app
from marketd.errors import InputError
from storage.client import open_storage_client
from storage.columns import choose
from storage.layout import Series
from storage.tables import read_table
from tests.store_rows import MINUTE_NS, T0_NS, bars, files_below, opens

BTC = Series("btc/usdt.perp.binance", "1m")
EURO = Series("6e/usd.cme.ib", "1m")
HEADER = ("timestamp", "open", "high", "low", "close", "volume")


def run(root, *arguments):
    return CliRunner().invoke(app, ["store", *map(str, arguments), "--store", str(root)])


def take(root, file, *arguments, series=BTC):
    return run(root, "import", file, "--as", series.fqme, "--period", series.what, *arguments)


def lines(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def read(root, series=BTC):
    with open_storage_client(root) as client:
        return client.read(series)


def row(minute, **changes):
    """Make one line of CSV, good but for the changes."""
    time = datetime.fromtimestamp(T0_NS // 10**9 + 60 * minute, UTC)
    values = {"timestamp": time.strftime("%Y-%m-%d %H:%M:%S"), "open": 2, "high": 4, "low": 1, "close": 3, "volume": 5}
    return list((values | changes).values())


def text(rows, header=HEADER):
    out = io.StringIO()
    csv.writer(out).writerows([header, *rows])
    return out.getvalue()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "bars.csv"


# --- the truth --------------------------------------------------------------------------------------------------------


def test_the_recorded_minutes_of_a_perpetual_have_no_gap(root, shared_data):
    [report] = lines(take(root, shared_data / "bars" / "btc-perp-1m-20d.csv.gz", "--json"))
    assert (report["rows"], report["added"], report["from"]) == (28_800, 28_800, "2021-12-31T23:01:00Z")
    assert lines(run(root, "gaps", BTC.fqme, "--period", "1m", "--json")) == []
    rows = read(root)
    assert rows.row(0)[1:6] == (46319.0, 46385.0, 46319.0, 46377.0, 2300413.7295)
    assert rows["open_ns"][0] == int(datetime(2021, 12, 31, 23, 1, tzinfo=UTC).timestamp()) * 10**9
    assert run(root, "check").exit_code == 0


def test_the_recorded_minutes_of_a_future_have_the_gaps_of_its_calendar(root, shared_data):
    """Breaks, weekends and the holiday are expected to the minute; each minute without a trade is listed apart."""
    path = shared_data / "bars" / "6e-future-1m-jan2024.csv.gz"
    lines(take(root, path, "--labels", "end", "--calendar", "CME_FX", "--json", series=EURO))
    gaps = lines(run(root, "gaps", EURO.fqme, "--period", "1m", "--json"))
    rows = read(root, EURO)
    span = (rows["open_ns"][0], rows["open_ns"][-1] + MINUTE_NS)
    expected = [(gap["from_ns"], gap["to_ns"]) for gap in gaps if gap["kind"] == "expected"]
    assert expected == calendars.expected_gaps("CME_FX", *span)
    quiet = {minute for gap in gaps if gap["kind"] == "no_trade" for minute in
             range(gap["from_ns"], gap["to_ns"], MINUTE_NS)}  # fmt: skip
    traded = set(rows["open_ns"].to_list())
    open_minutes = {minute for start, end in calendars.sessions("CME_FX", *span) for minute in
                    range(start, end, MINUTE_NS)}  # fmt: skip
    assert quiet == open_minutes - traded
    assert len(quiet) == 423
    assert not [gap for gap in gaps if gap["kind"] == "real"]


def test_a_hole_in_open_hours_is_a_real_gap(root, file):
    file.write_text(text(row(minute) for minute in (*range(100), *range(105, 200), *range(211, 300))))
    lines(take(root, file, "--json"))
    found = lines(run(root, "gaps", BTC.fqme, "--period", "1m", "--json"))
    assert [(gap["rows"], gap["kind"]) for gap in found] == [(5, "no_trade"), (11, "real")]
    lines(run(root, "delete", BTC.fqme, "--period", "1m", "--yes", "--json"))
    lines(take(root, file, "--json", "--quiet-bars", 0))
    found = lines(run(root, "gaps", BTC.fqme, "--period", "1m", "--json"))
    assert [(gap["rows"], gap["kind"]) for gap in found] == [(5, "real"), (11, "real")]


# --- what is understood -----------------------------------------------------------------------------------------------

SECOND = T0_NS // 10**9


@pytest.mark.parametrize(
    ("header", "time"),
    [
        ("timestamp", lambda s: str(s)),
        ("ts", lambda s: str(s * 1000)),
        ("Open Time", lambda s: str(s * 10**6)),
        ("open_ns", lambda s: str(s * 10**9)),
        ("t", lambda s: f"{s}.0"),
        ("date", lambda s: datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")),
        ("datetime", lambda s: datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%d %H:%M")),
        ("time", lambda s: datetime.fromtimestamp(s + 19800, UTC).strftime("%Y-%m-%d %H:%M:%S.000000+05:30")),
        ("timestamp_utc", lambda s: datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")),
    ],
)
def test_times_are_understood_by_name_and_size(root, file, header, time):
    rows = [[time(SECOND + 60 * minute), *row(minute)[1:]] for minute in range(20)]
    file.write_text(text(rows, (header, *HEADER[1:])))
    lines(take(root, file, "--json"))
    assert opens(read(root)) == list(range(20))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_separators_and_names_in_any_case_are_understood(root, file, separator):
    file.write_text("\ufeff" + text((row(n) for n in range(3)), [n.upper() for n in HEADER]).replace(",", separator))
    lines(take(root, file, "--json"))
    assert opens(read(root)) == [0, 1, 2]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet", "arrow", "arrows"])
def test_what_was_exported_comes_back_as_it_was(root, tmp_path, suffix):
    rows = bars([*range(2000), *range(3000, 3100)])
    path = tmp_path / f"any name.{suffix}"
    match suffix:
        case "csv.gz":
            path.write_bytes(gzip.compress(rows.write_csv().encode()))
        case "arrows":
            rows.write_ipc_stream(path)
        case _:
            {"csv": rows.write_csv, "parquet": rows.write_parquet, "arrow": rows.write_ipc}[suffix](path)
    lines(take(root, path, "--json"))
    assert read(root).equals(rows)


def test_typed_times_are_instants(root, tmp_path):
    """R63: a zone in the file changes how a time is shown, not what it is."""
    path = tmp_path / "x.parquet"
    rows = bars(range(20))
    shown = pl.from_epoch(rows["open_ns"], time_unit="ns")
    for column in (
        shown,
        shown.dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Kolkata").dt.cast_time_unit("ms"),
    ):
        rows.drop("open_ns").with_columns(timestamp=column).write_parquet(path)
        lines(take(root, path, "--json", "--on-overlap", "keep"))
        assert read(root).equals(rows)


def test_rows_in_any_order_are_put_in_order(root, file):
    file.write_text(text(row(minute) for minute in (5, 3, 4, 1, 2)))
    [report] = lines(take(root, file, "--json"))
    assert report["in_order"] is False
    assert opens(read(root)) == [1, 2, 3, 4, 5]


def test_columns_can_be_named(root, file):
    file.write_text(text((row(n) for n in range(3)), ("when", "a", "b", "c", "d", "e")))
    result = take(root, file)
    assert result.exit_code == 2
    assert "--columns open_ns=NAME" in result.stderr
    lines(take(root, file, "--columns", "open_ns=when,open=a,high=b", "--columns", "low=c,close=d,volume=e", "--json"))
    assert read(root).row(0)[1:6] == (2, 4, 1, 3, 5)


# --- overlaps ---------------------------------------------------------------------------------------------------------


def test_overlaps_are_refused_until_it_is_said_which_side_wins(root, file):
    file.write_text(text(row(minute) for minute in range(1430, 1450)))
    lines(take(root, file, "--json"))
    file.write_text(text(row(minute, close=3.5) for minute in range(1400, 1460)))
    before = {name: (root / name).read_bytes() for name in files_below(root)}
    result = take(root, file)
    assert result.exit_code == 1
    assert "10 rows of 2024-01-05 are stored already" in result.stderr
    assert "--on-overlap keep" in result.stderr
    assert {name: (root / name).read_bytes() for name in files_below(root)} == before
    [report] = lines(take(root, file, "--on-overlap", "keep", "--json"))
    assert (report["added"], report["replaced"], report["kept"]) == (40, 0, 20)
    assert read(root)["close"].to_list() == [3.5] * 30 + [3.0] * 20 + [3.5] * 10
    [report] = lines(take(root, file, "--on-overlap", "replace", "--json"))
    assert (report["added"], report["replaced"], report["kept"]) == (0, 20, 40)
    assert set(read(root)["close"]) == {3.5}


# --- what is refused --------------------------------------------------------------------------------------------------

GOOD = [row(minute) for minute in range(30)]


def changed(at, **changes):
    return text([*GOOD[:at], row(at, **changes), *GOOD[at + 1 :]])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(7, high=0.5), "bars.csv, line 9: high is below low"),
        (changed(7, open=9), "line 9: open is not between low and high"),
        (changed(7, close="nan"), "line 9: close is no finite number"),
        (changed(7, volume="-1"), "line 9: volume is below 0"),
        (changed(7, close="abc"), "line 9: close is 'abc', and no such number"),
        (changed(7, close=""), "line 9: close is empty"),
        (changed(7, close="1,5"), "line 9: close is '1,5'"),
        (changed(7, timestamp=""), "line 9: timestamp is empty"),
        (changed(7, timestamp="yesterday"), "line 9: timestamp is 'yesterday', not written as '2024-01-05 00:00:00'"),
        (changed(7, timestamp="1704412800"), "line 9: timestamp is '1704412800', not written as"),
        (changed(7, timestamp="2024-01-05 00:07:01"), "line 9: open_ns is no whole multiple of 1m"),
        (changed(7, timestamp="2199-01-05 00:07:00"), "line 9: the bar of 2199-01-05T00:07:00Z is not over yet"),
        (
            changed(7, timestamp="2024-01-05 00:03:00"),
            "2024-01-05T00:03:00Z is there already, in line 5",
        ),
        (text([*GOOD[:7], [*GOOD[7], 1], *GOOD[8:]]), "line 9: 7 values where line 1 names 6 columns"),
        (text([*GOOD[:7], GOOD[7][:3], *GOOD[8:]]), "line 9: low is empty"),
        (text([*GOOD[:7], [1704413220, *GOOD[7][1:]], *GOOD[8:]]), "line 9"),
        (text([[20240105, *GOOD[0][1:]]]), "line 2: timestamp is 20240105: neither seconds"),
        (text([[SECOND, *GOOD[0][1:]], [SECOND * 1000, *GOOD[0][1:]]]), "line 3: timestamp is 1704412800000, and"),
        (text([["01/05/2024 00:00", *GOOD[0][1:]]]), "line 2: timestamp is '01/05/2024 00:00', and no time"),
        (text([row(5 * minute) for minute in range(30)]), "no two rows are 1m apart, most are 5m"),
        (text(GOOD[1:], GOOD[0]), "line 1 must name the columns"),
        (text(GOOD, ("time", "close", "high", "low", "close", "volume")), "two columns 'close'"),
        (text(GOOD, (*HEADER[:5], "Turnover")), "no column is called as volume usually is"),
        (
            text([[*line, 1] for line in GOOD], (*HEADER, "date")),
            "open_ns may be timestamp or date: say which with --columns",
        ),
        (text([]), "has no rows"),
        ("", "has no rows"),
        ("\n\n", "has no rows"),
        (b"\xff\xfe" + text(GOOD).encode("utf-16-le"), "none of CSV, parquet and Arrow"),
        (text(GOOD).encode() + b"2024,\xff\xfe,1,1,1,1\n", "line"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "none of CSV, parquet and Arrow"),
        (gzip.compress(text(GOOD).encode())[:-9], "is damaged gzip"),
        (b"\x1f\x8b what", "is damaged gzip"),
        (b"PAR1 and no more", "is damaged parquet"),
        (b"ARROW1 and no more", "is damaged Arrow"),
        (b"\xff\xff\xff\xff\x10", "is damaged Arrow"),
    ],
)
def test_a_file_that_is_wrong_is_refused_whole_with_its_first_wrong_row(root, file, content, words):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = take(root, file)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not root.exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda rows: rows.with_columns(close=pl.col("close").cast(pl.String).replace("103.5", "x")), "is 'x'"),
        (lambda rows: rows.with_columns(close=pl.lit(True)), "close is of type Boolean, and no numbers"),
        (lambda rows: rows.with_columns(open_ns=pl.lit([1])), "open_ns of type List(Int64) holds no times"),
        (
            lambda rows: rows.with_columns(close=pl.when(pl.col("close") > 103).then(None).otherwise(1.0)),
            "row 18: close is",
        ),
        (lambda rows: rows.with_columns(state=pl.lit(1)), "row 1: the bar is not over yet"),
        (lambda rows: rows.clear(), "has no rows"),
    ],
)
def test_a_typed_file_that_is_wrong_is_refused_whole(root, tmp_path, make, words):
    path = tmp_path / "x.parquet"
    make(bars(range(30))).write_parquet(path)
    result = take(root, path)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert not root.exists()


def test_a_damaged_page_of_parquet_is_found(root, tmp_path):
    path = tmp_path / "x.parquet"
    bars(range(3000)).write_parquet(path)
    path.write_bytes(path.read_bytes()[:5000] + b"\0" * 400 + path.read_bytes()[5400:])
    result = take(root, path)
    assert result.exit_code == 2
    assert "is damaged parquet" in result.stderr


def test_a_file_that_is_too_large_is_refused_before_it_is_read_whole(tmp_path):
    packed = tmp_path / "x.csv.gz"
    packed.write_bytes(gzip.compress(text(GOOD).encode() + b" " * 100_000))
    plain = tmp_path / "x.csv"
    plain.write_text(text(GOOD) + " " * 100_000)
    for path in (packed, plain):
        with pytest.raises(InputError, match="more than 50,000 bytes of text: split it"):
            read_table(path, text_bytes_max=50_000)
    for path in (tmp_path / "x.parquet", tmp_path / "x.arrow"):
        (bars(range(30)).write_parquet if path.suffix == ".parquet" else bars(range(30)).write_ipc)(path)
        with pytest.raises(InputError, match="has 30 rows, more than 29: split it"):
            read_table(path, rows_max=29)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--columns", "open_ns"), "OURS=THEIRS is meant"),
        (("--columns", "vwap=close"), "there is no column 'vwap' of bars"),
        (("--columns", "close=last"), "the file has no column 'last': it has timestamp, open"),
        (("--calendar", "CME_FC"), "did you mean 'CME_FX'"),
    ],
)
def test_wrong_options_are_refused(root, file, arguments, words):
    file.write_text(text(GOOD))
    result = take(root, file, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not root.exists()


def test_what_the_owner_says_of_columns_goes_before_what_they_are_called():
    names = ["time", "o", "h", "l", "close", "adj_close", "vol"]
    assert choose(names, {"close": "adj_close"})["close"] == "adj_close"
    assert choose(names, {})["close"] == "close"
    with pytest.raises(InputError, match="volume may be vol or v"):
        choose([*names, "v"], {})

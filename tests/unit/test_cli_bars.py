"""`marketd bars`: what it prints and writes, and what it refuses before it asks anybody."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import polars
import pytest
from pyarrow import ipc, parquet
from typer.testing import CliRunner, Result

from marketd.cli.app import app
from marketd.cli.bar_files import Form, encode, save
from marketd.client.bars import COLUMNS, BarSeries, series_of
from marketd.model import Flag
from marketd.ring.steps import BarState
from marketd.rpc import messages
from tests.conftest import PROJECT
from tests.fake_server import MINUTE_NS, NAMES, FakeProtocol, FakeServer, FakeSteps

BTC = NAMES[1]


def _answer() -> messages.BarsResult:
    """Four minutes: one traded, one flat, one of which nobody knows anything, and one that is forming."""
    feed = FakeSteps()
    unknown = dict.fromkeys(("open", "high", "low", "close"), math.nan)
    rows = [
        feed.row(0, "bar.1m", 1, BarState.CLOSED, open_ns=0, open=0.1, high=1e22, low=1e-8, close=30123.5, volume=1.5),
        feed.row(0, "bar.1m", 1, BarState.REVISED, open_ns=MINUTE_NS, flags=Flag.SYNTHETIC, volume=0),
        feed.row(0, "bar.1m", 1, BarState.MISSING, open_ns=2 * MINUTE_NS, **unknown, volume=0),
        feed.row(0, "bar.1m", 1, BarState.FORMING, open_ns=3 * MINUTE_NS, trade_count=12345),
    ]
    missing = [(2 * MINUTE_NS, 3 * MINUTE_NS)]
    return messages.BarsResult(BTC, "fake", "1m", MINUTE_NS, 3 * MINUTE_NS, missing, False, b"".join(rows))


@pytest.fixture
def series() -> BarSeries:
    return series_of(_answer())


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        running.world.bars[BTC, "1m"] = _answer()
        yield running


def _bars(server: FakeServer, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["bars", BTC, "--address", server.address, *arguments])


# --- what is written --------------------------------------------------------------------------------------------------


CSV = """\
open_ns,open,high,low,close,volume,trade_count,state,provenance
0,0.1,1e+22,1e-08,30123.5,1.5,0,closed,observed
60000000000,0.0,0.0,0.0,0.0,0.0,0,revised,synthetic
120000000000,,,,,0.0,0,missing,observed
180000000000,0.0,0.0,0.0,0.0,0.0,12345,forming,observed
"""


def test_csv_is_exact_and_empty_where_nobody_knows(series: BarSeries) -> None:
    assert encode(series, Form.csv).decode() == CSV


def test_every_format_says_the_same(series: BarSeries) -> None:
    expected = list(csv.DictReader(CSV.splitlines()))
    found = {
        "json": json.loads(encode(series, Form.json)),
        "jsonl": [json.loads(line) for line in encode(series, Form.jsonl).splitlines()],
        "parquet": parquet.read_table(io.BytesIO(encode(series, Form.parquet))).to_pylist(),
        "arrow": ipc.open_file(io.BytesIO(encode(series, Form.arrow))).read_all().to_pylist(),
        "polars": polars.read_parquet(io.BytesIO(encode(series, Form.parquet))).to_dicts(),
    }
    for name, rows in found.items():
        assert [list(row) for row in rows] == [list(COLUMNS)] * 4, name
        assert [{key: _csv_text(value) for key, value in row.items()} for row in rows] == expected, name


def _csv_text(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else repr(value)


@pytest.mark.parametrize("form", [Form.parquet, Form.arrow])
def test_columnar_files_say_their_units(series: BarSeries, form: Form) -> None:
    file = io.BytesIO(encode(series, form))
    schema = parquet.read_schema(file) if form is Form.parquet else ipc.open_file(file).schema
    assert str(schema.field("open_ns").type) == "int64"
    assert schema.field("open_ns").metadata[b"unit"] == b"ns"
    assert schema.metadata[b"fqme"] == BTC.encode()


def test_nothing_is_a_file_too(series: BarSeries) -> None:
    empty = series_of(msgspec.structs.replace(_answer(), data=b""))
    assert encode(empty, Form.csv).decode() == CSV.splitlines()[0] + "\n"
    assert encode(empty, Form.json) == b"[]\n"
    assert encode(empty, Form.jsonl) == b""
    assert parquet.read_table(io.BytesIO(encode(empty, Form.parquet))).num_rows == 0


def test_a_file_is_replaced_whole_and_a_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "x.csv", tmp_path / "link.csv"
    save(target, b"old")
    link.symlink_to(target)
    save(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "x.csv"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    save(pipe, b"rows")
    assert reader.communicate(timeout=10)[0] == b"rows"
    assert pipe.is_fifo()


def test_a_file_that_can_not_be_written_is_one_sentence_and_leaves_the_old_one(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = _bars(server, "-o", str(tmp_path / "no" / "x.csv"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"can't write {tmp_path}/no/x.csv: No such file or directory" in result.stderr
    (tmp_path / "x.csv").write_text("old")

    def full(_path: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert _bars(server, "-o", str(tmp_path / "x.csv")).exit_code == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


# --- what is printed --------------------------------------------------------------------------------------------------


def test_the_table_has_the_instruments_digits(server: FakeServer) -> None:
    result = _bars(server)
    assert result.exit_code == 0
    head, closed, flat, missing, forming, caption = result.stdout.splitlines()
    assert head.split() == ["opens", "open", "high", "low", "close", "volume", "trades", "state"]
    assert closed.split()[:3] == ["1970-01-01", "00:00:00", "0.10"]
    assert closed.split()[-4:] == ["30123.50", "1.50000000", "0", "closed"]
    assert flat.split()[-2:] == ["revised", "synthetic"]
    assert missing.split()[2:] == ["-", "-", "-", "-", "0.00000000", "0", "missing"]
    assert forming.split()[-2:] == ["12,345", "forming"]
    assert caption.strip() == f"{BTC} 1m, 4 bars, complete until 1970-01-01 00:03:00 (UTC)"
    assert result.stderr == "marketd: missing 1970-01-01 00:02:00 to 1970-01-01 00:03:00 (1 bar)\n"


def test_lines_of_json_are_for_pipes(server: FakeServer) -> None:
    result = _bars(server, "--json", "--last", "2")
    assert [json.loads(line)["state"] for line in result.stdout.splitlines()] == ["missing", "forming"]


@pytest.mark.parametrize("name", ["x.csv", "x.JSON", "x.jsonl", "x.parquet", "x.arrow"])
def test_a_files_name_says_its_format(server: FakeServer, tmp_path: Path, name: str, series: BarSeries) -> None:
    result = _bars(server, "-o", str(tmp_path / name))
    assert (result.exit_code, result.stdout) == (0, "")
    assert (tmp_path / name).read_bytes() == encode(series, Form(name.partition(".")[2].lower()))


def test_standard_output_takes_any_format(server: FakeServer) -> None:
    assert _bars(server, "-o", "-", "--format", "csv").stdout == CSV
    assert _bars(server, "--format", "parquet").stdout_bytes[:4] == b"PAR1"


@pytest.mark.parametrize(
    ("arguments", "params"),
    [
        ((), messages.BarsParams(BTC, limit=100)),
        (("--json",), messages.BarsParams(BTC, limit=100)),
        (("--last", "7"), messages.BarsParams(BTC, limit=7)),
        (("--first", "7"), messages.BarsParams(BTC, limit=7, order="oldest")),
        (("--format", "csv"), messages.BarsParams(BTC)),
        (("--from", "1970-01-01T00:01"), messages.BarsParams(BTC, start_ns=MINUTE_NS)),
        (("--to", "1970-01-01T01:01+01:00", "--last", "3"), messages.BarsParams(BTC, end_ns=MINUTE_NS, limit=3)),
    ],
)
def test_what_is_asked_for(server: FakeServer, arguments: tuple[str, ...], params: messages.BarsParams) -> None:
    assert _bars(server, *arguments).exit_code == 0
    assert [asked for method, asked in server.world.requests if method == "bars"] == [params]


def test_many_missing_ranges_are_counted_and_those_beyond_a_limit_are_not_told(server: FakeServer) -> None:
    missing = [(n * MINUTE_NS, (n + 2) * MINUTE_NS) for n in range(-60, 0, 3)]
    series = msgspec.structs.replace(_answer(), missing=[*missing, (2 * MINUTE_NS, 3 * MINUTE_NS)])
    server.world.bars[BTC, "1m"] = series
    told = _bars(server, "--format", "csv").stderr.splitlines()
    assert told == ["marketd: missing 1970-01-01 00:02:00 to 1970-01-01 00:03:00 (1 bar)"], "nothing is before 1970"
    later = [(one + 100 * MINUTE_NS, other + 100 * MINUTE_NS) for one, other in missing]
    server.world.bars[BTC, "1m"] = msgspec.structs.replace(series, missing=later, complete_until_ns=200 * MINUTE_NS)
    told = _bars(server, "--format", "csv").stderr.splitlines()
    assert told[0] == "marketd: missing 1970-01-01 00:40:00 to 1970-01-01 00:42:00 (2 bars)"
    assert told[3:] == ["marketd: 17 more ranges are missing"]
    assert _bars(server, "--first", "2").stderr == ""


def test_bars_that_one_answer_has_no_room_for_come_with_others(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _bars(server, "--format", "csv")
    assert len(whole.stdout.splitlines()) == 5
    answer = FakeProtocol._bars

    def short(self: FakeProtocol, params: messages.BarsParams) -> messages.BarsResult:
        return answer(self, msgspec.structs.replace(params, limit=min(params.limit, 2)))

    monkeypatch.setattr(FakeProtocol, "_bars", short)
    for arguments in (["--format", "csv"], ["--format", "csv", "--from", "1970-01-01"]):
        cut = _bars(server, *arguments)
        assert (cut.stdout, cut.stderr) == (whole.stdout, whole.stderr)
    assert len(_bars(server, "--last", "2", "--format", "csv").stdout.splitlines()) == 3


def test_an_answer_that_is_not_all_says_so(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars of activity, of which several may begin at one time: which ones came before can't be asked."""
    cut = msgspec.structs.replace(_answer(), limited=True, period_ns=0, missing=[])
    monkeypatch.setattr("tests.fake_server.FakeProtocol._bars", lambda _self, _params: cut)
    assert "these are the newest 4 bars, and there are more" in _bars(server, "--format", "csv").stderr
    assert "there are more" not in _bars(server, "--last", "4").stderr


def test_no_bars_at_all_are_no_error(server: FakeServer) -> None:
    result = _bars(server, "--from", "2030-01-01", "--json")
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"there are no 1m bars of {BTC} in this range" in result.stderr


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--first", "1", "--last", "1"), "--first and --last exclude each other"),
        (("--from", "noon"), "--from: 'noon' is no time"),
        (("--to", "1764072000000"), "--to: '1764072000000' is no time"),
        (
            ("-o", "bars.xls"),
            "-o bars.xls: its name ends in none of .csv, .json, .jsonl, .parquet, .arrow; say --format",
        ),
        (("--from", "2026-11-25", "--to", "2026-11-24"), "--to 2026-11-24 is before --from 2026-11-25"),
        (("-o", "-"), "say --format"),
        (("--json", "-o", "x.json"), "--json prints lines"),
    ],
)
def test_wrong_usage_exits_with_2_and_asks_nobody(
    server: FakeServer, arguments: tuple[str, ...], sentence: str
) -> None:
    result = _bars(server, *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert server.connections == 0


def test_what_the_daemon_refuses_exits_with_1(server: FakeServer) -> None:
    body = messages.ErrorBody(-32602, "bars: there are none of '7m'", {"code": "invalid_params"})
    server.world.refuse["bars"] = body
    result = _bars(server, "--period", "7m")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "marketd: bars: there are none of '7m' (invalid_params)\n"


def test_a_missing_package_is_named_and_nothing_is_written(server: FakeServer, tmp_path: Path) -> None:
    script = """
import sys
for name in ("polars", "pyarrow"):
    sys.modules[name] = None
from marketd.cli.app import app
app(sys.argv[1:])
"""
    path = tmp_path / "x.parquet"
    command = [sys.executable, "-c", script, "bars", BTC, "--address", server.address, "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=60)
    assert done.returncode == 1
    assert "pip install pyarrow" in done.stderr
    assert "Traceback" not in done.stderr
    assert not path.exists()

"""`marketd store`: what its commands say and do, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys

import polars as pl
import pytest
from typer.testing import CliRunner

from marketd.cli.app import app
from storage.client import open_storage_client
from storage.coverage import State
from storage.layout import Series
from storage.schema import Provenance
from tests.conftest import PROJECT
from tests.store_rows import DAY_NS, MINUTE_NS, T0_NS, bars, files_below, opens, trades

BTC = Series("btc/usdt.spot.binance", "1m")
COMMANDS = ("ls", "gaps", "check", "repair", "delete", "trim", "export", "import")


@pytest.fixture
def root(tmp_path):
    """A store of 1 m bars of two days with a gap of each kind, and of two trades."""
    with open_storage_client(tmp_path / "store") as client:
        with client.writer(BTC) as writer:
            covers = [(T0_NS, T0_NS + 30 * MINUTE_NS), (T0_NS + 50 * MINUTE_NS, T0_NS + 2 * DAY_NS)]
            writer.write(bars([*range(20), *range(23, 30), *range(50, 60), *range(70, 2880)]), covers=covers)
            writer.mark([(T0_NS + 60 * MINUTE_NS, T0_NS + 70 * MINUTE_NS)], State.EMPTY, Provenance.BACKFILLED)
        with client.writer(Series(BTC.fqme, "trade")) as writer:
            writer.write(trades((0, 1, 1.0), (7, 2, 1.5)))
    return tmp_path / "store"


def run(root, *arguments, **options):
    return CliRunner().invoke(app, ["store", *arguments, "--store", str(root)], **options)


def lines(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    result = CliRunner().invoke(app, ["store", command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"Example: marketd store {command}" in result.output.replace("`", "")
    assert "--json" in result.output


def test_help_needs_no_package_of_the_daemon_and_the_commands_say_what_is_missing(tmp_path):
    script = """
import sys
for name in ("trio", "polars", "pyarrow", "structlog"):
    sys.modules[name] = None
from marketd.cli.app import app
app(sys.argv[1:])
"""
    for arguments, code in ((["store", "gaps", "--help"], 0), (["store", "ls", "--store", str(tmp_path / "x")], 1)):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=PROJECT)
        assert done.returncode == code
    assert "the daemon's packages are not installed: there is no module" in done.stderr


def test_what_is_stored_is_listed(root):
    first, second = lines(run(root, "ls", "--json"))
    assert first == {"fqme": BTC.fqme, "period": "1m", "rows": 2847, "from": "2024-01-05T00:00:00Z",
                     "to": "2024-01-07T00:00:00Z", "from_ns": T0_NS, "to_ns": T0_NS + 2 * DAY_NS, "files": 2,
                     "bytes": first["bytes"], "calendar": "24/7"}  # fmt: skip
    assert (second["period"], second["rows"], second["to"]) == ("trade", 2, "2024-01-05T00:00:00.000000008Z")
    assert lines(run(root, "ls", "*.kraken", "--json")) == []
    text = run(root, "ls", env={"COLUMNS": "80"}).output
    assert "btc/usdt.spot.binance" in text
    assert "2,847" in text


def test_gaps_are_listed_with_their_kind(root):
    found = lines(run(root, "gaps", BTC.fqme, "--period", "1m", "--json"))
    assert [(gap["from"][11:16], gap["to"][11:16], gap["rows"], gap["kind"]) for gap in found] == [
        ("00:20", "00:23", 3, "no_trade"),
        ("00:30", "00:50", 20, "real"),
        ("01:00", "01:10", 10, "expected"),
    ]
    real = run(root, "gaps", BTC.fqme, "--period", "1m", "--kind", "real", "--json", "--to", "2024-01-05T00:40")
    assert lines(real) == [{"from": "2024-01-05T00:30:00Z", "to": "2024-01-05T00:40:00Z",
                            "from_ns": T0_NS + 30 * MINUTE_NS, "to_ns": T0_NS + 40 * MINUTE_NS, "rows": 10,
                            "kind": "real"}]  # fmt: skip
    text = run(root, "gaps", BTC.fqme, "--period", "1m").output
    assert "1 real (20 bars), 1 expected (10 bars), 1 no_trade (3 bars)" in text
    empty = run(root, "gaps", BTC.fqme, "--period", "1m", "--from", "2024-01-05T02:00", "--json")
    assert lines(empty) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("gaps", "btcusdt", "--period", "1m"), 2, "is no instrument name"),
        (("gaps", BTC.fqme, "--period", "1y"), 2, "is no period"),
        (("gaps", BTC.fqme, "--period", "trade"), 2, "for bars"),
        (("gaps", BTC.fqme, "--period", "1m", "--from", "yesterday"), 2, "--from: 'yesterday' is no time"),
        (("gaps", BTC.fqme, "--period", "1m", "--to", "2262-01-01"), 2, "--to: 2262-01-01 is not in the years"),
        (("trim", BTC.fqme, "--period", "1m", "--from", "1969-12-31"), 2, "--from: 1969-12-31 is not in the years"),
        (("gaps", BTC.fqme, "--period", "1m", "--calendar", "CME_FC"), 2, "did you mean 'CME_FX'"),
        (("gaps", BTC.fqme, "--period", "5m"), 1, "nothing is stored of btc/usdt.spot.binance 5m"),
        (("trim", BTC.fqme, "--period", "1m"), 2, "--from or --to is needed"),
        (("trim", BTC.fqme, "--period", "1m", "--to", "2024-01-06"), 2, "Nothing was done: say --yes"),
        (
            ("delete", BTC.fqme, "--period", "1m"),
            2,
            "2,847 rows from 2024-01-05T00:00:00Z to 2024-01-07T00:00:00Z, 2 f",
        ),
        (("delete", "eth/usdt.spot.binance", "--period", "all", "--yes"), 1, "nothing is stored"),
        (("export", BTC.fqme, "x.xlsx", "--period", "1m"), 2, "--format csv, parquet or arrow is needed"),
    ],
)
def test_what_can_not_be_done_is_one_sentence_and_changes_nothing(root, arguments, code, words):
    """R76 too: asking for what is not there makes no file."""
    before = files_below(root)
    result = run(root, *arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert files_below(root) == before


def test_trimming_and_deleting_remove_what_they_say(root):
    result = run(root, "trim", BTC.fqme, "--period", "1m", "--from", "2024-01-05T12:00", "--yes", "--json")
    assert [line["rows"] for line in lines(result)] == [2880 - 720]
    with open_storage_client(root) as client:
        assert len(client.read(BTC)) == 687
    assert lines(run(root, "delete", BTC.fqme, "--period", "1m", "--yes", "--json"))[0]["rows"] == 687
    assert [line["period"] for line in lines(run(root, "ls", "--json"))] == ["trade"]
    assert run(root, "delete", BTC.fqme, "--period", "all", "--yes").exit_code == 0
    assert files_below(root) == []


def test_damage_is_found_and_repaired(root):
    path = root / "binance" / "btc%2Fusdt.spot.binance" / "1m" / "2024-01-06.parquet"
    assert run(root, "check").output == "2 series, nothing wrong\n"
    path.write_bytes(path.read_bytes()[:5000])
    stranger = path.with_name("notes.txt")
    stranger.write_text("mine")
    before = files_below(root)
    result = run(root, "check", "--json")
    assert result.exit_code == 1
    assert [(line["file"], line["repairable"]) for line in map(json.loads, result.stdout.splitlines())] == [
        (str(path), True), (str(path.parent / "ledger.json"), True), (str(stranger), False)]  # fmt: skip
    assert files_below(root) == before
    result = run(root, "repair", "--json")
    assert result.exit_code == 1
    assert [line["repaired"] for line in map(json.loads, result.stdout.splitlines())] == [True, True, False]
    assert "is damaged" in result.stderr
    stranger.unlink()
    assert run(root, "check").exit_code == 0
    gaps = lines(run(root, "gaps", BTC.fqme, "--period", "1m", "--kind", "real", "--to", "2024-01-07", "--json"))
    assert gaps[-1]["from"] == "2024-01-06T00:00:00Z"
    assert gaps[-1]["rows"] == 1440


def test_a_series_that_is_written_to_is_left_and_the_others_are_repaired(root):
    folder = root / "binance" / "btc%2Fusdt.spot.binance"
    for path in (folder / "1m" / "2024-01-06.parquet", folder / "trade" / "2024-01-05.parquet"):
        path.write_bytes(path.read_bytes()[:-1])
    with open_storage_client(root) as client, client.writer(Series(BTC.fqme, "trade")) as writer:
        writer.mark([(T0_NS, T0_NS + 1)], State.EMPTY, Provenance.BACKFILLED)
        (folder / "trade" / "2024-01-07.parquet").write_text("no parquet")
        result = run(root, "repair", "--json")
        assert run(root, "trim", BTC.fqme, "--period", "trade", "--to", "2024-01-06", "--yes").exit_code == 1
    assert result.exit_code == 1
    assert "another writer has" in result.stderr
    repaired = {(line["period"], line["repaired"]) for line in map(json.loads, result.stdout.splitlines())}
    assert repaired == {("1m", True), ("trade", False)}
    assert run(root, "repair").exit_code == 0
    assert run(root, "check").exit_code == 0


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow"])
def test_what_is_exported_is_what_is_stored(root, tmp_path, suffix):
    file = tmp_path / f"out.{suffix}"
    result = run(root, "export", BTC.fqme, str(file), "--period", "1m", "--from", "2024-01-05T23:00", "--json")
    assert lines(result)[0]["rows"] == 1500
    read = {"csv": pl.read_csv, "parquet": pl.read_parquet, "arrow": pl.read_ipc}[suffix]
    with open_storage_client(root) as client:
        stored = client.read(BTC, T0_NS + 23 * 60 * MINUTE_NS)
    assert read(file).cast(dict(stored.schema)).equals(stored)
    assert run(root, "export", BTC.fqme, str(file), "--period", "1m").exit_code == 2
    assert (
        run(root, "export", BTC.fqme, str(file), "--period", "1m", "--to", "2020-01-01", "--overwrite").exit_code == 0
    )
    assert read(file).is_empty()
    assert read(file).columns == stored.columns


def test_an_export_goes_into_a_pipe(root):
    command = [sys.executable, "-m", "marketd", "store", "export", BTC.fqme, "-", "--format", "csv", "--period", "1m",
               "--store", str(root)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, cwd=PROJECT, check=True)
    assert opens(pl.read_csv(done.stdout))[:22] == [*range(20), 23, 24]


def test_the_store_is_the_instances_own_where_nothing_else_is_said(root, tmp_path):
    state = tmp_path / "state" / "marketd" / "second"
    state.mkdir(parents=True)
    root.rename(state / "store")
    env = {"XDG_STATE_HOME": str(tmp_path / "state"), "MARKETD_INSTANCE": "second"}
    result = CliRunner().invoke(app, ["store", "ls", "--json"], env=env)
    assert len(lines(result)) == 2


def test_bars_of_the_first_years_are_found_too(tmp_path):
    """Their nanoseconds are as many as today's microseconds, and must not be taken for them."""
    first_ns = 400 * DAY_NS
    days = Series("spx/usd.index.old", "1d")
    with open_storage_client(tmp_path) as client, client.writer(days) as writer:
        writer.write(bars([0, 1, 3], step_ns=DAY_NS).with_columns(pl.col("open_ns") - T0_NS + first_ns))
    [gap] = lines(run(tmp_path, "gaps", days.fqme, "--period", "1d", "--json"))
    assert (gap["from"], gap["rows"]) == ("1971-02-07T00:00:00Z", 1)
    file = tmp_path / "x.csv"
    assert lines(run(tmp_path, "export", days.fqme, str(file), "--period", "1d", "--json"))[0]["rows"] == 3

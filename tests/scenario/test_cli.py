"""The commands against real daemons."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from marketd.paths import Paths
from tests.conftest import PROJECT
from tests.scenario.daemon import running, wait_for

SIM = '[feeds.sim]\nbackend = "sim"\nrate_hz = 500\n'


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with running(tmp_path_factory.mktemp("cli"), SIM) as found:
        yield found


def _environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}


def _start(*arguments: str, tmp_path: Path, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "marketd", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(tmp_path),
        cwd=tmp_path,
        **options,
    )


def _run(*arguments: str, tmp_path: Path, code: int = 0) -> str:
    process = _start(*arguments, tmp_path=tmp_path)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    return output


def _lines(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def _daemon_of(process: subprocess.Popen) -> psutil.Process:
    [child] = wait_for(lambda: psutil.Process(process.pid).children(), 30, "the demo's daemon")
    return child


# --- client commands --------------------------------------------------------------------------------------------------


def test_status_as_json_is_the_daemons_status(daemon, tmp_path):
    status = json.loads(_run("status", "--json", "--address", daemon.address, tmp_path=tmp_path))
    assert status["instance"] == daemon.instance
    assert {actor["name"] for actor in status["actors"]} == {"supervisor", "feed.sim", "gateway"}
    assert "feed.sim" in _run("status", "--address", daemon.address, tmp_path=tmp_path)


def test_the_address_can_come_from_the_environment(daemon, tmp_path, monkeypatch):
    monkeypatch.setenv("MARKETD_ADDRESS", f"unix:{daemon.paths.socket}")
    assert json.loads(_run("status", "--json", tmp_path=tmp_path))["instance"] == daemon.instance


def test_watch_prints_each_row_once_and_as_many_as_wanted(daemon, tmp_path):
    rows = _lines(_run("watch", "*", "--json", "--count", "300", "--address", daemon.address, tmp_path=tmp_path))
    assert len(rows) == 300
    assert {row["kind"] for row in rows} == {"trade", "quote"}
    cursors = [row["cursor"] for row in rows]
    assert cursors == list(range(cursors[0], cursors[0] + 300)), "the sim's rows are all trades and quotes"
    assert all(row["fqme"].endswith(".sim") and row["event_ns"] <= row["received_ns"] for row in rows)


def test_watch_keeps_to_kinds_and_patterns(daemon, tmp_path):
    arguments = ("--kinds", "trade", "--json", "--count", "5", "--address", daemon.address)
    [name] = {row["fqme"] for row in _lines(_run("watch", "btc/*", *arguments, tmp_path=tmp_path))}
    assert name.startswith("btc/")


def test_watch_without_a_terminal_prints_text_until_its_time_is_over(daemon, tmp_path):
    output = _run("watch", "*", "--seconds", "1", "--address", daemon.address, tmp_path=tmp_path)
    assert len(output.splitlines()) > 5
    assert "\x1b" not in output


def test_watch_ends_with_130_by_ctrl_c_and_with_0_when_its_reader_has_enough(daemon, tmp_path):
    process = _start("watch", "*", "--json", "--address", daemon.address, tmp_path=tmp_path)
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")
    process = _start("watch", "*", "--json", "--address", daemon.address, tmp_path=tmp_path)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == ""


def test_watch_of_a_name_that_is_none_exits_with_1(daemon, tmp_path):
    _run("watch", "no/such.spot.sim", "--address", daemon.address, tmp_path=tmp_path, code=1)


def test_search_finds_instruments(daemon, tmp_path):
    hits = _lines(_run("search", "btc", "--json", "--address", daemon.address, tmp_path=tmp_path))
    assert hits
    assert all("btc" in hit["fqme"] for hit in hits)
    assert hits[0]["fqme"] in _run("search", "btc", "--limit", "1", "--address", daemon.address, tmp_path=tmp_path)
    assert _run("search", "nosuchthing", "--address", daemon.address, tmp_path=tmp_path) == ""


def test_what_was_recorded_can_be_replayed(daemon, tmp_path):
    result = json.loads(
        _run(
            *("record", "sim", "--name", "one", "--seconds", "1", "--json", "--address", daemon.address),
            tmp_path=tmp_path,
        )
    )
    assert Path(result["path"]).is_relative_to(daemon.paths.recordings)
    assert result["messages"] > 0
    arguments = ("--speed", "max", "--exit-when-done", "--json", "--address", "127.0.0.1:0")
    [feed] = json.loads(_run("replay", result["path"], *arguments, tmp_path=tmp_path))["feeds"]
    assert feed["feed"] == "one"
    assert sum(feed["messages"]["used"].values()) + sum(feed["messages"]["unused"].values()) == result["messages"]
    assert (feed["messages"]["bad"], feed["messages"]["unknown"]) == (0, 0)
    assert feed["rows"]["quote"] > 0
    assert not list((tmp_path / "run").rglob("daemon.lock")), "a replay leaves no files behind"


# --- demo -------------------------------------------------------------------------------------------------------------


def test_demo_prints_ticks_and_ends_with_its_daemon(tmp_path):
    process = _start("demo", "--seconds", "2", tmp_path=tmp_path)
    daemon = _daemon_of(process)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert len(output.splitlines()) >= 5
    assert ".sim" in output
    assert "listening at 127.0.0.1:" in errors
    assert not daemon.is_running()
    assert {path.name for path in (tmp_path / ".marketd").iterdir()} >= {"demo.log", "demo.toml"}


def test_demo_ends_with_0_when_its_reader_has_enough(tmp_path):
    process = _start("demo", tmp_path=tmp_path)
    assert process.stdout.readline()
    daemon = _daemon_of(process)
    process.stdout.close()
    assert process.wait(30) == 0
    assert not daemon.is_running()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_demo_stops_its_daemon_when_it_is_told_to_end(tmp_path, number):
    process = _start("demo", tmp_path=tmp_path)
    assert process.stdout.readline()
    daemon = _daemon_of(process)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert not daemon.is_running()


def test_a_killed_demo_leaves_no_daemon_and_starts_again_in_its_folder(tmp_path):
    process = _start("demo", tmp_path=tmp_path)
    assert process.stdout.readline()
    daemon = _daemon_of(process)
    process.kill()
    process.communicate()
    daemon.wait(10)
    assert ".sim" in _run("demo", "--seconds", "1", tmp_path=tmp_path)


def test_a_demo_whose_daemon_dies_says_so_and_the_next_one_sweeps_up_after_it(tmp_path):
    process = _start("demo", tmp_path=tmp_path)
    assert process.stdout.readline()
    _daemon_of(process).kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "marketd: the daemon has ended" in errors
    segments = Paths.for_instance("demo", tmp_path / ".marketd").segments
    assert segments(), "a killed daemon can't take its segments along"
    _run("demo", "--seconds", "0.5", tmp_path=tmp_path)
    assert segments() == []


def test_a_second_demo_in_the_same_folder_is_refused_and_harms_nobody(tmp_path):
    first = _start("demo", tmp_path=tmp_path)
    assert first.stdout.readline()
    second = _start("demo", tmp_path=tmp_path)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "is running already" in errors
    assert first.stdout.readline()
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert first.returncode == 0

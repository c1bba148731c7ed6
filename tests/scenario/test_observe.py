"""What an operator can see of a real daemon on the test venue: metrics, clocks, reasons, status, and the archive."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from marketd.client import connect
from marketd.client.sync import Client
from marketd.rpc.messages import StatusResult, VenueClock, WhyResult
from tests.scenario.daemon import Daemon, running, wait_for
from tests.scenario.venue import VenueProcess, venue_running

SECRETS = ("FAKE-PASS-WORD-1", "FAKE-API-KEY-22", "FAKE-TOKEN-333", "FAKE-ENV-4444")
BTC, ETH = "btc/usdt.spot.binance", "eth/usdt.spot.binance"


@pytest.fixture(scope="module")
def venue() -> Iterator[VenueProcess]:
    with venue_running(instruments=3, rate=20, history_days=1) as process:
        yield process


@pytest.fixture(scope="module")
def daemon(venue: VenueProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    secret = f"http://somebody:{SECRETS[0]}@127.0.0.1:9/x"
    config = "\n".join(
        [
            venue.feed("binance", instruments=[BTC]),
            f'[feeds.away]\nbackend = "kucoin"\nrest_url = "{secret}"\nws_url = "ws://127.0.0.1:9/?api_key={SECRETS[1]}"',
            '[gateway]\nlisten = ["127.0.0.1:0"]\nhttp = ["127.0.0.1:0"]',
            '[bars]\nperiods = ["1s", "1m"]',
            '[history]\nperiods = ["1m"]\ndepth_days = 0.02',
        ]
    )
    os.environ["MARKETD_TEST_TOKEN"], os.environ["SOME_OTHER_THING"] = SECRETS[2], SECRETS[3]
    try:
        with running(tmp_path_factory.mktemp("observe"), config, wait=False) as process:
            # One feed's venue is never reached, so it is never ready.
            process.wait_status(lambda status: any(feed.name == "binance" and feed.cursor for feed in status.feeds))
            yield process
    finally:
        del os.environ["MARKETD_TEST_TOKEN"], os.environ["SOME_OTHER_THING"]


@pytest.fixture
def md(daemon: Daemon) -> Iterator[Client]:
    with connect(daemon.address, client="observer") as client:
        yield client


def samples(daemon: Daemon) -> dict[str, float]:
    """All samples by name and labels, as Prometheus writes them."""
    base = next(address for address in daemon.addresses if address.startswith("http://"))
    with urllib.request.urlopen(f"{base}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def why(md: Client, name: str, codes: set[str], timeout_s: float = 30) -> WhyResult:
    """Ask until all of these reasons are told."""

    def told() -> WhyResult | None:
        found = md.why(name)
        return found if codes <= {reason.code for reason in found.reasons} else None

    return wait_for(told, timeout_s, f"{codes} to be why", every_s=0.1)  # type: ignore[return-value]


def cli(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "marketd", *arguments, "--address", daemon.address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=daemon.folder, check=False)


def test_metrics_tell_the_whole_way_of_a_row(daemon: Daemon, md: Client) -> None:
    with md.subscribe([BTC], kinds=["trade", "quote"], contract="lossless") as stream:
        wait_for(lambda: stream.wait_next(1.0), 30, "a row")

        found: dict[str, float] = {}
        missing: list[str] = []

        def complete() -> bool:
            stream.wait_next(0.1)
            found.update(samples(daemon))
            wanted = [
                "marketd_feed_event_lag_seconds_count feed=binance",
                "marketd_feed_publish_lag_seconds_count feed=binance",
                "marketd_client_delivery_lag_seconds_count",
                "marketd_actor_loop_lag_seconds_count actor=supervisor",
                "marketd_actor_loop_lag_seconds_count actor=gateway",
                "marketd_store_free_bytes",
                "marketd_venue_budget_capacity bucket=rest feed=binance",
                "marketd_actor_open_fds actor=sampler",
                "marketd_venue_connects_total feed=binance",
                "marketd_client_subscriptions",
            ]
            missing[:] = [name for name in wanted if not found.get(name, 0) > 0]
            return not missing

        with suppress(AssertionError):
            wait_for(complete, 40)
        assert missing == []
    assert found["marketd_ring_reader_lag_rows feed=binance reader=gateway"] >= 0
    assert found["marketd_ring_reader_lag_rows feed=binance reader=sampler"] >= 0
    assert found["marketd_venue_instruments_live feed=binance"] == 1
    assert found["marketd_feed_publish_lag_seconds_bucket feed=binance le=100"] > 0
    assert found["marketd_clock_skewed"] == 0


def test_clock_of_a_venue_on_this_machine_is_found_to_be_ours(md: Client) -> None:
    def asked() -> VenueClock | None:
        clock = md.status().feeds[0].clock
        return clock if clock is not None and clock.source == "server_time" else None

    clock: VenueClock = wait_for(asked, 30, "the venue to be asked for its time", every_s=0.2)  # type: ignore[assignment]
    assert clock.offset_ms is not None
    assert clock.uncertainty_ms is not None
    # The test venue's clock goes in steps.
    assert abs(clock.offset_ms) <= clock.uncertainty_ms + 100
    assert clock.uncertainty_ms < 2500
    assert clock.jitter_ms is not None
    assert clock.lag_min_ms is not None


def test_why_says_what_is_live_and_what_is_not(daemon: Daemon, md: Client) -> None:
    found = why(md, BTC.upper(), {"feed_live", "subscribed", "quality_ok", "last_event", "bars"})
    assert (found.fqme, found.feed, found.live) == (BTC, "binance", True)
    found = why(md, "btc/usdx.spot.binance", {"unknown_name"})
    assert (found.fqme, found.live) == ("", False)
    assert BTC in found.reasons[0].todo
    assert why(md, "mnq/usd.cme.ib", {"unknown_backend"}).live is False
    assert why(md, "btc/usdt.spot.sim", {"backend_not_configured"}).live is False
    assert why(md, "btc/usdt.spot.kucoin", {"list_unknown"}).live is False
    found = why(md, ETH, {"not_wanted"})
    assert (found.fqme, found.feed, found.live) == (ETH, "binance", False)
    with md.subscribe([ETH], kinds=["trade"]):
        assert why(md, ETH, {"subscribed", "quality_ok"}).live
    done = cli(daemon, "why", BTC)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{BTC} is live."
    done = cli(daemon, "why", "nothing/at.all.sim", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["reasons"][0]["code"] == "backend_not_configured"


def test_why_follows_a_venue_that_goes_away_and_comes_back(venue: VenueProcess, md: Client) -> None:
    why(md, BTC, {"subscribed", "quality_ok"})
    venue.inject([{"fault": "refuse", "venue": "binance", "for_s": 60}, {"fault": "cut", "venue": "binance"}])
    found = why(md, BTC, {"not_connected", "resubscribing", "outage", "quality_gap"})
    assert not found.live
    assert "disconnect" in next(reason.text for reason in found.reasons if reason.code == "outage")
    venue.reset()
    found = why(md, BTC, {"subscribed", "quality_ok", "last_gap"}, 60)
    assert found.live
    venue.inject([{"fault": "no_acks", "venue": "binance", "for_s": 60}])
    other = next(hit.fqme for hit in md.search("*.binance") if hit.fqme not in (BTC, ETH))
    with md.subscribe([other], kinds=["trade"]):
        why(md, other, {"not_acked"})
        venue.reset()
        why(md, other, {"subscribed"}, 60)


def test_status_goes_on_until_it_is_interrupted(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "marketd", "status", "--watch", "--every", "0.1", "--address", daemon.address]
    for extra, check in (([], lambda line: line.startswith("marketd ")), (["--json"], lambda line: '"actors"' in line)):
        with process(command + extra, stdout=subprocess.PIPE) as watcher:
            assert watcher.stdout is not None
            lines = (line.decode() for line in watcher.stdout)
            seen = 0
            for line in lines:
                seen += check(line)
                if seen == 3:
                    break
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(20) == 130
            assert watcher.stderr is not None
            assert watcher.stderr.read() == b""


def test_status_is_renewed_in_place_on_a_terminal(daemon: Daemon) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "marketd", "status", "--watch", "--every", "0.1", "--address", daemon.address]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "200", "LINES": "60"}
    with process(command, stdout=follower, env=environment) as watcher:
        os.close(follower)
        shown = bytearray()

        def read() -> None:
            try:
                while data := os.read(leader, 65536):
                    shown.extend(data)
            except OSError:  # the other end is closed
                return

        reader = threading.Thread(target=read)
        reader.start()
        wait_for(lambda: shown.count(b"\x1b[1A") > 20 and b"supervisor" in shown, 30, "the picture to be renewed")
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(20) == 130
        assert watcher.stderr is not None
        assert watcher.stderr.read() == b""
        reader.join(10)
    os.close(leader)
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1, "the cursor is shown again"


def test_every_without_watch_is_refused(daemon: Daemon) -> None:
    done = cli(daemon, "status", "--every", "2")
    assert (done.returncode, done.stderr) == (2, "marketd: --every SECONDS goes with --watch\n")


@contextmanager
def process(command: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(command, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]
    try:
        yield started
    finally:
        started.kill()
        started.wait(10)


def unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        found = {}
        for member in archive.getmembers():
            assert member.mode == 0o600
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
        return found


def test_dump_has_all_parts_and_no_secret(daemon: Daemon, md: Client) -> None:
    actors = [actor.name for actor in md.status().actors]
    done = cli(daemon, "debug", "dump", "-o", "well.tar.gz")
    assert done.returncode == 0, done.stderr
    assert "without" not in done.stdout
    files = unpacked(daemon.folder / "well.tar.gz")
    whole = {"config.json", "environment.json", "versions.json", "segments.json", "limits.txt", "files.txt"}
    whole |= {"status.json", "metrics.txt", "missing.txt"}
    whole |= {f"log/{name}.log" for name in actors} | {f"stacks/{name}.txt" for name in actors}
    assert files.keys() == whole
    assert (daemon.folder / "well.tar.gz").stat().st_mode & 0o777 == 0o600
    for name, text in files.items():
        for secret in SECRETS:
            assert secret not in text, name
    assert json.loads(files["config.json"])["feeds"]["away"]["rest_url"] == "http://***@127.0.0.1:9/x"
    environment = json.loads(files["environment.json"])
    assert environment["SOME_OTHER_THING"] == environment["MARKETD_TEST_TOKEN"] == "(not shown)"
    assert "MARKETD_TREE_SECRET" not in environment
    assert json.loads(files["versions.json"])["trio"]
    rings = {name: segment for name, segment in json.loads(files["segments.json"]).items() if name.endswith(".ring")}
    assert len(rings) == 2
    assert all(segment["writer_lives"] and segment["rows"] for segment in rings.values())
    assert "feed.connected" in files["log/feed.binance.log"]
    assert "_pump" in files["stacks/feed.binance.txt"]
    assert "connection.py" in files["stacks/feed.binance.txt"]
    assert "thread MainThread" in files["stacks/history.txt"]
    assert "Max open files" in files["limits.txt"]
    assert "marketd_ready" in files["metrics.txt"]
    assert json.loads(files["status.json"])["actors"]
    assert files["missing.txt"] == ""
    done = cli(daemon, "debug", "dump", "-o", "well.tar.gz")
    assert (done.returncode, done.stderr) == (1, "marketd: well.tar.gz is there already: give another -o FILE\n")


def test_dump_looks_at_a_hanging_actor_from_outside(daemon: Daemon, md: Client) -> None:
    pid = daemon.pids()["history"]
    os.kill(pid, signal.SIGSTOP)
    try:
        found = md.debug(timeout_s=30)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert list(found.missing) == ["history"]
    assert "did not answer 'actor.debug' within 2 s" in found.missing["history"]
    with tarfile.open(fileobj=io.BytesIO(found.archive)) as archive:
        names = [member.name.partition("/")[2] for member in archive.getmembers()]
        assert sorted(names) == found.files
        stacks = archive.extractfile(next(each for each in archive.getmembers() if "stacks/history" in each.name))
        assert stacks is not None
        text = stacks.read().decode()
    assert re.search(r"State:\s+T \(stopped\)", text)
    assert "it is stopped, or stuck" in text

    def alive() -> bool:
        return any(actor.name == "history" and actor.state == "live" for actor in md.status().actors)

    wait_for(alive, 40, "the history manager, or its successor", every_s=0.1)


def test_skewed_clock_is_detected_and_said(venue: VenueProcess, daemon: Daemon, md: Client) -> None:
    """Last of all: it takes a minute until the venues' wrong times are forgotten."""
    assert not md.status().clock.skewed
    venue.inject([{"fault": "clock_skew", "skew_s": 3600}])
    status: StatusResult = wait_for(skewed(md), 60, "the skew to be seen", every_s=0.2)  # type: ignore[assignment]
    assert -3_700_000 < status.clock.offset_ms < -3_500_000  # type: ignore[operator]
    assert re.match(r"this machine's clock is 3\d{3}\.\d{3} s behind that of binance: ", status.clock.detail)
    assert "clock.skewed" in daemon.log
    assert samples(daemon)["marketd_clock_skewed"] == 1
    assert why(md, BTC, {"clock_skewed"})
    assert "s behind that of binance: let an NTP client set it" in " ".join(cli(daemon, "status").stdout.split())


def skewed(md: Client) -> Callable[[], StatusResult | None]:
    def found() -> StatusResult | None:
        status = md.status()
        return status if status.clock.skewed else None

    return found

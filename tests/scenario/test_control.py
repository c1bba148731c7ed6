"""A running daemon is told what to do: other configurations, services, clients, logs. Clients stay and lose nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from marketd.client import CannotConnect, RequestError, connect
from marketd.client.sync import Client
from marketd.model import GapReason
from tests.conftest import PROJECT
from tests.scenario.daemon import Daemon, running, wait_for
from tests.scenario.venue import venue_running

FEED = '[feeds.{}]\nbackend = "sim"\ninstruments = 3\nrate_hz = {}\nseed = {}\n'
RING = "[ring]\nrows = 65536\n"


class Follower(threading.Thread):
    """A lossless client of everything: which rows it had, which gaps it was told, what became of its feeds.

    Attributes:
        rows: by feed and epoch, the cursors that came, in the order in which they came.
        gaps: told by the server, by feed and epoch: ranges of cursors.
        reasons: of gap rows, by feed.
        news: states that it was told, by feed, with their details.
    """

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.rows: dict[tuple[str, int], list[int]] = {}
        self.gaps: dict[tuple[str, int], list[tuple[int, int]]] = {}
        self.reasons: dict[str, list[int]] = {}
        self.news: dict[str, list[tuple[str, str]]] = {}
        self._address = address
        self._ending = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with connect(self._address, client="follower", reconnect=False) as md, md.subscribe(["*"]) as stream:
                for frame in stream:
                    where = (frame.feed, frame.epoch)
                    if frame.kind == "status" and frame.state:
                        self.news.setdefault(frame.feed, []).append((frame.state, frame.detail))
                    elif frame.kind == "gap" and not frame.rows["cursor"].any():
                        self.gaps.setdefault(where, []).append((frame.cursor_first, frame.cursor_last))
                    else:
                        self.rows.setdefault(where, []).extend(frame.rows["cursor"].tolist())
                        if frame.kind == "gap":
                            self.reasons.setdefault(frame.feed, []).extend(frame.rows["reason"].tolist())
                    if self._ending.is_set():
                        return
        except BaseException as error:
            self.error = error

    def had(self, feed: str) -> int:
        """How many rows of a feed came, of all epochs."""
        return sum(len(cursors) for (name, _), cursors in self.rows.items() if name == feed)

    def epochs(self, feed: str) -> list[int]:
        """The epochs of a feed, in order."""
        return [epoch for name, epoch in self.rows if name == feed]

    def end(self) -> None:
        """Stop reading."""
        self._ending.set()
        self.join(20)
        assert self.error is None, self.error
        assert not self.is_alive()


@contextlib.contextmanager
def following(daemon: Daemon) -> Iterator[Follower]:
    """Follow, and see at the end that the client was connected all the while and had each row once, or heard of it."""
    follower = Follower(daemon.address)
    follower.start()
    wait_for(lambda: follower.rows, 20, "the first rows")
    yield follower
    follower.end()
    for where, cursors in follower.rows.items():
        told = np.zeros(max(cursors) + 1, np.int64)
        np.add.at(told, cursors, 1)
        for first, last in follower.gaps.get(where, ()):
            told[max(first, 1) : last + 1] += 1
        begins = min(cursors)
        assert (told[begins:] == 1).all(), (where, np.flatnonzero(told[begins:] != 1) + begins)


def write(daemon: Daemon, text: str) -> None:
    """Replace the daemon's configuration file, all but what the test's daemon was given."""
    whole = f'instance = "{daemon.instance}"\n{text}\n'
    if "[gateway]" not in whole:
        whole += '[gateway]\nlisten = ["127.0.0.1:0"]\nhttp = []\n'
    for table in ("bars", "history"):
        whole += "" if f"[{table}]" in whole else f"[{table}]\nperiods = []\n"
    (daemon.folder / "marketd.toml").write_text(whole)


def reload(md: Client) -> tuple[dict[str, str], list[str]]:
    """Reload; return what has changed, and what needs a restart."""
    found = md.reload()
    return {change.key: change.action for change in found.changes}, found.needs_restart


def command(daemon: Daemon, *arguments: str, code: int = 0) -> str:
    """Run a command; return its output, or, if it is to fail, what it says of that."""
    environment = os.environ | {"MARKETD_ADDRESS": daemon.address, "PYTHONPATH": str(PROJECT)}
    found = subprocess.run(
        [sys.executable, "-m", "marketd", *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == code, found.stdout + found.stderr
    return found.stderr if code else found.stdout


def log_lines(daemon: Daemon) -> list[dict[str, Any]]:
    """The log; it is JSON, as it goes to a file."""
    return [json.loads(line) for line in daemon.log.splitlines() if line.startswith("{")]


def state_of(md: Client, service: str) -> str:
    """How a service stands."""
    return next(each.state for each in md.services() if each.name == service)


def test_feeds_come_and_go_and_change_while_clients_stay_and_lose_nothing(tmp_path: Path) -> None:
    alpha, beta, gamma = (FEED.format(name, 300, n) for n, name in enumerate(("alpha", "beta", "gamma"), 1))
    with running(tmp_path, RING + alpha + beta) as daemon, connect(daemon.address) as md, following(daemon) as client:
        before = daemon.pids()

        # Nothing has changed.
        write(daemon, RING + alpha + beta)
        assert reload(md) == ({}, [])

        # A bad file is refused with all that is wrong with it, and changes nothing.
        write(daemon, f"{RING}{alpha}{gamma}speed = 3\n[log]\nlevel = 'loud'\n")
        with pytest.raises(RequestError, match="2 mistakes") as refused:
            md.reload()
        assert refused.value.code == "invalid_config"
        assert [problem.split()[0] for problem in refused.value.data["problems"]] == ["log.level", "feeds.gamma.speed:"]
        said = command(daemon, "reload", code=2)
        assert "log.level is 'loud'" in said
        assert "feeds.gamma.speed: unknown key" in said
        (daemon.folder / "marketd.toml").write_text("instance = [")
        assert "no valid TOML" in command(daemon, "reload", code=2)
        (daemon.folder / "marketd.toml").unlink()
        assert "no such file" in command(daemon, "reload", code=2)
        assert [line["event"] for line in log_lines(daemon)].count("config.refused") == 4
        assert daemon.pids() == before

        # A feed comes; who has subscribed to all of them has it from its first row on.
        write(daemon, RING + alpha + beta + gamma)
        assert command(daemon, "reload") == "feeds.gamma: added\n"
        wait_for(lambda: client.had("gamma") > 100, 20, "rows of the new feed")
        assert client.rows["gamma", client.epochs("gamma")[0]][0] == 1
        assert md.status().ready
        assert {name: pid for name, pid in daemon.pids().items() if name != "feed.gamma"} == before

        # Another rate: only that actor is another one; its ring, and the epoch, are the same.
        write(daemon, RING + FEED.format("alpha", 400, 1) + beta + gamma)
        assert reload(md) == ({"feeds.alpha": "restarted"}, [])
        assert daemon.pids()["feed.alpha"] != before["feed.alpha"]
        assert daemon.pids()["feed.beta"] == before["feed.beta"]
        wait_for(lambda: GapReason.RESTART in client.reasons.get("alpha", ()), 20, "the gap of the restart")
        had = client.had("alpha")
        wait_for(lambda: client.had("alpha") > had + 100, 20, "rows of the successor")
        assert len(client.epochs("alpha")) == 1
        assert [state for state, _ in client.news["alpha"]][-1] == "live"

        # What needs a restart of the daemon is told, and what it was holds, also for what comes.
        write(
            daemon, "[ring]\nrows = 2048\n" + FEED.format("alpha", 400, 1) + beta + gamma + FEED.format("delta", 50, 9)
        )
        assert reload(md) == ({"feeds.delta": "added"}, ["ring.rows"])
        assert command(daemon, "reload") == "ring.rows: not applied, needs a restart of the daemon\n"
        assert {feed.name: feed.ring_rows for feed in md.status().feeds}["delta"] == 65536

        # A feed goes, by SIGHUP: its clients are told, nothing of it is left, and the others notice nothing.
        write(daemon, RING + FEED.format("alpha", 400, 1) + gamma)
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda: ("stopped", "no longer configured") in client.news.get("beta", ()), 20, "the news of beta")
        wait_for(lambda: {feed.name for feed in md.status().feeds} == {"alpha", "gamma"}, 20, "beta and delta to go")
        assert not psutil.pid_exists(before["feed.beta"])
        assert not [path for path in daemon.paths.segments() if ".beta." in path.name or ".delta." in path.name]
        wait_for(lambda: _maps(daemon, "beta") == 0, 20, "readers to let go of its memory")
        assert md.status().ready

        # It comes again: a new feed, with an epoch of its own, from its first row on.
        write(daemon, RING + FEED.format("alpha", 400, 1) + beta + gamma)
        assert reload(md) == ({"feeds.beta": "added"}, [])
        wait_for(lambda: len(client.epochs("beta")) == 2, 20, "rows of the new epoch")
        assert client.rows["beta", client.epochs("beta")[1]][0] == 1

        # One feed becomes another in one go.
        write(
            daemon,
            RING
            + FEED.format("alpha", 400, 1)
            + beta
            + '[feeds.gamma]\nbackend = "kraken"\nws_url = "ws://127.0.0.1:9"\n'
            'rest_url = "http://127.0.0.1:9"\n',
        )
        assert reload(md) == ({"feeds.gamma": "replaced"}, [])
        status = md.status()
        assert {feed.name: feed.backend for feed in status.feeds}["gamma"] == "kraken"
        assert not status.ready  # it has never reached its venue
        assert status.problems[0].startswith("feed gamma has not reached its venue yet")
        write(daemon, RING + FEED.format("alpha", 400, 1) + beta)
        assert reload(md) == ({"feeds.gamma": "removed"}, [])
        assert md.status().ready
        had = client.had("alpha")
        wait_for(lambda: client.had("alpha") > had + 10, 20, "rows, still")
        assert daemon.pids()["gateway"] == before["gateway"]


def _maps(daemon: Daemon, feed: str) -> int:
    """How many processes have something of a feed mapped."""
    found = 0
    for process in daemon.processes():
        with contextlib.suppress(OSError):
            found += f".{feed}." in Path(f"/proc/{process.pid}/maps").read_text()
    return found


def test_services_are_stopped_started_restarted_and_cancelled_by_request(tmp_path: Path) -> None:
    """R02, R03."""
    alpha, beta = FEED.format("alpha", 300, 1), FEED.format("beta", 300, 2)
    with running(tmp_path, RING + alpha + beta) as daemon, connect(daemon.address) as md, following(daemon) as client:
        assert [service.name for service in md.services()] == ["feed.alpha", "feed.beta", "gateway"]
        pids = daemon.pids()

        # Stopped: gone when the answer is there; clients are told; it is no reason not to be ready.
        stopped = md.stop_service("beta")
        assert not psutil.pid_exists(pids["feed.beta"])
        assert (stopped.name, stopped.state, stopped.pid) == ("feed.beta", "stopped", None)
        assert stopped.detail == "stopped by request"
        wait_for(lambda: ("stopped", "stopped by request") in client.news.get("beta", ()), 20, "the news")
        status = md.status()
        assert status.ready
        assert {feed.name: feed.state for feed in status.feeds} == {"alpha": "live", "beta": "stopped"}
        rows = {feed.name: feed.cursor for feed in status.feeds}["beta"]

        # It stays so over a reload, also when its settings are other ones by then.
        write(daemon, RING + alpha + FEED.format("beta", 400, 2))
        assert reload(md) == ({"feeds.beta": "restarted"}, [])
        assert state_of(md, "feed.beta") == "stopped"
        assert {feed.name: feed.cursor for feed in md.status().feeds}["beta"] == rows

        # Twice is once, and then it starts at once.
        assert md.stop_service("feed.beta").state == "stopped"
        assert md.cancel_service("beta").state == "stopped"
        for _ in range(2):
            started = md.start_service("beta")
            assert started.state == "live"
            assert started.pid is not None
        assert daemon.pids()["feed.beta"] == started.pid
        wait_for(lambda: GapReason.RESTART in client.reasons.get("beta", ()), 20, "the gap")

        # Cancelled: killed, from several sides at once, and started again at once.
        errors: list[BaseException] = []

        def cancel() -> None:
            try:
                with connect(daemon.address) as other:
                    assert other.cancel_service("beta").state == "stopped"
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=cancel) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert errors == []
        assert not psutil.pid_exists(started.pid)
        again = json.loads(command(daemon, "ctl", "start", "beta", "--json"))
        assert (again["state"], again["restarts"]) == ("live", 0)
        restarted = command(daemon, "ctl", "restart", "beta")
        assert restarted.startswith("feed.beta: live, pid ")
        assert str(again["pid"]) not in restarted

        # What can't be.
        for arguments, said in (
            (["stop", "nothing"], "there is no service 'nothing'; there are: feed.alpha, feed.beta, gateway"),
            (["restart", "supervisor"], "the supervisor is the daemon itself"),
            (["stop", "gateway"], "gateway is the only gateway that runs"),
            (["cancel", "gateway"], "gateway is the only gateway that runs"),
        ):
            assert said in command(daemon, "ctl", *arguments, code=1)
        assert "feed.beta" in command(daemon, "ctl", "ls")
        assert md.ping() < 10


def test_gateway_is_restarted_by_the_client_that_asks_and_streams_go_on(tmp_path: Path) -> None:
    with running(tmp_path, RING + FEED.format("sim", 300, 1)) as daemon, connect(daemon.address) as md:
        before = daemon.pids()["gateway"]
        with md.subscribe(["*"]) as stream:
            frames = iter(stream)
            first = next(frame for frame in frames if frame.kind == "trade")
            assert md.restart_service("gateway").detail == "restart is under way"
            cursor, news = first.cursor_last, []
            for frame in frames:
                if frame.kind == "status":
                    news.append(frame.state)
                    continue
                assert frame.cursor_first in (cursor + 1, first.cursor_first)
                cursor = frame.cursor_last
                if "connected" in news or len(news) > 1:
                    break
        wait_for(lambda: daemon.pids()["gateway"] != before, 20, "the successor")


def test_clients_are_listed_and_sent_away_from_any_gateway(tmp_path: Path) -> None:
    gateways = '[gateway]\nlisten = ["127.0.0.1:0"]\nprocesses = 2\n'
    with (
        running(tmp_path, gateways + RING + FEED.format("sim", 300, 1)) as daemon,
        connect(daemon.address, client="admin") as md,
        contextlib.ExitStack() as stack,
    ):
        others = [stack.enter_context(connect(daemon.address, client=f"other {n}")) for n in range(24)]
        wait_for(lambda: len(md.clients()) == 25, 20, "every gateway's pulse")
        listed = {client.name: client.id for client in md.clients()}
        assert {number // 1_000_000 for number in listed.values()} == {0, 1}  # once in many million times it is not so
        for name in ("other 0", "other 23"):
            kicked = md.kick(listed[name], "read faster")
            assert (kicked.id, kicked.name) == (listed[name], name)
        wait_for(lambda: not {listed["other 0"], listed["other 23"]} & {c.id for c in md.clients()}, 20, "them to go")
        # It may come back, and with what it wanted: a client of ours does so by itself.
        with others[1].subscribe(["*"]) as stream:
            frames = iter(stream)
            assert next(frame for frame in frames if frame.kind == "trade")
            said = command(daemon, "clients", "kick", str(listed["other 1"]), "--reason", "for a test")
            assert said.startswith(f"client {listed['other 1']} (other 1, 127.0.0.1:")
            news: list[str] = []
            cursor = until = 0
            for frame in frames:
                if frame.kind == "status":
                    news.append(f"{frame.state}: {frame.detail}")
                    until = until or cursor + 100
                    continue
                assert cursor in (0, frame.cursor_first - 1)
                cursor = frame.cursor_last
                if until and cursor > until:
                    break
            assert "kicked: an operator has ended this connection: for a test" in news
            assert any(each.startswith("disconnected") for each in news)
        for number in (0, -1, 10**6 - 1, 10**9, listed["other 1"]):
            with pytest.raises(RequestError) as refused:
                md.kick(number)
            assert refused.value.code == "unknown_client"
        assert "there is no client 77" in command(daemon, "clients", "kick", "77", code=1)
        assert "Invalid value" in command(daemon, "clients", "kick", "x", code=2)
        with pytest.raises(RequestError, match=r"params\.reason"):
            md.kick(1, "x" * 300)
        assert "other 2" in command(daemon, "clients", "ls")
        lines = [line for line in log_lines(daemon) if line["event"] == "client.kicked"]
        assert [line["why"] for line in lines] == ["read faster", "read faster", "for a test"]

        # One of several gateways can be stopped, and then the last one can't.
        with connect(f"unix:{daemon.paths.socket}") as at_first:
            assert at_first.stop_service("gateway.2").state == "stopped"
            assert "only gateway" in command(daemon, "ctl", "stop", "gateway", code=1)
            assert at_first.start_service("gateway.2").state == "live"
            # Whose gateway it is hears that it is under way; then it is the other one's turn.
            assert at_first.stop_service("gateway").detail == "stop is under way"
        wait_for(lambda: state_of(md, "gateway") == "stopped", 20, "the stop")
        assert md.start_service("gateway").state == "live"


def test_log_levels_limits_and_parts_change_in_a_running_daemon(tmp_path: Path) -> None:
    """R07: a debug line from a feed actor shows at debug and not at info, and so does its successor's."""
    feed = FEED.format("sim", 300, 1)
    bars = '[bars]\nperiods = ["1s", "1m"]\nlateness_ms = {}\n[history]\nperiods = ["1m"]\nflush_s = 0.5\n'
    with running(tmp_path, RING + feed + bars.format(500)) as daemon, connect(daemon.address) as md:

        def searches() -> int:
            """How many debug lines the feed's search has left by now."""
            list(md.search("btc"))
            lines = [line for line in log_lines(daemon) if line["event"] == "search.complete"]
            assert all((line["logger"], line["actor"]) == ("marketd.feed.sim", "feed.sim") for line in lines)
            return len(lines)

        assert searches() == 0
        names = ["supervisor", "feed.sim", "sampler", "history", "gateway"]
        assert md.log_level() == dict.fromkeys(names, "info")
        assert json.loads(command(daemon, "log-level", "debug", "--actor", "sim", "--json")) == {"feed.sim": "debug"}
        wait_for(lambda: searches() == 1 or searches() > 1, 10, "the line")
        quiet = {line["actor"] for line in log_lines(daemon) if line["level"] == "debug"}
        assert quiet == {"feed.sim"}
        assert md.restart_service("sim").state == "live"
        had = searches()
        wait_for(lambda: searches() > had, 10, "the successor's line")
        assert md.log_level("warning")["feed.sim"] == "warning"
        had = searches()
        assert searches() == had
        for arguments, code, said in (
            (["loud"], 2, "'loud' is no level; levels are debug"),
            (["debug", "--actor", "x"], 1, "there is no actor 'x'; there are: supervisor, feed.sim"),
        ):
            assert said in command(daemon, "log-level", *arguments, code=code)
        with pytest.raises(RequestError, match=r"params\.level"):
            md.log_level("loud")  # type: ignore[arg-type]

        # The file's word counts again when it says something else.
        before = daemon.pids()
        limits = (
            "[gateway]\nlisten = ['127.0.0.1:0']\nhttp = []\n[gateway.limits]\nclients_max = 3\nsubscriptions_max = 1\n"
        )
        rest = f"depth_days = 0.5\n{limits}[log]\nlevel = 'debug'\n"
        write(daemon, RING + feed + bars.format(900) + rest)
        assert reload(md) == (
            {
                "log.level": "applied",
                "bars.lateness_ms": "restarted",
                "history.depth_days": "restarted",
                "gateway.limits.clients_max": "applied",
                "gateway.limits.subscriptions_max": "applied",
            },
            [],
        )
        assert set(md.log_level().values()) == {"debug"}
        after = daemon.pids()
        assert {name for name in names if before[name] != after[name]} == {"sampler", "history"}
        with md.subscribe(["*"]), pytest.raises(RequestError, match="1 subscriptions"), md.subscribe(["*"]):
            pass
        with connect(daemon.address), connect(daemon.address), pytest.raises(CannotConnect, match="3 clients"):
            connect(daemon.address, timeout_s=5)
        wait_for(lambda: md.status().ready, 20, "all rings to be read")

        # Feeds come and go for the sampler and the history manager too.
        write(
            daemon,
            RING + feed + FEED.format("two", 200, 3) + bars.format(900) + rest,
        )
        assert reload(md) == ({"feeds.two": "added"}, [])
        wait_for(lambda: (found := _feed(md, "two")) and found.bars.get("bars", 0) > 0, 30, "its bars")
        wait_for(lambda: md.status().ready, 20, "all rings to be read")
        status = md.status()
        assert status.history is not None
        wait_for(lambda: md.status().history.series == 6, 20, "its series")  # type: ignore[union-attr]
        # One that an operator has stopped makes no bars that look as if nothing had been traded.
        md.stop_service("two")
        write(daemon, RING + feed + bars.format(900) + rest)
        assert reload(md) == ({"feeds.two": "removed"}, [])
        wait_for(lambda: md.status().history.series == 3, 20, "its series to go")  # type: ignore[union-attr]
        wait_for(lambda: _maps(daemon, "two") == 0, 20, "readers to let go of its memory")
        final = daemon.pids()
        assert final == after
        assert not [line for line in log_lines(daemon) if line["level"] in ("error", "critical")]


def _feed(md: Client, name: str) -> Any:
    return next((feed for feed in md.status().feeds if feed.name == name), None)


def test_live_feed_is_told_its_instruments_as_it_runs(tmp_path: Path) -> None:
    with venue_running(instruments=6, rate=120) as venue:

        def config(*instruments: str) -> str:
            return RING + venue.feed("binance", instruments=list(instruments), linger_s=0.3)

        with running(tmp_path, config("btc/usdt.spot.binance")) as daemon, connect(daemon.address) as md:
            with following(daemon) as client:
                before = daemon.pids()
                write(daemon, config("btc/usdt.spot.binance", "eth/usdt.spot.binance"))
                assert reload(md) == ({"feeds.binance": "applied"}, [])
                assert daemon.pids() == before
                wait_for(lambda: md.instrument("eth/usdt.spot.binance").quality == "ok", 20, "the new one")
                write(daemon, config("eth/usdt.spot.binance"))
                assert reload(md) == ({"feeds.binance": "applied"}, [])
                wait_for(lambda: md.instrument("btc/usdt.spot.binance").quality != "ok", 20, "the old one to go")
                assert daemon.pids() == before
                assert client.had("binance") > 0
            # A successor begins with what holds now.
            md.restart_service("binance")
            wait_for(lambda: md.instrument("eth/usdt.spot.binance").quality == "ok", 20, "the successor")
            assert md.instrument("btc/usdt.spot.binance").quality != "ok"


def test_daemon_without_a_file_has_nothing_to_read_again(tmp_path: Path) -> None:
    """`marketd replay` is configured by its arguments: it says so, and a hang-up ends it."""
    recording = PROJECT / "tests" / "data" / "kraken"
    file = next(path for path in sorted(recording.rglob("*.ws*")))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "marketd",
            "replay",
            str(file),
            "--address",
            "127.0.0.1:0",
            "--instance",
            f"hup-{os.getpid()}",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)},
    )
    try:
        addresses = tmp_path / "marketd" / ".replay" / f"hup-{os.getpid()}" / "runtime" / "addresses.json"
        wait_for(addresses.exists, 30, "the replay to listen")
        address = next(each for each in json.loads(addresses.read_text()) if not each.startswith(("unix:", "http")))
        with connect(address) as md, pytest.raises(RequestError, match="not started from a configuration file"):
            md.reload()
        process.send_signal(signal.SIGHUP)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
    finally:
        process.kill()

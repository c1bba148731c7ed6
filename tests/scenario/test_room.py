"""No file descriptors left while a daemon runs: said, survived, and over by itself.

The fault is real: a limit of a running process.
"""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from marketd.client import Client, Stream, connect
from tests.scenario.daemon import Daemon, running, wait_for
from tests.scenario.test_resources import CONFIG, IN_TIME_S, NAMES, Witness, check_store, check_ticks
from tests.scenario.venue import venue_running

TOO_MANY = "Too many open files"
GATEWAY = '[gateway]\nlisten = ["127.0.0.1:0"]\nhttp = ["127.0.0.1:0"]\n'
SIM = '[feeds.sim]\nbackend = "sim"\ninstruments = ["btc/usdt", "eth/usdt"]\n'


class Metrics:
    """The daemon's metrics, over a connection that stays."""

    def __init__(self, daemon: Daemon) -> None:
        address = next(address for address in daemon.addresses if address.startswith("http://"))
        self._connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=10)
        self.lines()

    def lines(self) -> list[str]:
        """All of them."""
        self._connection.request("GET", "/metrics")
        return self._connection.getresponse().read().decode().splitlines()

    def troubled(self, actor: str) -> bool:
        """Whether they tell of an actor's trouble."""
        told = [line for line in self.lines() if line.startswith(f'marketd_actor_trouble{{actor="{actor}"}}')]
        assert len(told) == 1, told
        return told[0].endswith(" 1.0")


@contextlib.contextmanager
def no_descriptors(md: Client, actor: str) -> Iterator[None]:
    """Let a process open nothing more, which it has said when this begins; what it has open it keeps."""
    pid = next(each.pid for each in md.status().actors if each.name == actor)
    assert pid is not None
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    left = before[0]

    def none_left() -> bool:
        nonlocal left
        used = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
        left = min(left, *set(range(len(used) + 1)) - used)  # with what it has open for a moment it is more
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (left, before[1]))
        return TOO_MANY in trouble(md, actor)

    try:
        wait_for(none_left, IN_TIME_S, f"{actor} to say that it has none")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def trouble(md: Client, actor: str) -> str:
    """What an actor says of itself."""
    return next(each.trouble for each in md.status().actors if each.name == actor)


def wait_for_trouble(md: Client, actor: str, text: str) -> None:
    wait_for(lambda: text in trouble(md, actor), IN_TIME_S, f"{actor} to say {text!r}")


def wait_until_well(md: Client) -> None:
    wait_for(lambda: not any(actor.trouble for actor in md.status().actors), IN_TIME_S, "an end of all trouble")


def reload(daemon: Daemon, md: Client, before: str, after: str) -> dict[str, str]:
    """Put something else into the configuration."""
    path = daemon.folder / "marketd.toml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    return {change.key: change.action for change in md.reload().changes}


def read_on(stream: Stream) -> None:
    """Read for a second or so: nothing is missing."""
    rows = 0
    while rows < 200:
        frame = stream.wait_next(5)
        assert frame is not None, "nothing comes"
        assert frame.kind != "gap", frame.rows
        rows += len(frame)


def bars(md: Client, name: str, period: str = "1s") -> int:
    """How many bars there are of an instrument."""
    return len(md.series(name, period))


# --- descriptors --------------------------------------------------------------------------------------------------


def test_gateway_without_descriptors_serves_whom_it_has_and_lets_others_in_later(tmp_path: Path) -> None:
    with running(tmp_path, GATEWAY + SIM) as daemon, connect(daemon.address) as md, Witness(daemon.address) as witness:
        metrics, pids = Metrics(daemon), daemon.pids()
        gateway = psutil.Process(pids["gateway"])
        host, _, port = daemon.address.rpartition(":")
        with contextlib.ExitStack() as waiting:
            with no_descriptors(md, "gateway"):
                clients = [waiting.enter_context(socket.create_connection((host, int(port)))) for _ in range(20)]
                assert metrics.troubled("gateway")
                assert not metrics.troubled("feed.sim")
                status = md.status()
                assert not status.ready
                assert any(problem.startswith("gateway: no file descriptor is left") for problem in status.problems)
                began_s = sum(gateway.cpu_times()[:2])
                witness.wait_for_more(400)  # two seconds
                assert sum(gateway.cpu_times()[:2]) - began_s < 1.5, "it spins"
                for client in clients:
                    client.setblocking(False)
                    with pytest.raises(BlockingIOError):
                        client.recv(1)
            with connect(daemon.address) as other:  # behind all of these
                assert other.status().instance == daemon.instance
        wait_until_well(md)
        assert md.status().ready
        assert not metrics.troubled("gateway")
        witness.wait_for_more()
        assert daemon.pids() == pids, "an actor was replaced"
        assert witness.gaps == 0
        assert not witness.over
        assert daemon.log.count("descriptors.none_left") == daemon.log.count("descriptors.left_again") == 1
        assert "accept.failed" not in daemon.log
        assert "Traceback" not in daemon.log


def test_feed_without_descriptors_says_why_it_is_not_connected_and_connects_later(tmp_path: Path) -> None:
    with venue_running(instruments=3, rate=50.0) as venue:
        config = GATEWAY + SIM + venue.feed("kraken", instruments=["*"], connect_timeout_s=1.0)
        with running(tmp_path, config) as daemon, connect(daemon.address) as md:
            pids = daemon.pids()

            def kraken() -> str:
                return next(feed.detail for feed in md.status().feeds if feed.name == "kraken")

            wait_for(lambda: not kraken(), IN_TIME_S, "the venue's data")
            # While the venue wants no connection the feed has none: the next one takes a descriptor that is not there.
            venue.inject([{"fault": "refuse", "for_s": 60, "status": 503}, {"fault": "cut"}])
            wait_for(lambda: "not connected: refused" in kraken(), IN_TIME_S, "the venue's refusal")
            with no_descriptors(md, "feed.kraken"), md.subscribe(NAMES) as stream:
                venue.reset()
                wait_for(lambda: TOO_MANY in kraken(), IN_TIME_S, "the reason")
                read_on(stream)
            wait_for(lambda: not kraken(), IN_TIME_S, "the venue's data, again")
            wait_until_well(md)
            assert daemon.pids() == pids, "an actor was replaced"
            assert "Traceback" not in daemon.log


def test_readers_without_descriptors_go_on_and_read_what_is_new_later(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with running(tmp_path, CONFIG.format(store=store)) as daemon, connect(daemon.address) as md:
        pids = daemon.pids()
        readers = ("gateway", "sampler", "history")
        with Witness(daemon.address) as witness:
            wait_for(lambda: list(store.rglob("1s/*.parquet")), IN_TIME_S, "bars on the disk")
            with contextlib.ExitStack() as limits:
                for actor in readers:
                    limits.enter_context(no_descriptors(md, actor))
                # A new feed is one that they can't read.
                beta = '[feeds.beta]\nbackend = "sim"\ninstruments = ["xrp/usdt"]\n[feeds.sim]'
                assert reload(daemon, md, "[feeds.sim]", beta) == {"feeds.beta": "added"}
                for actor in readers:
                    wait_for_trouble(md, actor, "feed beta can't be read")
                    assert TOO_MANY in trouble(md, actor)
                witness.wait_for_more(400)
            wait_until_well(md)
            assert md.status().ready
            wait_for(lambda: ("xrp/usdt.spot.sim", "trade") in witness.cursors, IN_TIME_S, "trades of the new feed")
            wait_for(lambda: bars(md, "xrp/usdt.spot.sim") > 1, IN_TIME_S, "its bars")
            for event in ("feed.unreadable", "bars.unreadable", "history.unreadable"):
                assert daemon.log.count(f'"{event}"') == 1, f"{event}: told again and again"
            assert daemon.pids() == pids | {"feed.beta": daemon.pids()["feed.beta"]}, "an actor was replaced"
        check_ticks(md, witness)
        daemon.stop()
        check_store(store, {*NAMES, "xrp/usdt.spot.sim"})
        assert "Traceback" not in daemon.log


def test_supervisor_without_descriptors_replaces_what_dies_later(tmp_path: Path) -> None:
    two = SIM + SIM.replace("feeds.sim", "feeds.two").replace("usdt", "usdc")
    with running(tmp_path, GATEWAY + two) as daemon, connect(daemon.address) as md:
        pids = daemon.pids()
        with no_descriptors(md, "supervisor"), md.subscribe(NAMES) as stream:
            psutil.Process(pids["feed.two"]).kill()
            wait_for_trouble(md, "feed.two", f"feed.two can't be started: {TOO_MANY}")
            assert f"feed two is down: feed.two can't be started: {TOO_MANY}" in md.status().problems
            read_on(stream)
        wait_until_well(md)
        wait_for(lambda: md.status().ready, IN_TIME_S, "the feed")
        assert daemon.log.count('"service.waits"') == daemon.log.count('"service.goes_on"') == 1
        assert daemon.pids() == pids | {"feed.two": daemon.pids()["feed.two"]}, "another actor was replaced"
        assert "Traceback" not in daemon.log

"""No file descriptors left, and a full ``/dev/shm``, while a daemon runs: said, survived, and over by itself.

The faults are real: limits of running processes, and a small file system in the place of ``/dev/shm``.
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
from tests.scenario.disk import small_disk
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


# --- shared memory ------------------------------------------------------------------------------------------------

SMALL = f"""
{GATEWAY}
[ring]
rows = 32768
instruments = 64
[bars]
periods = ["1s", "1m"]
rows = {{ "1s" = 1024, "1m" = 4096 }}
step_rows = 4096
[feeds.alpha]
backend = "sim"
instruments = 4
"""
BETA = '[feeds.beta]\nbackend = "sim"\ninstruments = ["btc/usdt"]\nrate_hz = 50\nseed = 2\n'
KRAKEN = '[feeds.beta]\nbackend = "kraken"\nws_url = "ws://127.0.0.1:9"\nrest_url = "http://127.0.0.1:9"\n'


def test_feed_that_finds_no_room_says_so_and_starts_when_there_is_some(tmp_path: Path) -> None:
    """New ones, and one that takes another's place, whose readers have not let go of that one's memory yet."""
    with (
        small_disk(tmp_path / "shm", 24) as disk,
        running(tmp_path, SMALL, shm=disk.folder) as daemon,
        connect(daemon.address) as md,
        Witness(daemon.address) as witness,
    ):
        metrics, pids = Metrics(daemon), daemon.pids()

        def beta() -> tuple[str, str, str]:
            feed = next(feed for feed in md.status().feeds if feed.name == "beta")
            return feed.backend, feed.state, feed.detail

        disk.fill()
        assert reload(daemon, md, "[feeds.alpha]", BETA + "[feeds.alpha]") == {"feeds.beta": "added"}
        backend, state, detail = beta()
        assert (backend, state) == ("sim", "down")
        assert detail.startswith("feed beta needs 2,912,256 ")
        assert "bytes in /dev/shm, and 0 are free" in detail
        assert trouble(md, "feed.beta") == detail
        assert metrics.troubled("feed.beta")
        assert md.status().problems == [f"feed beta is down: {detail}"]
        witness.wait_for_more(400)
        with no_descriptors(md, "supervisor"):
            disk.free()
            wait_for_trouble(md, "feed.beta", f"can't be created: {TOO_MANY}")
        wait_for(lambda: beta()[1] == "live", IN_TIME_S, "the feed")
        wait_for(lambda: md.status().ready, IN_TIME_S, "its readers")
        assert not metrics.troubled("feed.beta")
        wait_for(lambda: ("btc/usdt.spot.sim", "trade") in witness.cursors, IN_TIME_S, "its trades")
        wait_for(lambda: bars(md, "btc/usdt.spot.sim") > 1, IN_TIME_S, "its bars")

        disk.fill()
        assert reload(daemon, md, BETA, KRAKEN) == {"feeds.beta": "replaced"}
        wait_for(lambda: beta()[:2] == ("kraken", "live"), IN_TIME_S, "the other one, in the room of the first")
        assert daemon.log.count('"service.waits"') == daemon.log.count('"service.goes_on"') == 2
        witness.wait_for_more(400)
        assert witness.gaps == 0
        assert daemon.pids() == pids | {"feed.beta": daemon.pids()["feed.beta"]}, "an actor was replaced"
        assert "Traceback" not in daemon.log


def test_bars_that_find_no_room_are_made_when_there_is_some(tmp_path: Path) -> None:
    """Also where a sampler dies that has found room for some of the bars only: its successor touches nothing else."""
    listed = ", ".join(f'"x{number}/usdt"' for number in range(9))
    with (
        small_disk(tmp_path / "shm", 24) as disk,
        running(tmp_path, SMALL, shm=disk.folder) as daemon,
        connect(daemon.address) as md,
    ):
        metrics, pids = Metrics(daemon), daemon.pids()
        old, new = next(hit.fqme for hit in md.search("*")), "x8/usdt.spot.sim"
        wait_for(lambda: bars(md, old) > 1, IN_TIME_S, "bars")
        disk.fill()
        disk.leave(2 << 20)  # enough for bars of a second of eight more instruments, but not for those of a minute
        assert reload(daemon, md, "instruments = 4", f"instruments = [{listed}]") == {"feeds.alpha": "restarted"}
        text = "4,194,304 bytes more are needed"
        wait_for_trouble(md, "sampler", text)
        assert "instruments have no bars" in trouble(md, "sampler")
        assert metrics.troubled("sampler")
        psutil.Process(pids["sampler"]).kill()
        wait_for(lambda: daemon.pids().get("sampler") not in (None, pids["sampler"]), IN_TIME_S, "another sampler")
        wait_for_trouble(md, "sampler", text)
        has = bars(md, old)
        wait_for(lambda: bars(md, old) > has + 1, IN_TIME_S, "more bars of who has room")
        assert bars(md, new) == 0
        with md.subscribe([new]) as stream:
            wait_for(lambda: stream.wait_next(1), IN_TIME_S, "ticks of who has none")
        second = daemon.pids()
        disk.free()
        wait_until_well(md)
        assert not metrics.troubled("sampler")
        for period in ("1s", "1m"):
            wait_for(lambda period=period: bars(md, new, period), IN_TIME_S, f"its bars of {period}")
        assert daemon.pids() == second, "an actor was replaced"
        assert daemon.log.count('"bars.no_room"') == 2, "told again and again"
        assert daemon.log.count('"bars.room_again"') == 1
        assert daemon.log.count("SIGBUS") == 0

"""Several gateways at one address: the kernel spreads the clients, and none of them needs to know."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np

from marketd.client import Client, Stream, connect
from tests.scenario.daemon import Daemon, running, wait_for

CONFIG = """
[gateway]
listen = ["127.0.0.1:0"]
http = ["127.0.0.1:0"]
processes = 3
[feeds.sim]
backend = "sim"
instruments = 4
"""
CLIENTS = 40  # that none of them comes to one of three gateways happens once in ten million times
OF_A_GATEWAY = 1_000_000


def gateway_of(daemon: Daemon) -> Counter[int]:
    """How many clients each gateway has."""
    with connect(daemon.address) as md:
        return Counter(client.id // OF_A_GATEWAY for client in md.status().clients)


def test_clients_are_spread_and_outlive_the_death_of_their_gateway(tmp_path: Path) -> None:
    with running(tmp_path, CONFIG) as daemon, contextlib.ExitStack() as stack:
        clients: list[Client] = [stack.enter_context(connect(daemon.address)) for _ in range(CLIENTS)]
        streams: list[Stream] = [
            stack.enter_context(md.subscribe(["*.sim"], kinds=["trade", "quote"])) for md in clients
        ]
        cursors: list[list[int]] = [[] for _ in streams]
        lost = [0] * CLIENTS

        def read_all() -> None:
            """Read what there is by now: a blocking client that has lost its connection comes back for that."""
            with connect(daemon.address) as md:
                until = md.status().feeds[0].cursor + 20
            for number, stream in enumerate(streams):
                for frame in stream:
                    if frame.kind == "gap":
                        lost[number] += frame.cursor_last - frame.cursor_first + 1
                    elif frame.kind != "status":
                        cursors[number] += frame.rows["cursor"].tolist()
                    if frame.cursor_last >= until:
                        break

        read_all()
        wait_for(lambda: sum(gateway_of(daemon).values()) >= CLIENTS, 10, "every gateway's pulse")
        assert len(gateway_of(daemon)) == 3
        pids = daemon.pids()
        assert {"gateway", "gateway.2", "gateway.3"} <= pids.keys()
        for name in ("gateway.2", "gateway"):
            os.kill(pids[name], signal.SIGKILL)
            wait_for(lambda name=name: daemon_has_another(daemon, name, pids[name]), 20, f"another {name}")
            read_all()
        for number, mine in enumerate(cursors):
            assert lost[number] == 0
            assert np.diff(mine).tolist() == [1] * (len(mine) - 1), "a hole, or a row twice"
        with connect(next(address for address in daemon.addresses if address.startswith("unix:"))) as md:
            assert md.status().ready
        ready = next(address for address in daemon.addresses if address.startswith("http://")) + "/readyz"
        for _ in itertools.repeat(None, 6):  # at whichever gateway
            assert json.loads(urllib.request.urlopen(ready, timeout=5).read())["ready"]
        with connect(daemon.address) as md:
            wait_for(lambda: len(md.status().clients) >= CLIENTS, 10, "every gateway's pulse")
            assert md.status().served.connections >= CLIENTS


def daemon_has_another(daemon: Daemon, name: str, pid: int) -> bool:
    with contextlib.suppress(Exception), connect(daemon.address) as md:
        return any(a.name == name and a.state == "live" and a.pid != pid for a in md.status().actors)
    return False

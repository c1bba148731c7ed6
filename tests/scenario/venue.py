"""A test venue for a test: `marketd testvenue` in a process of its own, told what to do and asked what it did."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from marketd.clock import SystemClock
from marketd.testvenue.engine import Engine
from marketd.testvenue.faults import letters
from marketd.testvenue.server import Settings, build
from tests.conftest import PROJECT

ASK_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
TRADE_STREAMS = ("@aggTrade", "trade:", "/market/match:")  # what the venues' names of streams of trades have in them


@dataclass
class VenueProcess:
    """A running test venue.

    Attributes:
        engine: the same market, computed here: it is a function of the settings and the day.
    """

    process: subprocess.Popen[str]
    control_url: str
    urls: dict[str, dict[str, str]]
    engine: Engine

    def feed(self, name: str, venue: str = "", **keys: object) -> str:
        """Return the table of a feed of this name, with its data from here."""
        urls = self.urls[venue or name]
        lines = [f"[feeds.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in (urls | keys).items())]
        if "backend" not in keys:
            lines.append(f'backend = "{venue or name}"')
        return "\n".join(lines) + "\n"

    def inject(self, faults: Iterable[dict[str, object]]) -> None:
        """Let faults happen; those without ``after_s`` are on when this returns."""
        self._ask("faults", list(faults))

    def reset(self) -> None:
        """End all faults, and set all counts to zero."""
        self._ask("reset", {})

    def state(self) -> dict[str, Any]:
        """Return everything that has happened."""
        return self._ask("state")

    def venue(self, name: str) -> dict[str, Any]:
        """Return what has happened at one venue."""
        return self.state()["venues"][name]

    def trades_sent(self, venue: str) -> dict[str, tuple[int, int]]:
        """Return the first and the last number of each instrument's trades: sent, or lost to a fault on the way."""
        streams = self.venue(venue)["streams"]
        sent = {}
        for instrument in self.engine.venues[venue].market.instruments:
            for name, count in streams.items():
                symbol = letters(next((name.replace(kind, "") for kind in TRADE_STREAMS if kind in name), ""))
                if symbol == letters(instrument.symbol) and count["last"]:
                    sent[instrument.symbol] = (count["first"], count["last"])
        return sent

    def trade_time_ns(self, venue: str, symbol: str, number: int) -> int:
        """Return when a trade was."""
        market = self.engine.venues[venue].market
        index = [instrument.symbol for instrument in market.instruments].index(symbol)
        return market.trade_range(index, number, number)[0].time_ns

    def _ask(self, path: str, body: object = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.control_url}/{path}", data, ASK_TIMEOUT_S) as answer:
            return json.loads(answer.read() or b"{}")


@contextlib.contextmanager
def venue_running(*, instruments: int, rate: float | None = None, history_days: int = 7) -> Iterator[VenueProcess]:
    """Run a test venue."""
    options = ["--port", "0", "--json", "--instruments", str(instruments), "--history-days", str(history_days)]
    if rate is not None:
        options += ["--rate", str(rate)]
    process = subprocess.Popen(
        [sys.executable, "-m", "marketd", "testvenue", *options], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    try:
        assert process.stdout is not None
        announced = json.loads(process.stdout.readline())
        settings = Settings(instruments=instruments, rate=rate, history_days=history_days)
        engine = build(settings, SystemClock())
        yield VenueProcess(process, announced["control_url"], announced["venues"], engine)
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()

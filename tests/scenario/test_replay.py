"""A recording through the real daemon to a real client: nothing more, nothing less, and nothing else."""

from __future__ import annotations

import collections
import json
import os
import socket
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from marketd.client import CannotConnect, connect
from tests.conftest import PROJECT

SECOND_NS = 1_000_000_000
FIXTURE = PROJECT / "tests" / "data" / "binance" / "futures.ws"
SAVED = PROJECT / "tests" / "data" / "kraken" / "spot-trades.json"
RECORDINGS = ["binance-futures.ws", "binance-spot.ws", "binance-us-spot.ws"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def expected(path: Path) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Read trades and quotes off a recording with the json module: an independent witness."""
    trades, quotes = [], []
    for line in path.read_text().splitlines()[1:]:
        head, _, payload = line.partition(": ")
        if not head.replace(".", "").isdigit():
            continue
        whole, _, fraction = head.partition(".")
        received_ns = int(whole) * SECOND_NS + int(fraction.ljust(9, "0"))
        message = json.loads(payload)
        name, data = message.get("stream", ""), message.get("data")
        if name.endswith("@aggTrade"):
            side = -1 if data["m"] else 1
            trades.append(
                (data["s"], data["T"] * 10**6, received_ns, data["a"], side, float(data["p"]), float(data["q"]))
            )
        elif name.endswith("@bookTicker"):
            event_ns = data["T"] * 10**6 if "T" in data else received_ns
            values = (float(data[key]) for key in "bBaA")
            quotes.append((data["s"], event_ns, received_ns, data["u"], *values))
    return trades, quotes


def play(path: Path, speed: str) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], list[str], dict[str, Any]]:
    """Replay to one lossless client; return its trades, its quotes, what else it got, and the daemon's summary."""
    port = free_port()
    command = [sys.executable, "-m", "marketd", "replay", str(path), "--speed", speed, "--wait-client"]
    command += ["--exit-when-done", "--json", "--address", f"127.0.0.1:{port}", "--instance", f"replay-{os.getpid()}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    trades: list[tuple[Any, ...]] = []
    quotes: list[tuple[Any, ...]] = []
    others: list[str] = []
    try:
        with _connect(port) as md:
            symbols = {hit.fqme: md.instrument(hit.fqme).market.bs_mktid for hit in md.search("*")}
            with md.subscribe(["*"], kinds=["trade", "quote"], contract="lossless") as stream:
                for frame in stream:
                    if frame.kind not in ("trade", "quote"):
                        others.append(f"{frame.kind} {getattr(frame, 'state', '')}")
                        if "disconnected" in others[-1] or "closing" in others[-1]:
                            break
                        continue
                    for row in frame.rows:
                        symbol = symbols[frame.fqme(row["instrument"])]
                        common = (symbol, int(row["event_ns"]), int(row["received_ns"]), int(row["sequence"]))
                        if frame.kind == "trade":
                            trades.append((*common, int(row["side"]), float(row["price"]), float(row["size"])))
                        else:
                            quotes.append(
                                (*common, *(float(row[key]) for key in ("bid", "bid_size", "ask", "ask_size")))
                            )
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return trades, quotes, others, json.loads(out)["feeds"][0]


def _connect(port: int) -> Any:
    deadline_s = time.monotonic() + 30
    while True:
        try:
            return connect(f"127.0.0.1:{port}", reconnect=False)
        except CannotConnect:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


def _check(path: Path, speed: str) -> None:
    expected_trades, expected_quotes = expected(path)
    trades, quotes, others, summary = play(path, speed)
    assert expected_quotes
    assert trades == expected_trades
    assert quotes == expected_quotes
    assert not [other for other in others if other.startswith("gap")]
    used = summary["messages"]["used"]
    assert (used.get("aggTrade", 0), used.get("bookTicker", 0)) == (len(trades), len(quotes))
    assert (summary["messages"]["bad"], summary["messages"]["unknown"], summary["gaps"]) == (0, 0, 0)
    assert summary["rows"] == {"trade": len(trades), "quote": len(quotes)}
    lines = [line for line in path.read_text().splitlines()[1:] if line[:1].isdigit()]
    assert sum(used.values()) + sum(summary["messages"]["unused"].values()) == len(lines)


def test_lossless_client_gets_every_trade_and_quote_of_our_own_recording() -> None:
    _check(FIXTURE, "max")


@pytest.mark.parametrize("name", RECORDINGS)
def test_lossless_client_gets_every_trade_and_quote_of_the_recording(shared_data: Path, name: str) -> None:
    _check(shared_data / "recordings" / name, "max")


def test_replay_at_another_speed_gives_the_very_same_rows(shared_data: Path) -> None:
    path = shared_data / "recordings" / "binance-futures.ws"
    trades, quotes = expected(path)
    assert play(path, "10")[:2] == (trades, quotes)


def test_recorded_instruments_have_their_venues_ticks(shared_data: Path) -> None:
    """With the venue's metadata beside the recording, instruments are resolved; the ticks are the venue's."""
    port = free_port()
    path = shared_data / "recordings" / "binance-futures.ws"
    command = [sys.executable, "-m", "marketd", "replay", str(path), "--wait-client", "--address", f"127.0.0.1:{port}"]
    process = subprocess.Popen([*command, "--instance", f"ticks-{os.getpid()}"], stderr=subprocess.PIPE, text=True)
    try:
        with _connect(port) as md:
            found = sorted(hit.fqme for hit in md.search("*.binance"))
            assert found == sorted(f"{dst}/usdt.perp.binance" for dst in ("sushi", "akro", "keep", "ctk"))
            market = md.instrument("sushi/usdt.perp.binance").market
            assert (market.price_tick, market.type, market.bs_mktid) == (Decimal("0.001"), "perpetual", "SUSHIUSDT")
    finally:
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 0


def test_kinds_are_as_many_in_the_summary_as_in_the_file(shared_data: Path) -> None:
    path = shared_data / "recordings" / "binance-futures.ws"
    text = path.read_text()
    counts = collections.Counter(
        kind for kind in ("aggTrade", "bookTicker", "kline", "depthUpdate") for _ in range(text.count(f'"e":"{kind}"'))
    )
    messages = play(path, "max")[3]["messages"]
    assert messages["used"] == {kind: counts[kind] for kind in ("aggTrade", "bookTicker")}
    assert messages["unused"] == {kind: counts[kind] for kind in ("depthUpdate", "kline") if counts[kind]}


# --- saved trades ---------------------------------------------------------------------------------------


def saved_trades(path: Path) -> list[tuple[Any, ...]]:
    """Read saved trades with the json module, each once, by time: an independent witness."""
    names = {"XBTUSDT": "XBT/USDT", "XXBTZUSD": "XBT/USD", "SOLUSD": "SOL/USD", "XETHXXBT": "ETH/XBT"}
    trades = set()
    for body in filter(None, path.read_text().split("\n")):
        result = json.loads(body, parse_float=Decimal)["result"]
        result.pop("last", None)
        for pair, found in result.items():
            for price, size, time_s, side, _, _, number in found:
                at_ns = int(time_s * SECOND_NS)
                taker = {"b": 1, "s": -1}[side]
                trades.add((names[pair], at_ns, at_ns, number, taker, float(price), float(size)))
    return sorted(trades, key=lambda trade: (trade[1], trade[3]))


def test_lossless_client_gets_every_saved_trade_once() -> None:
    trades, quotes, others, summary = play(SAVED, "max")
    assert (trades, quotes) == (saved_trades(SAVED), [])
    assert not [other for other in others if other.startswith("gap")]
    assert summary["messages"] == {"used": {"trade": 7}, "unused": {"duplicate": 2}, "bad": 0, "unknown": 0}
    assert (summary["rows"], summary["gaps"], summary["seconds"]) == ({"trade": 7, "quote": 0}, 0, 2.5)


def test_lossless_client_gets_every_trade_of_recorded_hours(shared_data: Path) -> None:
    path = shared_data / "truth" / "kraken-trades-first-part.json"
    trades, quotes, others, summary = play(path, "max")
    assert (trades, quotes) == (saved_trades(path), [])
    assert not [other for other in others if other.startswith("gap")]
    assert summary["messages"] == {"used": {"trade": len(trades)}, "unused": {}, "bad": 0, "unknown": 0}


def test_saved_trades_play_beside_a_recording() -> None:
    command = [sys.executable, "-m", "marketd", "replay", str(SAVED), str(FIXTURE), "--speed", "max", "--json"]
    command += ["--exit-when-done", "--address", "127.0.0.1:0", "--instance", f"beside-{os.getpid()}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    feeds = json.loads(done.stdout)["feeds"]
    assert [(feed["feed"], feed["rows"]) for feed in feeds] == [
        ("spot-trades", {"trade": 7, "quote": 0}),
        ("futures", {"trade": 13, "quote": 13}),
    ]

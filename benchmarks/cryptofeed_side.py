"""cryptofeed's side of `flood.py`, run by a Python of its own: it imports cryptofeed and nothing of ours.

    python cryptofeed_side.py EXCHANGE_INFO.json MESSAGES.jsonl WEBSOCKET_URL

Each line of standard input asks for a run, `socket` or `handler`; each is answered with `MESSAGES CPU_SECONDS`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import uvloop
from cryptofeed.connection import WSAsyncConn
from cryptofeed.connection_handler import ConnectionHandler
from cryptofeed.defines import TICKER, TRADES
from cryptofeed.exchanges.binance_futures import BinanceFutures
from cryptofeed.symbols import Symbols


class Counter:
    """cryptofeed's user: counts trades and tickers, and stops the clock with the last."""

    def __init__(self, expected: int) -> None:
        self.count = 0
        self.cpu_s = 0.0
        self.handler: ConnectionHandler | None = None
        self._expected = expected
        self._began_s = 0.0

    def begin(self) -> None:
        """Start the clock."""
        self._began_s = time.process_time()

    async def take(self, _update: object, _received_s: float) -> None:
        """Count one update."""
        self.count += 1
        if self.count == self._expected:
            self.cpu_s = time.process_time() - self._began_s
            if self.handler is not None:
                self.handler.running = False


def open_feed(messages: list[str], counter: Counter) -> BinanceFutures:
    """Make the feed as a user of cryptofeed does."""
    symbols = {json.loads(message)["data"]["s"] for message in messages}
    names = [name for name, symbol in Symbols.get(BinanceFutures.id)[0].items() if symbol in symbols]
    callbacks = {TRADES: counter.take, TICKER: counter.take}
    return BinanceFutures(subscription={TRADES: names, TICKER: names}, callbacks=callbacks)


async def run_handler(messages: list[str], _url: str) -> Counter:
    """Give every message to the feed's handler, as its connection does."""
    counter = Counter(len(messages))
    feed = open_feed(messages, counter)
    counter.begin()
    for message in messages:
        await feed.message_handler(message, None, time.time())
    return counter


async def run_socket(messages: list[str], url: str) -> Counter:
    """Receive the flood through cryptofeed's connection."""
    counter = Counter(len(messages))
    feed = open_feed(messages, counter)
    connection = WSAsyncConn("wss://localhost", feed.id, **feed.websocket_endpoints[0].options)
    connection.address = url  # it takes no address without TLS

    async def subscribe(open_connection: WSAsyncConn) -> None:
        await feed.subscribe(open_connection)
        counter.begin()
        await open_connection.write('{"method":"SUBSCRIBE"}')

    counter.handler = ConnectionHandler(connection, subscribe, feed.message_handler, retries=0)
    await counter.handler.run()
    return counter


def main() -> None:
    """Answer each line of standard input."""
    exchange_info, messages_file, url = sys.argv[1:]
    Symbols.set(BinanceFutures.id, *BinanceFutures._parse_symbol_data(json.loads(Path(exchange_info).read_bytes())))
    messages = Path(messages_file).read_text().splitlines()
    runs = {"handler": run_handler, "socket": run_socket}
    for line in sys.stdin:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as cryptofeed's FeedHandler does
            counter = runner.run(runs[line.strip()](messages, url))
        print(counter.count, counter.cpu_s, flush=True)


if __name__ == "__main__":
    main()

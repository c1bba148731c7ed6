"""Recorded message bytes -> rows in a ring, one core: how many messages a second of processor time.

The recording runs again and again through the real protocol and the real ring writer. The baseline, in turns with it,
is what must be done at least: one struct decoded and one row packed per message, with no checks and no counts.

    python -m benchmarks.ingest [--json] [--recording FILE.ws]
"""

from __future__ import annotations

import argparse
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from backends.backend import Sink
from backends.binance import BACKEND, wire
from backends.recording import RECEIVED, RecordingReader, read_companions
from benchmarks.report import Figure, report
from marketd.model import GapReason, MktPair
from marketd.ring.writer import RingWriter, create_ring

PROJECT = Path(__file__).resolve().parent.parent
RECORDINGS = (
    PROJECT.parent / "shared" / "data" / "recordings" / "binance-futures.ws",
    PROJECT / "tests" / "data" / "binance" / "futures.ws",
)
MESSAGES = 100_000  # a pass, about 0.2 s
ROUNDS = 7
RING_ROWS = 1 << 16
PUBLISH_EVERY = 64

Messages = list[tuple[bytes, int]]


class RingSink:
    """The least of a feed's sink: the ring alone."""

    recording = False
    last_received_ns = 0

    def __init__(self, writer: RingWriter) -> None:
        self.append = writer.append
        self.append_block = writer.append_block
        self.publish = writer.publish
        self._instruments: list[MktPair] = []

    def instrument(self, market: MktPair) -> int:
        """See :class:`backends.backend.Sink`."""
        self._instruments.append(market)
        return len(self._instruments)

    def gap(self, instrument: int, reason: GapReason, from_ns: int, to_ns: int, lost: int = -1) -> None:
        """Fail: there is no gap in what we play."""
        raise AssertionError(f"{reason.name} gap of instrument {instrument}")

    def quality(self, instrument: int, quality: object) -> None:
        """Ignore it."""

    def message(self, payload: bytes, received_ns: int) -> None:
        """Ignore it."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a figure")
    parser.add_argument("--recording", type=Path, default=next((path for path in RECORDINGS if path.exists()), None))
    options = parser.parse_args()
    reader = RecordingReader(options.recording)
    metadata = read_companions(options.recording)
    messages = [(entry.payload, entry.time_ns) for entry in reader if entry.what == RECEIVED]
    with_rows = [message for message in messages if b"@aggTrade" in message[0] or b"@bookTicker" in message[0]]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "ring"
        create_ring(path, RING_ROWS)
        sink = RingSink(RingWriter(path))

        def through_protocol(batch: Messages) -> Callable[[], float]:
            return lambda: run_protocol(reader.url, metadata, sink, batch)

        rates = measure(
            {
                "trades and quotes": through_protocol(with_rows),
                "all messages": through_protocol(messages),
                "bare": lambda: run_bare(with_rows),
            }
        )
    bare = rates["bare"]
    name = "msgspec struct + one pack_into"
    report(
        [
            Figure("ingest.trades_and_quotes", rates["trades and quotes"], "msg/s", bare, name),
            Figure("ingest.all_messages", rates["all messages"], "msg/s", bare, name),
        ],
        json=options.json,
    )


def measure(runs: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Run each in turns and return the median rate of each."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            rates[name].append(run())
    return {name: statistics.median(values) for name, values in rates.items()}


def run_protocol(url: str, metadata: dict[str, bytes], sink: Sink, batch: Messages) -> float:
    """Return messages a second through the protocol into the ring."""
    assert BACKEND.open_protocol is not None
    passes = max(1, MESSAGES // len(batch))
    protocols = [BACKEND.open_protocol(url, metadata, sink) for _ in range(passes)]
    began_s = time.process_time()
    for protocol in protocols:
        receive = protocol.receive
        for start in range(0, len(batch), PUBLISH_EVERY):
            for payload, received_ns in batch[start : start + PUBLISH_EVERY]:
                receive(payload, received_ns)
            sink.publish()
    elapsed_s = time.process_time() - began_s
    accounted = sum(sum(protocol.counts.used.values()) + sum(protocol.counts.unused.values()) for protocol in protocols)
    assert accounted == passes * len(batch), "a message was not understood"
    return accounted / elapsed_s


def run_bare(batch: Messages) -> float:
    """Return messages a second with nothing but decoding and packing."""
    pack_into = struct.Struct("<QqqqIBbH4d").pack_into
    memory = bytearray(72 * RING_ROWS)
    decoders = {b"aggTrade": decoder(wire.AggTrade), b"bookTicker": decoder(wire.BookTicker)}
    symbols: dict[str, int] = {}
    cursor = 0
    passes = max(1, MESSAGES // len(batch))
    began_s = time.process_time()
    for _ in range(passes):
        for payload, received_ns in batch:
            at = payload.find(b"@", 11)
            data = decoders[payload[at + 1 : payload.find(b'"', at)]](payload).data
            instrument = symbols.setdefault(data.symbol, len(symbols) + 1)
            cursor += 1
            offset = (cursor % RING_ROWS) * 72
            if type(data) is wire.AggTrade:
                event_ns, side = data.trade_time * 1_000_000, -1 if data.buyer_is_maker else 1
                values = (data.trade_id, instrument, 1, side, 1, data.price, data.quantity, 0.0, 0.0)
            else:
                event_ns = (data.transaction_time or 0) * 1_000_000
                prices = (data.bid, data.bid_quantity, data.ask, data.ask_quantity)
                values = (data.update_id, instrument, 2, 0, 1, *prices)
            pack_into(memory, offset, cursor, event_ns, received_ns, *values)
    return passes * len(batch) / (time.process_time() - began_s)


def decoder(data: type[msgspec.Struct]) -> Callable[[bytes], wire.Combined[msgspec.Struct]]:
    """Make a decoder of combined messages that reads numbers out of text."""
    return msgspec.json.Decoder(wire.Combined[data], strict=False).decode  # type: ignore[valid-type]


if __name__ == "__main__":
    main()

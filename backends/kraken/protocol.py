"""Kraken's websocket v2, sans I/O: message bytes in, rows out.

The type of a message is the first thing in it, ``{"channel":"trade",…`` or ``{"method":"subscribe",…``; any other order
of the keys is understood as well, only slower. Every message is counted once: used, unused by type, bad, or unknown. A
message of a channel with rows that can't be used is a gap row as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from backends.backend import MessageCounts, Sink, VenueProtocol
from backends.kraken import normalize, wire
from backends.kraken.instruments import read_directory, wsname_of
from backends.kraken.streams import Instrument, Rows
from backends.kraken.v1 import KrakenV1Protocol
from marketd.errors import WireError
from marketd.model import GapReason, MktPair

_CHANNEL = b'{"channel":"'
_NAME_BEGIN = len(_CHANNEL)
_METHOD = b'{"method":"'
_UNUSABLE = (msgspec.MsgspecError, WireError, RecursionError, UnicodeDecodeError)
_BOOK = "book"
_ROW_CHANNELS = ("trade", "ticker", _BOOK)
_SYMBOL = re.compile(rb'"symbol"\s*:\s*"([^"\\]{1,40})"')
_SEARCHED_BYTES = 65_536  # of a bad message, for symbols in it
_HEARTBEAT = b'{"channel":"heartbeat"}'


def open_protocol(url: str, metadata: Mapping[str, bytes], sink: Sink) -> VenueProtocol:
    """Make the protocol of a recorded connection; the address tells the version.

    Raises:
        WireError: the recorded AssetPairs can't be used.
    """
    directory = read_directory(metadata)
    if urlsplit(url).path.rstrip("/").endswith("/v2"):
        return KrakenProtocol(sink, lambda symbol: directory.find(wsname_of(symbol)))
    return KrakenV1Protocol(sink, directory.find)


class KrakenProtocol:
    """One connection; see :class:`backends.backend.VenueProtocol`.

    Of a recording, instruments are registered as their subscriptions are acked, or with their first message.

    Args:
        find: says which instrument a symbol of websocket v2 is, None for none.
    """

    def __init__(self, sink: Sink, find: Callable[[str], MktPair | None]) -> None:
        self._sink = sink
        self._rows = Rows(sink, find)
        self._takers: dict[bytes, Callable[[bytes, int], None]] = {
            _CHANNEL + b"trade": self._take_trades,
            _CHANNEL + b"ticker": self._take_tickers,
            _CHANNEL + b"book": self._take_books,
            _CHANNEL + b"status": self._take_status,
            _METHOD + b"subscribe": self._take_reply,
            _METHOD + b"unsubscribe": self._take_reply,
            _METHOD + b"pong": self._take_pong,
        }

    @property
    def counts(self) -> MessageCounts:
        """See :class:`backends.backend.VenueProtocol`."""
        return self._rows.counts

    def data_to_send(self) -> list[bytes]:
        """See :class:`backends.backend.VenueProtocol`: nothing, in a recording all is said."""
        return []

    def receive(self, payload: bytes, received_ns: int) -> None:
        """See :class:`backends.backend.VenueProtocol`."""
        if payload == _HEARTBEAT:
            self._rows.drop("heartbeat")
            return
        take = self._takers.get(payload[: payload.find(b'"', _NAME_BEGIN)], self._take_unusual)
        try:
            take(payload, received_ns)
        except _UNUSABLE:
            self._note_bad(payload, received_ns)

    # --- what a live connection wants to know as well -----------------------------------------------

    def _replied(self, reply: wire.Reply) -> None:
        """Take an answer to a request; of a recording nobody knows what it was."""
        if reply.success and reply.method == "subscribe" and reply.result.channel in _ROW_CHANNELS:
            self._rows.instrument(reply.result.symbol)
            if reply.result.channel == _BOOK:
                self._rows.expect_book(reply.result.symbol, reply.result.depth)

    def _lose_book(self, instrument: Instrument, reason: GapReason, received_ns: int) -> None:
        """Take it that an instrument's book is wrong; of a recording there is none until its next snapshot."""
        from_ns = min(instrument.book.last_ns or received_ns, received_ns)
        self._sink.gap(instrument.number, reason, from_ns, received_ns)

    def _status_changed(self, system: str) -> None:
        """Take the state of the trading engine."""

    def _ponged(self) -> None:
        """Take the answer to a ping."""

    # --- messages -----------------------------------------------------------------------------------

    def _take_trades(self, payload: bytes, received_ns: int) -> None:
        message: wire.Message[wire.Trade] = wire.decode_trades(payload)
        flags = normalize.flags(message.type)
        rows = []
        for trade in message.data:
            instrument = self._rows.instrument(trade.symbol)
            number = instrument.number if instrument is not None else 0
            rows.append((instrument, normalize.trade(trade, number, received_ns, flags)))
        self._rows.take_trades("trade", rows)

    def _take_tickers(self, payload: bytes, received_ns: int) -> None:
        message: wire.Message[wire.Ticker] = wire.decode_tickers(payload)
        flags = normalize.flags(message.type)
        rows = []
        for ticker in message.data:
            instrument = self._rows.instrument(ticker.symbol)
            number = instrument.number if instrument is not None else 0
            rows.append((instrument, normalize.quote(ticker, number, received_ns, flags)))
        self._rows.take_quotes("ticker", rows, times=bool(message.data) and message.data[0].timestamp is not None)

    def _take_books(self, payload: bytes, received_ns: int) -> None:
        message: wire.Message[wire.Book] = wire.decode_books(payload)
        snapshot = message.type == "snapshot"
        changes = [(book.symbol, normalize.change(book, received_ns, snapshot=snapshot)) for book in message.data]
        found = [(self._rows.instrument(symbol), change) for symbol, change in changes]
        for instrument, reason in self._rows.take_books(payload, found):
            self._lose_book(instrument, reason, received_ns)

    def _take_status(self, payload: bytes, received_ns: int) -> None:
        message: wire.Message[wire.Status] = wire.decode_statuses(payload)
        self._rows.heard.begin(received_ns)
        self._rows.drop("status")
        for status in message.data:
            self._status_changed(status.system)

    def _take_reply(self, payload: bytes, received_ns: int) -> None:
        reply: wire.Reply = wire.decode_reply(payload)
        self._rows.heard.begin(received_ns)
        self._rows.drop("ack" if reply.success else "error")
        self._replied(reply)

    def _take_pong(self, payload: bytes, received_ns: int) -> None:
        wire.decode_probe(payload)
        self._rows.drop("pong")
        self._ponged()

    def _take_unusual(self, payload: bytes, received_ns: int) -> None:
        """Take a message whose first bytes don't tell what it is, or one that never becomes rows.

        Raises:
            msgspec.DecodeError: it is no JSON, or no object.
        """
        probe = wire.decode_probe(payload)
        take = self._takers.get(_prefix(probe))
        if take is not None:
            take(payload, received_ns)
        elif isinstance(probe.channel, str) and probe.channel in wire.ROWLESS_CHANNELS:
            self._rows.drop(probe.channel)
        elif probe.error is not None or probe.fault is not None:
            self._rows.drop("error")
        else:
            self.counts.unknown += 1

    def _note_bad(self, payload: bytes, received_ns: int) -> None:
        if _may_have_rows(payload):
            symbols = {match.decode(errors="replace") for match in _SYMBOL.findall(payload, 0, _SEARCHED_BYTES)}
            self._rows.note_bad(payload, _channel(payload), symbols, received_ns)
        else:
            self.counts.note_bad(payload)


def _prefix(probe: wire.Probe) -> bytes:
    """What a message would begin with, if its keys were in their usual order."""
    if isinstance(probe.channel, str):
        return _CHANNEL + probe.channel.encode(errors="replace")
    return _METHOD + probe.method.encode(errors="replace") if isinstance(probe.method, str) else b""


def _may_have_rows(payload: bytes) -> bool:
    """Whether a message that can't be used may have been one with rows."""
    if not payload.startswith(_CHANNEL):
        return not payload.startswith((_METHOD, b'{"error":'))
    return _channel(payload) not in wire.ROWLESS_CHANNELS


def _channel(payload: bytes) -> str:
    """Read the channel at the beginning of a message; empty where there is none."""
    if not payload.startswith(_CHANNEL):
        return ""
    return payload[_NAME_BEGIN : payload.find(b'"', _NAME_BEGIN)].decode(errors="replace")

"""Binance's market streams, sans I/O: message bytes in, rows out.

Each stream of a connection is one object, found by the stream's name at a fixed place of a combined message, or by
type and symbol of a bare one. Every message is counted once: used, unused by type, bad, or unknown.

aggTrade and trade tell the same trades. Whichever comes first for an instrument becomes rows; the other is counted as
unused. Trade ids must be contiguous: a hole is a gap row. A message of a row stream that can't be used is one as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from backends.backend import MessageCounts, Sink
from backends.binance import instruments, normalize, wire
from marketd.errors import WireError
from marketd.feed.continuity import DUPLICATE, Contiguous, Rising
from marketd.model import GapReason

_COMBINED = b'{"stream":"'
_NAME_BEGIN = len(_COMBINED)
_UNUSABLE = (msgspec.MsgspecError, WireError, RecursionError, UnicodeDecodeError)
_SYMBOL = re.compile(r"\w{2,40}")
_STREAM_TYPE = re.compile(r"[a-zA-Z]+")
_STREAMS_MAX = 65_536
# What `X` says of trades that did not happen in the order book; see wire.Trade.
_OFF_BOOK = frozenset({"INSURANCE_FUND", "ADL", "NA"})
_ROW_KINDS = frozenset({"aggTrade", "trade", "bookTicker"})
_KINDS = {wire.AggTrade: "aggTrade", wire.Trade: "trade", wire.BookTicker: "bookTicker"}
_BARE = b'{"e":"'
_BARE_DECODERS: dict[bytes, Callable[[bytes], wire.AggTrade | wire.Trade | wire.BookTicker]] = {
    b"aggTrade": wire.decode_agg_trade,
    b"trade": wire.decode_trade,
    b"bookTicker": wire.decode_book_ticker,
}


class Instrument:
    """What is known of one instrument on this connection."""

    __slots__ = ("number", "quote_ids", "trade_ids", "trades_from")

    def __init__(self, number: int) -> None:
        self.number = number
        self.trade_ids = Contiguous()
        self.quote_ids = Rising()
        self.trades_from = ""  # the type of stream that became rows first


class BinanceProtocol:
    """One connection; see :class:`backends.backend.VenueProtocol`.

    The instruments of the address are registered at once, others with their first message, provided that the venue's
    own list has them, where there is one.

    Raises:
        WireError: the recorded exchangeInfo can't be used.
    """

    def __init__(self, url: str, metadata: Mapping[str, bytes], sink: Sink) -> None:
        self.sink = sink
        self.counts = MessageCounts()
        self.time_unit_ns = instruments.time_unit_ns_of(url)
        self._directory = instruments.read_directory(instruments.host_of(url), metadata)
        self._instruments: dict[str, Instrument] = {}
        self._streams: dict[bytes, Stream] = {}  # by the first bytes of their combined messages
        self._row_streams: dict[tuple[str, str], Stream] = {}  # by type and symbol
        self._asked_symbols = {_symbol_of(name) for name in instruments.streams_of(url)}
        for name in instruments.streams_of(url):
            self._find_stream(name)

    def data_to_send(self) -> list[bytes]:
        """See :class:`backends.backend.VenueProtocol`: nothing, the address says what is subscribed to."""
        return []

    def receive(self, payload: bytes, received_ns: int) -> None:
        """See :class:`backends.backend.VenueProtocol`."""
        # The beginning up to the name's end is looked up as one: it is the envelope's, and the stream's.
        stream = self._streams.get(payload[: payload.find(b'"', _NAME_BEGIN)])
        try:
            if stream is not None:
                stream.take(stream.decode(payload).data, received_ns)
            elif payload.startswith(_BARE):
                self._receive_bare(payload, received_ns)
            else:
                self._receive_unusual(payload, received_ns)
        except _UNUSABLE:
            self._note_bad(payload, stream, received_ns)

    def row_stream(self, kind: str, symbol: str) -> Stream | None:
        """Return the stream of one type and symbol; None for a symbol that the venue does not have."""
        stream = self._row_streams.get((kind, symbol))
        if stream is None:
            instrument = self._instrument(symbol)
            if instrument is None:
                return None
            stream = (QuoteStream if kind == "bookTicker" else TradeStream)(self, kind, instrument)
            self._row_streams[kind, symbol] = stream
        return stream

    def _receive_bare(self, payload: bytes, received_ns: int) -> None:
        """Take a message of a raw stream, which begins with its type."""
        decode = _BARE_DECODERS.get(payload[len(_BARE) : payload.find(b'"', len(_BARE))])
        if decode is None:
            self._receive_unusual(payload, received_ns)
        else:
            self._take_row(decode(payload), received_ns)

    def _take_row(self, message: wire.AggTrade | wire.Trade | wire.BookTicker, received_ns: int) -> None:
        """Take a payload that names its instrument itself."""
        stream = self.row_stream(_KINDS[type(message)], message.symbol)
        if stream is None:
            self.counts.unknown += 1
        else:
            stream.take(message, received_ns)

    def _receive_unusual(self, payload: bytes, received_ns: int) -> None:
        """Take a message whose first bytes don't tell what it is.

        Raises:
            msgspec.DecodeError: it is no JSON.
        """
        try:
            probe = wire.decode_probe(payload)
        except msgspec.ValidationError:
            self._receive_list(payload)
            return
        if isinstance(probe.stream, str):
            stream = self._find_stream(probe.stream)
            if stream is None:
                self.counts.unknown += 1
            else:
                stream.take(stream.decode(payload).data, received_ns)
        elif _is_spot_book_ticker(probe):
            self._take_row(wire.decode_book_ticker(payload), received_ns)
        elif isinstance(probe.event, str) and (decode := _BARE_DECODERS.get(probe.event.encode())):
            self._take_row(decode(payload), received_ns)
        else:
            self._count_rowless(_rowless_type(probe))

    def _receive_list(self, payload: bytes) -> None:
        """Count a bare list, as the streams of all the market's tickers send them."""
        try:
            probes = wire.decode_probes(payload)
        except msgspec.ValidationError:
            probes = []
        self._count_rowless(_rowless_type(probes[0]) if probes else None)

    def _count_rowless(self, name: str | None) -> None:
        if name is None:
            self.counts.unknown += 1
        else:
            self.counts.unused[name] = self.counts.unused.get(name, 0) + 1

    def _find_stream(self, name: str) -> Stream | None:
        """Return the stream of a name; None for a type or symbol that does not exist."""
        key = _COMBINED + name.encode(errors="replace")
        stream = self._streams.get(key)
        if stream is None:
            stream = self._make_stream(name)
            if stream is not None and len(self._streams) < _STREAMS_MAX:
                self._streams[key] = stream
        return stream

    def _make_stream(self, name: str) -> Stream | None:
        symbol, _, rest = name.partition("@")
        match = _STREAM_TYPE.match(name[1:] if name.startswith("!") else rest)
        kind = match[0] if match else ""
        if kind == "bookTicker" and name.startswith("!"):
            return AllQuotesStream(self, kind)
        if kind in _ROW_KINDS:
            return self.row_stream(kind, symbol.upper())
        event = wire.EVENTS_BY_STREAM.get(kind)
        return Stream(self, event) if event else None

    def _instrument(self, symbol: str) -> Instrument | None:
        """Register an instrument with the feed, once; None for what can't be one."""
        instrument = self._instruments.get(symbol)
        if instrument is None and self._may_be(symbol):
            instrument = Instrument(self.sink.instrument(self._directory.find(symbol)))
            self._instruments[symbol] = instrument
        return instrument

    def _may_be(self, symbol: str) -> bool:
        known = self._directory.markets
        return symbol in known or symbol in self._asked_symbols or (not known and bool(_SYMBOL.fullmatch(symbol)))

    def _note_bad(self, payload: bytes, stream: Stream | None, received_ns: int) -> None:
        """Count a message that can't be used, and write a gap row if it may have held a row.

        The row says not how many: of trades, the hole in the ids will.
        """
        self.counts.note_bad(payload)
        if stream is None:
            self.sink.gap(0, GapReason.MALFORMED, received_ns, received_ns)
        elif stream.instrument is not None:
            from_ns = stream.instrument.trade_ids.last_ns or received_ns
            self.sink.gap(stream.instrument.number, GapReason.MALFORMED, from_ns, received_ns)


class Stream:
    """One stream. Of this kind nothing becomes rows.

    Attributes:
        name: the type that its messages are counted under.
        decode: reads a combined message.
        instrument: whose rows are missing when a message can't be used.
    """

    def __init__(self, protocol: BinanceProtocol, name: str, instrument: Instrument | None = None) -> None:
        self.name = name
        self.decode: Callable[[bytes], wire.Combined[Any]] = wire.decode_combined_other
        self.instrument = instrument
        self._counts = protocol.counts
        self._sink = protocol.sink
        self._time_unit_ns = protocol.time_unit_ns

    def take(self, message: Any, received_ns: int) -> None:  # noqa: ANN401 - whatever `decode` gives
        """Count one decoded payload."""
        self._drop(self.name)

    def _drop(self, what: str) -> None:
        unused = self._counts.unused
        unused[what] = unused.get(what, 0) + 1


class TradeStream(Stream):
    """aggTrade or trade of one instrument."""

    def __init__(self, protocol: BinanceProtocol, name: str, instrument: Instrument) -> None:
        super().__init__(protocol, name, instrument)
        self.decode = wire.decode_combined_agg_trade if name == "aggTrade" else wire.decode_combined_trade
        self._counts.used.setdefault(name, 0)
        self._of = instrument

    def take(self, message: wire.AggTrade | wire.Trade, received_ns: int) -> None:
        """Write the trade's row, after a gap row if trades are missing before it.

        Raises:
            WireError: it can't be used.
        """
        instrument = self._of
        if type(message) is wire.Trade and message.execution in _OFF_BOOK:
            event_ns, trade_id = normalize.place(message, self._time_unit_ns)
            if self._is_next(trade_id, event_ns):
                self._drop("trade.off_book")
            return
        row = normalize.trade(message, instrument.number, received_ns, self._time_unit_ns)
        if self._is_next(row[2], row[0]):
            self._sink.append(row)
            self._counts.used[self.name] += 1

    def _is_next(self, trade_id: int, event_ns: int) -> bool:
        """Whether the trade is new; report what is missing before it."""
        instrument = self._of
        if instrument.trades_from != self.name:
            if instrument.trades_from:
                self._drop(self.name)
                return False
            instrument.trades_from = self.name
        missing = instrument.trade_ids.accept(trade_id, event_ns)
        if missing:
            if missing == DUPLICATE:
                self._drop("duplicate")
                return False
            from_ns = instrument.trade_ids.hole_from_ns
            self._sink.gap(instrument.number, GapReason.SEQUENCE, from_ns, event_ns, max(missing, -1))
        return True


class QuoteStream(Stream):
    """bookTicker of one instrument."""

    def __init__(self, protocol: BinanceProtocol, name: str, instrument: Instrument) -> None:
        super().__init__(protocol, name, instrument)
        self.decode = wire.decode_combined_book_ticker
        self._counts.used.setdefault(name, 0)
        self._of = instrument

    def take(self, message: wire.BookTicker, received_ns: int) -> None:
        """Write the quote's row, unless it is older than one that came before.

        Raises:
            WireError: it can't be used.
        """
        row = normalize.quote(message, self._of.number, received_ns, self._time_unit_ns)
        if not self._of.quote_ids.accept(row[2]):
            self._drop("stale")
            return
        self._sink.append(row)
        self._counts.used[self.name] += 1


class AllQuotesStream(Stream):
    """bookTicker of all instruments in one stream: each payload names its own."""

    def __init__(self, protocol: BinanceProtocol, name: str) -> None:
        super().__init__(protocol, name)
        self.decode = wire.decode_combined_book_ticker
        self._protocol = protocol

    def take(self, message: wire.BookTicker, received_ns: int) -> None:
        """Give the payload to its instrument's stream."""
        stream = self._protocol.row_stream(self.name, message.symbol)
        if stream is None:
            self._counts.unknown += 1
        else:
            stream.take(message, received_ns)


def _symbol_of(stream_name: str) -> str:
    return stream_name.partition("@")[0].upper()


def _is_spot_book_ticker(probe: wire.Probe) -> bool:
    return probe.event is None and probe.update_id is not None and probe.bid is not None and probe.symbol is not None


def _rowless_type(probe: wire.Probe) -> str | None:
    """Name the type of a message that never becomes rows; None for one that nobody knows."""
    if probe.event is not None:
        return probe.event if isinstance(probe.event, str) and probe.event in wire.EVENTS else None
    if probe.last_update_id is not None:
        return "depthUpdate"
    if probe.error is not msgspec.UNSET or probe.code is not msgspec.UNSET:
        return "error"
    return "ack" if probe.result is not msgspec.UNSET else None

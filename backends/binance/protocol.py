"""Binance's market streams, sans I/O: message bytes in, rows out.

Each stream of a connection is one object, found by the stream's name at a fixed place of a combined message, or by
type and symbol of a bare one. Every message is counted once: used, unused by type, bad, or unknown.
A message of a row stream that can't be used is a gap row as well.

What is here reads; it is the same for a recording (`BinanceProtocol`) and for a live connection, which also asks for
its streams (`live_protocol.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from backends.backend import Sink
from backends.binance import instruments, wire
from backends.binance.streams import (
    AllQuotesStream,
    Connection,
    Instrument,
    NoticeStream,
    QuoteStream,
    Stream,
    TradeStream,
)
from backends.malformed import Heard
from marketd.errors import WireError
from marketd.model import MktPair

_COMBINED = b'{"stream":"'
_NAME_BEGIN = len(_COMBINED)
_UNUSABLE = (msgspec.MsgspecError, WireError, RecursionError, UnicodeDecodeError)
_SYMBOL = re.compile(r"\w{2,40}")
_STREAM_TYPE = re.compile(r"[a-zA-Z]+")
_STREAMS_MAX = 65_536
_ROW_KINDS = frozenset({"aggTrade", "trade", "bookTicker"})
_KINDS = {wire.AggTrade: "aggTrade", wire.Trade: "trade", wire.BookTicker: "bookTicker"}
_SHUTDOWN = "serverShutdown"
_BARE = b'{"e":"'
_BARE_DECODERS: dict[bytes, Callable[[bytes], wire.AggTrade | wire.Trade | wire.BookTicker]] = {
    b"aggTrade": wire.decode_agg_trade,
    b"trade": wire.decode_trade,
    b"bookTicker": wire.decode_book_ticker,
}


class Reader:
    """Reads one connection's messages. Who inherits from it says which symbols there are."""

    def __init__(self, sink: Sink, time_unit_ns: int) -> None:
        self._sink = sink
        self._instruments: dict[str, Instrument] = {}
        self._heard = Heard(sink, self._instruments)
        self._connection = Connection(sink, time_unit_ns, self._heard)
        self.counts = self._connection.counts
        self._streams: dict[bytes, Stream] = {}  # by the first bytes of their combined messages
        self._row_streams: dict[tuple[str, str], Stream] = {}  # by type and symbol

    def _find_market(self, symbol: str) -> MktPair | None:
        """Return what a symbol stands for; None when there is none that we expect."""
        raise NotImplementedError

    def _notice(self, name: str, probe: wire.Probe | None) -> None:
        """Take note of a message that makes no rows: a reply (``ack``, ``error``), or what the venue announces."""

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

    def _row_stream(self, kind: str, symbol: str) -> Stream | None:
        """Return the stream of one type and symbol; None for a symbol that the venue does not have."""
        stream = self._row_streams.get((kind, symbol))
        if stream is None:
            instrument = self._instrument(symbol)
            if instrument is None:
                return None
            stream = (QuoteStream if kind == "bookTicker" else TradeStream)(self._connection, kind, instrument)
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
        stream = self._row_stream(_KINDS[type(message)], message.symbol)
        if stream is None:
            self.counts.unknown += 1
        else:
            stream.take(message, received_ns)

    def _receive_unusual(self, payload: bytes, received_ns: int) -> None:
        """Take a message whose first bytes don't tell what it is.

        Raises:
            msgspec.DecodeError: it is no JSON.
        """
        self._heard.begin(received_ns)
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
            name = _rowless_type(probe)
            self._count_rowless(name)
            if name is not None:
                self._notice(name, probe)

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
        key = stream_key(name)
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
            return AllQuotesStream(self._connection, kind, self._row_stream)
        if kind in _ROW_KINDS:
            return self._row_stream(kind, symbol.upper())
        event = wire.EVENTS_BY_STREAM.get(kind)
        if event == _SHUTDOWN:
            return NoticeStream(self._connection, event, lambda: self._notice(_SHUTDOWN, None))
        return Stream(self._connection, event) if event else None

    def _instrument(self, symbol: str) -> Instrument | None:
        """Register an instrument with the feed, once; None for what can't be one."""
        instrument = self._instruments.get(symbol)
        if instrument is None and (market := self._find_market(symbol)) is not None:
            instrument = Instrument(self._sink.instrument(market))
            self._instruments[symbol] = instrument
        return instrument

    def _note_bad(self, payload: bytes, stream: Stream | None, received_ns: int) -> None:
        """Count a message that can't be used, and write a gap row if it may have held a row."""
        self.counts.note_bad(payload)
        if stream is not None:
            stream.miss(received_ns)
        elif (instrument := self._suspect(payload)) is not None:
            self._heard.gap(received_ns, instrument.number, trade_ns=instrument.trade_ns, quote_ns=instrument.quote_ns)
        else:
            self._heard.gap(received_ns)

    def _suspect(self, payload: bytes) -> Instrument | None:
        """Return the instrument that a broken message seems to be of; None: it may be of any."""
        return None


class BinanceProtocol(Reader):
    """One recorded connection; see :class:`backends.backend.VenueProtocol`.

    The instruments of the address are registered at once, others with their first message, provided that the venue's
    own list has them, where there is one.

    Raises:
        WireError: the recorded exchangeInfo can't be used.
    """

    def __init__(self, url: str, metadata: Mapping[str, bytes], sink: Sink) -> None:
        super().__init__(sink, instruments.time_unit_ns_of(url))
        self._directory = instruments.read_directory(instruments.host_of(url), metadata)
        self._asked_symbols = {_symbol_of(name) for name in instruments.streams_of(url)}
        for name in instruments.streams_of(url):
            self._find_stream(name)

    def data_to_send(self) -> list[bytes]:
        """See :class:`backends.backend.VenueProtocol`: nothing, the address says what is subscribed to."""
        return []

    def _find_market(self, symbol: str) -> MktPair | None:
        known = self._directory.markets
        if symbol in known or symbol in self._asked_symbols or (not known and _SYMBOL.fullmatch(symbol)):
            return self._directory.find(symbol)
        return None


def stream_key(name: str) -> bytes:
    """Return how the combined messages of a stream begin."""
    return _COMBINED + name.encode(errors="replace")


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

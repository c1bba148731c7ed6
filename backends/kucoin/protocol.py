"""KuCoin's websocket, sans I/O: message bytes in, rows out.

The topic of a message, ``/market/match:BTC-USDT``, tells what it is: today it is the first thing in it, in 2021 it was
near the end; elsewhere it is found as well, only slower. Each topic is one object. Every message is counted once: used,
unused by type, bad, or unknown. A message of a topic with rows that can't be used is a gap row as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from backends.backend import MessageCounts, Sink, VenueProtocol
from backends.kucoin import wire
from backends.kucoin.instruments import read_directory
from backends.kucoin.streams import Instrument, QuoteStream, Stream, TradeStream
from backends.malformed import Heard
from marketd.errors import WireError
from marketd.model import MktPair

_BEGIN = b'{"topic":"'
_TOPIC = b'"topic":"'
_UNUSABLE = (msgspec.MsgspecError, WireError, RecursionError, UnicodeDecodeError)
_STREAMS_MAX = 65_536
_KINDS: dict[str, type[TradeStream | QuoteStream]] = {
    wire.MATCH: TradeStream,
    wire.LEVEL1: QuoteStream,
    wire.TICKER: QuoteStream,
}
_REPLIES = ("welcome", "ack", "pong", "error")
_REPLY_BEGINNING = b'{"id":'


def open_protocol(url: str, metadata: Mapping[str, bytes], sink: Sink) -> VenueProtocol:
    """Make the protocol of a recorded connection.

    Raises:
        WireError: the recorded list of symbols can't be used.
    """
    return KucoinProtocol(sink, read_directory(metadata).find)


class KucoinProtocol:
    """One connection; see :class:`backends.backend.VenueProtocol`.

    Of a recording, instruments are registered with their first message: an ack does not say what it is for.

    Args:
        find: says which instrument a symbol is, None for none.
    """

    def __init__(self, sink: Sink, find: Callable[[str], MktPair | None]) -> None:
        self.counts = MessageCounts()
        self._sink = sink
        self._find = find
        self._instruments: dict[str, Instrument] = {}
        self._heard = Heard(sink, self._instruments)
        self._streams: dict[bytes, Stream] = {}  # by topic

    def data_to_send(self) -> list[bytes]:
        """See :class:`backends.backend.VenueProtocol`: nothing, in a recording all is said."""
        return []

    def receive(self, payload: bytes, received_ns: int) -> None:
        """See :class:`backends.backend.VenueProtocol`."""
        stream = self._streams.get(_topic(payload)) or self._recognise(payload, received_ns)
        if stream is not None:
            try:
                stream.take(stream.decode(payload).data, received_ns)
            except _UNUSABLE:
                self._note_bad(payload, stream, received_ns)

    def _replied(self, probe: wire.Probe, received_ns: int) -> None:
        """Take a welcome, an ack, a pong or an error; of a recording nobody knows what was asked."""

    def _add(self, symbol: str, market: MktPair) -> Instrument:
        """Register an instrument; its continuity begins anew if it was unsubscribed before."""
        instrument = self._instruments.get(symbol)
        if instrument is None or not instrument.active:
            instrument = self._instruments[symbol] = Instrument(self._sink.instrument(market))
            for topic in _KINDS:
                self._streams.pop(f"{topic}:{symbol}".encode(), None)
        return instrument

    def _recognise(self, payload: bytes, received_ns: int) -> Stream | None:
        """Find the stream of a message whose topic is new, or not where it should be; count a message of no topic."""
        try:
            probe = wire.decode_probe(payload)
        except _UNUSABLE:
            self._note_bad(payload, None, received_ns)
            return None
        self._heard.begin(received_ns)
        stream = self._find_stream(probe.topic) if isinstance(probe.topic, str) else None
        if stream is not None:
            return stream
        if probe.topic is None and isinstance(probe.type, str) and probe.type in _REPLIES:
            self.counts.unused[probe.type] = self.counts.unused.get(probe.type, 0) + 1
            self._replied(probe, received_ns)
        else:
            self.counts.unknown += 1
        return None

    def _find_stream(self, topic: str) -> Stream | None:
        """Return the stream of a topic; None for a type or a symbol that does not exist."""
        key = topic.encode(errors="replace")
        stream = self._streams.get(key)
        if stream is None:
            prefix, _, symbol = topic.partition(":")
            kind = _KINDS.get(prefix)
            if kind is None:
                name = wire.TOPICS.get(prefix)
                stream = Stream(self._sink, self.counts, self._heard, name) if name is not None else None
            elif (instrument := self._instrument(symbol)) is not None:
                stream = kind(self._sink, self.counts, self._heard, wire.TOPICS[prefix], instrument)
            if stream is not None and len(self._streams) < _STREAMS_MAX:
                self._streams[key] = stream
        return stream

    def _instrument(self, symbol: str) -> Instrument | None:
        instrument = self._instruments.get(symbol)
        if instrument is None and len(self._instruments) < _STREAMS_MAX:
            market = self._find(symbol)
            if market is not None:
                instrument = self._add(symbol, market)
        return instrument

    def _note_bad(self, payload: bytes, stream: Stream | None, received_ns: int) -> None:
        """Count a message that can't be used, and write a gap row if it may have held a row."""
        self.counts.note_bad(payload)
        if stream is not None:
            stream.miss(received_ns)
        elif not payload.startswith(_REPLY_BEGINNING):
            self._heard.gap(received_ns)


def _topic(payload: bytes) -> bytes:
    """Read the topic at the beginning of a message, or else near its end; nothing if it is neither here nor there."""
    begin = len(_BEGIN) if payload.startswith(_BEGIN) else payload.rfind(_TOPIC) + len(_TOPIC)
    return payload[begin : payload.find(b'"', begin)]

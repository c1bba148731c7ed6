"""One live connection to Binance, sans I/O: the reading of `protocol.py`, and asking for the streams to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import msgspec

from backends.backend import Sink
from backends.binance import wire
from backends.binance.protocol import Reader, stream_key
from backends.binance.stream_requests import CHUNK, StreamRequests
from backends.binance.streams import Instrument, Stream
from backends.live import CutAnnounced, Event
from marketd.model import MktPair

_MILLISECOND_NS = 1_000_000
_SYMBOL_SEEN = re.compile(rb'"stream":"([^"@]{2,40})@|"s":"([^"]{2,40})"')


class BinanceLiveProtocol(Reader):
    """See :class:`backends.live.LiveProtocol`.

    Streams that nobody asked for make no rows: those that were ended are counted as ``unsubscribed`` for as long as
    they still say something, and what is of no instrument of ours is unknown.

    Args:
        stream_types: of each instrument's streams: ``aggTrade``, ``bookTicker``, ``trade``.
    """

    def __init__(self, sink: Sink, stream_types: Sequence[str], chunk: int = CHUNK) -> None:
        super().__init__(sink, _MILLISECOND_NS)
        self._stream_types = tuple(stream_types)
        self._requests = StreamRequests(chunk)
        self._ended = Stream(self._connection, "unsubscribed")
        self._markets: dict[str, MktPair] = {}  # by symbol: those that were asked for
        self._cut_announced = False
        self._cut: CutAnnounced | None = None

    def subscribe(self, markets: Sequence[MktPair]) -> None:
        """See :class:`backends.live.LiveProtocol`."""
        names: dict[str, tuple[str, ...]] = {}
        for market in markets:
            self._markets[market.bs_mktid] = market
            names[market.fqme] = self._names(market)
            for kind in self._stream_types:
                self._streams[stream_key(_name(market, kind))] = self._make_row_stream(kind, market.bs_mktid)
        self._requests.subscribe(names)

    def unsubscribe(self, markets: Sequence[MktPair]) -> None:
        """See :class:`backends.live.LiveProtocol`."""
        for market in markets:
            symbol = market.bs_mktid
            if self._markets.pop(symbol, None) is None:
                continue
            # Asked for again it begins anew: what it missed by then is the gap of whoever ended it.
            self._instruments.pop(symbol, None)
            for kind in self._stream_types:
                self._row_streams.pop((kind, symbol), None)
                self._streams[stream_key(_name(market, kind))] = self._ended
        self._requests.unsubscribe([market.fqme for market in markets])

    def data_to_send(self) -> list[bytes]:
        """See :class:`backends.live.LiveProtocol`."""
        return self._requests.data_to_send()

    def timer(self, now_ns: int) -> None:
        """See :class:`backends.live.LiveProtocol`. Pings are the venue's: frames, that the websocket answers."""
        self._requests.timer(now_ns)

    @property
    def next_timer_ns(self) -> int | None:
        """See :class:`backends.live.LiveProtocol`."""
        return self._requests.next_timer_ns

    def events(self) -> list[Event]:
        """See :class:`backends.live.LiveProtocol`."""
        events = self._requests.events()
        if self._cut is not None:
            events.append(self._cut)
            self._cut = None
        return events

    @property
    def pending(self) -> AbstractSet[str]:
        """See :class:`backends.live.LiveProtocol`."""
        return self._requests.pending

    @property
    def live(self) -> AbstractSet[str]:
        """See :class:`backends.live.LiveProtocol`."""
        return self._requests.live

    def _names(self, market: MktPair) -> tuple[str, ...]:
        return tuple(_name(market, kind) for kind in self._stream_types)

    def _find_market(self, symbol: str) -> MktPair | None:
        return self._markets.get(symbol)

    def _row_stream(self, kind: str, symbol: str) -> Stream | None:
        """Return a stream that was asked for."""
        return self._row_streams.get((kind, symbol))

    def _make_row_stream(self, kind: str, symbol: str) -> Stream:
        stream = super()._row_stream(kind, symbol)
        assert stream is not None, "its instrument is known"
        return stream

    def _notice(self, name: str, probe: wire.Probe | None) -> None:
        if name == "serverShutdown" and not self._cut_announced:
            self._cut_announced = True
            self._cut = CutAnnounced()
        elif probe is not None and name == "ack":
            self._requests.acked(probe.id, probe.result)
        elif probe is not None and name == "error":
            self._requests.refused(None if probe.id is msgspec.UNSET else probe.id, _reason(probe))

    def _suspect(self, payload: bytes) -> Instrument | None:
        seen = _SYMBOL_SEEN.search(payload)
        if seen is None:
            return None
        return self._instruments.get((seen[1] or seen[2]).decode(errors="replace").upper())


def _name(market: MktPair, kind: str) -> str:
    """Name a stream; "All symbols for streams are lowercase"."""
    return f"{market.bs_mktid.lower()}@{kind}"


def _reason(probe: wire.Probe) -> str:
    error = probe.error if isinstance(probe.error, dict) else {"code": probe.code, "msg": probe.msg}
    return f"{error.get('msg')} (code {error.get('code')})"

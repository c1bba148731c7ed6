"""The simulated venue's protocol, sans I/O: what `replay` needs to play a recording of a sim feed."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import msgspec
import numpy as np

from backends.backend import EVENT_NS_BEGIN, EVENT_NS_END, MessageCounts, RowBlock, Sink
from backends.sim import normalize, wire
from backends.sim.instruments import INSTRUMENTS_MAX, market_of, names_of, symbol_of
from marketd.errors import WireError
from marketd.feed.continuity import DUPLICATE, Contiguous
from marketd.model import Flag, GapReason, Kind, Quality
from marketd.ring import layout

_UNUSABLE = (msgspec.MsgspecError, WireError, RecursionError, UnicodeDecodeError)


class SimProtocol:
    """One connection; see :class:`backends.backend.VenueProtocol`."""

    def __init__(self, url: str, _metadata: Mapping[str, bytes], sink: Sink) -> None:
        self.counts = MessageCounts()
        self._sink = sink
        names = _names_of(url)
        self._instruments = {symbol_of(name): sink.instrument(market_of(name)) for name in names}
        self._trade_ids = {symbol: Contiguous() for symbol in self._instruments}

    def data_to_send(self) -> list[bytes]:
        """See :class:`backends.backend.VenueProtocol`: nothing."""
        return []

    def receive(self, payload: bytes, received_ns: int) -> None:
        """See :class:`backends.backend.VenueProtocol`."""
        try:
            message = wire.decode.decode(payload)
            if isinstance(message, wire.Session):
                self._take_session(message, received_ns)
            else:
                self._take(message, received_ns)
        except _UNUSABLE:
            self._note_unusable(payload, received_ns)

    def _take(self, message: wire.Quote | wire.Trade, received_ns: int) -> None:
        instrument = self._instruments.get(message.symbol)
        if instrument is None:
            self.counts.unknown += 1
            return
        row = normalize.row_of(message, instrument, received_ns)
        if isinstance(message, wire.Trade):
            ids = self._trade_ids[message.symbol]
            missing = ids.accept(message.trade_id, message.time_ns)
            if missing == DUPLICATE:
                _count(self.counts.unused, "duplicate")
                return
            if missing:
                self._sink.gap(instrument, GapReason.SEQUENCE, ids.hole_from_ns, row[0], max(missing, -1))
        self._sink.append(row)
        _count(self.counts.used, "trade" if isinstance(message, wire.Trade) else "quote")

    def _take_session(self, message: wire.Session, received_ns: int) -> None:
        if not EVENT_NS_BEGIN <= message.time_ns < EVENT_NS_END:
            raise WireError(f"impossible time: {message}")
        quality = Quality.OK if message.open else Quality.CLOSED
        self._sink.append_block(status_row(quality, message.time_ns, received_ns))
        self._sink.quality(0, quality)
        _count(self.counts.used, "session")

    def _note_unusable(self, payload: bytes, received_ns: int) -> None:
        try:
            known = wire.decode_kind(payload).event in wire.TYPES
        except msgspec.ValidationError:
            known = False  # JSON, but nothing that this venue says
        except _UNUSABLE:
            known = True
        if known:
            self.counts.note_bad(payload)
            self._sink.gap(0, GapReason.MALFORMED, received_ns, received_ns)
        else:
            self.counts.unknown += 1


def status_row(quality: Quality, event_ns: int, received_ns: int) -> RowBlock:
    """Make the row that tells readers of a change of all instruments' quality."""
    row = np.zeros(1, layout.ROW)
    row["event_ns"], row["received_ns"], row["kind"], row["flags"] = event_ns, received_ns, Kind.STATUS, Flag.LAST
    row.view(layout.STATUS)["code"] = quality
    return row


def _names_of(url: str) -> list[str]:
    text = parse_qs(urlsplit(url).query).get("instruments", ["8"])[0]
    if text.isdigit():
        return names_of(min(int(text), INSTRUMENTS_MAX))
    return names_of(text.split(","))


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1

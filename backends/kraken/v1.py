"""Kraken's websocket v1, sans I/O, for recordings: live feeds speak v2.

message = event | data
event   = {"event": NAME, …}
data    = [CHANNEL_ID, DATA, NAME, PAIR]        a book's update can have two DATA; NAME may end in "-NUMBER"
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from backends.backend import MessageCounts, Sink
from backends.kraken import normalize, wire
from backends.kraken.streams import Rows
from marketd.errors import WireError
from marketd.model import MktPair

_UNUSABLE = (msgspec.MsgspecError, WireError, RecursionError, UnicodeDecodeError)
_TAIL = re.compile(rb'"([a-z]{1,12})(?:-[0-9]{1,8})?"\s*,\s*"([^"\\]{1,40})"\s*\]\s*\Z')
_TAIL_BYTES = 96
_HEARTBEAT = b'{"event":"heartbeat"}'
_ROW_CHANNELS = ("trade", "ticker")


class KrakenV1Protocol:
    """One connection; see :class:`backends.backend.VenueProtocol`.

    Instruments are registered as their subscriptions are acked, or with their first message.

    Args:
        find: says which instrument a pair is, None for none.
    """

    def __init__(self, sink: Sink, find: Callable[[str], MktPair | None]) -> None:
        self._rows = Rows(sink, find)

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
        channel, pair = _tail(payload)
        try:
            if payload.startswith(b"["):
                self._take_data(payload, channel, pair, received_ns)
            else:
                self._take_event(payload, received_ns)
        except _UNUSABLE:
            if channel in wire.V1_ROWLESS_CHANNELS or payload.startswith(b'{"event":'):
                self.counts.note_bad(payload)
            else:
                self._rows.note_bad(payload, channel, {pair}, received_ns)

    def _take_data(self, payload: bytes, channel: str, pair: str, received_ns: int) -> None:
        if channel not in _ROW_CHANNELS:
            wire.decode_list(payload)
            if channel in wire.V1_ROWLESS_CHANNELS:
                self._rows.drop(channel)
            else:
                self.counts.unknown += 1
            return
        instrument = self._rows.instrument(pair)
        number = instrument.number if instrument is not None else 0
        if channel == "trade":
            trades: list[wire.V1Trade] = wire.decode_v1_trades(payload)[1]
            rows = [(instrument, normalize.v1_trade(trade, number, received_ns)) for trade in trades]
            self._rows.take_trades(channel, rows, ids=False)
        else:
            ticker = wire.decode_v1_ticker(payload)[1]
            row = normalize.v1_quote(ticker, number, received_ns)
            self._rows.take_quotes(channel, [(instrument, row)], times=False)

    def _take_event(self, payload: bytes, received_ns: int) -> None:
        self._rows.heard.begin(received_ns)
        probe = wire.decode_probe(payload)
        if not isinstance(probe.event, str) or probe.event not in wire.V1_EVENTS:
            self.counts.unknown += 1
            return
        event: wire.V1Event = wire.decode_v1_event(payload)
        self._rows.drop("error" if event.status == "error" else event.event)
        if event.status == "subscribed" and event.channel_name in _ROW_CHANNELS:
            self._rows.instrument(event.pair)


def _tail(payload: bytes) -> tuple[str, str]:
    """Read channel and pair from a message's end; two empty texts if it has none."""
    match = _TAIL.search(payload[-_TAIL_BYTES:])
    if match is None:
        return "", ""
    return match[1].decode(errors="replace"), match[2].decode(errors="replace")

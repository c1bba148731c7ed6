"""What was asked for on one connection, and what the venue said to it. Pure.

For venues that answer each request by its number, a stream at a time (Kraken) or all of a request at once (KuCoin). A
*stream* is one kind of one instrument, named as the venue's protocol likes; an instrument is live when all of its
streams are acked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from backends.live import AckMissing, Event, Refused, Subscribed
from marketd.clock import SECOND_NS

ACK_TIMEOUT_NS = 10 * SECOND_NS  # venues answer within a second


@dataclass
class _Request:
    """One that was not wholly answered.

    Attributes:
        streams: without an answer, and the instrument that each belongs to.
        sent: whether the shell has it, and so it goes out before the next call of ``timer``.
    """

    streams: dict[str, str]
    sent: bool = False
    deadline_ns: int | None = None


class Subscriptions:
    """The bookkeeping of one connection's requests, which are known by numbers."""

    def __init__(self, ack_timeout_ns: int = ACK_TIMEOUT_NS) -> None:
        self._ack_timeout_ns = ack_timeout_ns
        self._pending: dict[str, set[str]] = {}  # instrument -> its streams without an ack
        self._live: set[str] = set()
        self._requests: dict[int, _Request] = {}
        self._events: list[Event] = []

    @property
    def pending(self) -> AbstractSet[str]:
        """Instruments that are asked for and not wholly acked."""
        return self._pending.keys()

    @property
    def live(self) -> AbstractSet[str]:
        """Instruments all of whose streams are acked."""
        return self._live

    def events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    def begin(self, fqme: str, streams: Iterable[str]) -> bool:
        """Note that an instrument is wanted; False when it is pending or live already."""
        if fqme in self._pending or fqme in self._live:
            return False
        self._pending[fqme] = set(streams)
        return True

    def end(self, fqme: str) -> bool:
        """Note that an instrument is not wanted any more; False when it was neither pending nor live."""
        known = fqme in self._live or fqme in self._pending
        self._live.discard(fqme)
        self._drop(fqme)
        return known

    def request(self, number: int, streams: Mapping[str, str]) -> None:
        """Note what a request asks for: streams, and the instrument that each belongs to."""
        self._requests[number] = _Request(dict(streams))

    def sent(self, number: int) -> None:
        """Note that a request is on its way: its time begins with the next :meth:`timer`."""
        request = self._requests.get(number)
        if request is not None:
            request.sent = True

    def streams_of(self, number: int) -> dict[str, str]:
        """What a request still has no answer to; nothing for one that is unknown, or wholly answered."""
        request = self._requests.get(number)
        return dict(request.streams) if request is not None else {}

    def number_of(self, stream: str) -> int:
        """Which request asks for a stream and has no answer to it; -1 for none."""
        return next((number for number, request in self._requests.items() if stream in request.streams), -1)

    def acked(self, number: int, streams: Iterable[str]) -> None:
        """Take the venue's yes to these streams of a request; what was not asked for is ignored."""
        request = self._requests.get(number)
        if request is None:
            return
        complete = []
        for stream in streams:
            fqme = request.streams.pop(stream, None)
            waiting = self._pending.get(fqme) if fqme is not None else None
            if fqme is not None and waiting is not None:
                waiting.discard(stream)
                if not waiting:
                    del self._pending[fqme]
                    self._live.add(fqme)
                    complete.append(fqme)
        if not request.streams:
            del self._requests[number]
        if complete:
            self._events.append(Subscribed(tuple(complete)))

    def refused(self, fqme: str, reason: str) -> None:
        """Take the venue's no to an instrument; it is neither pending nor live now."""
        if self.end(fqme):
            self._events.append(Refused(fqme, reason))

    def withdraw(self, number: int) -> dict[str, str]:
        """Forget a request that the venue did not accept as it was; return what it asked for, to be asked anew."""
        request = self._requests.pop(number, None)
        return request.streams if request is not None else {}

    def missed(self, number: int) -> None:
        """Give up waiting for the rest of a request; its instruments are reported, once."""
        fqmes = tuple(dict.fromkeys(fqme for fqme in self.withdraw(number).values() if fqme in self._pending))
        for fqme in fqmes:
            self._drop(fqme)
        if fqmes:
            self._events.append(AckMissing(fqmes))

    def timer(self, now_ns: int) -> None:
        """Begin the time of what was sent, and report what is overdue."""
        for number, request in list(self._requests.items()):
            if request.deadline_ns is None:
                if request.sent:
                    request.deadline_ns = now_ns + self._ack_timeout_ns
            elif now_ns >= request.deadline_ns:
                self.missed(number)

    @property
    def next_timer_ns(self) -> int | None:
        """When :meth:`timer` has something to report, if no answer comes until then."""
        deadlines = (request.deadline_ns for request in self._requests.values() if request.deadline_ns is not None)
        return min(deadlines, default=None)

    def _drop(self, fqme: str) -> None:
        """Forget what is pending of an instrument: late answers to it then mean nothing."""
        if self._pending.pop(fqme, None) is None:
            return
        for number, request in list(self._requests.items()):
            request.streams = {stream: owner for stream, owner in request.streams.items() if owner != fqme}
            if not request.streams:
                del self._requests[number]

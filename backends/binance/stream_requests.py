"""How streams are asked for on one connection to Binance, and what its answers mean. Sans I/O.

https://github.com/binance/binance-spot-api-docs/blob/master/web-socket-streams.md#live-subscribingunsubscribing-to-streams
Futures take and answer the same. What is known of the answers:

- ``"result":null`` is success; ``id`` says of what. Nothing is promised of their order, so nothing is made of it.
- An unknown stream is acked like any other, and never says anything.
- An error is for the whole request, whichever of its streams it is about. So a request that fails is made again in two
  halves, until the culprits stand alone.
- Too long a request is not answered at all: 437 streams were too many
  (https://github.com/altangent/ccxws/issues/161), about 16,000 characters say others
  (https://github.com/oliver-zehentleitner/unicorn-binance-websocket-api/issues/120).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Literal

import msgspec

from backends.live import AckMissing, Event
from backends.subscriptions import Subscriptions

CHUNK = 200  # streams in a request, at 16 to 45 characters each; see above
UNANSWERED_MAX = 5  # subscription requests; the next one waits, or its time would run while those before it are sent

Method = Literal["SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS"]


class StreamRequests:
    """One connection's requests. Each has all streams of its instruments.

    When everything that was asked for first is acked, the venue is asked once what it has, and what is not there counts
    as not acked.
    """

    def __init__(self, chunk: int = CHUNK) -> None:
        self._chunk = chunk
        self._book = Subscriptions()
        self._names: dict[str, tuple[str, ...]] = {}  # instrument to streams
        self._outbox: deque[tuple[int, bytes]] = deque()
        self._unanswered: set[int] = set()  # sent subscription requests
        self._number = 0
        self._list_number = 0
        self._expected: frozenset[str] = frozenset()  # in the venue's list
        self._lost: tuple[str, ...] = ()

    @property
    def pending(self) -> AbstractSet[str]:
        """See :class:`backends.live.LiveProtocol`."""
        return self._book.pending

    @property
    def live(self) -> AbstractSet[str]:
        """See :class:`backends.live.LiveProtocol`."""
        return self._book.live

    def events(self) -> list[Event]:
        """See :class:`backends.live.LiveProtocol`: all but what is not about subscriptions."""
        events = self._book.events()
        if self._lost:
            events.append(AckMissing(self._lost))
            self._lost = ()
        return events

    def subscribe(self, names: Mapping[str, tuple[str, ...]]) -> None:
        """Ask for instruments, given their streams; those pending or live are left alone."""
        fresh = {fqme: streams for fqme, streams in names.items() if self._book.begin(fqme, streams)}
        self._names |= fresh
        for group in self._groups(fresh):
            self._subscribe(group)

    def unsubscribe(self, fqmes: Iterable[str]) -> None:
        """End instruments; nobody waits for the ack."""
        ended = [fqme for fqme in fqmes if fqme in self._names]
        for group in self._groups(ended):
            self._ask("UNSUBSCRIBE", self._streams(group))
        for fqme in ended:
            del self._names[fqme]
            self._book.end(fqme)

    def data_to_send(self) -> list[bytes]:
        """Return the requests to send now, each once."""
        payloads: list[bytes] = []
        self._unanswered = {number for number in self._unanswered if self._book.streams_of(number)}
        while self._outbox and len(self._unanswered) < UNANSWERED_MAX:
            number, payload = self._outbox.popleft()
            payloads.append(payload)
            if self._book.streams_of(number):
                self._book.sent(number)
                self._unanswered.add(number)
        return payloads

    def timer(self, now_ns: int) -> None:
        """Let the time of what was sent begin; report what is overdue."""
        self._book.timer(now_ns)

    @property
    def next_timer_ns(self) -> int | None:
        """When :meth:`timer` has something to report."""
        return self._book.next_timer_ns

    def acked(self, number: object, result: object) -> None:
        """Take a success; ``result`` is what was asked for, or None."""
        if type(number) is not int:
            return
        if number == self._list_number:
            self._compare(result)
            return
        self._book.acked(number, self._book.streams_of(number))
        if self._book.live and not self._book.pending and not self._list_number:
            self._list_number = self._ask("LIST_SUBSCRIPTIONS")
            self._expected = frozenset(self._book.live)

    def refused(self, number: object, reason: str) -> None:
        """Take an error. One that does not say of which request is of the only one, if there is but one."""
        if number is None and len(self._unanswered) == 1:
            (number,) = self._unanswered
        if type(number) is not int:
            return
        fqmes = tuple(dict.fromkeys(self._book.withdraw(number).values()))
        if len(fqmes) == 1:
            self._book.refused(fqmes[0], reason)
        elif fqmes:
            middle = len(fqmes) // 2
            self._subscribe(fqmes[:middle])
            self._subscribe(fqmes[middle:])

    def _subscribe(self, fqmes: Iterable[str]) -> None:
        streams = self._streams(fqmes)
        self._book.request(self._ask("SUBSCRIBE", streams), streams)

    def _ask(self, method: Method, streams: Mapping[str, str] | None = None) -> int:
        """Queue a request and return its number."""
        self._number += 1
        message: dict[str, object] = {"method": method, "id": self._number}
        if streams is not None:
            message["params"] = list(streams)
        self._outbox.append((self._number, msgspec.json.encode(message)))
        return self._number

    def _compare(self, listed: object) -> None:
        """Find instruments that counted as live, still do, and are not in the venue's own list."""
        if not isinstance(listed, list):
            return
        names = {name for name in listed if isinstance(name, str)}
        present = self._expected & self._book.live
        self._lost = tuple(sorted(fqme for fqme in present if not names.issuperset(self._names[fqme])))
        for fqme in self._lost:
            self._book.end(fqme)

    def _streams(self, fqmes: Iterable[str]) -> dict[str, str]:
        """Return the streams of instruments, and the instrument that each belongs to."""
        return {name: fqme for fqme in fqmes for name in self._names[fqme]}

    def _groups(self, fqmes: Iterable[str]) -> Iterator[tuple[str, ...]]:
        """Put instruments together as one request can take them."""
        group: list[str] = []
        streams = 0
        for fqme in fqmes:
            if group and streams + len(self._names[fqme]) > self._chunk:
                yield tuple(group)
                group, streams = [], 0
            group.append(fqme)
            streams += len(self._names[fqme])
        if group:
            yield tuple(group)

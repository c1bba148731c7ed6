"""Faults on demand: what can be asked for, which of them are on, and what they do to messages.

A fault is for one venue, and may be narrowed to one connection, instrument, stream or REST path. It begins
``after_s`` after it was asked for. Some strike once (a cut), some last for ``for_s`` (a stall), some are used up by
``count`` messages or requests (a drop). `docs/testvenue.md` has the table.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

import msgspec
import trio

from marketd.errors import ConfigError
from marketd.testvenue import frames
from marketd.testvenue.venue import Channel

Strike = Literal["cut", "close", "announced_cut", "lose_subscription"]
State = Literal["stall", "blackhole", "clock_skew", "maintenance"]
MessageFault = Literal["drop", "duplicate", "reorder", "malformed_frame", "malformed_message", "bad_checksum"]
SpeechFault = Literal["slow_acks", "no_acks", "late_welcome", "no_pong"]
OpenFault = Literal["refuse"]
RestFault = Literal["rate_limit", "ban", "rest_error", "rest_slow", "rest_cut", "rest_garbage"]
Kind = Strike | State | MessageFault | SpeechFault | OpenFault | RestFault

KINDS: tuple[str, ...] = tuple(name for group in get_args(Kind) for name in get_args(group))
# Used up by one message, connection or request, unless told otherwise.
_ONCE = {"lose_subscription", *get_args(MessageFault), *get_args(OpenFault)}


class Fault(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One fault as asked for.

    Attributes:
        venue: a venue's name, or ``*``.
        for_s: how long it stays on; 0 until it is used up or everything is reset.
        count: how many connections, messages or requests it strikes; 0 any number, None the kind's own default.
        connection: the number of a connection.
        instrument: in any spelling that has its letters: ``BTC/USDT``, ``btcusdt``, ``BTC-USDT``.
        stream: ``trade``, ``quote``, ``candle``, ``book``, or the venue's own name of a stream.
        path: REST paths that contain this.
        code, reason: of a websocket close.
        status: an HTTP status.
        delay_s: of acks, welcomes and REST answers; between an announcement and its cut.
        skew_s: what event times are wrong by; later when positive.
        depth: in how large a group messages change places.
        variant: which kind of malformed; see :mod:`marketd.testvenue.frames` and :func:`spoil`.
        extra: send the malformed beside the message and not in its place.
        hold: keep what is said during a stall, and send it after; otherwise it is lost.
    """

    venue: str = "*"
    fault: str
    after_s: float = 0.0
    for_s: float = 0.0
    count: int | None = None
    connection: int | None = None
    instrument: str = ""
    stream: str = ""
    path: str = ""
    code: int = 1001
    reason: str = ""
    status: int = 0
    delay_s: float = 1.0
    skew_s: float = 60.0
    depth: int = 2
    variant: str = ""
    extra: bool = False
    hold: bool = False

    def left(self) -> int:
        """How many more it may strike; -1 for any number."""
        if self.count is None:
            return 1 if self.fault in _ONCE and not self.for_s else -1
        return self.count or -1


def check(fault: Fault, venues: tuple[str, ...]) -> None:
    """Refuse what can't be meant.

    Raises:
        ConfigError: with what is allowed.
    """
    if fault.fault not in KINDS:
        raise ConfigError(f"fault is {fault.fault!r}: allowed are {', '.join(KINDS)}")
    if fault.venue != "*" and fault.venue not in venues:
        raise ConfigError(f"venue is {fault.venue!r}: allowed are *, {', '.join(venues)}")
    for name in ("after_s", "for_s", "delay_s"):
        if getattr(fault, name) < 0:
            raise ConfigError(f"{name} is {getattr(fault, name)}: it can't be negative")
    variants = {"malformed_frame": frames.BROKEN, "malformed_message": SPOILERS, "rest_garbage": SPOILERS}
    allowed = variants.get(fault.fault, ())
    if fault.variant and fault.variant not in allowed:
        raise ConfigError(f"variant is {fault.variant!r}: allowed for {fault.fault} are {', '.join(allowed) or 'none'}")
    if fault.fault == "reorder" and fault.depth < 2:
        raise ConfigError(f"depth is {fault.depth}: to change places takes 2 messages at least")


class Active:
    """A fault that is on."""

    def __init__(self, number: int, fault: Fault, began_ns: int) -> None:
        self.number = number
        self.fault = fault
        self.began_ns = began_ns
        self.struck = 0
        self._left = fault.left()
        self._letters = letters(fault.instrument)

    def matches(self, venue: str, connection: int | None, channel: Channel | None) -> bool:
        """Whether it is meant for this; a fault for one instrument never matches what belongs to none."""
        fault = self.fault
        if fault.venue not in ("*", venue) or (fault.connection is not None and fault.connection != connection):
            return False
        if self._letters and (channel is None or letters(channel.symbol) != self._letters):
            return False
        return not fault.stream or (channel is not None and fault.stream in (channel.topic, channel.name))

    def use(self) -> bool:
        """Strike once more; False when it is used up by that."""
        self.struck += 1
        if self._left > 0:
            self._left -= 1
        return self._left != 0


class Board:
    """The faults that are on.

    Attributes:
        busy: whether there are any, which spares looking for them at each message.
        changed: is set, and then replaced, whenever a fault begins or ends.
    """

    def __init__(self) -> None:
        self.busy = False
        self.changed = trio.Event()
        self._active: dict[int, Active] = {}
        self._next = 1

    def begin(self, fault: Fault, now_ns: int) -> Active:
        """Turn a fault on."""
        active = Active(self._next, fault, now_ns)
        self._next += 1
        self._active[active.number] = active
        self._touch()
        return active

    def end(self, active: Active) -> None:
        """Turn it off; it may be off already."""
        self._active.pop(active.number, None)
        self._touch()

    def clear(self) -> None:
        """Turn everything off."""
        self._active.clear()
        self._touch()

    def is_on(self, active: Active) -> bool:
        """Whether it still is on."""
        return active.number in self._active

    def find(
        self, kind: str, venue: str, connection: int | None = None, channel: Channel | None = None
    ) -> Active | None:
        """The first fault of a kind that is meant for this, without using it."""
        return next((active for active in self.all(kind) if active.matches(venue, connection, channel)), None)

    def take(
        self, kind: str, venue: str, connection: int | None = None, channel: Channel | None = None, path: str = ""
    ) -> Fault | None:
        """The first fault of a kind that is meant for this, used once."""
        for active in self.all(kind):
            if active.matches(venue, connection, channel) and active.fault.path in path:
                if not active.use():
                    self.end(active)
                return active.fault
        return None

    def all(self, kind: str = "") -> list[Active]:
        """All that are on, of a kind."""
        return [active for active in self._active.values() if kind in ("", active.fault.fault)]

    def _touch(self) -> None:
        self.busy = bool(self._active)
        self.changed.set()
        self.changed = trio.Event()


def letters(text: str) -> str:
    """``BTC/USDT``, ``btcusdt`` and ``BTC-USDT`` are one."""
    return re.sub(r"[^A-Z0-9]", "", text.upper())


SPOILERS = ("truncated", "not_json", "empty", "missing", "types", "unknown", "huge", "null")


def spoil(payload: bytes, variant: str) -> bytes:
    """Damage a JSON text: its form (``truncated``, ``not_json``, ``empty``) or what it says (all others)."""
    if variant in ("", "truncated"):
        return payload[: max(len(payload) * 2 // 3, 1)]
    if variant == "not_json":
        return b"<html><body>502 Bad Gateway</body></html>"
    if variant == "empty":
        return b""
    if variant == "missing":
        return re.sub(rb'"(p|price|b|bid|bestBid|data)":', rb'"was_\1":', payload)
    if variant == "types":  # numbers become lists, texts of numbers become words
        return re.sub(rb":-?\d+(\.\d+)?([,}])", rb":[]\2", re.sub(rb'"-?\d+(\.\d+)?"', b'"NaN?"', payload))
    if variant == "unknown":
        return b'{"channel":"novelty","e":"novelty","type":"novelty","data":[{"a":1}]}'
    if variant == "huge":
        return payload[:-1] + b',"padding":"' + b"x" * (1 << 20) + b'"}'
    return b"null"


def spoil_checksum(payload: bytes) -> bytes:
    """Make a message's checksum wrong; one without is returned as it is."""
    return re.sub(rb'"checksum":(\d+)', lambda match: b'"checksum":%d' % ((int(match[1]) + 1) % (1 << 32)), payload)

"""A client's side of websocket framing (RFC 6455), sans I/O: all frames of one read at once.

    message = frame { continuation frame }                                     5.4
    frame   = FIN:1 RSV:3 OPCODE:4  MASK:1 LENGTH:7  [ LENGTH:16 | LENGTH:64 ]  payload    5.2
    OPCODE  = 0 continuation | 1 text | 2 binary | 8 close | 9 ping | 10 pong
    LENGTH  = 0..125, or 126 and the next 16 bits are the length, or 127 and the next 64 are

The numbers are sections of https://www.rfc-editor.org/rfc/rfc6455. Extensions (permessage-deflate) are never offered.

Text is not checked for UTF-8, although 8.1 would have the connection failed for one wrong byte. A connection carries
hundreds of instruments, and the payload goes to a JSON decoder, which refuses what it can't read: one message is lost
then, and reported, instead of all.
"""

from __future__ import annotations

from dataclasses import dataclass

CONTROL_BYTES_MAX = 125  # 5.5

_FIN = 0x80
_RESERVED = 0x70
_MASK = 0x80
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_OPCODES = frozenset({_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG})
_WHOLE = (_FIN | _TEXT, _FIN | _BINARY)

NORMAL = 1000
PROTOCOL_ERROR = 1002
NO_CODE = 1005
ABNORMAL = 1006
INVALID_PAYLOAD = 1007
TOO_BIG = 1009


@dataclass(frozen=True)
class Ending:
    """Why a parser takes no more bytes.

    Attributes:
        code: what the server's close frame says (7.1.5), or what to fail the connection with (7.1.7).
        reason: the server's words, or ours for what it did wrong.
        violation: whether the server broke the protocol.
    """

    code: int
    reason: str
    violation: bool = False


class FrameParser:
    """The frames of one connection, from the first byte after the handshake.

    Attributes:
        ping: the payload of the newest ping that waits for an answer. Whoever answers sets it to None. Older ones need
            no answer (5.5.3), so a flood of pings is a flood in one direction only.
        pongs: how many pongs came.
        ending: set once no message will follow; what comes later is ignored.
    """

    def __init__(self, message_bytes_max: int) -> None:
        if message_bytes_max < CONTROL_BYTES_MAX:
            raise ValueError(f"message_bytes_max is {message_bytes_max}: it must be at least {CONTROL_BYTES_MAX}")
        self._message_bytes_max = message_bytes_max
        self._held = bytearray()  # a frame's beginning
        self._held_bytes_min = 0  # how long that must get before it is worth another look
        self._fragments: bytearray | None = None  # of a message whose last frame has not come
        self.ping: bytes | None = None
        self.pongs = 0
        self.ending: Ending | None = None

    def receive_data(self, data: bytes) -> list[bytes]:
        """Take what one read gave and return the payloads of the messages that it completed, in order.

        Never raises: what the server does wrong is in :attr:`ending`, and the messages before it are returned.
        """
        if self.ending is not None:
            return []
        if self._held:
            self._held += data
            if len(self._held) < self._held_bytes_min:
                return []
            data = bytes(self._held)
            self._held.clear()
        messages: list[bytes] = []
        try:
            self._held += data[self._parse(data, messages) :]
        except _Violation as violation:
            self.ending = Ending(violation.code, violation.reason, violation=True)
        if self.ending is not None:
            self._held.clear()
            self._fragments = None
        return messages

    def _parse(self, data: bytes, messages: list[bytes]) -> int:
        """Append the messages in ``data``; return where the first frame begins that is not all there.

        This loop is the price of every message. What is rare is in the methods that it calls.
        """
        append, whole, bytes_max = messages.append, _WHOLE, self._message_bytes_max
        position, end, bytes_min = 0, len(data), 2
        while end - position >= 2:
            head, size = data[position], data[position + 1]
            begin = position + 2
            if size == 126:
                begin = position + 4
                if begin > end:
                    bytes_min = 4
                    break
                size = data[position + 2] << 8 | data[position + 3]
                if not 126 <= size <= bytes_max:
                    _refuse_size(size, bytes_max)
            elif size > 126:
                if size & _MASK:
                    raise _Violation("a server must not mask its frames (5.1)")
                begin = position + 10
                if begin > end:
                    bytes_min = 10
                    break
                size = int.from_bytes(data[position + 2 : begin], "big")
                if not 1 << 16 <= size <= bytes_max:
                    _refuse_size(size, bytes_max)
            stop = begin + size
            if head in whole and self._fragments is None:
                if stop > end:
                    bytes_min = stop - position
                    break
                append(data[begin:stop])
            else:
                self._check(head, size)
                if stop > end:
                    bytes_min = stop - position
                    break
                self._take(head, data[begin:stop], messages)
                if self.ending is not None:
                    return end
            position = stop
        self._held_bytes_min = bytes_min
        return position

    def _check(self, head: int, size: int) -> None:
        """Judge a frame by its header, before its payload is there."""
        opcode = head & 0x0F
        if head & _RESERVED:
            raise _Violation("a reserved bit is set, and no extension was agreed on (5.2)")
        if opcode not in _OPCODES:
            raise _Violation(f"opcode {opcode} means nothing (5.2)")
        if opcode >= _CLOSE:
            if not head & _FIN:
                raise _Violation("a control frame must not be fragmented (5.5)")
            if size > CONTROL_BYTES_MAX:
                raise _Violation(f"a control frame of {size} bytes is longer than {CONTROL_BYTES_MAX} (5.5)")
        elif opcode == _CONTINUATION:
            if self._fragments is None:
                raise _Violation("a continuation of nothing (5.4)")
            _refuse_size_above(len(self._fragments) + size, self._message_bytes_max)
        elif self._fragments is not None:
            raise _Violation("a message begins before the one before it has ended (5.4)")

    def _take(self, head: int, payload: bytes, messages: list[bytes]) -> None:
        """Take a frame, checked, that is not a whole message."""
        opcode = head & 0x0F
        if opcode == _PING:
            self.ping = payload
        elif opcode == _PONG:
            self.pongs += 1
        elif opcode == _CLOSE:
            self.ending = _read_close(payload)
        else:
            if self._fragments is None:
                self._fragments = bytearray()
            self._fragments += payload
            if head & _FIN:
                messages.append(bytes(self._fragments))
                self._fragments = None


class _Violation(Exception):  # noqa: N818 - never leaves this module
    """The server broke the protocol."""

    def __init__(self, reason: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


def _refuse_size(size: int, bytes_max: int) -> None:
    if size >> 63:
        raise _Violation("a length's highest bit is set (5.2)")
    _refuse_size_above(size, bytes_max)
    raise _Violation(f"a length of {size} takes more bytes than it needs (5.2)")


def _refuse_size_above(size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise _Violation(f"a message of {size} bytes or more: the limit is {bytes_max}", TOO_BIG)


def _read_close(payload: bytes) -> Ending:
    """Read a close frame's payload: nothing, or a code and why (5.5.1)."""
    if not payload:
        return Ending(NO_CODE, "")  # 7.1.5
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not _may_be_sent(code):
        raise _Violation("a close frame without a code that may be sent (7.4)")
    try:
        return Ending(code, payload[2:].decode())
    except UnicodeDecodeError as error:
        raise _Violation("a close frame's reason is not UTF-8 (5.5.1)", INVALID_PAYLOAD) from error


def _may_be_sent(code: int) -> bool:
    """7.4.1, 7.4.2, and https://www.iana.org/assignments/websocket/ for 1012 to 1014."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999

"""Websocket frames from a server, written by hand: for speed, and to write broken ones. RFC 6455, section 5.2.

frame = FIN RSV1 RSV2 RSV3 OPCODE(4) | MASK LENGTH(7) [ LENGTH(16 or 64) ] | PAYLOAD      a server masks nothing
"""

from __future__ import annotations

import struct

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
_FIN = 0x80
_SHORT, _MEDIUM = 126, 1 << 16


def frame(opcode: int, payload: bytes) -> bytes:
    """Make one whole frame."""
    return _head(_FIN | opcode, len(payload)) + payload


def text(payload: bytes) -> bytes:
    """Make a text frame."""
    size = len(payload)
    if size < _SHORT:
        return b"\x81%c%b" % (size, payload)
    if size < _MEDIUM:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def close(code: int, reason: str = "") -> bytes:
    """Make a close frame; 1005 and 1006 are never sent, so they give one without a code (section 7.4.1)."""
    if code in (0, 1005, 1006):
        return frame(CLOSE, b"")
    return frame(CLOSE, struct.pack("!H", code) + reason.encode()[:123])


BROKEN = ("rsv", "opcode", "masked", "utf8", "fragment", "length", "control")


def broken(payload: bytes, variant: str) -> bytes:
    """Make a frame that a client must refuse.

    Args:
        variant: ``rsv`` sets a reserved bit, ``opcode`` uses a reserved one, ``masked`` is masked (section 5.1),
            ``utf8`` is text that is none, ``fragment`` continues nothing, ``length`` has its highest bit set,
            ``control`` is a ping longer than 125 bytes.
    """
    size = len(payload)
    if variant == "opcode":
        return _head(_FIN | 0x3, size) + payload
    if variant == "masked":
        head = bytearray(_head(_FIN | TEXT, size))
        head[1] |= 0x80
        return bytes(head) + b"\0\0\0\0" + payload
    if variant == "utf8":
        return frame(TEXT, payload + b"\xff\xfe")
    if variant == "fragment":
        return frame(0x0, payload)
    if variant == "length":
        return b"\x81\x7f" + struct.pack("!Q", 1 << 63 | size) + payload
    if variant == "control":
        return b"\x89\x7e" + struct.pack("!H", 200) + b"x" * 200
    return _head(_FIN | 0x40 | TEXT, size) + payload


def _head(first: int, size: int) -> bytes:
    if size < _SHORT:
        return struct.pack("!BB", first, size)
    if size < _MEDIUM:
        return struct.pack("!BBH", first, 126, size)
    return struct.pack("!BBQ", first, 127, size)

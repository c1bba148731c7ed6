"""Values to bytes for a client's socket: whole frames, and frames that many clients share.

A message of rows differs from client to client in two numbers only, the subscription and the first cursor of its
range. They come last and with a fixed width, so that everything in front of them, the frame's length included, is
encoded once and sent to any number of clients, each followed by its own `tail`.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from marketd.rpc.framing import PREFIX
from marketd.rpc.messages import ErrorBody, ErrorCode

Buffer = bytes | bytearray

_TAIL = struct.Struct(">14sQ14sI")
_TAIL_KEYS = (b"\xaccursor_first\xcf", b"\xacsubscription\xce")  # MessagePack: a key, and the mark of a u64, a u32
_LAST_KEY, _DATA_KEY = b"\xabcursor_last\xcf", b"\xa4data\xc6"  # ... a u64, of bytes with a u32 in front
_FIXMAP = 0x80
_EMPTY_BIN, _BIN32, _BIN = b"\xc4\0", 0xC6, struct.Struct(">BI")  # MessagePack: binary data, and such of any length
_MAP_OFFSETS: dict[str, int] = {}

_encode_into = msgspec.msgpack.Encoder().encode_into


class _Success(msgspec.Struct, frozen=True):
    id: int | str
    result: object


class _Failure(msgspec.Struct, frozen=True):
    id: int | str | None
    error: ErrorBody


class _Notification(msgspec.Struct, frozen=True):
    method: str
    params: object


def encode_answer(request_id: int | str, result: object) -> Buffer:
    """Make the frame of a request's result."""
    return _frame(_Success(request_id, result))


def encode_refusal(request_id: int | str | None, code: ErrorCode, message: str, **data: Any) -> Buffer:  # noqa: ANN401
    """Make the frame of an error; ``request_id`` is None where it is not known what request it answers."""
    return _frame(_Failure(request_id, ErrorBody(code, message, {"code": code.name.lower(), **data})))


def encode_notification(method: str, params: object) -> Buffer:
    """Make the frame of a stream's message for one client."""
    return _frame(_Notification(method, params))


def encode_batch(request_id: int | str, fqme: str, size: int) -> bytes:
    """Make the beginning of a `history.batch` message's frame; so many bytes of data are to follow it."""
    message = {"method": "history.batch", "params": {"id": request_id, "fqme": fqme, "data": b""}}
    head = msgspec.msgpack.encode(message)[: -len(_EMPTY_BIN)]
    return PREFIX.pack(len(head) + _BIN.size + size) + head + _BIN.pack(_BIN32, size)


def encode_shared(method: str, fields: dict[str, object]) -> Buffer:
    """Make the frame of a stream's message without its `tail`.

    Args:
        method: a notification.
        fields: all of its parameters but ``cursor_first`` and ``subscription``, thirteen at most.
    """
    buffer = bytearray()
    _encode_into({"method": method, "params": fields}, buffer, PREFIX.size)
    PREFIX.pack_into(buffer, 0, len(buffer) - PREFIX.size + _TAIL.size)
    # The map that was encoded is two entries short of what it says from now on; those are in the tail.
    buffer[_map_offset(method)] = _FIXMAP + len(fields) + 2
    return buffer


def encode_tail(subscription: int, cursor_first: int) -> bytes:
    """Make what completes a shared frame for one client."""
    return _TAIL.pack(_TAIL_KEYS[0], cursor_first, _TAIL_KEYS[1], subscription)


class NewsFrame:
    """The frame of a stream's rows as they are, of which all but a few numbers stays the same from one to the next."""

    def __init__(self, method: str, feed: str, epoch: int) -> None:
        head = bytearray()
        _encode_into({"method": method, "params": {"feed": feed, "epoch": epoch}}, head)
        head[_map_offset(method) - PREFIX.size] = _FIXMAP + 6
        self._parts = (bytes(head) + _LAST_KEY, _DATA_KEY)
        self._head = struct.Struct(f">I{len(self._parts[0])}sQ{len(_DATA_KEY)}sI")
        self._rest_bytes = self._head.size - PREFIX.size + _TAIL.size

    def encode(self, data: bytes, cursor_first: int, cursor_last: int, subscription: int) -> bytes:
        """Make a whole frame."""
        head, key = self._parts
        size = len(data)
        return b"".join(
            (
                self._head.pack(self._rest_bytes + size, head, cursor_last, key, size),
                data,
                _TAIL.pack(_TAIL_KEYS[0], cursor_first, _TAIL_KEYS[1], subscription),
            )
        )


def _map_offset(method: str) -> int:
    """Where the byte that begins the parameters lies in a frame of this method."""
    offset = _MAP_OFFSETS.get(method)
    if offset is None:
        empty = msgspec.msgpack.encode({"method": method, "params": {}})
        offset = _MAP_OFFSETS[method] = PREFIX.size + len(empty) - 1
    return offset


def _frame(message: msgspec.Struct) -> Buffer:
    buffer = bytearray()
    _encode_into(message, buffer, PREFIX.size)
    PREFIX.pack_into(buffer, 0, len(buffer) - PREFIX.size)
    return buffer

"""Messages on a byte stream: a length, then so many bytes.

frame = u32 length, big endian; payload of that length
"""

from __future__ import annotations

import struct

from marketd.errors import MarketdError

PREFIX = struct.Struct(">I")
LARGE_BYTES = 1 << 20


class FrameTooLarge(MarketdError):  # noqa: N818 - like `Lapped`: what happened, said in the field's words
    """The other side announced a frame larger than allowed; the stream can't be read any further.

    Attributes:
        size: the announced length in bytes.
        limit: the largest length allowed.
        frames: the payloads that were completed before it by the same call.
    """

    def __init__(self, size: int, limit: int, frames: list[bytes | bytearray]) -> None:
        super().__init__(f"a frame of {size} bytes was announced; the largest allowed is {limit}")
        self.size = size
        self.limit = limit
        self.frames = frames


def frame(payload: bytes) -> bytes:
    """Put the length in front of a payload."""
    return PREFIX.pack(len(payload)) + payload


class Deframer:
    """Cuts a byte stream, split anywhere, into the payloads of its frames.

    Args:
        frame_bytes_max: longer frames are refused as soon as their length is known, before any of them is kept.
    """

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()
        self._large: bytearray | None = None  # a payload that takes many reads, filled in place
        self._filled = 0

    @property
    def pending(self) -> int:
        """How many bytes of a frame that is not complete yet are kept."""
        return len(self._buffer) + self._filled

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[bytes | bytearray]:
        """Take what was read; return the payloads that are complete now, in order.

        Raises:
            FrameTooLarge: has the payloads completed before it; everything after it is useless.
        """
        if self._large is not None:
            return self._fill_large(self._large, memoryview(data))
        # Whole frames in what was just read, the usual case, are cut from it without going through the buffer.
        if not self._buffer:
            return self._cut(data)
        self._buffer += data
        if len(self._buffer) < self._wanted():
            return []
        whole, self._buffer = self._buffer, bytearray()
        return self._cut(whole)

    def _fill_large(self, large: bytearray, data: memoryview) -> list[bytes | bytearray]:
        end = min(len(large), self._filled + len(data))
        taken = end - self._filled
        large[self._filled : end] = data[:taken]
        self._filled = end
        if end < len(large):
            return []
        self._large, self._filled = None, 0
        return [large, *self._cut(data[taken:])]

    def _wanted(self) -> int:
        """How many bytes the buffer must hold before there is anything to do."""
        if len(self._buffer) < PREFIX.size:
            return PREFIX.size
        size: int = PREFIX.unpack_from(self._buffer)[0]
        return 0 if size > self._frame_bytes_max else PREFIX.size + size

    def _cut(self, data: bytes | bytearray | memoryview) -> list[bytes | bytearray]:
        view = memoryview(data)
        frames: list[bytes | bytearray] = []
        start = 0
        while len(view) - start >= PREFIX.size:
            (size,) = PREFIX.unpack_from(view, start)
            if size > self._frame_bytes_max:
                raise FrameTooLarge(size, self._frame_bytes_max, frames)
            end = start + PREFIX.size + size
            if end > len(view):
                if size >= LARGE_BYTES:
                    self._large, self._filled = bytearray(size), 0
                    self._fill_large(self._large, view[start + PREFIX.size :])
                    return frames
                break
            frames.append(bytes(view[start + PREFIX.size : end]))
            start = end
        if start < len(view):
            self._buffer += view[start:]
        return frames

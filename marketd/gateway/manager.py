"""Asking the history manager: a connection to its socket for each query (:mod:`marketd.history.wire`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

import msgspec
import trio

from marketd.gateway.decode import Refusal
from marketd.history.wire import DATA, ERROR, Query
from marketd.rpc.framing import PREFIX, frame
from marketd.rpc.messages import ErrorCode

NOTHING_STORED = "this daemon stores nothing: history.periods is empty, or has no period that bars are made of"

R = TypeVar("R")


class NoHistory(Exception):  # noqa: N818 - a state that passes
    """The history manager is not there."""


class HistoryManager:
    """The history manager, as this process can ask it.

    Args:
        path: of its socket; empty where nothing is stored.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    async def result(self, query: Query, type_: type[R]) -> R:
        """Return the answer to a query that has no data.

        Raises:
            Refusal: it said no, or UNAVAILABLE: it is not there.
        """
        result: R | None = None
        async for found in self.ask(query, type_):
            if not isinstance(found, bytearray):
                result = found
        assert result is not None
        return result

    async def ask(self, query: Query, type_: type[R]) -> AsyncGenerator[R | bytearray, None]:
        """Yield data as it comes, and the result at the end. Raises Refusal, as :meth:`result` does."""
        try:
            async for found in self.answers(query, type_):
                yield found
        except NoHistory as error:
            raise Refusal(ErrorCode.UNAVAILABLE, f"history can't be answered right now: {error}") from error

    async def answers(self, query: Query, type_: type[R]) -> AsyncGenerator[R | bytearray, None]:
        """Do the same where it matters whether anybody answers at all.

        Raises:
            NoHistory: there is no history manager, or it went away.
            Refusal: it said no.
        """
        if not self._path:
            raise NoHistory(NOTHING_STORED)
        try:
            stream = await trio.open_unix_socket(self._path)
            async with stream:
                await stream.send_all(frame(msgspec.msgpack.encode(query)))
                async for tag, body in _read_frames(stream.socket):
                    if tag == DATA:
                        yield body
                    elif tag == ERROR:
                        code, text = msgspec.msgpack.decode(body, type=tuple[str, str])
                        raise Refusal(_code(code), f"{type(query).__struct_config__.tag}: {text}")
                    else:
                        yield msgspec.msgpack.decode(body, type=type_)
                        return
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise NoHistory(f"the history manager is not there: {error}") from error
        raise NoHistory("the history manager went away in the middle of its answer")


async def _read_frames(sock: trio.socket.SocketType) -> AsyncIterator[tuple[bytes, bytearray]]:
    """Yield the tag and the body of each frame. What may be megabytes is read into its place, and not copied."""
    while head := await _exactly(sock, PREFIX.size + 1):
        size = PREFIX.unpack_from(head)[0] - 1
        body = await _exactly(sock, size)
        if len(body) < size:
            return  # it ends in the middle of a frame: that is none
        yield bytes(head[PREFIX.size :]), body


async def _exactly(sock: trio.socket.SocketType, size: int) -> bytearray:
    """Read so many bytes; none if there are no more."""
    data = bytearray(size)
    have = 0
    while have < size:
        got = await sock.recv_into(memoryview(data)[have:])
        if not got:
            return bytearray()
        have += got
    return data


def _code(text: str) -> ErrorCode:
    return next((code for code in ErrorCode if code.name.lower() == text), ErrorCode.UNAVAILABLE)

"""``/ws``: the protocol for browsers and whoever has a WebSocket rather than a socket.

A client of a WebSocket is served by the same session as any other (``gateway/session.py``), which sees the other end of
a pair of sockets. Here its frames become messages and messages become its frames: MessagePack in binary ones, JSON in
text ones. Nothing is kept in between: as long as the WebSocket takes no more, nothing more is read from the session.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from starlette.websockets import WebSocket, WebSocketDisconnect

from marketd.gateway.decode import Refusal
from marketd.gateway.listen import prepare
from marketd.rpc.framing import PREFIX, Deframer, frame
from marketd.rpc.messages import ErrorCode

if TYPE_CHECKING:
    from marketd.gateway.actor import Gateway

RECEIVE_BYTES = 1 << 16
MESSAGE_BYTES_MAX = (1 << 32) - 1  # of our own session's
GOING_AWAY, TRY_AGAIN_LATER, TOO_BIG, BAD_DATA, POLICY = 1001, 1013, 1009, 1007, 1008
CLOSE_CODES = {"closing": GOING_AWAY, "left": 1000, "frame too large": TOO_BIG, "garbage": BAD_DATA}


async def conversation(websocket: WebSocket) -> None:
    """Serve one client until either side has had enough."""
    gateway: Gateway = websocket.app.state.gateway
    await websocket.accept()
    if gateway.full:
        await websocket.close(TRY_AGAIN_LATER, "as many clients are connected as this daemon serves")
        return
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        await websocket.close(TRY_AGAIN_LATER, f"this daemon can serve no more clients now: {error.strerror}")
        return
    prepare(theirs)
    client = websocket.client
    address = f"ws:{client.host}:{client.port}" if client is not None else "ws"
    async with trio.open_nursery() as nursery, trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
        bridge = _Bridge(websocket, stream)
        session = await nursery.start(gateway.serve, theirs, address, websocket.state.door, websocket.state.bearer)
        nursery.start_soon(bridge.take_requests)
        await bridge.send_answers()
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the client was faster
            await websocket.close(bridge.close_code or CLOSE_CODES.get(session.ended, POLICY), session.ended)
        nursery.cancel_scope.cancel()


class _Bridge:
    """Carries one client's messages between its WebSocket and its session.

    A message to the client is written as the client wrote its last one: as JSON or as MessagePack.
    """

    def __init__(self, websocket: WebSocket, stream: trio.SocketStream) -> None:
        self._websocket = websocket
        self._stream = stream
        self._speaks_json = False
        self.close_code = 0  # not 0: what was wrong was seen here

    async def take_requests(self) -> None:
        """Pass on what the client sends, until it leaves or sends text that is no JSON."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                message = await self._websocket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                text: str | None = message.get("text")
                self._speaks_json = text is not None
                try:
                    payload = message["bytes"] if text is None else to_messagepack(text)
                except Refusal as refusal:
                    await self._websocket.send_text(to_json(refusal.frame(None)[PREFIX.size :]))
                    self.close_code = BAD_DATA
                    break
                await self._stream.send_all(frame(payload))
            await self._stream.send_eof()

    async def send_answers(self) -> None:
        """Pass on what the session says, until it has ended."""
        deframer = Deframer(MESSAGE_BYTES_MAX)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, WebSocketDisconnect, RuntimeError):
            while data := await self._stream.receive_some(RECEIVE_BYTES):
                for payload in deframer.receive_data(data):
                    if self._speaks_json:
                        await self._websocket.send_text(to_json(payload))
                    else:
                        await self._websocket.send_bytes(bytes(payload))


def to_messagepack(text: str) -> bytes:
    """Make a message of a client's JSON. Raises Refusal: it is none."""
    try:
        return msgspec.msgpack.encode(msgspec.json.decode(text))
    except (ValueError, OverflowError, RecursionError) as error:
        sentence = f"this is no JSON object {{id, method, params}}: {error}"
        raise Refusal(ErrorCode.PARSE_ERROR, sentence) from error


def to_json(payload: bytes | bytearray) -> str:
    """Write a message as JSON: binary data as base64, numbers as keys of maps as text, NaN as null."""
    message: Any = msgspec.msgpack.decode(payload)
    return msgspec.json.encode(message).decode()

"""The asynchronous shell: one connection, made again whenever it breaks, with a task that reads and one that writes.

The reader goes on as long as every stream has room. When one is crowded it stops, so that the server waits; unless
somebody waits for an answer or for another stream. Then it reads on, and the crowded stream is parked: closed at the
server, and opened again where it stands when all of it has been read.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc

from marketd.client.address import Address
from marketd.client.calls import Call
from marketd.client.errors import CannotConnect, ConnectionLost, DeadlineExceeded, ProtocolError, RequestError
from marketd.client.protocol import RETRY_S, SILENT_HEARTBEATS, Changed, ClientProtocol
from marketd.client.reconnect import Reconnect
from marketd.client.subscription import Subscription
from marketd.client.trust import explain

_BROKEN = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ProtocolError)


class AsyncLine:
    """Moves bytes between a protocol and the daemon, and wakes who waits for what they bring."""

    def __init__(
        self,
        target: Address,
        protocol: ClientProtocol,
        reconnect: Reconnect,
        timeout_s: float,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.address = str(target)
        self._trust = trust
        self.protocol = protocol
        self._target = target
        self._reconnect = reconnect
        self._timeout_s = timeout_s
        self._connection: anyio.abc.ByteStream | None = None
        self._closed = False
        self._outgoing = anyio.Event()
        self._waiting: dict[Call | Subscription, anyio.Event] = {}
        self._room: anyio.Event | None = None  # what the reader waits for while a stream is crowded

    # --- for those who wait -----------------------------------------------------------------------------------------

    async def finish(self, call: Call, timeout_s: float) -> Any:  # noqa: ANN401 - see Call.result
        """Wait for a call's answer and return it. Raises what :meth:`wait` and :meth:`Call.result` do."""
        await self.wait(call, lambda: call.done, timeout_s)
        return call.result()

    async def wait(self, call: Call, condition: Callable[[], bool], timeout_s: float) -> None:
        """Return when the condition is met.

        Raises:
            DeadlineExceeded: it was not in time. The call is forgotten then.
            ConnectionLost: the connection broke, and there is to be no other.
        """
        try:
            with anyio.move_on_after(timeout_s):
                while not condition():
                    await self.wait_change(call)
        except BaseException:
            self.protocol.forget(call)
            raise
        if not condition():
            self.protocol.forget(call)
            raise DeadlineExceeded(f"no answer to {call.method} from {self.address} in {timeout_s} s")

    async def wait_change(self, thing: Call | Subscription) -> None:
        """Return when something new is known of a call or a subscription; only one task can wait for each."""
        self.check_open()
        if thing in self._waiting:
            raise anyio.BusyResourceError("waiting for")
        event = self._waiting[thing] = anyio.Event()
        self.send_soon()
        self.read_on()
        try:
            await event.wait()
        finally:
            self._waiting.pop(thing, None)

    def check_open(self) -> None:
        """Raise ConnectionLost if the client is closed."""
        if self._closed:
            raise ConnectionLost("this client is closed")

    def send_soon(self) -> None:
        """Let the writer see what there is to send."""
        self._outgoing.set()

    def read_on(self) -> None:
        """Let the reader, where it waits for room, see whether there is some."""
        if self._room is not None and not self._must_wait:
            self._room.set()

    # --- the connection's life --------------------------------------------------------------------------------------

    async def connect_first(self) -> None:
        """Connect and say hello. See :meth:`marketd.client.line.Line.connect_first` for what it raises."""
        try:
            await self._dial()
        except _BROKEN as error:
            raise CannotConnect(self.address, explain(error)) from error

    async def run(self) -> None:
        """Serve the connection; make another one when it breaks; end when there is to be none."""
        try:
            while True:
                await self._drop(await self._serve())
                await self._redial()
        except (ConnectionLost, RequestError) as error:
            self._wake(self.protocol.fail(error))
            self._closed = True

    def close(self) -> None:
        """Let everybody who waits know that it is over."""
        self._closed = True
        self._wake(self.protocol.fail(ConnectionLost("this client is closed")))

    async def hang_up(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await anyio.aclose_forcefully(connection)

    async def _dial(self) -> None:
        """Connect and say hello. See :meth:`marketd.client.line.Line._dial` for what it raises."""
        try:
            with anyio.fail_after(self._timeout_s):
                if self._target.path:
                    self._connection = await anyio.connect_unix(self._target.path)
                elif self._trust is None:
                    self._connection = await anyio.connect_tcp(self._target.host, self._target.port)
                else:
                    self._connection = await anyio.connect_tcp(
                        self._target.host, self._target.port, ssl_context=self._trust, tls_standard_compatible=False
                    )
                hello = self.protocol.connection_made()
                await self._connection.send(self.protocol.data_to_send())
                while not hello.done:
                    self._wake(self.protocol.receive_data(await self._connection.receive(self.protocol.receive_bytes)))
                hello.result()
        except BaseException as error:
            await self._drop(str(error))
            raise
        self._reconnect.made(time.monotonic())

    async def _redial(self) -> None:
        while self._connection is None:
            await anyio.sleep(self._reconnect.delay_s(time.monotonic()))
            try:
                await self._dial()
            except _BROKEN:
                continue  # `_drop` has noted it; `delay_s` decides whether to go on

    async def _drop(self, reason: str) -> None:
        self._reconnect.lost(time.monotonic(), reason)
        self._wake(self.protocol.connection_lost(reason))
        await self.hang_up()

    async def _serve(self) -> str:
        """Read and write until the connection breaks; return why it did."""
        assert self._connection is not None
        connection = self._connection
        reasons: list[str] = []

        async def until_broken(task: Callable[[anyio.abc.ByteStream], Awaitable[None]]) -> None:
            try:
                await task(connection)
            except _BROKEN as error:
                reasons.append(str(error) or "the other side closed it")
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_broken, self._read)
            tasks.start_soon(until_broken, self._write)
        return reasons[0] if reasons else "closed"

    async def _read(self, connection: anyio.abc.ByteStream) -> None:
        silence_s = SILENT_HEARTBEATS * self._heartbeat_s or None
        while True:
            while self._must_wait:
                self._room = anyio.Event()
                await self._room.wait()
                self._room = None
            data = None
            with anyio.move_on_after(silence_s):
                data = await connection.receive(self.protocol.receive_bytes)
            if data is None:
                raise TimeoutError(f"the other side was silent for {silence_s} s")
            self._wake(self.protocol.receive_data(data))
            if self.protocol.has_data_to_send:
                self.send_soon()

    async def _write(self, connection: anyio.abc.ByteStream) -> None:
        """Send what there is to send; heartbeats when there is nothing."""
        period_s = self._heartbeat_s / 2 or None
        while True:
            data = self.protocol.data_to_send()
            if data:
                await connection.send(data)
                continue
            self._outgoing = anyio.Event()
            with anyio.move_on_after(RETRY_S if self.protocol.refused else period_s) as waiting:
                await self._outgoing.wait()
            if waiting.cancel_called:
                self.protocol.retry()
                self.protocol.heartbeat()

    @property
    def _heartbeat_s(self) -> float:
        return self.protocol.server.heartbeat_s if self.protocol.server is not None else 0.0

    @property
    def _must_wait(self) -> bool:
        """Whether a stream is crowded, and nobody waits for anything else."""
        return not self._waiting and any(stream.crowded for stream in self.protocol.subscriptions)

    def _wake(self, changed: Changed) -> None:
        for thing in changed:
            event = self._waiting.pop(thing, None)
            if event is not None:
                event.set()

"""The asynchronous client, on trio or asyncio."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, cast

import anyio
import anyio.lowlevel

from marketd.client.address import default_address, parse_address
from marketd.client.aio_line import AsyncLine
from marketd.client.bars import BarSeries, bars_params, series_of
from marketd.client.calls import ADMIN_TIMEOUT_S, Call
from marketd.client.frames import Frame
from marketd.client.history import (
    HISTORY_TIMEOUT_S,
    History,
    TableKind,
    TickKind,
    backfill_params,
    coverage_params,
    history_of,
    history_params,
    table_of,
    ticks_params,
)
from marketd.client.protocol import ClientProtocol
from marketd.client.reconnect import Reconnect
from marketd.client.subscription import BUFFER_BYTES, State, Subscription
from marketd.client.times import Time, to_ns
from marketd.client.trust import token_for, trust_for
from marketd.rpc import messages
from marketd.rpc.messages import Position
from marketd.rpc.positions import parse_token


@asynccontextmanager
async def open_client(
    address: str | None = None,
    *,
    token: str | None = None,
    ca_file: str | None = None,
    client: str = "marketd-python",
    timeout_s: float = 10.0,
    heartbeat_s: float = 5.0,
    reconnect: bool = True,
    reconnect_timeout_s: float | None = None,
    buffer_bytes: int = BUFFER_BYTES,
) -> AsyncIterator[AsyncClient]:
    """Connect to a daemon for as long as the block runs. Arguments and errors are those of `connect`."""
    target = parse_address(address or default_address())
    hello = messages.HelloParams(client=client, token=token_for(token), heartbeat_s=heartbeat_s)
    protocol = ClientProtocol(hello, buffer_bytes=buffer_bytes)
    again = Reconnect(enabled=reconnect, timeout_s=reconnect_timeout_s)
    line = AsyncLine(target, protocol, again, timeout_s, trust_for(target, ca_file))
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            try:
                await line.connect_first()
                tasks.start_soon(line.run)
                yield AsyncClient(line, timeout_s)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 - raised below: here, the task group would wrap it in a group
                failure = error
            finally:
                line.close()
                tasks.cancel_scope.cancel()
    finally:
        await line.hang_up()
    if failure is not None:
        raise failure


class AsyncClient:
    """A connection to a daemon, made by :func:`open_client`. For any number of tasks; a stream is for one at a time."""

    def __init__(self, line: AsyncLine, timeout_s: float) -> None:
        self._line = line
        self._protocol = line.protocol
        self._timeout_s = timeout_s

    @property
    def address(self) -> str:
        """The daemon's address."""
        return self._line.address

    @property
    def server(self) -> messages.HelloResult:
        """What the daemon said of itself."""
        assert self._protocol.server is not None  # `open_client` yields no client before
        return self._protocol.server

    # --- requests ---------------------------------------------------------------------------------------------------

    async def ping(self, *, timeout_s: float | None = None) -> float:
        """See :meth:`marketd.client.sync.Client.ping`."""
        begun_s = time.perf_counter()
        await self._request("ping", messages.PingParams(), timeout_s)
        return time.perf_counter() - begun_s

    async def status(self, *, timeout_s: float | None = None) -> messages.StatusResult:
        """See :meth:`marketd.client.sync.Client.status`."""
        return cast(messages.StatusResult, await self._request("status", messages.EmptyParams(), timeout_s))

    async def backends(self, *, timeout_s: float | None = None) -> list[messages.BackendInfo]:
        """See :meth:`marketd.client.sync.Client.backends`."""
        result = await self._request("backends", messages.EmptyParams(), timeout_s)
        return cast(messages.BackendsResult, result).backends

    async def why(self, fqme: str, *, timeout_s: float | None = None) -> messages.WhyResult:
        """See :meth:`marketd.client.sync.Client.why`."""
        params = messages.WhyParams(fqme)
        return cast(messages.WhyResult, await self._request("why", params, timeout_s))

    async def debug(self, *, timeout_s: float | None = None) -> messages.DebugResult:
        """See :meth:`marketd.client.sync.Client.debug`."""
        return cast(messages.DebugResult, await self._request("debug", messages.EmptyParams(), timeout_s))

    async def instrument(self, fqme: str, *, timeout_s: float | None = None) -> messages.InstrumentResult:
        """See :meth:`marketd.client.sync.Client.instrument`."""
        params = messages.InstrumentParams(fqme)
        return cast(messages.InstrumentResult, await self._request("instrument", params, timeout_s))

    def search(self, text: str, *, limit: int = 100, timeout_s: float | None = None) -> AsyncSearch:
        """See :meth:`marketd.client.sync.Client.search`."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return AsyncSearch(self._line, self._submit("search", messages.SearchParams(text, limit), timeout_s), timeout_s)

    async def bars(
        self,
        instruments: str | Sequence[str],
        period: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
        *,
        limit: int | None = None,
        order: messages.Order = "newest",
        columns: Sequence[str] | None = None,
        to: TableKind = "polars",
        timeout_s: float = HISTORY_TIMEOUT_S,
    ) -> Any:  # noqa: ANN401 - which of four libraries' tables is the caller's choice
        """See :meth:`marketd.client.sync.Client.bars`."""
        found = await self.history(
            instruments, period, start, end, limit=limit, order=order, columns=columns, timeout_s=timeout_s
        )
        return table_of(found, to)

    async def series(
        self,
        fqme: str,
        period: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
        *,
        limit: int | None = None,
        order: messages.Order = "newest",
        timeout_s: float | None = None,
    ) -> BarSeries:
        """See :meth:`marketd.client.sync.Client.series`."""
        params = bars_params(self.server, fqme, period, start, end, limit, order)
        return series_of(await self._request("bars", params, timeout_s))

    async def history(
        self,
        instruments: str | Sequence[str],
        period: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
        *,
        limit: int | None = None,
        order: messages.Order = "newest",
        columns: Sequence[str] | None = None,
        timeout_s: float = HISTORY_TIMEOUT_S,
    ) -> History:
        """See :meth:`marketd.client.sync.Client.history`."""
        params = history_params(instruments, period, start, end, limit, order, columns)
        call = self._submit("history", params, timeout_s)
        return history_of(await self._line.finish(call, timeout_s), call.batches)

    async def ticks(
        self,
        instruments: str | Sequence[str],
        kind: TickKind = "trade",
        start: Time | None = None,
        end: Time | None = None,
        *,
        limit: int | None = None,
        order: messages.Order = "newest",
        columns: Sequence[str] | None = None,
        to: TableKind = "polars",
        timeout_s: float = HISTORY_TIMEOUT_S,
    ) -> Any:  # noqa: ANN401 - which of four libraries' tables is the caller's choice
        """See :meth:`marketd.client.sync.Client.ticks`."""
        found = await self.tick_history(
            instruments, kind, start, end, limit=limit, order=order, columns=columns, timeout_s=timeout_s
        )
        return table_of(found, to)

    async def tick_history(
        self,
        instruments: str | Sequence[str],
        kind: TickKind = "trade",
        start: Time | None = None,
        end: Time | None = None,
        *,
        limit: int | None = None,
        order: messages.Order = "newest",
        columns: Sequence[str] | None = None,
        timeout_s: float = HISTORY_TIMEOUT_S,
    ) -> History:
        """See :meth:`marketd.client.sync.Client.tick_history`."""
        params = ticks_params(instruments, kind, start, end, limit, order, columns)
        call = self._submit("ticks", params, timeout_s)
        return history_of(await self._line.finish(call, timeout_s), call.batches)

    async def coverage(
        self,
        fqme: str,
        period: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
        *,
        timeout_s: float | None = None,
    ) -> messages.CoverageResult:
        """See :meth:`marketd.client.sync.Client.coverage`."""
        params = coverage_params(fqme, period, start, end)
        return cast(messages.CoverageResult, await self._request("coverage", params, timeout_s))

    async def gaps(
        self,
        fqme: str,
        period: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
        *,
        timeout_s: float | None = None,
    ) -> messages.GapsResult:
        """See :meth:`marketd.client.sync.Client.gaps`."""
        params = coverage_params(fqme, period, start, end)
        return cast(messages.GapsResult, await self._request("gaps", params, timeout_s))

    async def backfill(
        self,
        fqme: str,
        period: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
        *,
        on_progress: Callable[[messages.BackfillProgress], None] = lambda _: None,
        timeout_s: float = HISTORY_TIMEOUT_S,
    ) -> messages.BackfillResult:
        """See :meth:`marketd.client.sync.Client.backfill`."""
        params = backfill_params(fqme, period, start, end)
        call = self._submit("backfill", params, timeout_s)
        with anyio.fail_after(timeout_s):
            while not call.done or call.progress:
                await self._line.wait(call, lambda: bool(call.progress) or call.done, timeout_s)
                while call.progress:
                    on_progress(call.progress.popleft())
        return cast(messages.BackfillResult, call.result())

    async def record(
        self, feed: str, name: str, duration_s: float, *, timeout_s: float | None = None
    ) -> messages.RecordResult:
        """See :meth:`marketd.client.sync.Client.record`."""
        timeout_s = duration_s + self._timeout_s if timeout_s is None else timeout_s
        params = messages.RecordParams(feed, name, duration_s)
        return cast(messages.RecordResult, await self._request("record", params, timeout_s))

    # --- for operators ----------------------------------------------------------------------------------------------

    async def services(self, *, timeout_s: float | None = None) -> list[messages.ActorStatus]:
        """See :meth:`marketd.client.sync.Client.services`."""
        result = await self._request("services.list", messages.EmptyParams(), timeout_s)
        return cast(messages.ServicesResult, result).services

    async def restart_service(self, service: str, *, timeout_s: float = ADMIN_TIMEOUT_S) -> messages.ActorStatus:
        """See :meth:`marketd.client.sync.Client.restart_service`."""
        return await self._act("restart", service, timeout_s)

    async def stop_service(self, service: str, *, timeout_s: float = ADMIN_TIMEOUT_S) -> messages.ActorStatus:
        """See :meth:`marketd.client.sync.Client.stop_service`."""
        return await self._act("stop", service, timeout_s)

    async def start_service(self, service: str, *, timeout_s: float = ADMIN_TIMEOUT_S) -> messages.ActorStatus:
        """See :meth:`marketd.client.sync.Client.start_service`."""
        return await self._act("start", service, timeout_s)

    async def cancel_service(self, service: str, *, timeout_s: float = ADMIN_TIMEOUT_S) -> messages.ActorStatus:
        """See :meth:`marketd.client.sync.Client.cancel_service`."""
        return await self._act("cancel", service, timeout_s)

    async def clients(self, *, timeout_s: float | None = None) -> list[messages.ClientStatus]:
        """See :meth:`marketd.client.sync.Client.clients`."""
        return cast(
            messages.ClientsResult, await self._request("clients.list", messages.EmptyParams(), timeout_s)
        ).clients

    async def kick(self, client: int, reason: str = "", *, timeout_s: float | None = None) -> messages.ClientStatus:
        """See :meth:`marketd.client.sync.Client.kick`."""
        params = messages.KickParams(client, reason)
        return cast(messages.KickResult, await self._request("clients.kick", params, timeout_s)).client

    async def log_level(
        self, level: messages.LogLevel | None = None, actor: str | None = None, *, timeout_s: float | None = None
    ) -> dict[str, str]:
        """See :meth:`marketd.client.sync.Client.log_level`."""
        params = messages.LogLevelParams(level, actor)
        return cast(messages.LogLevelResult, await self._request("log.level", params, timeout_s)).levels

    async def reload(self, *, timeout_s: float = ADMIN_TIMEOUT_S) -> messages.ReloadResult:
        """See :meth:`marketd.client.sync.Client.reload`."""
        return cast(messages.ReloadResult, await self._request("reload", messages.EmptyParams(), timeout_s))

    async def _act(self, action: str, service: str, timeout_s: float) -> messages.ActorStatus:
        result = await self._request(f"services.{action}", messages.ServiceParams(service), timeout_s)
        return cast(messages.ServiceResult, result).service

    # --- streams ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def subscribe(
        self,
        instruments: Sequence[str],
        *,
        kinds: Sequence[messages.KindName] = ("trade", "quote"),
        contract: messages.Contract = "lossless",
        format: messages.Format = "rows",
        rate_hz: float = 10.0,
        resume: str | dict[str, Position] | None = None,
        forming_hz: float = 0.0,
        snapshot: bool = False,
        start: Time | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[AsyncStream]:
        """Open a stream for as long as the block runs. See :meth:`marketd.client.sync.Client.subscribe`."""
        positions = parse_token(resume) if isinstance(resume, str) else dict(resume or {})
        params = messages.SubscribeParams(
            list(instruments),
            tuple(kinds),
            contract,
            format,
            rate_hz,
            positions,
            forming_hz,
            snapshot,
            None if start is None else to_ns(start),
        )
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        call = self._protocol.subscribe(params, timeout_s)
        assert call.subscription is not None
        stream = AsyncStream(self._line, call.subscription, self._timeout_s)
        try:
            await self._line.finish(call, timeout_s)
            yield stream
        finally:
            stream.close()

    async def _request(self, method: str, params: messages.Params, timeout_s: float | None) -> Any:  # noqa: ANN401
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return await self._line.finish(self._submit(method, params, timeout_s), timeout_s)

    def _submit(self, method: str, params: messages.Params, timeout_s: float) -> Call:
        self._line.check_open()
        return self._protocol.request(method, params, timeout_s)


class AsyncStream:
    """Frames, one after the other, made by :meth:`AsyncClient.subscribe`.

    Other tasks get their turn between messages, not between the frames of one.
    """

    def __init__(self, line: AsyncLine, subscription: Subscription, timeout_s: float) -> None:
        self._line = line
        self._subscription = subscription
        self._timeout_s = timeout_s

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        subscription = self._subscription
        if subscription.between_messages:
            await anyio.lowlevel.checkpoint()
        while True:
            frame = subscription.next_nowait()
            if frame is not None:
                self._line.read_on()
                return frame
            if subscription.state is State.ENDED:
                if subscription.error is not None:
                    raise subscription.error
                raise StopAsyncIteration
            self._line.protocol.reopen()
            await self._line.wait_change(subscription)

    @property
    def positions(self) -> dict[str, Position]:
        """See :attr:`marketd.client.sync.Stream.positions`."""
        return self._subscription.positions

    @property
    def token(self) -> str:
        """See :attr:`marketd.client.sync.Stream.token`."""
        return self._subscription.token

    @property
    def result(self) -> messages.SubscribeResult:
        """See :attr:`marketd.client.sync.Stream.result`."""
        assert self._subscription.result is not None  # `subscribe` yields no stream before
        return self._subscription.result

    async def update(
        self,
        *,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        rate_hz: float | None = None,
        paused: bool | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """See :meth:`marketd.client.sync.Stream.update`."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        change = messages.UpdateParams(0, list(add), list(remove), rate_hz, paused)
        call = self._line.protocol.update(self._subscription, change, timeout_s)
        self._line.send_soon()
        if call is not None:
            await self._line.finish(call, timeout_s)

    def close(self) -> None:
        """End it. What was not read is dropped; ``token`` goes on to say where it stood."""
        self._line.protocol.unsubscribe(self._subscription)
        self._line.send_soon()


class AsyncSearch:
    """The hits of a search. ``failed``, complete at the end: the feeds that gave no answer."""

    def __init__(self, line: AsyncLine, call: Call, timeout_s: float) -> None:
        self.failed: list[str] = []
        self._line = line
        self._call = call
        self._deadline_s = time.monotonic() + timeout_s

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> messages.SearchHit:
        call = self._call
        left_s = max(0.0, self._deadline_s - time.monotonic())
        await self._line.wait(call, lambda: bool(call.hits) or call.done, left_s)
        if call.hits:
            return call.hits.popleft()
        self.failed = call.result().failed
        raise StopAsyncIteration

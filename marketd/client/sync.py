"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, cast

from marketd.client.address import default_address, parse_address
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
from marketd.client.line import Line
from marketd.client.protocol import ClientProtocol
from marketd.client.reconnect import Reconnect
from marketd.client.subscription import BUFFER_BYTES, State, Subscription
from marketd.client.times import Time, to_ns
from marketd.client.trust import token_for, trust_for
from marketd.rpc import messages
from marketd.rpc.messages import Position
from marketd.rpc.positions import parse_token


def connect(
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
) -> Client:
    """Connect to a daemon.

    Args:
        address: ``host:port``, ``tls://host:port`` or ``unix:/path``. Without one: ``$MARKETD_ADDRESS``, else the
            default instance's Unix socket if there is one, else 127.0.0.1:7600.
        token: for a daemon that wants one. Without one: ``$MARKETD_TOKEN``, else what is in the file
            ``$MARKETD_TOKEN_FILE``.
        ca_file: PEM file of the authorities to trust with ``tls://``. Without one: ``$MARKETD_CA_FILE``, else the
            system's.
        client: what this program is called in the daemon's status.
        timeout_s: for connecting, and for each request that is not given its own.
        heartbeat_s: the longest silence in either direction; 0 for no heartbeats.
        reconnect: whether a connection that breaks is made again, at the next use.
        reconnect_timeout_s: how long that is tried; None is for ever.
        buffer_bytes: how much of each stream is kept while it is not being read.

    Raises:
        ValueError: the address is none.
        ConfigError: a file that is named can't be used.
        CannotConnect: nobody answers there.
        RequestError: the daemon does not want us, or not with this token.
    """
    hello = messages.HelloParams(client=client, token=token_for(token), heartbeat_s=heartbeat_s)
    protocol = ClientProtocol(hello, buffer_bytes=buffer_bytes)
    again = Reconnect(enabled=reconnect, timeout_s=reconnect_timeout_s)
    target = parse_address(address or default_address())
    line = Line(target, protocol, again, timeout_s, trust_for(target, ca_file))
    line.connect_first()
    return Client(line, timeout_s)


class Client:
    """A connection to a daemon, made by :func:`connect`. For one thread at a time."""

    def __init__(self, line: Line, timeout_s: float) -> None:
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
        assert self._protocol.server is not None  # `connect` returns no client before
        return self._protocol.server

    # --- requests ---------------------------------------------------------------------------------------------------

    def ping(self, *, timeout_s: float | None = None) -> float:
        """Return the seconds that it takes to the daemon and back."""
        begun_s = time.perf_counter()
        self._request("ping", messages.PingParams(), timeout_s)
        return time.perf_counter() - begun_s

    def status(self, *, timeout_s: float | None = None) -> messages.StatusResult:
        """Return the state of the whole daemon."""
        return cast(messages.StatusResult, self._request("status", messages.EmptyParams(), timeout_s))

    def backends(self, *, timeout_s: float | None = None) -> list[messages.BackendInfo]:
        """Return the backends that the daemon can run, and the feeds that do."""
        return cast(messages.BackendsResult, self._request("backends", messages.EmptyParams(), timeout_s)).backends

    def why(self, fqme: str, *, timeout_s: float | None = None) -> messages.WhyResult:
        """Return why an instrument is live, or is not; also of a name that nobody has."""
        params = messages.WhyParams(fqme)
        return cast(messages.WhyResult, self._request("why", params, timeout_s))

    def debug(self, *, timeout_s: float | None = None) -> messages.DebugResult:
        """Return an archive of all that helps to understand a daemon in trouble; it takes some seconds."""
        return cast(messages.DebugResult, self._request("debug", messages.EmptyParams(), timeout_s))

    def instrument(self, fqme: str, *, timeout_s: float | None = None) -> messages.InstrumentResult:
        """Return what is known of an instrument. ``RequestError`` with code ``unknown_instrument`` if there is none."""
        params = messages.InstrumentParams(fqme)
        return cast(messages.InstrumentResult, self._request("instrument", params, timeout_s))

    def search(self, text: str, *, limit: int = 100, timeout_s: float | None = None) -> Search:
        """Iterate over the instruments that match words (``btc usdt``) or a glob, as the feeds answer."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        deadline_s = time.monotonic() + timeout_s
        return Search(
            self._line, self._protocol.request("search", messages.SearchParams(text, limit), timeout_s), deadline_s
        )

    def bars(
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
        """Return bars as one table: of several instruments, in a list or by globs, with a column ``instrument``.

        A table can't say what it lacks, so ranges without whole bars are told by the warning :class:`BarsMissing`;
        :meth:`history` has them, and up to when bars are complete, with the answer.

        Args:
            to: whose table: ``polars``, ``pyarrow``, ``pandas``; ``numpy`` for a dict of arrays.

        The other arguments, and what raises, are those of :meth:`history`.
        """
        found = self.history(
            instruments, period, start, end, limit=limit, order=order, columns=columns, timeout_s=timeout_s
        )
        return table_of(found, to)

    def series(
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
        """Return an instrument's bars in ``[start, end)``, in order of time, as the rings have them: with their states.

        Args:
            fqme: the instrument, in any case.
            period: of one of the daemon's series: ``1m``, or ``1000t`` where bars are made of activity.
            start, end: nanoseconds since 1970, a datetime, or text (``2026-11-25T12:30+01:00``). Without a zone they
                are UTC. None: no bound.
            limit: no more bars than this; the daemon gives 20,000 at most.
            order: which bars those are: the ``newest`` or the ``oldest`` of the range.

        Raises:
            ValueError: a time is none.
            RequestError: there is no such instrument or period.
        """
        params = bars_params(self.server, fqme, period, start, end, limit, order)
        return series_of(self._request("bars", params, timeout_s))

    def history(
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
        """Return bars of one or many instruments in ``[start, end)``, of all that the daemon holds, live and on disk.

        Args:
            instruments: names, and globs of those that the feeds have.
            period: of bars that are made or stored, or a multiple of a stored one.
            start, end: as for :meth:`series`.
            limit: of each instrument no more bars than this; None: all.
            order: which bars those are: the ``newest`` or the ``oldest``.
            columns: which, and in which order.

        Raises:
            ValueError: a time is none.
            RequestError: nothing is held of an instrument, or no such period or column.
        """
        params = history_params(instruments, period, start, end, limit, order, columns)
        call = self._protocol.request("history", params, timeout_s)
        return history_of(self._line.finish(call, timeout_s), call.batches)

    def ticks(
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
        """Return trades or quotes as one table: of several instruments, in a list or by globs, with their names.

        Times of which ticks may be missing are told by the warning :class:`TicksMissing`. The arguments, and what
        raises, are those of :meth:`bars` and :meth:`tick_history`.
        """
        found = self.tick_history(
            instruments, kind, start, end, limit=limit, order=order, columns=columns, timeout_s=timeout_s
        )
        return table_of(found, to)

    def tick_history(
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
        """Return trades or quotes in ``[start, end)`` of the venue's time, of all that the daemon holds.

        That is what its rings hold, and what is stored of the instruments that ``history.record_ticks`` names.

        Args:
            kind: ``trade`` or ``quote``.

        The other arguments, and what raises, are those of :meth:`history`.
        """
        params = ticks_params(instruments, kind, start, end, limit, order, columns)
        call = self._protocol.request("ticks", params, timeout_s)
        return history_of(self._line.finish(call, timeout_s), call.batches)

    def coverage(
        self,
        fqme: str,
        period: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
        *,
        timeout_s: float | None = None,
    ) -> messages.CoverageResult:
        """Return what is known of an instrument's stored bars: complete, empty, missing or unverified ranges."""
        params = coverage_params(fqme, period, start, end)
        return cast(messages.CoverageResult, self._request("coverage", params, timeout_s))

    def gaps(
        self,
        fqme: str,
        period: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
        *,
        timeout_s: float | None = None,
    ) -> messages.GapsResult:
        """Return the bars that are not stored, and whether that was to be expected."""
        params = coverage_params(fqme, period, start, end)
        return cast(messages.GapsResult, self._request("gaps", params, timeout_s))

    def backfill(
        self,
        fqme: str,
        period: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
        *,
        on_progress: Callable[[messages.BackfillProgress], None] = lambda _: None,
        timeout_s: float = HISTORY_TIMEOUT_S,
    ) -> messages.BackfillResult:
        """Let the daemon ask the venue for a range, as far as it is not stored; return when that is over.

        What was begun goes on without us, and after a restart of the daemon too.

        Args:
            start: None: a day ago. end: None: now.
            on_progress: called with how far it is, some times a second.

        Raises:
            ValueError: a time is none.
            RequestError: no feed has the instrument, or such bars are not stored.
            DeadlineExceeded: it takes longer than this; it goes on.
        """
        params = backfill_params(fqme, period, start, end)
        call = self._protocol.request("backfill", params, timeout_s)
        deadline_s = time.monotonic() + timeout_s
        while not call.done or call.progress:
            self._line.wait(call, lambda: bool(call.progress) or call.done, deadline_s)
            while call.progress:
                on_progress(call.progress.popleft())
        return cast(messages.BackfillResult, call.result())

    def record(
        self, feed: str, name: str, duration_s: float, *, timeout_s: float | None = None
    ) -> messages.RecordResult:
        """Record a feed's raw venue traffic into a file on the daemon's machine; returns when it is done."""
        timeout_s = duration_s + self._timeout_s if timeout_s is None else timeout_s
        params = messages.RecordParams(feed, name, duration_s)
        return cast(messages.RecordResult, self._request("record", params, timeout_s))

    # --- for operators ----------------------------------------------------------------------------------------------

    def services(self, *, timeout_s: float | None = None) -> list[messages.ActorStatus]:
        """Return the daemon's services: its feeds, and the other actors that it runs."""
        result = self._request("services.list", messages.EmptyParams(), timeout_s)
        return cast(messages.ServicesResult, result).services

    def restart_service(self, service: str, *, timeout_s: float = ADMIN_TIMEOUT_S) -> messages.ActorStatus:
        """Let a service's actor be replaced; returns when the new one is live, or has failed.

        Args:
            service: its name in the status, ``feed.sim``; of a feed its own name will do.

        Raises:
            RequestError: there is no such service.
        """
        return self._act("restart", service, timeout_s)

    def stop_service(self, service: str, *, timeout_s: float = ADMIN_TIMEOUT_S) -> messages.ActorStatus:
        """Stop a service; returns when its actor is gone. It stays stopped until it is started again."""
        return self._act("stop", service, timeout_s)

    def start_service(self, service: str, *, timeout_s: float = ADMIN_TIMEOUT_S) -> messages.ActorStatus:
        """Start a service that was stopped; returns when it is live, or has failed."""
        return self._act("start", service, timeout_s)

    def cancel_service(self, service: str, *, timeout_s: float = ADMIN_TIMEOUT_S) -> messages.ActorStatus:
        """Stop a service at once: its actor is killed, and has no time to finish what it does."""
        return self._act("cancel", service, timeout_s)

    def clients(self, *, timeout_s: float | None = None) -> list[messages.ClientStatus]:
        """Return who is connected."""
        return cast(messages.ClientsResult, self._request("clients.list", messages.EmptyParams(), timeout_s)).clients

    def kick(self, client: int, reason: str = "", *, timeout_s: float | None = None) -> messages.ClientStatus:
        """Send a client away; it is told why, and may come back. ``RequestError`` if there is no such client."""
        params = messages.KickParams(client, reason)
        return cast(messages.KickResult, self._request("clients.kick", params, timeout_s)).client

    def log_level(
        self, level: messages.LogLevel | None = None, actor: str | None = None, *, timeout_s: float | None = None
    ) -> dict[str, str]:
        """Set the log level of one actor, or of all, and return what holds by actor; without a level only that."""
        params = messages.LogLevelParams(level, actor)
        return cast(messages.LogLevelResult, self._request("log.level", params, timeout_s)).levels

    def reload(self, *, timeout_s: float = ADMIN_TIMEOUT_S) -> messages.ReloadResult:
        """Let the daemon read its configuration file again, and return what has changed, once it has.

        Raises:
            RequestError: ``invalid_config``, with every mistake in the text: the old configuration holds on.
        """
        return cast(messages.ReloadResult, self._request("reload", messages.EmptyParams(), timeout_s))

    def _act(self, action: str, service: str, timeout_s: float) -> messages.ActorStatus:
        result = self._request(f"services.{action}", messages.ServiceParams(service), timeout_s)
        return cast(messages.ServiceResult, result).service

    # --- streams ----------------------------------------------------------------------------------------------------

    def subscribe(
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
    ) -> Stream:
        """Open a stream over instruments, from one feed or many.

        Args:
            instruments: names (``btc/usdt.spot.binance``) and globs (``*.sim``).
            kinds: ``trade``, ``quote``, and ``level`` (with ``lossless`` only); ``bar.1m`` and ``index.1m``, of any
                period that the daemon has. Gap and status rows come with any.
            contract: ``lossless``, every row in order; ``frames``, every row, put by kind; ``trade_safe``, every trade
                and merged quotes; or ``latest``, the newest state of each instrument.
            format: ``rows``, structured arrays; or ``columns``, lists of small structs.
            rate_hz: for all but ``lossless``, how often a second at most.
            resume: a stream's ``token`` or ``positions``: go on after what it has had.
            forming_hz: how often at most to tell of bars that are still forming; 0 for not at all.
            snapshot: begin with each instrument's newest quote and trade, as rows with the flag ``SNAPSHOT``.
            start: begin with what came then or later, as far as the rings and the log of recorded ticks hold it; the
                rest is a gap. A ``status`` frame of state ``replay_completed`` says, for each feed, where that ends.
            timeout_s: for the daemon's answer.

        Raises:
            RequestError: the daemon refused.
        """
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
        try:
            self._line.finish(call, timeout_s)
        except BaseException:
            self._protocol.unsubscribe(call.subscription)
            raise
        return Stream(self._line, call.subscription, self._timeout_s)

    def _request(self, method: str, params: messages.Params, timeout_s: float | None) -> Any:  # noqa: ANN401
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return self._line.finish(self._protocol.request(method, params, timeout_s), timeout_s)

    def close(self) -> None:
        """Close the connection; streams end."""
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class Stream:
    """Frames, one after the other, made by :meth:`Client.subscribe`. Ends when it is closed, by itself never."""

    def __init__(self, line: Line, subscription: Subscription, timeout_s: float) -> None:
        self._line = line
        self._subscription = subscription
        self._timeout_s = timeout_s

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        frame = self.wait_next(None)
        if frame is None:
            raise StopIteration
        return frame

    def wait_next(self, timeout_s: float | None) -> Frame | None:
        """Return the next frame; None if none comes in time, or if the stream is closed.

        With 0 it takes what is there already. While a broken connection is made again it may take two seconds longer.

        Raises:
            ConnectionLost: the connection is gone for good.
            RequestError: after a reconnect, the daemon refused the stream.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            frame = self._subscription.next_nowait()
            while frame is None and self._subscription.state is not State.ENDED:
                self._line.protocol.reopen()
                self._line.pump(deadline_s)
                frame = self._subscription.next_nowait()
                if deadline_s is not None and time.monotonic() >= deadline_s:
                    break
        except Exception:
            raise
        except BaseException:
            self._line.interrupted()
            raise
        if frame is None and self._subscription.error is not None:
            raise self._subscription.error
        return frame

    @property
    def positions(self) -> dict[str, Position]:
        """Where it stands in each feed, the last frame included."""
        return self._subscription.positions

    @property
    def token(self) -> str:
        """:attr:`positions` as text, to be kept and given to ``subscribe(resume=...)`` later."""
        return self._subscription.token

    @property
    def result(self) -> messages.SubscribeResult:
        """What the daemon said that it really does."""
        assert self._subscription.result is not None  # `subscribe` returns no stream before
        return self._subscription.result

    def update(
        self,
        *,
        add: Sequence[str] = (),
        remove: Sequence[str] = (),
        rate_hz: float | None = None,
        paused: bool | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Add or remove names and globs, change the rate, pause or go on. See :meth:`Client.subscribe` for errors.

        After a :class:`DeadlineExceeded` the change may be made yet, and then holds. It was not after a
        :class:`ConnectionLost`.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        change = messages.UpdateParams(0, list(add), list(remove), rate_hz, paused)
        call = self._line.protocol.update(self._subscription, change, timeout_s)
        if call is not None:
            self._line.finish(call, timeout_s)

    def close(self) -> None:
        """End it. What was not read is dropped; ``token`` goes on to say where it stood."""
        self._line.protocol.unsubscribe(self._subscription)
        self._line.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class Search:
    """The hits of a search. ``failed``, complete at the end: the feeds that gave no answer."""

    def __init__(self, line: Line, call: Call, deadline_s: float) -> None:
        self.failed: list[str] = []
        self._line = line
        self._call = call
        self._deadline_s = deadline_s

    def __iter__(self) -> Iterator[messages.SearchHit]:
        return self

    def __next__(self) -> messages.SearchHit:
        call = self._call
        self._line.wait(call, lambda: bool(call.hits) or call.done, self._deadline_s)
        if call.hits:
            return call.hits.popleft()
        self.failed = call.result().failed
        raise StopIteration

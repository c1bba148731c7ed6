"""The gateway: clients in front, rings behind.

    ring -> Feed (feed.py) -> Fanout (fanout.py) -> Subscription (subscription.py) -> Writer (writer.py) -> socket
    log of ticks -> Replay (replay.py) -> Writer: what a stream that comes back late has missed
    socket -> Session (session.py) -> decode.py -> requests.py -> streams.py, or the supervisor (routed.py)

One follower task for each feed moves the feed's head and lets each client's writer take what lies between the client's
own positions and the heads.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import socket
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from marketd.errors import ActorError, RequestRefused
from marketd.gateway.decode import Refusal
from marketd.gateway.delivery import Delivery
from marketd.gateway.feeds import Feeds
from marketd.gateway.guard import Guard
from marketd.gateway.listen import accept, address_of, open_listeners, peer_of, prepare, raise_file_limit
from marketd.gateway.manager import HistoryManager
from marketd.gateway.session import LINGER_NOT, Session, close_socket, leave
from marketd.gateway.tls import NoTls, carry, shake_hands
from marketd.gateway.totals import plus
from marketd.gateway.wakeup import Wakeup
from marketd.rpc.messages import ClientStatus, ErrorCode, Served
from marketd.security.doors import TLS_PREFIX, Door, door_of
from marketd.supervise.handle import ActorHandle
from marketd.supervise.link import Link
from marketd.supervise.messages import (
    HTTP_PREFIX,
    HTTPS_PREFIX,
    Demand,
    FeedInfo,
    FilledRange,
    Found,
    GatewayKick,
    GatewayReady,
    GatewayReport,
    GatewaySettings,
    GatewaySpec,
    RouteFind,
)

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # trio's own is missing from the stubs

    from marketd.feed.tls_stream import TlsStream
    from marketd.web.server import WebServer

FEEDS_TIMEOUT_S = 5.0
FIND_TIMEOUT_S = 4.0
TICK_S = 0.1
LATE_TICK_S = 0.5
STOP_S = 1.4  # flushing (1.0 s) and taking leave (0.3 s), and a little
WEB_STOP_S = 1.2  # then what is still being answered is cut
TLS_FLUSH_S = 1.0  # for what a session has said to be encrypted and sent, after its end
OWN_FILES = 512  # beside one for each client: segments, bells, listeners, and those being turned away
TURNED_AWAY_MAX = 64  # clients that are being told that there are too many

log = structlog.get_logger("marketd.gateway")


async def run_gateway(actor: ActorHandle) -> None:
    """Serve clients until the supervisor wants us to stop.

    Raises:
        ConfigError: an address can't be listened on.
    """
    spec = actor.config(GatewaySpec)
    raise_file_limit(spec.limits.clients_max + OWN_FILES)
    with contextlib.ExitStack() as stack:
        listeners = stack.enter_context(open_listeners(spec.listen, shared=spec.shared, passed=spec.passed))
        web_listeners = stack.enter_context(
            open_listeners(spec.http, "gateway.http", shared=spec.shared, passed=spec.passed)
        )
        async with trio.open_nursery() as services:
            feeds = Feeds(services)
            stack.callback(feeds.close)
            gateway = Gateway(spec, actor.link, feeds)
            web = await _web_server(gateway, spec) if spec.http else None
            actor.link.handle("feeds_changed", list[FeedInfo], feeds.announce)
            actor.link.handle("filled", FilledRange, gateway.tell_filled)
            actor.link.handle("settings", GatewaySettings, gateway.settle)
            actor.link.handle("kick", GatewayKick, gateway.kick)
            actor.statistics(gateway.report)
            actor.trouble(unreadable=feeds.unreadable)
            infos = await actor.link.request("feeds", result=list[FeedInfo], timeout_s=FEEDS_TIMEOUT_S)
            await feeds.announce(infos)
            services.start_soon(gateway.watch)
            services.start_soon(gateway.guard.watch, gateway.sessions)
            services.start_soon(gateway.tell_demand)
            async with trio.open_nursery() as clients:
                async with trio.open_nursery() as accepting:
                    addresses = []
                    for entrance in map(Entrance, spec.listen, listeners):
                        accepting.start_soon(accept, entrance.listener, partial(gateway.let_in, clients, entrance))
                        addresses.append((TLS_PREFIX if entrance.tls else "") + entrance.address)
                    for entrance in map(Entrance, spec.http, web_listeners):
                        assert web is not None
                        accepting.start_soon(accept, entrance.listener, partial(web.let_in, clients, entrance))
                        addresses.append((HTTPS_PREFIX if entrance.tls else HTTP_PREFIX) + entrance.address)
                    await actor.ready(GatewayReady(addresses))
                    log.info("gateway.listening", addresses=addresses)
                    await actor.stopping.wait()
                    accepting.cancel_scope.cancel()
                clients.cancel_scope.deadline = trio.current_time() + STOP_S
                if web is not None:
                    services.start_soon(web.stop, WEB_STOP_S)
                await gateway.stop_sessions()
            services.cancel_scope.cancel()


async def _web_server(gateway: Gateway, spec: GatewaySpec) -> WebServer:
    # Here, for who has no HTTP need not wait for its libraries. In a thread, for they take seconds on a busy machine,
    # and without a pulse for so long we would be killed.
    await trio.to_thread.run_sync(importlib.import_module, "marketd.web.server")
    from marketd.web.server import WebServer

    return WebServer(gateway, spec.hosts)


class Entrance:
    """A socket that is listened on.

    Attributes:
        listener: the socket.
        tls: whether TLS is spoken there.
        door: what kind of one it is.
        address: that is really listened on.
    """

    def __init__(self, configured: str, listener: socket.socket) -> None:
        self.listener = listener
        self.tls = configured.startswith(TLS_PREFIX)
        self.door: Door = door_of(configured)
        self.address = address_of(listener)


class Gateway:
    """What all sessions share.

    Attributes:
        instance: the daemon's.
        limits: of each client.
        history: whom to ask for what is stored.
        link: to the supervisor.
        feeds: what there is to read.
        guard: who may do what.
        sessions: the clients that are connected.
        delivery: how long rows take to them.
    """

    def __init__(self, spec: GatewaySpec, link: Link, feeds: Feeds) -> None:
        self.instance = spec.instance
        self.limits = spec.limits
        self.history = HistoryManager(spec.history_socket)
        self.link = link
        self.feeds = feeds
        self.guard = Guard(spec.security)
        self.sessions: set[Session] = set()
        self.delivery = Delivery()
        self._handshakes = 0
        self._numbers = itertools.count(spec.first_client)
        self._gone = Served()
        self._turned_away = 0
        self._demand = Wakeup()

    # --- clients come and go ---

    def let_in(self, clients: trio.Nursery, entrance: Entrance, sock: socket.socket) -> None:
        """Take a client that has just connected."""
        try:
            prepare(sock)
            address = peer_of(sock)
        except OSError:  # it has left again
            sock.close()
            return
        if self.full:
            clients.start_soon(self._turn_away, sock, address)
        else:
            clients.start_soon(self._serve_tls if entrance.tls else self.serve, sock, address, entrance.door)

    @property
    def full(self) -> bool:
        """Whether there are as many clients as may be."""
        return len(self.sessions) + self._handshakes >= self.limits.clients_max

    async def _serve_tls(self, sock: socket.socket, address: str, door: Door) -> None:
        """Serve a client that speaks TLS, through a pair of sockets."""
        try:
            stream = await self._shake_hands(sock, address)
            if stream is None:
                return
            try:
                ours, theirs = socket.socketpair()
            except OSError:  # no descriptors, which the status says: it may come again
                return
            prepare(ours)
            prepare(theirs)
            pair = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            async with pair, trio.open_nursery() as nursery:
                with trio.CancelScope() as carrying:

                    async def serve() -> None:
                        await self.serve(theirs, address, door)
                        carrying.deadline = trio.current_time() + TLS_FLUSH_S

                    nursery.start_soon(serve)
                    await carry(stream, pair)
                    await leave(sock)
                if carrying.cancelled_caught:  # it takes nothing: the kernel is not to go on trying
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
                await pair.aclose()
        finally:
            if sock.fileno() >= 0:
                close_socket(sock)

    async def _shake_hands(self, sock: socket.socket, address: str) -> TlsStream | None:
        """Agree on keys; None, and the log has it, if that is not possible."""
        assert self.guard.certificate is not None  # the configuration has one if an address is to speak TLS
        self._handshakes += 1
        try:
            with trio.move_on_after(self.limits.hello_timeout_s):
                return await shake_hands(sock, self.guard.certificate.context)
            self.guard.tell_no_tls(address, "it took too long")
        except NoTls:
            self.guard.tell_no_tls(address, "it does not speak TLS")
            sentence = "this address speaks TLS: connect to tls://host:port"
            with contextlib.suppress(OSError):
                sock.send(Refusal(ErrorCode.INVALID_REQUEST, sentence).frame(None))
            await leave(sock)
        except (OSError, trio.BrokenResourceError) as error:  # ssl.SSLError is an OSError
            self.guard.tell_no_tls(address, str(error))
        finally:
            self._handshakes -= 1
        return None

    async def serve(
        self,
        sock: socket.socket,
        address: str,
        door: Door,
        bearer: str | None = None,
        task_status: TaskStatus[Session] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve a client, from ``hello`` on, until either side has had enough.

        Args:
            sock: connected to it, not blocking; it is closed with the session.
            address: where the client is.
            door: by which it came in.
            bearer: the token that it has shown already.
        """
        session = Session(sock, address, next(self._numbers), self, door, bearer)
        self.sessions.add(session)
        self.feeds.subscribers.add(session)
        task_status.started(session)
        try:
            await session.run()
        finally:
            self.sessions.discard(session)
            self.feeds.subscribers.discard(session)
            self._gone = plus(self._gone, [session.writer])

    async def _turn_away(self, sock: socket.socket, address: str) -> None:
        log.warning("client.turned_away", address=address, clients=len(self.sessions))
        limit = self.limits.clients_max
        sentence = f"{limit} clients are connected, as many as this daemon serves; try again later"
        self._turned_away += 1
        try:
            if self._turned_away <= TURNED_AWAY_MAX:
                with contextlib.suppress(OSError):
                    sock.send(Refusal(ErrorCode.LIMIT_EXCEEDED, sentence, limit=limit).frame(None))
                await leave(sock)
        finally:
            self._turned_away -= 1
            close_socket(sock)

    async def stop_sessions(self) -> None:
        """Let every client have what is in the rings, and tell it goodbye."""
        for feed in self.feeds.all:
            await feed.advance()
        for session in self.sessions:
            session.stop()

    async def watch(self) -> None:
        """Look after every client, from outside of its own tasks."""
        seen_s = trio.current_time()
        while True:
            await trio.sleep(TICK_S)
            before_s, seen_s = seen_s, trio.current_time()
            # After a pause of our own, of the process or the machine, what the clients sent has not been read yet.
            if seen_s - before_s < LATE_TICK_S:
                for session in list(self.sessions):
                    session.tick(seen_s)
            self.feeds.release(seen_s)

    # --- the supervisor's ---

    def report(self) -> GatewayReport:
        """What every pulse tells."""
        now_s = trio.current_time()
        feeds = self.feeds.by_name
        return GatewayReport(
            [session.status(now_s) for session in self.sessions],
            self.served(),
            feeds={name: feed.epoch for name, feed in feeds.items()},
            cursors={name: feed.head for name, feed in feeds.items()},
            delivery_lag=self.delivery.report(),
        )

    def served(self) -> Served:
        """What was done for all clients so far."""
        return plus(self._gone, (session.writer for session in self.sessions))

    async def tell_filled(self, told: FilledRange) -> None:
        """Tell whom it concerns that a venue has told bars afterwards."""
        for session in self.sessions:
            session.tell_filled(told)

    async def settle(self, settings: GatewaySettings) -> None:
        """Serve with other limits from now on; who is over one already stays."""
        if settings.limits.clients_max > self.limits.clients_max:
            raise_file_limit(settings.limits.clients_max + OWN_FILES)
        self.limits = settings.limits
        self.history = HistoryManager(settings.history_socket)

    async def kick(self, kick: GatewayKick) -> ClientStatus:
        """Send a client away.

        Raises:
            RequestRefused: it is not here, or not any more.
        """
        session = next((each for each in self.sessions if each.number == kick.client and not each.ended), None)
        if session is None:
            raise RequestRefused("unknown_client", f"there is no client {kick.client}: it may have left")
        status = session.status(trio.current_time())
        session.kick(kick.reason)
        return status

    def demand_changed(self) -> None:
        """Note that feeds have more or fewer subscriptions now."""
        self._demand.set()

    async def tell_demand(self) -> None:
        """Tell the supervisor after each change; several changes may go in one message."""
        told = Demand({})
        while True:
            await self._demand.wait()
            demand = self._sum_demand()
            if demand != told:
                told = demand
                try:
                    await self.link.notify("demand", demand)
                except ActorError:
                    return  # the supervisor is gone, and so are we in a moment

    def _sum_demand(self) -> Demand:
        """Add up what all clients want. Globs select from what is carried; only full names ask a venue for more."""
        counts = dict.fromkeys(self.feeds.by_name, 0)
        names: dict[str, set[str]] = {name: set() for name in self.feeds.by_name}
        for session in self.sessions:
            for subscription in session.subscriptions.values():
                for follow in subscription.follows.values():
                    name = follow.feed.info.name
                    if name not in counts:  # it has gone from the configuration, and its last rows are on their way
                        continue
                    counts[name] += 1
                    names[name] |= subscription.selection.names & follow.feed.ids.keys()
        return Demand(counts, {name: sorted(found) for name, found in names.items() if found})

    async def find(self, names: list[str], *, carry: bool = False) -> list[Found]:
        """Ask the live feeds for instruments that no table has; none when the supervisor does not answer."""
        try:
            return await self.link.request(
                "find", RouteFind(names, carry), result=list[Found], timeout_s=FIND_TIMEOUT_S
            )
        except ActorError as error:
            log.debug("find.failed", error=str(error))
            return []

    async def carry(self, names: list[str]) -> None:
        """Let the tables have these instruments, if their venues offer them."""
        await self.find(names, carry=True)

"""Feeds, a gateway and a client whose streams are watched, and everything that can happen to them.

    FakeFeed -> ring -> gateway -> Wire -> client -> Listener -> log

Each of these can stop, die and come back. :meth:`World.check` holds the logs to the truth, by `stream_model.py`. It is
made for trio's `MockClock`: time stands still while anything can run, and jumps when all wait for it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import msgspec
import trio
from anyio.abc import TaskStatus

from marketd.client import AsyncClient, AsyncStream, ConnectionLost, DeadlineExceeded, Frame, RequestError, open_client
from marketd.client.subscription import State, Subscription
from marketd.model import GapReason
from marketd.ring.layout import KINDS_BY_NAME
from marketd.ring.reader import RingReader
from marketd.rpc import messages
from marketd.rpc.messages import Position
from marketd.rpc.positions import parse_token
from marketd.supervise.messages import LimitsSpec
from tests.gateway_harness import FakeFeed, Harness, open_gateway
from tests.stream_model import (
    Epoch,
    Event,
    Gap,
    History,
    News,
    Opened,
    Paused,
    Row,
    Start,
    Told,
    Unpaused,
    Wrong,
    check,
)

RING_ROWS = {"one": 64, "two": 128}
DSTS = ("a1", "b2", "a3", "b4")  # the instruments that a feed may have, in this order
BUFFER_BYTES = 3 << 10  # of each stream: so little that one that is not read is parked soon
SOCKET_BYTES = 4 << 10
SETTLE_S = 60.0
STATES_S = 2.0  # within which every stream is told the states of instruments that were added, at the lowest rate too
FOR_EVER_S = 1e7
# What a row of each kind has its cursor in, as a second witness.
VALUES = {"trade": "price", "quote": "bid", "level": "price", "gap": "from_ns", "status": "code"}
ANSWER = "an answer"


class Wish(NamedTuple):
    """What a stream is opened with."""

    instruments: tuple[str, ...]
    kinds: tuple[messages.KindName, ...] = ("trade", "quote")
    contract: messages.Contract = "lossless"
    form: messages.Format = "rows"
    rate_hz: float = 10.0


class Run(NamedTuple):
    """So many rows of a kind, of an instrument by its id; 0 is all of them."""

    instrument: int
    kind: messages.KindName
    count: int


class Wire:
    """Passes bytes between the client and whichever gateway there is; it can be held up and cut."""

    def __init__(self) -> None:
        self.address = ""
        self.target: str | None = None
        self._free = trio.Event()
        self._free.set()
        self._passing: set[trio.CancelScope] = set()

    async def open(self, nursery: trio.Nursery) -> None:
        """Listen."""
        listeners = await nursery.start(
            lambda task_status: trio.serve_tcp(self._serve, 0, host="127.0.0.1", task_status=task_status)
        )
        self.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"

    def hold(self) -> None:
        """Pass nothing more to the client."""
        if self._free.is_set():
            self._free = trio.Event()

    def free(self) -> None:
        """Pass on."""
        self._free.set()

    def cut(self) -> None:
        """Break every connection."""
        for scope in self._passing:
            scope.cancel()

    async def _serve(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope, contextlib.suppress(OSError, trio.BrokenResourceError):
            self._passing.add(scope)
            try:
                await self._pass(near)
            finally:
                self._passing.discard(scope)
                near.socket.close()

    async def _pass(self, near: trio.SocketStream) -> None:
        if self.target is None:
            return
        host, _, port = self.target.rpartition(":")
        sock = trio.socket.socket()
        # Small, so that a gateway soon notices that nothing is taken.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        await sock.connect((host, int(port)))
        far = trio.SocketStream(sock)
        async with far, trio.open_nursery() as nursery:

            async def up() -> None:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    async for data in near:
                        await far.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(up)
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await far.receive_some(SOCKET_BYTES):
                    await self._free.wait()
                    await near.send_all(data)
            nursery.cancel_scope.cancel()


class Source:
    """A feed through all of its lives. ``fake`` is None while it is not configured."""

    def __init__(self, name: str, folder: Path, history: History) -> None:
        self.name = name
        self.fake: FakeFeed | None = None
        self.rings: dict[int, RingReader] = {}
        self._folder = folder
        self._history = history
        self._fakes: list[FakeFeed] = []

    @property
    def epoch(self) -> Epoch:
        """What is true of the present life."""
        return self._history.epochs[self.name, self._history.current[self.name]]

    def begin(self, instruments: int) -> None:
        """Make its segments anew."""
        folder = self._folder / f"{self.name}{len(self._fakes)}"
        folder.mkdir()
        self.fake = fake = FakeFeed(folder, self.name, RING_ROWS[self.name])
        fake.info = msgspec.structs.replace(fake.info, epoch=fake.epoch)
        self._fakes.append(fake)
        self.rings[fake.epoch] = RingReader(Path(fake.info.ring_path))
        self._history.epochs[self.name, fake.epoch] = Epoch()
        self._history.current[self.name] = fake.epoch
        self.add_to(instruments)

    def end(self) -> None:
        """Be taken out of the configuration."""
        self.fake = None
        self._history.current.pop(self.name, None)

    def add_to(self, instruments: int) -> None:
        """Have at least so many instruments."""
        assert self.fake is not None
        for dst in DSTS[self.fake.table.count : instruments]:
            self.fake.add(dst)
            self.epoch.names.append(f"{dst}/usd.{self.name}")
            self.epoch.born.append(self.epoch.published)

    def write(self, runs: Iterable[Run]) -> None:
        """Write rows, and publish them all at once."""
        assert self.fake is not None
        now_ns = time.time_ns()
        for instrument, kind, count in runs:
            self.add_to(instrument)
            number = KINDS_BY_NAME[kind]
            for _ in range(count):
                cursor = self.fake.writer.cursor + 1
                if kind == "gap":
                    values = (cursor, now_ns, GapReason.DISCONNECT, -1)
                    self.fake.writer.append_integers((now_ns, now_ns, 0, instrument, number, 0, 0, *values))
                elif kind == "status":
                    self.fake.writer.append_integers((now_ns, now_ns, 0, instrument, number, 0, 0, cursor, 0, 0, 0))
                else:
                    self.fake.writer.append((now_ns, now_ns, 0, instrument, number, 0, 0, float(cursor), 1.0, 2.0, 3.0))
                self.epoch.rows.append((kind, self.epoch.names[instrument - 1] if instrument else "*"))
        self.fake.writer.publish()

    def close(self) -> None:
        """Let go of everything."""
        for fake in self._fakes:
            fake.close()
        for ring in self.rings.values():
            ring.close()


class Listener:
    """A stream, and what it has told.

    Attributes:
        log: see `stream_model.py`.
        resume: the token that it was opened with.
        token: where it stood when it was closed.
        error: why it ended by itself.
        complete: it was there to the end, and so must have told everything.
    """

    def __init__(self, world: World, wish: Wish, resume: str = "") -> None:
        self.wish = wish
        self.resume = resume
        self.token: str | None = None
        self.log: list[Event] = []
        self.stream: AsyncStream | None = None
        self.error: RequestError | None = None
        self.closed = False
        self.complete = False
        self.changing = False
        self._impatient = False
        self._world = world
        self._scope = trio.CancelScope()
        self._reads = trio.Event()
        self._reads.set()
        self._ended = trio.Event()

    async def run(self) -> None:
        """Read until it is closed."""
        wish = self.wish
        try:
            with self._scope:
                async with self._world.md.subscribe(
                    wish.instruments,
                    kinds=wish.kinds,
                    contract=wish.contract,
                    format=wish.form,
                    rate_hz=wish.rate_hz,
                    resume=self.resume or None,
                    timeout_s=FOR_EVER_S,
                ) as self.stream:
                    try:
                        while True:
                            await self._reads.wait()
                            self.log.append(self._world.event_of(await anext(self.stream)))
                    finally:
                        self.token = self.stream.token
        except RequestError as error:
            self.error = error
        finally:
            self._ended.set()

    @property
    def instruments(self) -> list[str]:
        """What it is about, as the client knows it."""
        return list(self.subscription.params.instruments)

    @property
    def subscription(self) -> Subscription:
        """The client's state of it."""
        assert self.stream is not None
        return self.stream._subscription

    @property
    def alive(self) -> bool:
        """Whether there is something that can be changed."""
        return self.stream is not None and not self._ended.is_set() and not self.closed

    def stop_reading(self) -> None:
        """Take nothing more."""
        if self._reads.is_set():
            self._reads = trio.Event()

    def read_on(self) -> None:
        """Take what comes."""
        self._reads.set()

    async def close(self) -> None:
        """End it."""
        self.closed = True
        self._scope.cancel()
        await self._ended.wait()

    async def change(
        self,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        rate_hz: float | None = None,
        paused: bool | None = None,
        patience_s: float = FOR_EVER_S,
    ) -> None:
        """Update it, and wait so long for the answer."""
        assert self.stream is not None
        self.changing = True
        if paused is False:
            self.log.append(Unpaused())
        try:
            await self.stream.update(
                add=list(add), remove=list(remove), rate_hz=rate_hz, paused=paused, timeout_s=patience_s
            )
        except ConnectionLost:
            return  # nothing was changed then
        except DeadlineExceeded:
            self._impatient = True
            return  # it may be changed yet
        except RequestError as error:
            # What was taken out by a change that nobody waited for can't be taken out again.
            if error.code != "unknown_instrument" and not (error.code == "invalid_params" and self._impatient):
                raise
            return
        finally:
            self.changing = False
        if paused:
            self.log.append(Paused(self._world.published()))

    def reached_all(self) -> bool:
        """Whether it stands at the end of every feed that it is about."""
        positions = self.stream.positions if self.stream is not None else {}
        for (feed, epoch), number in self._world.published().items():
            if self._world.history.current.get(feed) != epoch or not number:
                continue
            selected = self._world.selects(self.instruments, feed) if self.stream is not None else True
            if selected and positions.get(feed) != Position(epoch, number):
                return False
        return True


class World:
    """All of it. :meth:`run` is its life; the other methods are what happens in it."""

    def __init__(self, folder: Path) -> None:
        self.history = History()
        self.sources = {name: Source(name, folder, self.history) for name in RING_ROWS}
        self.wire = Wire()
        self.listeners: list[Listener] = []
        self.gateway: Harness | None = None
        self.md: AsyncClient
        self._answers: list[Opened] = []
        self._gateway_scope = trio.CancelScope()
        self._gateway_ended = trio.Event()
        self._ending = trio.Event()
        self._nursery: trio.Nursery

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Live until :meth:`end`."""
        for source in self.sources.values():
            source.begin(2)
        try:
            with self._noting_answers():
                async with trio.open_nursery() as self._nursery:
                    await self.wire.open(self._nursery)
                    await self.start_gateway()
                    async with open_client(self.wire.address, buffer_bytes=BUFFER_BYTES) as self.md:
                        task_status.started()
                        await self._ending.wait()
                        for listener in self.listeners:
                            await listener.close()
                    self._nursery.cancel_scope.cancel()
        finally:
            for (name, number), epoch in self.history.epochs.items():
                epoch.oldest = self.sources[name].rings[number].oldest
            for source in self.sources.values():
                source.close()

    def end(self) -> None:
        """Close every stream, and then everything."""
        self._ending.set()

    # --- what happens to feeds ---

    async def replace_feed(self, name: str, instruments: int, runs: Iterable[Run]) -> None:
        """Let a feed go and another one of its name come at once, which has rows already."""
        self.sources[name].begin(instruments)
        self.sources[name].write(runs)
        await self._announce()

    async def remove_feed(self, name: str) -> None:
        """Let a feed go."""
        self.sources[name].end()
        await self._announce()

    async def kill_feed(self, name: str) -> None:
        """Let the feed's process die, and its successor go on in the same ring."""
        source = self.sources[name]
        if source.fake is None:
            return
        await self._announce(name, "down")
        source.fake.replace_writer()
        source.write([Run(0, "gap", 1)])
        await self._announce(name, "live")

    async def _announce(self, name: str = "", state: str = "live") -> None:
        fakes = [source.fake for source in self.sources.values() if source.fake is not None]
        for fake in fakes:
            if fake.name == name:
                fake.info = msgspec.structs.replace(fake.info, state=state)
        if self.gateway is not None:
            self.gateway.supervisor.infos = {fake.name: fake.info for fake in fakes}
            await self.gateway.supervisor.announce()

    # --- what happens to the gateway ---

    async def start_gateway(self) -> None:
        """Let it be there."""
        if self.gateway is None:
            await self._nursery.start(self._run_gateway)

    async def kill_gateway(self) -> None:
        """Let it be gone, with all of its connections."""
        if self.gateway is not None:
            self.gateway = self.wire.target = None
            self._gateway_scope.cancel()
            await self._gateway_ended.wait()

    async def _run_gateway(self, task_status: trio.TaskStatus[None]) -> None:
        fakes = [source.fake for source in self.sources.values() if source.fake is not None]
        self._gateway_ended = trio.Event()
        limits = LimitsSpec(stall_timeout_s=FOR_EVER_S)
        with trio.CancelScope() as self._gateway_scope:
            async with open_gateway(*fakes, limits=limits, keep_feeds=True) as self.gateway:
                self.wire.target = self.gateway.address
                task_status.started()
                await trio.sleep_forever()
        self._gateway_ended.set()

    def hold(self) -> None:
        """Let nothing more through to the client, and let the gateway notice."""
        self.wire.hold()
        if self.gateway is not None:
            for session in self.gateway.gateway.sessions:
                session._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)

    # --- what happens to streams ---

    def listen(self, wish: Wish, resume: str = "") -> Listener:
        """Open a stream; it may take its time."""
        listener = Listener(self, wish, resume)
        self.listeners.append(listener)
        self._nursery.start_soon(listener.run)
        return listener

    def change(self, listener: Listener, **change: object) -> None:
        """Begin to change a stream, unless that goes on already."""
        if listener.alive and not listener.changing:
            self._nursery.start_soon(lambda: listener.change(**change))  # type: ignore[arg-type]

    async def close(self, listener: Listener, *, again: bool) -> None:
        """Close a stream, and go on with another one from its token."""
        if not listener.alive:
            return
        instruments = tuple(listener.instruments)
        await listener.close()
        if again and instruments:
            self.listen(listener.wish._replace(instruments=instruments), listener.token or "")

    # --- the end ---

    async def settle(self) -> None:
        """Let everything flow until each stream has reached the end of each feed, or should have."""
        for source in self.sources.values():
            if source.fake is None:
                source.begin(0)
            source.add_to(2)  # those that streams name
        await self._announce()
        await self.start_gateway()
        self.wire.free()
        for listener in self.listeners:
            listener.complete = not listener.closed
            listener.read_on()
        with trio.move_on_after(SETTLE_S):
            await self._wait_settled()
            await trio.sleep(STATES_S)
            await self.md.ping(timeout_s=FOR_EVER_S)  # a connection that was cut, and nobody has noticed, is made again
            await self._wait_settled()

    async def _wait_settled(self) -> None:
        while True:
            settled = [self._settled(listener) for listener in self.listeners]  # each of them: it lets them go on
            if all(settled):
                return
            await trio.sleep(0.1)

    def _settled(self, listener: Listener) -> bool:
        if not listener.alive:
            return listener.closed or listener.error is not None
        if listener.changing:
            return False
        if listener.subscription.paused:
            self.change(listener, paused=False)
            return False
        if listener.instruments and listener.subscription.state is not State.LIVE:
            return False
        return listener.subscription.empty and listener.reached_all()

    def check(self) -> None:
        """Raise Wrong if a stream has told something else than what there was."""
        for number, listener in enumerate(self.listeners):
            if listener.error is not None and (listener.log or listener.error.code != "unknown_instrument"):
                raise Wrong(f"stream {number} has ended: {listener.error}")
            if listener.token is None:
                continue
            wish = listener.wish
            try:
                check(
                    listener.log,
                    self.history,
                    wish.contract,
                    wish.kinds,
                    resume=parse_token(listener.resume) if listener.resume else {},
                    token=parse_token(listener.token),
                    complete=listener.complete and bool(listener.instruments),  # without any nothing is opened again
                )
            except Wrong as wrong:
                said = "\n  ".join(map(str, listener.log))
                raise Wrong(f"stream {number}, {wish}: {wrong}\n  {said}") from None

    # --- what is known ---

    def selects(self, instruments: Iterable[str], feed: str) -> bool:
        """Whether any of a feed's instruments is one of these."""
        names = self.sources[feed].epoch.names
        return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in instruments)

    def published(self) -> dict[tuple[str, int], int]:
        """The newest cursor of every epoch."""
        return {key: epoch.published for key, epoch in self.history.epochs.items()}

    def event_of(self, frame: Frame) -> Event:
        """Make what the model looks at of a frame."""
        if frame.state == ANSWER:
            return self._answers[int(frame.detail)]
        if frame.state:
            return News(frame.state, frame.feed)
        where = (frame.feed, frame.epoch, frame.cursor_first, frame.cursor_last)
        columns = frame.columns
        if frame.kind == "gap" and frame.detail:
            return Gap(*where, frame.detail, int(columns["lost"][0]))
        names = [_name(frame, number) for number in columns["instrument"].tolist()]
        values = columns[VALUES[frame.kind]].tolist()
        cursors = columns["cursor"].tolist()
        rows = tuple(Row(*each) for each in zip(cursors, [frame.kind] * len(frame), names, values, strict=True))
        merged = None if frame.merged is None else tuple(frame.merged.tolist())
        published = self.history.epochs[frame.feed, frame.epoch].published
        return Told(*where, frame.kind, rows, merged, self._oldest(frame.feed, frame.epoch), published)

    def _oldest(self, feed: str, epoch: int) -> int:
        return self.sources[feed].rings[epoch].oldest

    @contextlib.contextmanager
    def _noting_answers(self) -> Iterator[None]:
        """Put a note of each answer to a `subscribe` or `update` between the frames, where it belongs."""
        take_answer = Subscription.opened

        def opened(subscription: Subscription, result: messages.SubscribeResult) -> None:
            self._answers.append(self._answer(subscription, result))
            subscription.tell(ANSWER, str(len(self._answers) - 1))
            take_answer(subscription, result)

        with mock.patch.object(Subscription, "opened", opened):
            yield

    def _answer(self, subscription: Subscription, result: messages.SubscribeResult) -> Opened:
        starts = {}
        for feed in result.feeds:
            known = len(self.history.epochs[feed.name, feed.epoch].names)
            current = self.history.current.get(feed.name) == feed.epoch
            names = frozenset(feed.instruments.values())
            starts[feed.name] = Start(
                feed.epoch, feed.cursor, names, known, current, self._oldest(feed.name, feed.epoch)
            )
        by_update = subscription.state is State.LIVE
        return Opened(tuple(subscription.params.instruments), starts, by_update, frozenset(subscription._names))


def _name(frame: Frame, instrument: int) -> str:
    try:
        return frame.fqme(instrument)
    except KeyError:
        return f"nobody knows instrument {instrument}"

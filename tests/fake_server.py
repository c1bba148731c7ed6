"""A small daemon for the client's tests: the protocol spoken by slow, plain code over rows that a test made up.

`FakeProtocol` is one connection without I/O; `FakeServer` puts any number of them behind a loopback port.
"""

from __future__ import annotations

import contextlib
import fnmatch
import selectors
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from marketd.client.frames import STEP_FAMILIES, family
from marketd.model import Kind
from marketd.ring import layout, steps
from marketd.rpc import messages
from marketd.rpc.framing import Deframer, frame
from marketd.rpc.messages import Position

NAMES = {1: "btc/usdt.spot.fake", 2: "eth/usdt.spot.fake", 3: "sol/usdt.spot.fake"}
STEP_KINDS = {16: "bar.1s", 17: "bar.1m", 128: "index.1s", 129: "index.1m"}
TICK_KINDS = {number: name for number, name in layout.KIND_NAMES.items() if name not in ("gap", "status")}
MINUTE_NS = 60_000_000_000


@dataclass
class FakeFeed:
    """A ring that a test writes: row number ``n`` has the cursor ``n + 1``; those before ``oldest`` are overwritten."""

    name: str = "fake"
    epoch: int = 4242
    names: dict[int, str] = field(default_factory=lambda: dict(NAMES))
    rows: list[bytes] = field(default_factory=list)
    oldest: int = 1
    kinds: dict[int, str] = field(default_factory=lambda: dict(TICK_KINDS))

    @property
    def published(self) -> int:
        return len(self.rows)

    def append(self, kind: Kind, instrument: int = 1, *values: float, side: int = 1, flags: int = 1) -> int:
        """Write a row and return its cursor. Without values the prices follow from the cursor."""
        cursor = len(self.rows) + 1
        pack = layout.PACK_INTEGERS if kind in (Kind.GAP, Kind.STATUS) else layout.PACK
        given = [*values, *(cursor + n for n in range(len(values), 4))]
        row = (cursor, cursor * 1000, cursor * 1000 + 7, cursor * 3, instrument, kind, side, flags, *given)
        self.rows.append(pack.pack(*row))
        return cursor

    def array(self, cursor_first: int, cursor_last: int) -> np.ndarray:
        return np.frombuffer(b"".join(self.rows[cursor_first - 1 : cursor_last]), layout.ROW)

    def fields_of(self, kind: int) -> np.dtype:
        return layout.BY_KIND[kind]


@dataclass
class FakeSteps(FakeFeed):
    """A step ring that a test writes."""

    name: str = "fake/bars"
    epoch: int = 5151
    kinds: dict[int, str] = field(default_factory=lambda: dict(STEP_KINDS))
    forming: list[bytes] = field(default_factory=list)  # told once, with the next message, to who wants them

    def append_step(self, kind: str, instrument: int, state: int, **values: float) -> int:
        """Write a bar or an index event and return its cursor. Prices follow from the cursor unless they are given."""
        self.rows.append(self.row(len(self.rows) + 1, kind, instrument, state, **values))
        return len(self.rows)

    def row(self, cursor: int, kind: str, instrument: int, state: int, **values: float) -> bytes:
        number = next(number for number, name in self.kinds.items() if name == kind)
        row = np.zeros(1, self.fields_of(number))
        row["cursor"], row["kind"], row["instrument"], row["state"] = cursor, number, instrument, state
        row["period_ns"] = MINUTE_NS if kind.endswith("m") else MINUTE_NS // 60
        row["made_ns"] = cursor * 1000
        for name in ("open", "high", "low", "close", "volume") if family(kind) == "bar" else ():
            row[name] = cursor
        for name, value in values.items():
            row[name] = value
        return row.tobytes()

    def array(self, cursor_first: int, cursor_last: int) -> np.ndarray:
        return np.frombuffer(b"".join(self.rows[cursor_first - 1 : cursor_last]), steps.BAR)

    def fields_of(self, kind: int) -> np.dtype:
        return steps.dtype_of(kind)


@dataclass
class World:
    """What a fake daemon knows, and how it misbehaves."""

    feeds: dict[str, FakeFeed] = field(default_factory=lambda: {"fake": FakeFeed()})
    rows_max: int = 4096
    heartbeat_s: float = 0.0
    refuse: dict[str, messages.ErrorBody] = field(default_factory=dict)  # by method
    mute: set[str] = field(default_factory=set)  # methods that are never answered
    ignore_resume: bool = False
    overlap: int = 0  # how many rows too early a resumed stream begins
    requests: list[tuple[str, Any]] = field(default_factory=list)
    heartbeats: int = 0
    row_hash: str = f"{layout.dtype_hash():016x}"
    step_hash: str = f"{steps.STEPS.hash():016x}"
    bars: dict[tuple[str, str], messages.BarsResult] = field(default_factory=dict)  # by name and period

    def methods(self) -> list[str]:
        return [method for method, _ in self.requests]


class _Request(msgspec.Struct):
    method: str
    params: msgspec.Raw
    id: int | str | None = None
    deadline_ms: int | None = None


@dataclass
class _Subscription:
    params: messages.SubscribeParams
    cursors: dict[str, int]
    paused: bool = False
    pending: list[bytes] = field(default_factory=list)


def held_bars(fqme: str = NAMES[1], count: int = 5) -> messages.BarsResult:
    """So many closed bars of a minute, the first at 0, the close of each as many as there are up to it."""
    feed = FakeSteps()
    rows = [feed.row(0, "bar.1m", 1, 2, open_ns=n * MINUTE_NS, close=n + 1) for n in range(count)]
    return messages.BarsResult(fqme, "fake", "1m", MINUTE_NS, count * MINUTE_NS, [], False, b"".join(rows))


def notify(method: str, params: object) -> bytes:
    return frame(msgspec.msgpack.encode({"method": method, "params": params}))


class FakeProtocol:
    """One connection: what the client sends goes in, what it is to get comes out."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.subscriptions: dict[int, _Subscription] = {}
        self._deframer = Deframer(1 << 20)
        self._numbers = iter(range(1, 1 << 30))

    def receive(self, data: bytes) -> bytes:
        return b"".join(
            self._answer(msgspec.msgpack.decode(p, type=_Request)) for p in self._deframer.receive_data(data)
        )

    def _answer(self, request: _Request) -> bytes:
        if request.method == "heartbeat":
            assert request.id is None
            self.world.heartbeats += 1
            return b""
        assert request.id is not None
        params = msgspec.msgpack.decode(request.params, type=messages.METHODS[request.method][0])
        self.world.requests.append((request.method, params))
        if request.method in self.world.mute:
            return b""
        if request.method in self.world.refuse:
            return frame(msgspec.msgpack.encode({"id": request.id, "error": self.world.refuse[request.method]}))
        before, result = b"", getattr(self, f"_{request.method}")(params)
        if request.method == "search":
            before = notify("search.hits", messages.SearchHits(request.id, result))
            result = messages.SearchResult(len(result), ["dead"])
        return before + frame(msgspec.msgpack.encode({"id": request.id, "result": result}))

    def _hello(self, params: messages.HelloParams) -> messages.HelloResult:
        limits = messages.Limits(1 << 20, 64, 1000, 64)
        heartbeat_s = self.world.heartbeat_s
        rows = (layout.ROW_BYTES, self.world.row_hash, steps.STEP_BYTES, self.world.step_hash)
        return messages.HelloResult(1, "fake", "test", heartbeat_s, limits, *rows)

    def _ping(self, params: messages.PingParams) -> messages.PingResult:
        return messages.PingResult(params.payload, 1)

    def _status(self, params: messages.EmptyParams) -> messages.StatusResult:
        return messages.StatusResult("0", "test", 1, 1.0, True, 1, [], [], [])

    def _backends(self, params: messages.EmptyParams) -> messages.BackendsResult:
        return messages.BackendsResult([messages.BackendInfo("fake", "made up", list(self.world.feeds))])

    def _search(self, params: messages.SearchParams) -> list[messages.SearchHit]:
        names = {name: feed.name for feed in self.world.feeds.values() for name in feed.names.values()}
        hits = [n for n in names if all(word in n for word in params.text.split())]
        return [messages.SearchHit(name, "spot", names[name], 1.0) for name in hits[: params.limit]]

    def _instrument(self, params: messages.InstrumentParams) -> messages.InstrumentResult:
        market = messages.MktPair(dst="btc", src="usdt", venue="spot", backend="fake")
        return messages.InstrumentResult(params.fqme.lower(), "fake", 1, 4242, "ok", market)

    def _bars(self, params: messages.BarsParams) -> messages.BarsResult:
        """What the world has, cut as the parameters say; ``limit`` and times alone, no period's holes."""
        held = self.world.bars[params.fqme, params.period]
        rows = np.frombuffer(held.data, steps.BAR)
        rows = rows[(rows["open_ns"] >= (params.start_ns or 0)) & (rows["open_ns"] < (params.end_ns or 1 << 62))]
        cut = rows[-params.limit :] if params.order == "newest" else rows[: params.limit]
        answer = msgspec.structs.replace(held, data=cut.tobytes(), limited=len(cut) < len(rows))
        if params.format == "rows":
            return answer
        columns = {name: _nullable(cut[name]) for name in cut.dtype.names or ()}
        return msgspec.structs.replace(answer, data=b"", columns=columns)

    def _record(self, params: messages.RecordParams) -> messages.RecordResult:
        return messages.RecordResult(f"/tmp/{params.name}", 3, 99)

    def _subscribe(self, params: messages.SubscribeParams) -> messages.SubscribeResult:
        number = next(self._numbers)
        subscription = self.subscriptions[number] = _Subscription(params, {})
        for name, feed in self.world.feeds.items():
            if not self._ids(subscription, feed) or not set(params.kinds) & set(feed.kinds.values()):
                continue
            subscription.cursors[name] = 0 if params.contract == "latest" else feed.published
            position = params.resume.get(name)
            if position is None or self.world.ignore_resume:
                continue
            if position.epoch != feed.epoch:
                subscription.cursors[name] = feed.published
                gap = messages.Gap(number, name, feed.epoch, 1, feed.published, -1, "epoch")
                subscription.pending.append(notify("gap", gap))
            elif params.contract == "lossless":
                subscription.cursors[name] = max(0, position.cursor - self.world.overlap)
        return self._describe(number)

    def _describe(self, number: int) -> messages.SubscribeResult:
        subscription = self.subscriptions[number]
        params = subscription.params
        feeds = []
        for name, cursor in subscription.cursors.items():
            feed = self.world.feeds[name]
            ids = {i: feed.names[i] for i in self._ids(subscription, feed)}
            kinds = {n: kind for n, kind in feed.kinds.items() if family(kind) in STEP_FAMILIES}
            feeds.append(messages.SubscribedFeed(name, feed.epoch, cursor, ids, kinds))
        return messages.SubscribeResult(
            number, params.contract, params.format, list(params.kinds), params.rate_hz, feeds, []
        )

    def _update(self, params: messages.UpdateParams) -> messages.SubscribeResult:
        subscription = self.subscriptions[params.subscription]
        names = [
            name for name in subscription.params.instruments if name not in map(str.lower, params.remove)
        ] + params.add
        subscription.params = msgspec.structs.replace(subscription.params, instruments=names)
        subscription.paused = subscription.paused if params.paused is None else params.paused
        for name, feed in self.world.feeds.items():
            if not self._ids(subscription, feed):
                subscription.cursors.pop(name, None)
            else:
                subscription.cursors.setdefault(name, feed.published)
        return self._describe(params.subscription)

    def _unsubscribe(self, params: messages.UnsubscribeParams) -> messages.UnsubscribeResult:
        cursors = self.subscriptions.pop(params.subscription).cursors
        return messages.UnsubscribeResult({n: Position(self.world.feeds[n].epoch, c) for n, c in cursors.items()})

    def _ids(self, subscription: _Subscription, feed: FakeFeed) -> list[int]:
        globs = subscription.params.instruments
        return [i for i, name in feed.names.items() if any(fnmatch.fnmatch(name, glob) for glob in globs)]

    # --- streams ---

    def stream(self) -> bytes:
        """One message for each feed of each subscription, as far as there is anything."""
        return b"".join(
            piece
            for number, subscription in self.subscriptions.items()
            if not subscription.paused
            for piece in self._stream(number, subscription)
        )

    def _stream(self, number: int, subscription: _Subscription) -> Iterator[bytes]:
        yield from subscription.pending
        subscription.pending.clear()
        for name, cursor in subscription.cursors.items():
            feed = self.world.feeds[name]
            if cursor + 1 < feed.oldest and subscription.params.contract == "lossless":
                last = feed.oldest - 1
                yield notify("gap", messages.Gap(number, name, feed.epoch, cursor + 1, last, last - cursor, "lapped"))
                subscription.cursors[name] = cursor = last
            last = min(feed.published, cursor + self.world.rows_max)
            if last > cursor:
                subscription.cursors[name] = last
                rows = feed.array(cursor + 1, last)
                kinds = [n for n, kind in feed.kinds.items() if kind in subscription.params.kinds]
                wanted = np.isin(rows["kind"], [*kinds, Kind.GAP, Kind.STATUS])
                wanted &= np.isin(rows["instrument"], [0, *self._ids(subscription, feed)])
                yield from self._encode(number, subscription, feed, rows[wanted], cursor + 1, last)
            if isinstance(feed, FakeSteps) and subscription.params.forming_hz:
                rows = np.frombuffer(b"".join(feed.forming), steps.BAR)
                feed.forming.clear()
                if len(rows):
                    yield from self._encode(number, subscription, feed, rows, last + 1, last)

    def _encode(
        self, number: int, subscription: _Subscription, feed: FakeFeed, rows: np.ndarray, first: int, last: int
    ) -> Iterator[bytes]:
        merged = None
        if subscription.params.contract == "latest":
            newest = {(int(row["instrument"]), int(row["kind"])): n for n, row in enumerate(rows)}
            keys = [(int(row["instrument"]), int(row["kind"])) for row in rows]
            rows, merged = rows[sorted(newest.values())], [keys.count(keys[n]) for n in sorted(newest.values())]
        where = (number, feed.name, feed.epoch)
        if subscription.params.format == "rows" and isinstance(feed, FakeSteps):
            yield notify("bars", messages.Bars(*where, first, last, rows.tobytes()))
            return
        if subscription.params.format == "rows":
            yield notify("rows", messages.Rows(*where, first, last, rows.tobytes(), merged))
            return
        if not len(rows):
            yield notify("columns", messages.Columns(*where, first, last, subscription.params.kinds[0], {}))
        for n, row in enumerate(rows):
            end = last if n + 1 == len(rows) else max(first - 1, int(row["cursor"]))
            fields = feed.fields_of(int(row["kind"]))
            columns = {name: _nullable(row.view(fields)[name].reshape(1)) for name in fields.names or ()}
            kind = (layout.KIND_NAMES | feed.kinds)[int(row["kind"])]
            counted = None if merged is None else [merged[n]]
            yield notify("columns", messages.Columns(*where, first, end, kind, columns, counted))
            first = end + 1


def _nullable(column: np.ndarray) -> list[int | float | None]:
    return [None if value != value else value for value in column.tolist()]


class FakeServer:
    """A world behind a loopback port; usable as a context manager. All of it happens in one thread."""

    def __init__(self, world: World | None = None, *, port: int = 0) -> None:
        self.world = world or World()
        self.lock = threading.RLock()  # hold it to change the world in more than one step
        self.connections = 0
        self.cut_after: list[int] = []  # the n-th connection breaks after so many bytes; others never do
        self.gag = False  # say nothing more, and take nothing, but stay connected
        self.extra: list[bytes] = []  # to be sent once, to everybody
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._stopping = False
        self._dropping = False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping = True  # seen at the thread's next turn, in 2 ms
        self._thread.join(10)
        assert not self._thread.is_alive()

    def drop_all(self) -> None:
        """Break every connection."""
        with self.lock:
            self._dropping = True

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._stopping:
                for key, _ in selector.select(0.002):
                    with self.lock:
                        self._serve_ready(selector, key)
                with self.lock:
                    self._stream(selector)
            for key in list(selector.get_map().values()):
                if key.data is not None:
                    key.fileobj.close()

    def _serve_ready(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._listener:
            connection, _ = self._listener.accept()
            left = self.cut_after[self.connections] if self.connections < len(self.cut_after) else 1 << 60
            self.connections += 1
            selector.register(connection, selectors.EVENT_READ, [FakeProtocol(self.world), left, b""])
        elif not self.gag:
            data = b""
            with contextlib.suppress(OSError):
                data = key.fileobj.recv(1 << 16)
            if data:
                key.data[2] += key.data[0].receive(data)
            else:
                self._close(selector, key)

    def _stream(self, selector: selectors.BaseSelector) -> None:
        extra, self.extra = b"".join(self.extra), []
        dropping, self._dropping = self._dropping, False
        for key in list(selector.get_map().values()):
            if key.data is None:
                continue
            if dropping:
                self._close(selector, key)
            elif not self.gag:
                self._send(selector, key, extra)

    def _send(self, selector: selectors.BaseSelector, key: selectors.SelectorKey, extra: bytes) -> None:
        protocol, left, waiting = key.data
        waiting += extra
        if len(waiting) < 1 << 20:  # a client that does not read is not written for
            waiting += protocol.stream()
        key.fileobj.setblocking(False)
        try:
            sent = key.fileobj.send(waiting[:left]) if waiting else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(selector, key)
            return
        key.data[1:] = [left - sent, waiting[sent:]]
        if left - sent <= 0:
            self._close(selector, key)

    def _close(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        selector.unregister(key.fileobj)
        key.fileobj.close()

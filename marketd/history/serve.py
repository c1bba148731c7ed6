"""Answers gateways over a Unix socket: bars as they are read, in batches that wait for nobody but their reader."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import structlog
import trio

from marketd.errors import RequestRefused, SegmentError, StorageError
from marketd.history.feed import FeedHistory
from marketd.history.reading import COLUMNS, View, batches
from marketd.history.tick_reading import tick_batches
from marketd.history.wire import (
    DATA,
    ERROR,
    QUERY_BYTES_MAX,
    RESULT,
    BarsQuery,
    CoverageQuery,
    GapsQuery,
    Left,
    LeftQuery,
    Query,
    ReplayQuery,
    ReplayStartQuery,
    TicksQuery,
    WantQuery,
)
from marketd.model import Flag
from marketd.periods import DEFAULT_PERIODS, parse_period, print_period
from marketd.ring.steps import BAR
from marketd.rpc.framing import PREFIX, Deframer, FrameTooLarge, frame
from marketd.rpc.messages import CoverageSpan, GapSpan, HistorySeries, Order
from storage.bounds import BEGIN_NS, END_NS
from storage.client import StorageClient
from storage.coverage import State, ranges, within
from storage.find_gaps import find_gaps
from storage.intervals import Range, intersect
from storage.layout import Series
from storage.schema import BARS, TICKS, Provenance
from storage.tickreplay import Start, find_cursor, find_time, pages

if TYPE_CHECKING:
    from marketd.history.actor import History

RECEIVE_BYTES = 1 << 16
ARROW_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an IPC stream
SEND_BUFFER_BYTES = 1 << 20
MESSAGE_ROWS = 1 << 14  # about a megabyte
READERS = 2  # threads that read at a time, over all clients

R = TypeVar("R")
Send = Callable[[bytes, "bytes | memoryview"], Awaitable[None]]

log = structlog.get_logger("marketd.history")
_reading = trio.CapacityLimiter(READERS)
_decode = msgspec.msgpack.Decoder(Query).decode
_encode = msgspec.msgpack.Encoder().encode


async def serve(path: Path, history: History, ready: Callable[[], Awaitable[None]]) -> None:
    """Answer queries until cancelled."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(_listen(path)))
    await ready()
    await trio.serve_listeners(partial(_answer, history=history), [listener])


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # a predecessor's: there is one history manager at a time
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fspath(path))
    path.chmod(0o600)
    listener.listen()
    return listener


async def _answer(stream: trio.SocketStream, history: History) -> None:
    """Answer one query. Whatever goes wrong in it is the answer, and no one else's trouble."""

    async def send(tag: bytes, payload: bytes | memoryview) -> None:
        await stream.send_all(PREFIX.pack(len(tag) + len(payload)) + tag)
        await stream.send_all(payload)

    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    async with stream:
        try:
            query = await _receive(stream)
            if query is None:
                return
            try:
                await _work(query, history, send)
            except RequestRefused as refused:
                await stream.send_all(frame(ERROR + _encode([refused.code, str(refused)])))
            except (StorageError, SegmentError) as error:
                await stream.send_all(frame(ERROR + _encode(["unavailable", str(error)])))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise
            except Exception:
                log.exception("query.failed", query=type(query).__name__)
                text = "it failed for a reason of the history manager's own; its log has it"
                await stream.send_all(frame(ERROR + _encode(["internal", text])))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # who asked has left
        except (msgspec.MsgspecError, FrameTooLarge) as error:
            log.warning("query.unreadable", error=str(error))


async def _receive(stream: trio.SocketStream) -> Query | None:
    deframer = Deframer(QUERY_BYTES_MAX)
    while data := await stream.receive_some(RECEIVE_BYTES):
        for payload in deframer.receive_data(data):
            query: Query = _decode(payload)
            return query
    return None


async def _work(query: Query, history: History, send: Send) -> None:
    match query:
        case BarsQuery():
            result: object = await _bars(query, history, send)
        case TicksQuery():
            result = await _ticks(query, history, send)
        case ReplayStartQuery():
            result = await _in_thread(lambda: _replay_start(query, history))
        case ReplayQuery():
            await _replay(query, history, send)
            result = None
        case CoverageQuery():
            result = await _in_thread(lambda: coverage(history.store, query))
        case GapsQuery():
            result = await _in_thread(lambda: gaps(history.store, query))
        case WantQuery():
            feed, instrument, kind = _find(history, query.fqme, query.period)
            await feed.want(instrument, kind, query.start_ns, query.end_ns)
            result = left(feed, instrument, kind, query)
        case LeftQuery():
            feed, instrument, kind = _find(history, query.fqme, query.period)
            result = left(feed, instrument, kind, query)
    await send(RESULT, _encode(result))


# --- bars -----------------------------------------------------------------------------------------------------------


async def _bars(query: BarsQuery, history: History, send: Send) -> HistorySeries:
    view = await _view(query, history)
    names = list(query.columns or COLUMNS)
    if foreign := [name for name in names if name not in BARS.arrow.names]:
        raise RequestRefused(
            "invalid_params", f"there is no column {foreign[0]!r}; there are {', '.join(BARS.arrow.names)}"
        )
    # One more than is wanted tells whether there are more.
    asked = None if query.limit is None else query.limit + 1
    columns = None if query.rows else names
    found = batches(view, history.store, query.start_ns, query.end_ns, columns=columns, limit=asked, order=query.order)
    schema = pa.schema([BARS.arrow.field(name) for name in names])
    rows, limited = await _stream(found, query, None if query.rows else schema, send)
    missing = view.missing(query.start_ns, query.end_ns)
    return HistorySeries(query.fqme, rows, view.complete_until_ns, missing, limited)


async def _ticks(query: TicksQuery, history: History, send: Send) -> HistorySeries:
    schema = TICKS[query.kind].arrow
    names = list(query.columns or schema.names)
    if foreign := [name for name in names if name not in schema.names]:
        raise RequestRefused(
            "invalid_params", f"there is no column {foreign[0]!r}; there are {', '.join(schema.names)}"
        )
    fqme, carried = history.sources(query.fqme)
    view = await _in_thread(lambda: history.tick_view(Series(fqme, query.kind), carried))
    if view is None:
        raise RequestRefused("unknown_instrument", f"nothing is held of {fqme} {query.kind}")
    asked = None if query.limit is None else query.limit + 1
    found = tick_batches(view, history.store, query.start_ns, query.end_ns, limit=asked, order=query.order)
    chosen = pa.schema([schema.field(name) for name in names])
    rows, limited = await _stream((frame.select(names) for frame in found), query, chosen, send)
    return HistorySeries(fqme, rows, view.until_ns, view.missing(query.start_ns, query.end_ns), limited)


def _replay_start(query: ReplayStartQuery, history: History) -> list[Start]:
    if query.feed not in history.recorders:
        return []
    folder = history.log_of(query.feed)
    if query.from_ns is not None:
        found = find_time(folder, query.from_ns)
    else:
        found = find_cursor(folder, query.epoch, query.cursor)
    return [found] if found is not None else []


async def _replay(query: ReplayQuery, history: History, send: Send) -> None:
    if query.feed not in history.recorders:
        raise RequestRefused("unavailable", f"the ticks of {query.feed} are not recorded any more")
    epoch = history.recorders[query.feed].epoch
    found = pages(history.log_of(query.feed), query.start, epoch, history.ends_of(query.feed))
    while (page := await _in_thread(lambda: next(found, None))) is not None:
        await send(DATA, _encode(page))


async def _stream(
    found: Iterator[pl.DataFrame], query: BarsQuery | TicksQuery, schema: pa.Schema | None, send: Send
) -> tuple[int, bool]:
    """Send frames as an Arrow IPC stream, or as rows of a step ring where there is no schema.

    Returns:
        How many rows were sent, and whether there are more.
    """
    count, limited = 0, False
    if schema is not None:
        await send(DATA, memoryview(schema.serialize()))
    if query.limit is not None:
        whole = await _in_thread(lambda: list(found))
        limited = sum(map(len, whole)) > query.limit
        found = iter(cut(whole, query.limit, query.order))
    made = (
        (len(batch), [memoryview(rows_bytes(batch))] if schema is None else arrow_messages(batch, schema))
        for batch in found
    )
    async with trio.open_nursery() as nursery:
        # The next batch is read while this one is sent.
        into, out = trio.open_memory_channel[tuple[int, list[memoryview]]](0)
        nursery.start_soon(_read_all, made, into)
        async for rows, messages in out:
            count += rows
            for message in messages:
                await send(DATA, message)
    if schema is not None:
        await send(DATA, ARROW_END)
    return count, limited


async def _read_all(items: Iterator[R], into: trio.MemorySendChannel[R]) -> None:
    """Send on what an iterator yields, which works in a thread."""
    async with into:
        while (item := await _in_thread(lambda: next(items, None))) is not None:
            await into.send(item)


def cut(found: list[pl.DataFrame], limit: int, order: Order) -> list[pl.DataFrame]:
    """Return the newest or the oldest rows of frames that follow each other."""
    if not found:
        return []
    rows = pl.concat(found)
    return [rows.tail(limit) if order == "newest" else rows.head(limit)]


def arrow_messages(rows: pl.DataFrame, schema: pa.Schema) -> list[memoryview]:
    """Make the messages of an Arrow IPC stream that come after its schema."""
    return [
        memoryview(batch.serialize()) for batch in rows.to_arrow().cast(schema).to_batches(max_chunksize=MESSAGE_ROWS)
    ]


def rows_bytes(bars: pl.DataFrame) -> bytes:
    """Make rows of a step ring of bars, with the cursor, kind and instrument 0."""
    rows = np.zeros(len(bars), BAR)
    for name in ("open_ns", "open", "high", "low", "close", "volume", "trade_count", "first_id", "last_id", "state"):
        rows[name] = bars[name].to_numpy()
    provenance = bars["provenance"].to_numpy()
    rows["flags"][provenance == Provenance.SYNTHETIC] = Flag.SYNTHETIC
    rows["flags"][np.isin(provenance, [Provenance.BACKFILLED, Provenance.IMPORTED])] = Flag.BACKFILLED
    return rows.tobytes()


async def _view(query: BarsQuery, history: History) -> View:
    """Find everything that is held of an instrument.

    Raises:
        RequestRefused: nothing is, or no such period can be made.
    """
    try:
        period = parse_period(query.period)
    except ValueError as error:
        raise RequestRefused("invalid_params", str(error)) from error
    ring, until_ns, spec = np.zeros(0, BAR), 0, [*history.periods]
    found = history.find(query.fqme)
    name = query.fqme
    if found is not None:
        feed, instrument = found
        name = feed.live.table.fqme(instrument)
        ring, until_ns = await feed.live.bars(period.name, instrument)
    stored = await _in_thread(lambda: _stored(history.store, name, period.period_ns, spec))
    if stored is None and not len(ring):
        there = ", ".join(spec)
        raise RequestRefused(
            "invalid_params" if found is not None else "unknown_instrument",
            f"nothing is held of {query.fqme} {period.name}; of {there} and their multiples there may be more",
        )
    if stored is None:
        return View(period.period_ns, None, (0, 0), (), ring, until_ns)
    held = await _in_thread(lambda: history.store.span(stored)) or (0, 0)
    known = await _in_thread(lambda: history.store.coverage(stored))
    if stored.period_ns < period.period_ns:
        held = (held[0] // period.period_ns * period.period_ns, -(-held[1] // period.period_ns) * period.period_ns)
    return View(period.period_ns, stored, held, known, ring, until_ns)


def _stored(store: StorageClient, fqme: str, period_ns: int, periods: list[str]) -> Series | None:
    """Return the stored series of the longest period that fits in whole times; None if there is none."""
    lengths_ns = {parse_period(text).period_ns for text in (*periods, *DEFAULT_PERIODS)} | {period_ns}
    candidates = {length_ns: print_period(length_ns) for length_ns in lengths_ns}
    for length_ns in sorted(candidates, reverse=True):
        series = Series(fqme, candidates[length_ns])
        if period_ns % length_ns == 0 and (store.coverage(series) or store.span(series)):
            return series
    return None


# --- what is known ------------------------------------------------------------------------------------------------


def coverage(store: StorageClient, query: CoverageQuery) -> list[CoverageSpan]:
    """Say what is known of a stored series."""
    spans = within(store.coverage(Series(query.fqme, query.period)), *_bounds(query.start_ns, query.end_ns))
    return [
        CoverageSpan(span.start_ns, span.end_ns, span.state.name.lower(), span.provenance.name.lower())
        for span in spans
    ]


def gaps(store: StorageClient, query: GapsQuery) -> list[GapSpan]:
    """Say which bars a stored series lacks, as `marketd store gaps` does."""
    series = Series(query.fqme, query.period)
    facts = store.facts(series)
    if facts is None:
        raise RequestRefused("unknown_instrument", f"nothing is stored of {series}")
    start_ns = facts.start_ns if query.start_ns is None else query.start_ns
    end_ns = facts.end_ns if query.end_ns is None else query.end_ns
    found = find_gaps(store, series, (start_ns, end_ns), facts.calendar)
    return [GapSpan(gap.start_ns, gap.end_ns, gap.rows, gap.kind.value) for gap in found]


def left(feed: FeedHistory, instrument: int, kind: int, query: WantQuery | LeftQuery) -> Left:
    """Say what of a range is still missing, and whether more of it can come."""
    period_ns = feed.live.series[kind].period_ns
    # The newest bar may be out and on its way to the disk: it is not missing.
    start_ns = query.start_ns // period_ns * period_ns
    end_ns = min(query.end_ns, feed.reached_ns(instrument, kind)) // period_ns * period_ns
    asked: Range = (start_ns, max(start_ns, end_ns))
    bars = (asked[1] - asked[0]) // period_ns
    wanted = feed.missing(instrument, kind)
    stored = feed.stored[instrument, kind]
    known = ranges(stored.coverage, State.COMPLETE, State.EMPTY, State.UNVERIFIED)
    have = sum(end - start for start, end in intersect([asked], known)) // period_ns
    over = not intersect([asked], wanted) or not feed.can_ask
    return Left(bars, bars - have, feed.trouble or ("" if feed.can_ask else f"{feed.info.name} has no history"), over)


def _find(history: History, fqme: str, period: str) -> tuple[FeedHistory, int, int]:
    found = history.find(fqme)
    if found is None:
        raise RequestRefused("unknown_instrument", f"no feed has {fqme}")
    feed, instrument = found
    for kind, series in feed.live.series.items():
        if series.name == period and (instrument, kind) in feed.stored:
            return feed, instrument, kind
    raise RequestRefused(
        "invalid_params", f"bars of {period} are not stored of {fqme}; history.periods has {', '.join(history.periods)}"
    )


def _bounds(start_ns: int | None, end_ns: int | None) -> Range:
    return (BEGIN_NS if start_ns is None else start_ns, END_NS if end_ns is None else end_ns)


async def _in_thread(work: Callable[[], R]) -> R:
    return await trio.to_thread.run_sync(work, limiter=_reading)

"""``GET /v1/bars``: bars of some instruments as a file that is made while it is sent."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import pyarrow as pa
import trio
from pyarrow import ipc
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from marketd.clock import SECOND_NS
from marketd.gateway.decode import Refusal
from marketd.gateway.history import check_range, matching, spelled
from marketd.gateway.selection import split
from marketd.history.serve import ARROW_END
from marketd.history.wire import BarsQuery
from marketd.periods import Period, parse_period
from marketd.rpc.messages import ErrorCode, HistorySeries, Order
from marketd.web.formats import BAR_COLUMNS, Writer, bars_batch, bars_schema, open_writer
from marketd.web.query import Query

if TYPE_CHECKING:
    from marketd.gateway.actor import Gateway

INSTRUMENTS_MAX = 1000
THREADS = trio.CapacityLimiter(2)  # that make files, over all clients


class Asked(msgspec.Struct, frozen=True):
    """What a client asks for."""

    names: list[str]
    named: bool
    period: Period
    start_ns: int | None
    end_ns: int | None
    limit: int | None
    order: Order
    columns: list[str]
    form: str


async def bars(request: Request) -> Response:
    """Answer with a file; errors come before it begins, and a file that can't be finished is cut."""
    gateway: Gateway = request.app.state.gateway
    asked = await read_query(Query(request.query_params), gateway)
    schema = bars_schema(asked.columns, named=asked.named)
    # Without rows, what is held is told at once; the file itself is read bit by bit, perhaps for minutes.
    heads = [await gateway.history.result(_query(asked, name, limit=0), HistorySeries) for name in asked.names]
    writer = open_writer(asked.form, "bars", schema)
    headers = {
        "Marketd-Complete-Until": _print(min(head.complete_until_ns for head in heads)),
        "Marketd-Missing-Ranges": str(sum(len(head.missing) for head in heads)),
        "Content-Disposition": f'inline; filename="bars-{asked.period.name}.{writer.ending}"',
        "Cache-Control": "no-store",
    }
    if request.method == "HEAD":
        return Response(headers=headers, media_type=writer.media_type)

    async def body() -> AsyncIterator[bytes]:
        series = []
        yield writer.begin()
        for place, name in enumerate(asked.names):
            async with contextlib.aclosing(batches(gateway, _query(asked, name, limit=asked.limit))) as found:
                async for batch in found:
                    if isinstance(batch, HistorySeries):
                        series.append(batch)
                    else:
                        make = partial(_rows, writer, batch, schema, asked.names, place)
                        yield await trio.to_thread.run_sync(make, limiter=THREADS)
        yield await trio.to_thread.run_sync(writer.end, facts(asked, series), limiter=THREADS)

    return StreamingResponse(body(), headers=headers, media_type=writer.media_type)


def _rows(writer: Writer, batch: pa.RecordBatch, schema: pa.Schema, names: list[str], place: int) -> bytes:
    return writer.rows(bars_batch(batch, schema, names, place))


def facts(asked: Asked, series: Sequence[HistorySeries]) -> dict[str, Any]:
    """Return what is to be known of the whole file: which bars it has, and which it lacks."""
    return {"period": asked.period.name, "period_ns": asked.period.period_ns, "series": series}


async def read_query(query: Query, gateway: Gateway) -> Asked:
    """Read the parameters.

    Raises:
        Refusal: one is missing, misspelt or wrong.
    """
    instruments = query.names("instrument")
    period = query.read("period", parse_period, "1m")
    start_ns, end_ns = query.time("start"), query.time("end")
    columns = query.list_of("columns") or list(BAR_COLUMNS)
    limit = query.read("limit", int, None)
    order: Order = query.choice("order", get_args(Order), "newest")
    form = query.form()
    query.finish()
    if limit is not None and limit < 1:
        raise Refusal(ErrorCode.INVALID_PARAMS, f"limit={limit}: it is 1 or more", key="limit")
    check_range(start_ns, end_ns, "bars")
    try:
        bars_schema(columns, named=False)
    except ValueError as error:
        raise Refusal(ErrorCode.INVALID_PARAMS, f"columns: {error}", key="columns") from error
    await gateway.feeds.learn()
    names, globs = split(instruments)
    found = sorted({*spelled(gateway.feeds, names), *matching(gateway.feeds, globs)})
    if not found:
        raise Refusal(ErrorCode.UNKNOWN_INSTRUMENT, f"nothing is called {', '.join(sorted(globs))}")
    if len(found) > INSTRUMENTS_MAX:
        sentence = f"{len(found)} instruments are meant; ask for {INSTRUMENTS_MAX} at a time"
        raise Refusal(ErrorCode.LIMIT_EXCEEDED, sentence, limit=INSTRUMENTS_MAX)
    named = bool(globs) or len(names) > 1
    return Asked(found, named, period, start_ns, end_ns, limit, order, columns, form)


def _print(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _query(asked: Asked, name: str, *, limit: int | None) -> BarsQuery:
    return BarsQuery(name, asked.period.name, asked.start_ns, asked.end_ns, limit, asked.order, asked.columns)


async def batches(gateway: Gateway, query: BarsQuery) -> AsyncGenerator[pa.RecordBatch | HistorySeries, None]:
    """Yield stored bars as they come, and at last what is known of them."""
    schema: pa.Schema | None = None
    async with contextlib.aclosing(gateway.history.ask(query, HistorySeries)) as answer:
        async for found in answer:
            if isinstance(found, HistorySeries):
                yield found
            elif schema is None:
                schema = ipc.read_schema(pa.py_buffer(found))
            elif found != ARROW_END:
                yield ipc.read_record_batch(pa.py_buffer(found), schema)

"""``GET /v1/bars`` and ``/v1/ticks``: rows of some instruments as a file that is made while it is sent."""

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
from marketd.gateway.history import check_range, matching, permitted
from marketd.gateway.selection import split
from marketd.history.serve import ARROW_END
from marketd.history.wire import BarsQuery, TicksQuery
from marketd.periods import parse_period
from marketd.rpc.messages import ErrorCode, HistorySeries, Order
from marketd.security.access import Access
from marketd.web.formats import BAR_COLUMNS, Writer, open_writer, rows_batch, rows_schema
from marketd.web.guarded import access_of
from marketd.web.query import Query
from storage.schema import BARS, TICKS

if TYPE_CHECKING:
    from marketd.gateway.actor import Gateway

INSTRUMENTS_MAX = 1000
THREADS = trio.CapacityLimiter(2)  # that make files, over all clients


class Asked(msgspec.Struct, frozen=True):
    """What a client asks for.

    Attributes:
        what: of what: ``bars`` or ``ticks``.
        names: of which instruments, sorted.
        named: whether the file has their names in it.
        period, period_ns: of the bars; of ticks their kind, and 0.
    """

    what: str
    names: list[str]
    named: bool
    period: str
    period_ns: int
    start_ns: int | None
    end_ns: int | None
    limit: int | None
    order: Order
    columns: list[str]
    form: str

    def query(self, name: str, *, limit: int | None) -> BarsQuery | TicksQuery:
        """Return what the history manager is asked of one instrument."""
        sort = BarsQuery if self.what == "bars" else TicksQuery
        return sort(name, self.period, self.start_ns, self.end_ns, limit, self.order, self.columns)

    @property
    def stored(self) -> pa.Schema:
        """What such rows are in the store."""
        return BARS.arrow if self.what == "bars" else TICKS[self.period].arrow


async def bars(request: Request) -> Response:
    """Answer with a file; errors come before it begins, and a file that can't be finished is cut."""
    query = Query(request.query_params)
    period = query.read("period", parse_period, "1m")
    return await _answer(request, query, "bars", period.name, period.period_ns, list(BAR_COLUMNS))


async def ticks(request: Request) -> Response:
    """Answer with a file, as :func:`bars` does."""
    query = Query(request.query_params)
    kind = query.choice("kind", list(TICKS), "trade")
    return await _answer(request, query, "ticks", kind, 0, TICKS[kind].arrow.names)


async def _answer(
    request: Request, query: Query, what: str, period: str, period_ns: int, columns: list[str]
) -> Response:
    gateway: Gateway = request.app.state.gateway
    asked = await read_query(query, gateway, access_of(request), what, period, period_ns, columns)
    schema = rows_schema(asked.stored, asked.columns, named=asked.named)
    # Without rows, what is held is told at once; the file itself is read bit by bit, perhaps for minutes.
    heads = [await gateway.history.result(asked.query(name, limit=0), HistorySeries) for name in asked.names]
    writer = open_writer(asked.form, what, schema)
    headers = {
        "Marketd-Complete-Until": _print(min(head.complete_until_ns for head in heads)),
        "Marketd-Missing-Ranges": str(sum(len(head.missing) for head in heads)),
        "Content-Disposition": f'inline; filename="{what}-{period}.{writer.ending}"',
        "Cache-Control": "no-store",
    }
    if request.method == "HEAD":
        return Response(headers=headers, media_type=writer.media_type)

    async def body() -> AsyncIterator[bytes]:
        series = []
        yield writer.begin()
        for place, name in enumerate(asked.names):
            async with contextlib.aclosing(batches(gateway, asked.query(name, limit=asked.limit))) as found:
                async for batch in found:
                    if isinstance(batch, HistorySeries):
                        series.append(batch)
                    else:
                        make = partial(_rows, writer, batch, schema, asked.names, place)
                        yield await trio.to_thread.run_sync(make, limiter=THREADS)
        yield await trio.to_thread.run_sync(writer.end, facts(asked, series), limiter=THREADS)

    return StreamingResponse(body(), headers=headers, media_type=writer.media_type)


def _rows(writer: Writer, batch: pa.RecordBatch, schema: pa.Schema, names: list[str], place: int) -> bytes:
    return writer.rows(rows_batch(batch, schema, names, place))


def facts(asked: Asked, series: Sequence[HistorySeries]) -> dict[str, Any]:
    """Return what is to be known of the whole file: which rows it has, and which it lacks."""
    if asked.what == "ticks":
        return {"kind": asked.period, "series": series}
    return {"period": asked.period, "period_ns": asked.period_ns, "series": series}


async def read_query(
    query: Query, gateway: Gateway, access: Access, what: str, period: str, period_ns: int, columns: list[str]
) -> Asked:
    """Read the parameters that bars and ticks have in common; ``columns`` are the usual ones.

    Raises:
        Refusal: one is missing, misspelt or wrong, or not for this client.
    """
    instruments = query.names("instrument")
    start_ns, end_ns = query.time("start"), query.time("end")
    limit = query.read("limit", int, None)
    order: Order = query.choice("order", get_args(Order), "newest")
    columns = query.list_of("columns") or columns
    form = query.form()
    query.finish()
    if limit is not None and limit < 1:
        raise Refusal(ErrorCode.INVALID_PARAMS, f"limit={limit}: it is 1 or more", key="limit")
    check_range(start_ns, end_ns, what)
    await gateway.feeds.learn()
    names, globs = split(instruments)
    found = sorted({*permitted(gateway.feeds, names, access), *matching(gateway.feeds, globs, access)})
    if not found:
        raise Refusal(ErrorCode.UNKNOWN_INSTRUMENT, f"nothing is called {', '.join(sorted(globs))}")
    if len(found) > INSTRUMENTS_MAX:
        sentence = f"{len(found)} instruments are meant; ask for {INSTRUMENTS_MAX} at a time"
        raise Refusal(ErrorCode.LIMIT_EXCEEDED, sentence, limit=INSTRUMENTS_MAX)
    named = bool(globs) or len(names) > 1
    asked = Asked(what, found, named, period, period_ns, start_ns, end_ns, limit, order, columns, form)
    try:
        rows_schema(asked.stored, columns, named=False)
    except ValueError as error:
        raise Refusal(ErrorCode.INVALID_PARAMS, f"columns: {error}", key="columns") from error
    return asked


def _print(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def batches(
    gateway: Gateway, query: BarsQuery | TicksQuery
) -> AsyncGenerator[pa.RecordBatch | HistorySeries, None]:
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

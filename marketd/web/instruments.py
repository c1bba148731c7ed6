"""``GET /v1/instruments``: what the feeds carry, as a table; and one of them by its name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import trio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from marketd.fqme import glob_pattern, is_glob
from marketd.gateway.requests import look_up
from marketd.model import MktPair
from marketd.security.access import Access
from marketd.web.formats import open_writer
from marketd.web.guarded import access_of
from marketd.web.query import Query

if TYPE_CHECKING:
    from marketd.gateway.actor import Gateway
    from marketd.gateway.feed import Feed

IN_ONE_GO = 1024
_MARKET = ("type", "dst", "src", "venue", "suffix", "backend", "bs_mktid", "price_tick", "size_tick", "lot_size",
           "contract_size", "expiry", "calendar")  # fmt: skip
SCHEMA = pa.schema([(name, pa.string()) for name in ("fqme", "feed", "quality", *_MARKET)])


async def instruments(request: Request) -> Response:
    """Answer with a table of all instruments that ``match``, a glob or a part of the name."""
    gateway: Gateway = request.app.state.gateway
    query = Query(request.query_params)
    match = (query.read("match", str, "") or "").strip().lower()
    form = query.form()
    query.finish()
    writer = open_writer(form, "instruments", SCHEMA)
    headers = {"Content-Disposition": f'inline; filename="instruments.{writer.ending}"', "Cache-Control": "no-store"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type=writer.media_type)
    await gateway.feeds.learn()
    access = access_of(request)

    async def body() -> AsyncIterator[bytes]:
        yield writer.begin()
        for feed in list(gateway.feeds.by_name.values()):
            for rows in _pieces(feed, match, access):
                yield writer.rows(pa.RecordBatch.from_pylist(rows, SCHEMA))
                await trio.lowlevel.checkpoint()
        yield writer.end({})

    return StreamingResponse(body(), headers=headers, media_type=writer.media_type)


async def instrument(request: Request) -> Response:
    """Answer with all that is known of one instrument, as the method ``instrument`` does."""
    gateway: Gateway = request.app.state.gateway
    Query(request.query_params).finish()
    found = await look_up(gateway, access_of(request), request.path_params["fqme"])
    return Response(msgspec.json.encode(found), media_type="application/json")


def _pieces(feed: Feed, match: str, access: Access) -> Iterator[list[dict[str, Any]]]:
    selects = glob_pattern(match).match if is_glob(match) else lambda name: all(map(name.__contains__, match.split()))
    rows: list[dict[str, Any]] = []
    for name in list(feed.names):
        if selects(name) and access.permits(name):
            number = feed.ids[name]
            rows.append(_row(feed.table.entry(number)) | {
                "fqme": name, "feed": feed.name, "quality": feed.table.quality(number).name.lower(),
            })  # fmt: skip
        if len(rows) == IN_ONE_GO:
            yield rows
            rows = []
    if rows:
        yield rows


def _row(market: MktPair) -> dict[str, str]:
    plain = msgspec.to_builtins(market)
    return {name: _text(plain.get(name, "")) for name in _MARKET}


def _text(value: Any) -> str:  # noqa: ANN401 - a text, or an asset with a name
    return value["name"] if isinstance(value, dict) else str(value)

"""Talks to the test venue's sessions and REST answers without a socket. Shared by its unit tests."""

from __future__ import annotations

import json
from typing import Any

from marketd.testvenue import listing
from marketd.testvenue.candles import DAY_NS, SECOND_NS
from marketd.testvenue.market import Market
from marketd.testvenue.venue import Request, Response, Say, Session, Venue

ORIGIN_NS = 1_790_000_000 * SECOND_NS // DAY_NS * DAY_NS
NOW_NS = ORIGIN_NS + DAY_NS + 12 * 3600 * SECOND_NS + 30 * SECOND_NS


def market(ticks: listing.Ticks) -> Market:
    return Market(listing.instruments(ticks, 6, None), 3, ORIGIN_NS)


def open_session(venue: Venue, path: str = "", **query: str) -> Session:
    venue.forgive()
    session = venue.session(Request(path, query), NOW_NS)
    assert isinstance(session, Session), session
    session.greet(NOW_NS)
    return session


def ask(session: Session, request: dict[str, Any], now_ns: int = NOW_NS) -> list[Any]:
    """Send a request, and decode what is said to it."""
    replies = session.receive(json.dumps(request).encode(), now_ns)
    return [json.loads(reply.payload) if isinstance(reply, Say) else reply for reply in replies]


def get(venue: Venue, path: str, now_ns: int = NOW_NS, **query: object) -> Any:
    response = rest(venue, path, now_ns, **query)
    assert response.status == 200, response
    return json.loads(response.body)


def rest(venue: Venue, path: str, now_ns: int = NOW_NS, method: str = "GET", **query: object) -> Response:
    return venue.rest(Request(path, {name: str(value) for name, value in query.items()}, method), now_ns)


def last_trade_message(session: Session, venue: Venue, name: str) -> Any:
    channel = session.channels[name]
    number = venue.market.trades_before(channel.instrument, NOW_NS)
    assert channel.on_trade is not None
    return json.loads(channel.on_trade(venue.market.trade_range(channel.instrument, number, number)[0]))


def last_quote_message(session: Session, venue: Venue, name: str) -> Any:
    channel = session.channels[name]
    assert channel.on_quote is not None
    return json.loads(channel.on_quote(venue.newest_quote(channel.instrument, NOW_NS)))

"""No client can break the test venue by what it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.testvenue import listing
from marketd.testvenue.binance.venue import Binance
from marketd.testvenue.kraken.venue import Kraken
from marketd.testvenue.kucoin.venue import Kucoin
from marketd.testvenue.venue import Say, Venue
from tests.venue_sides import (
    NOW_NS,
    market,
    open_session,
    rest,
)

_VENUES: dict[str, Venue] = {
    "binance": Binance(market(listing.BINANCE), futures=False),
    "kraken": Kraken(market(listing.KRAKEN)),
    "kucoin": Kucoin(market(listing.KUCOIN)),
}
WORDS = (
    "method", "params", "id", "SUBSCRIBE", "SET_PROPERTY", "combined", "btcusdt@trade", "subscribe", "unsubscribe",
    "channel", "symbol", "BTC/USD", "interval", "depth", "ohlc", "book", "ticker", "event_trigger", "req_id",
    "type", "topic", "/market/match:BTC-USDT", "response", "snapshot", "ping",
)  # fmt: skip
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(WORDS)
    | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(WORDS), children, max_size=5),
    max_leaves=12,
)
REQUESTS = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {"method": st.sampled_from(WORDS)},
        optional={"params": JSON, "id": JSON, "req_id": JSON},
    ),
    st.fixed_dictionaries(
        {
            "method": st.sampled_from(("subscribe", "unsubscribe")),
            "params": st.fixed_dictionaries(
                {"channel": st.sampled_from(("trade", "ohlc", "book", "ticker", "instrument"))},
                optional={
                    "symbol": st.just(["BTC/USD"]) | JSON,
                    "interval": JSON,
                    "depth": JSON,
                    "event_trigger": JSON,
                },
            ),
        }
    ),
    st.fixed_dictionaries({"type": st.just("subscribe")}, optional={"topic": JSON, "id": JSON, "response": JSON}),
)


@pytest.mark.parametrize("name", ["binance", "kraken", "kucoin"])
@given(requests=st.lists(REQUESTS | st.binary(max_size=20), min_size=1, max_size=5))
def test_no_request_breaks_a_session(name: str, requests: list[Any]):
    session = open_session(_VENUES[name], "/ws" if name == "binance" else "")
    for request in requests:
        payload = request if isinstance(request, bytes) else json.dumps(request).encode()
        for reply in session.receive(payload, NOW_NS):
            if isinstance(reply, Say):
                json.loads(reply.payload)


@pytest.mark.parametrize("name", ["binance", "kraken", "kucoin"])
@given(data=st.data())
def test_no_parameter_breaks_a_rest_answer(name: str, data: st.DataObject):
    paths = {
        "binance": ("/api/v3/klines", "/api/v3/aggTrades", "/api/v3/trades", "/api/v3/depth", "/api/v3/exchangeInfo"),
        "kraken": ("/0/public/OHLC", "/0/public/Trades", "/0/public/Depth", "/0/public/AssetPairs"),
        "kucoin": ("/api/v1/market/candles", "/api/v1/market/histories"),
    }
    numbers = st.sampled_from(("", "0", "1", "-1", "x", "7.5", "9" * 12, "9" * 18, "9" * 30)) | st.integers().map(str)
    names = ("fromId", "startTime", "endTime", "limit", "since", "count", "startAt", "endAt")
    query = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "symbol": st.sampled_from(("BTCUSDT", "BTC-USDT", "x")),
                "pair": st.sampled_from(("XBTUSD", "BTC/USD", "x")),
                "interval": st.sampled_from(("1m", "1M", "1w", "60", "1", "x")),
                "type": st.sampled_from(("1min", "1month")),
                **dict.fromkeys(names, numbers),
            },
        )
    )
    venue = _VENUES[name]
    venue.forgive()
    response = rest(venue, data.draw(st.sampled_from(paths[name])), **query)
    assert response.status in (200, 400)
    json.loads(response.body)

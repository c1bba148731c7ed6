from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from backends.binance.instruments import (
    guess,
    host_of,
    parse_exchange_info,
    read_directory,
    streams_of,
    time_unit_ns_of,
)
from backends.recording import read_companions
from marketd.errors import WireError
from marketd.model import Asset

DATA = Path(__file__).resolve().parent.parent / "data" / "binance"
SPOT = host_of("wss://stream.binance.com:9443/ws")
FUTURES = host_of("wss://fstream.binance.com/stream")
US = host_of("wss://stream.binance.us:9443/stream")


def directory(name, host):
    return read_directory(host, read_companions(DATA / f"{name}.ws")).markets


def test_spot_pairs_have_both_assets_and_steps_from_their_filters():
    """R40, R45: ticks are decimals; the price's from the price filter, the size's from the lot filter."""
    market = directory("spot", SPOT)["ETHBTC"]
    assert market.fqme == "eth/btc.spot.binance"
    assert (market.dst, market.src) == (Asset("eth", "crypto"), Asset("btc", "crypto"))
    assert (market.price_tick, market.size_tick) == (Decimal("0.00001"), Decimal("0.0001"))
    assert (market.price_digits, market.size_digits) == (5, 4)
    assert market.type == "spot"
    assert market.resolved


def test_fiat_is_told_from_crypto():
    assert directory("spot", SPOT)["BTCEUR"].src == Asset("eur", "fiat")


def test_symbol_without_usable_steps_gets_the_default_ones():
    market = directory("spot", SPOT)["OLDBTC"]
    assert (market.price_tick, market.size_tick) == (Decimal("0.01"), Decimal("1E-8"))


def test_perpetuals_and_dated_futures_have_their_own_venues():
    """F1: the dated one's expiry is the suffix of its name."""
    markets = directory("futures", FUTURES)
    assert markets["BTCUSDT"].fqme == "btc/usdt.perp.binance"
    assert markets["BTCUSDT"].type == "perpetual"
    dated = markets["BTCUSDT_261225"]
    assert (dated.fqme, dated.type, dated.expiry) == ("btc/usdt.future.20261225.binance", "future", "20261225")
    assert markets["TSLAUSDT"].dst == Asset("tsla", "stock")


def test_binance_us_is_a_backend_name_of_its_own():
    body = read_companions(DATA / "spot.ws")["https://api.binance.com/api/v3/exchangeInfo"]
    names = [market.fqme for market in parse_exchange_info(body, US)]
    assert names[0] == "btc/usdt.spot.binanceus"


def test_only_the_answer_of_the_same_market_is_taken():
    assert directory("futures", SPOT) == {}
    assert directory("spot", US) == {}


@pytest.mark.parametrize(
    ("symbol", "host", "fqme"),
    [
        ("SUSHIUSDT", FUTURES, "sushi/usdt.perp.binance"),
        ("BTCUSDT_210924", FUTURES, "btc/usdt.future.20210924.binance"),
        ("BTCFDUSD", SPOT, "btc/fdusd.spot.binance"),
        ("RUNEEUR", SPOT, "rune/eur.spot.binance"),
        ("BTCUSD", US, "btc/usd.spot.binanceus"),
        ("USDTTRY", SPOT, "usdt/try.spot.binance"),
        ("USDT", SPOT, "usdt.spot.binance"),
        ("XYZ", SPOT, "xyz.spot.binance"),
    ],
)
def test_without_the_venues_list_names_are_guessed_and_not_resolved(symbol, host, fqme):
    market = guess(symbol, host)
    assert market.fqme == fqme
    assert market.bs_mktid == symbol
    assert not market.resolved


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"symbols":[{}]}', b"\xff", b"<html>", b"[" * 10_000])
def test_unusable_list_is_a_wire_error(body):
    with pytest.raises(WireError, match="exchangeInfo"):
        parse_exchange_info(body, SPOT)


def test_newer_fields_and_contract_types_do_not_hurt():
    symbol = {"symbol": "X_PERP", "baseAsset": "X", "quoteAsset": "USDC", "contractType": "SOMETHING_NEW"}
    body = json.dumps({"symbols": [symbol | {"deliveryDate": 4133404800000, "filters": [{"filterType": "NEW"}]}]})
    assert parse_exchange_info(body.encode(), FUTURES)[0].fqme == "x/usdc.future.21001225.binance"


def test_streams_are_read_from_both_kinds_of_address():
    assert streams_of("wss://h/stream?streams=a@trade/b@depth@100ms/a@trade&timeUnit=MICROSECOND") == [
        "a@trade",
        "b@depth@100ms",
    ]
    assert streams_of("wss://h/ws/a@trade/b@kline_1m") == ["a@trade", "b@kline_1m"]
    assert streams_of("wss://h/ws") == streams_of("wss://h/stream") == []


def test_times_are_milliseconds_unless_the_address_says_otherwise():
    assert time_unit_ns_of("wss://h/ws/a@trade") == 1_000_000
    assert time_unit_ns_of("wss://h/ws/a@trade?timeUnit=microsecond") == 1_000

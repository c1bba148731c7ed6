"""Every instrument that Binance has listed, in the recordings: about 1,700 spot, 160 futures, 130 at Binance US."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.binance.instruments import host_of, parse_exchange_info, parse_listed
from backends.recording import read_rest
from marketd import fqme
from marketd.model import Asset

LISTS = {
    "binance-spot": "wss://stream.binance.com:9443",
    "binance-futures": "wss://fstream.binance.com",
    "binance-us-spot": "wss://stream.binance.us:9443",
}
FACTORS = st.decimals("0.000001", "1000000", allow_nan=False, allow_infinity=False)


@pytest.fixture(scope="module", params=LISTS)
def listed(request, shared_data):
    """One market's list: the venue's host, the answer as text, and the instruments."""
    bodies = read_rest(shared_data / "recordings" / f"{request.param}.exchangeInfo.rest")
    (body,) = bodies.values()
    host = host_of(LISTS[request.param])
    return host, body, parse_exchange_info(body, host)


def filters(symbol):
    return {step["filterType"]: step for step in symbol["filters"]}


def test_no_instrument_is_left_out(listed):
    _, body, markets = listed
    symbols = json.loads(body)["symbols"]
    assert len(symbols) > 100
    assert [market.bs_mktid for market in markets] == [symbol["symbol"] for symbol in symbols]


def test_names_parse_back_to_themselves_in_any_case(listed):
    host, _, markets = listed
    for market in markets:
        parsed = fqme.parse(market.fqme)
        assert str(parsed) == market.fqme == market.fqme.lower()
        assert fqme.parse(market.fqme.upper()) == parsed
        assert (parsed.venue, parsed.suffix, parsed.backend) == (market.venue, market.suffix, host.backend)


def test_names_are_unique(listed):
    _, _, markets = listed
    assert len({market.fqme for market in markets}) == len({market.bs_mktid for market in markets}) == len(markets)


def test_globs_select_by_what_an_instrument_is_paid_with(listed):
    _, _, markets = listed
    pattern = fqme.glob_pattern(f"*/usdt.*.{markets[0].backend}")
    selected = {market.fqme for market in markets if pattern.fullmatch(market.fqme)}
    assert selected == {market.fqme for market in markets if market.src.name == "usdt"}
    assert len(selected) > 30


def test_both_sides_are_assets(listed):
    """F1: the venue says what is traded for what; R43, R44: names are text."""
    _, body, markets = listed
    for market, symbol in zip(markets, json.loads(body)["symbols"], strict=True):
        assert isinstance(market.dst, Asset)
        assert isinstance(market.src, Asset)
        assert (market.dst.name, market.src.name) == (symbol["baseAsset"].lower(), symbol["quoteAsset"].lower())
        assert market.dst.precision == Decimal(1).scaleb(-symbol["baseAssetPrecision"])


def test_ticks_are_the_filters_own(listed):
    """R40, R45: decimals greater than 0, prices by the price filter and sizes by the lot filter."""
    _, body, markets = listed
    for market, symbol in zip(markets, json.loads(body)["symbols"], strict=True):
        steps = filters(symbol)
        assert isinstance(market.price_tick, Decimal)
        assert market.price_tick > 0 < market.size_tick
        assert market.price_tick == Decimal(steps["PRICE_FILTER"]["tickSize"])
        assert market.size_tick == Decimal(steps["LOT_SIZE"]["stepSize"])


@given(factor=FACTORS)
def test_quantized_values_are_the_nearest_multiples(listed, factor):
    _, _, markets = listed
    for market in markets[:: len(markets) // 20]:
        for tick, quantize in ((market.price_tick, market.quantize_price), (market.size_tick, market.quantize_size)):
            value = tick * factor
            rounded = quantize(value)
            assert rounded % tick == 0
            assert abs(rounded - value) <= tick / 2
            assert quantize(rounded) == rounded


def test_every_tick_and_its_multiples_are_kept(listed):
    _, _, markets = listed
    for market in markets:
        for count in (1, 7, 12_345):
            assert market.quantize_price(market.price_tick * count) == market.price_tick * count
            assert market.quantize_size(str(market.size_tick * count)) == market.size_tick * count
            assert market.quantize_price(float(market.price_tick * count)) == market.price_tick * count


def test_what_can_be_subscribed_to_is_what_is_traded(listed):
    host, body, markets = listed
    trading = {symbol["symbol"] for symbol in json.loads(body)["symbols"] if symbol["status"] == "TRADING"}
    live = parse_listed(body, host)
    assert trading <= {market.bs_mktid for market in live}
    silent = {market.bs_mktid for market in markets} - {market.bs_mktid for market in live}
    statuses = {symbol["status"] for symbol in json.loads(body)["symbols"] if symbol["symbol"] in silent}
    assert statuses <= {"BREAK", "SETTLING", "PENDING_TRADING", "CLOSE", "DELIVERED"}

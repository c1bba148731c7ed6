from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from backends.kucoin.instruments import guess, parse_symbols, read_directory
from backends.recording import read_companions
from marketd.errors import WireError
from marketd.model import Asset

DATA = Path(__file__).resolve().parent.parent / "data" / "kucoin"
SYMBOL = {"symbol": "BTC-USDT", "baseCurrency": "BTC", "quoteCurrency": "USDT", "baseIncrement": "0.00000001",
          "priceIncrement": "0.1", "enableTrading": True}  # fmt: skip


@pytest.fixture
def markets():
    return read_directory(read_companions(DATA / "spot.ws")).markets


def answer(data):
    return json.dumps({"code": "200000", "data": data}).encode()


def test_symbols_have_assets_and_steps(markets):
    """F3, R40, R45: ``.price_tick`` and ``.size_tick`` are decimals."""
    market = markets["BTC-USDT"]
    assert market.fqme == "btc/usdt.spot.kucoin"
    assert (market.dst, market.src) == (Asset("btc", "crypto"), Asset("usdt", "crypto"))
    assert (market.price_tick, market.size_tick) == (Decimal("0.1"), Decimal("1E-8"))
    assert (market.type, market.bs_mktid, market.resolved) == ("spot", "BTC-USDT", True)


def test_renamed_currency_gives_the_name_and_the_symbol_stays_the_id(markets):
    """F3: pairs are known by their native ids."""
    assert markets["BCHSV-USDT"].fqme == "bsv/usdt.spot.kucoin"


def test_precision_of_assets_comes_from_the_currencies():
    """F3: symbols and currencies are both asked for."""
    currencies = answer([{"currency": "BTC", "precision": 8}, {"currency": "USDT", "precision": 6}])
    [market] = parse_symbols(answer([SYMBOL]), currencies)
    assert (market.dst.precision, market.src.precision) == (Decimal("1E-8"), Decimal("0.000001"))


def test_symbols_without_trading_are_for_recordings_only(markets):
    assert "OLD-USDT" in markets
    closed = SYMBOL | {"symbol": "OLD-USDT", "enableTrading": False}
    assert [market.bs_mktid for market in parse_symbols(answer([SYMBOL, closed]))] == ["BTC-USDT"]


def test_symbol_without_usable_steps_gets_the_default_ones(markets):
    assert (markets["OLD-USDT"].price_tick, markets["OLD-USDT"].size_tick) == (Decimal("0.01"), Decimal("1E-8"))


@pytest.mark.parametrize(("code", "text"), [("429000", "Too many requests"), ("503000", "Server is busy")])
def test_server_error_is_a_wire_error_that_says_what_kucoin_said(code, text):
    """R81: a server error on an asset-info request is a clear error."""
    body = json.dumps({"code": code, "msg": text}).encode()
    for bodies in ([body], [answer([SYMBOL]), body]):
        with pytest.raises(WireError, match=f"{code} {text}"):
            parse_symbols(*bodies)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"code":"200000"}', b"\xff", b"<html>", b"[" * 10_000])
def test_unusable_list_is_a_wire_error(body):
    with pytest.raises(WireError, match="symbols"):
        parse_symbols(body)


def test_refusal_with_odd_data_still_says_what_kucoin_said():
    with pytest.raises(WireError, match="400100 Bad"):
        parse_symbols(b'{"code":"400100","msg":"Bad","data":{"x":1}}')


def test_without_the_venues_list_names_are_guessed_and_not_resolved():
    market = guess("ETH-BTC")
    assert (market.fqme, market.bs_mktid, market.resolved) == ("eth/btc.spot.kucoin", "ETH-BTC", False)

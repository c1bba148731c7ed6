from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from backends.kraken.instruments import guess, parse_pairs, read_directory, rest_pair, v2_symbol, wsname_of
from backends.recording import read_companions
from marketd.errors import WireError
from marketd.model import Asset

DATA = Path(__file__).resolve().parent.parent / "data" / "kraken"
PAIR = {"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD", "pair_decimals": 1,
        "lot_decimals": 8}  # fmt: skip


@pytest.fixture
def markets():
    return read_directory(read_companions(DATA / "spot-v2.ws")).markets


def pairs(**found):
    return json.dumps({"error": [], "result": found}).encode()


def test_pairs_have_assets_steps_and_the_venues_name(markets):
    """R40, R45: ticks are decimals; the price's from the tick size, the size's from the lot's decimals."""
    market = markets["XBT/USD"]
    assert market.fqme == "xbt/usd.spot.kraken"
    assert (market.dst, market.src) == (Asset("xbt", "crypto"), Asset("usd", "fiat"))
    assert (market.price_tick, market.size_tick) == (Decimal("0.1"), Decimal("1E-8"))
    assert (market.type, market.bs_mktid, market.resolved) == ("spot", "XBT/USD", True)


def test_tick_size_can_be_coarser_than_the_decimals(markets):
    assert markets["ETH2.S/ETH"].price_tick == Decimal("0.0005")


def test_without_a_tick_size_the_decimals_count():
    """The answers of 2021 had none."""
    [market] = parse_pairs(pairs(XXBTZUSD=PAIR))
    assert market.price_tick == Decimal("0.1")


def test_dots_in_an_assets_name_would_be_dots_of_the_fqme(markets):
    assert markets["ETH2.S/ETH"].fqme == "eth2-s/eth.spot.kraken"


def test_dark_pools_and_pairs_that_are_gone_are_left_out(markets):
    assert set(markets) == {"XBT/USD", "ETH/XBT", "XDG/USD", "ETH2.S/ETH"}


@pytest.mark.parametrize("status", ["online", "cancel_only", "post_only", "limit_only", "reduce_only", "novelty"])
def test_pairs_with_limited_trading_have_data_all_the_same(status):
    assert len(parse_pairs(pairs(XXBTZUSD=PAIR | {"status": status}))) == 1


def test_precision_of_assets_comes_from_their_own_list():
    """F2: ``Client.assets``."""
    assets = pairs(XXBT={"decimals": 10, "altname": "XBT"}, ZUSD={"decimals": 4, "altname": "USD"})
    [market] = parse_pairs(pairs(XXBTZUSD=PAIR), assets)
    assert (market.dst.precision, market.src.precision) == (Decimal("1E-10"), Decimal("0.0001"))


def test_tokenized_stocks_are_stocks():
    pair = PAIR | {"altname": "AAPLxUSD", "wsname": "AAPLx/USD", "base": "AAPLx", "aclass_base": "tokenized_asset"}
    [market] = parse_pairs(pairs(AAPLxUSD=pair))
    assert (market.fqme, market.dst.type, market.bs_mktid) == ("aaplx/usd.spot.kraken", "stock", "AAPLx/USD")


@pytest.mark.parametrize("error", ["EService:Unavailable", "EGeneral:Internal error", "EAPI:Rate limit exceeded"])
def test_server_error_is_a_wire_error_that_says_what_kraken_said(error):
    """R81: a server error on an asset-info request, with status 200 as Kraken does it, is a clear error."""
    body = json.dumps({"error": [error]}).encode()
    with pytest.raises(WireError, match=error):
        parse_pairs(body)
    with pytest.raises(WireError, match=error):
        parse_pairs(pairs(XXBTZUSD=PAIR), body)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"error":[]}', b'{"error":[],"result":{"X":{}}}', b"\xff", b"<html>", b"[" * 10_000]
)
def test_unusable_list_is_a_wire_error(body):
    with pytest.raises(WireError, match="AssetPairs"):
        parse_pairs(body)


@pytest.mark.parametrize(
    ("wsname", "v2", "rest"),
    [("XBT/USD", "BTC/USD", "XBTUSD"), ("ETH/XBT", "ETH/BTC", "ETHXBT"), ("XDG/XBT", "DOGE/BTC", "XDGXBT"),
     ("SOL/EUR", "SOL/EUR", "SOLEUR"), ("XBTC/USD", "XBTC/USD", "XBTCUSD")],
)  # fmt: skip
def test_every_other_name_follows_from_wsname(wsname, v2, rest):
    assert v2_symbol(wsname) == v2
    assert wsname_of(v2) == wsname
    assert rest_pair(wsname) == rest


def test_without_the_venues_list_names_are_guessed_and_not_resolved():
    market = guess("ETH/XBT")
    assert (market.fqme, market.bs_mktid, market.resolved) == ("eth/xbt.spot.kraken", "ETH/XBT", False)

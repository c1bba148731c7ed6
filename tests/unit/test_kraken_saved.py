"""Kraken's saved answers: which pair, which trades, and what is none."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from backends.kraken.rest_names import split_rest_name
from backends.kraken.saved import read, recognise
from backends.recording import read_companions, read_rest
from marketd.errors import WireError

DATA = Path(__file__).resolve().parent.parent / "data" / "kraken"
ASSET_PAIRS = read_companions(DATA / "spot-trades.json")
T_NS = 1_767_225_600_000_000_000


def trade(trade_id=7, price="88000.20000", time="1767225600.5", side="b"):
    return f'["{price}","0.00027625",{time},"{side}","l","",{trade_id}]'


def body(*trades, pair="XXBTZUSD", last=True, error="[]"):
    tail = ',"last":"1767225600500000000"' if last else ""
    return f'{{"error":{error},"result":{{"{pair}":[{",".join(trades)}]{tail}}}}}'.encode()


def only(*bodies, metadata=ASSET_PAIRS):
    [series] = read(bodies, metadata)
    return series


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fqme"),
    [
        ("XXBTZUSD", "xbt/usd"),
        ("XETHZEUR", "eth/eur"),
        ("XETHXXBT", "eth/xbt"),
        ("SOLUSD", "sol/usd"),
        ("XBTUSDT", "xbt/usdt"),
        ("USDTZUSD", "usdt/usd"),
        ("USDCUSDT", "usdc/usdt"),
        ("ZEURZUSD", "eur/usd"),
        ("ZUSDZJPY", "usd/jpy"),
        ("EURGBP", "eur/gbp"),
        ("XTZUSD", "xtz/usd"),
        ("XDGUSD", "xdg/usd"),
        ("XXDGXXBT", "xdg/xbt"),
        ("XRPRLUSD", "xrp/rlusd"),
        ("SPYUSD", "spy/usd"),
        ("AIUSDT", "ai/usdt"),
        ("AAPLxUSD", "aaplx/usd"),
        ("ETH2.SETH", "eth2-s/eth"),
        ("BTC/USD", "xbt/usd"),
        ("XBTUSD", "xbt/usd"),
        ("BTCUSD", "xbt/usd"),
    ],
)
@pytest.mark.parametrize("metadata", [{}, ASSET_PAIRS], ids=["alone", "with a list"])
def test_rest_ids_are_instruments_also_where_no_list_knows_them(name, fqme, metadata):
    assert only(body(trade(), pair=name), metadata=metadata).market.fqme == f"{fqme}.spot.kraken"


def test_every_recorded_rest_id_is_parted_as_the_venue_does(shared_data):
    [pairs] = read_rest(shared_data / "recordings" / "kraken.AssetPairs.rest").values()
    for name, pair in json.loads(pairs)["result"].items():
        if "wsname" in pair:
            assert split_rest_name(name) == split_rest_name(pair["altname"]) == pair["wsname"]


@pytest.mark.parametrize("name", ["", "XXBTZUSD.d", "USD", "FOO", "a b/c", "é" * 9, "\U0001f600USD", "x/y/z", "*/USD"])
def test_what_can_not_be_a_pair_is_refused_with_what_would_help(name):
    with pytest.raises(WireError, match=r"nobody can tell which pair .*AssetPairs"):
        only(body(trade(), pair=name))


def test_one_pair_under_two_ids_is_one_instrument():
    series = only(body(trade(7), pair="XXBTZUSD"), body(trade(8), pair="XBTUSD"))
    assert [row[1] for row in series.trades] == [7, 8]


# --- steps --------------------------------------------------------------------------------------------------


def test_steps_and_assets_are_those_of_the_list_beside_the_file():
    market = only(body(trade(price="88000.00000"))).market
    assert (market.price_tick, market.size_tick) == (Decimal("0.1"), Decimal("1E-8"))
    assert (market.resolved, market.bs_mktid) == (True, "XBT/USD")


@pytest.mark.parametrize(
    ("prices", "tick"),
    [
        (["88000.20000", "88001.00000"], "0.1"),
        (["125.35000", "125.30000"], "0.01"),
        (["0.0000001230"], "1E-9"),
        (["88000.00000"], "1"),
        (["120.00000"], "1"),
    ],
)
def test_without_a_list_prices_tell_their_step(prices, tick):
    market = only(body(*(trade(n, price=price) for n, price in enumerate(prices))), metadata={}).market
    assert (market.price_tick, market.size_tick) == (Decimal(tick), Decimal("1E-8"))
    assert not market.resolved


def test_a_list_that_is_none_is_told():
    with pytest.raises(WireError, match="AssetPairs can't be used: Kraken says EService:Unavailable"):
        only(body(trade()), metadata={"https://x/0/public/AssetPairs": b'{"error":["EService:Unavailable"]}'})


# --- trades -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1767225600.9717445", T_NS + 971_744_500),
        ("1767225600.123456789", T_NS + 123_456_789),
        ("1767225600.999999999", T_NS + 999_999_999),
        ("1767225600", T_NS),
        ("1.7672256009717445e9", T_NS + 971_744_500),
    ],
)
def test_times_are_exact_to_the_nanosecond(text, time_ns):
    assert only(body(trade(time=text))).trades == [(time_ns, 7, 88000.2, 0.00027625, 1)]


def test_the_side_is_the_takers():
    assert [row[4] for row in only(body(trade(7, side="b"), trade(8, side="s"))).trades] == [1, -1]


@pytest.mark.parametrize(
    "bad", ["null", "{}", '["1","2"]', trade(price="-1"), trade(side="x"), trade(time="17"), trade(trade_id="null")]
)
def test_a_trade_that_can_not_be_used_is_kept_as_its_text(bad):
    series = only(body(trade(7), bad, trade(9)))
    assert [row if isinstance(row, bytes) else row[1] for row in series.trades] == [7, bad.encode(), 9]


def test_last_may_be_missing_and_pages_are_put_together():
    series = only(body(trade(7), last=False), body(trade(8)), body(), body(trade(8)))
    assert [row[1] for row in series.trades] == [7, 8, 8]


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"result":{}}', '{"error":"no"}', '{"error":[],"result":[]}'])
def test_other_venues_answers_are_not_recognised(text):
    assert not recognise(text.encode())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"error":["EGeneral:Invalid arguments"]}', "Kraken says EGeneral:Invalid arguments"),
        (b'{"error":["EService:Busy"],"result":{}}', "Kraken says EService:Busy"),
        (body("[1767225600,1,1,1,1,1,1,3]"), r"XXBTZUSD are no trades \[price"),
        (body('["1","1",1767225600.1,"b","l",""]'), r"XXBTZUSD are no trades \[price"),
        (b'{"error":[],"result":{"XXBTZUSD":{"a":["1"]}}}', "XXBTZUSD is no list of trades"),
        (b'{"error":[],"result":{"XXBTZUSD":null}}', "XXBTZUSD is no list of trades"),
    ],
)
def test_kraken_answers_without_trades_are_refused_with_their_reason(text, words):
    assert recognise(text)
    with pytest.raises(WireError, match=words):
        read([text], {})
    with pytest.raises(WireError, match=words):
        read([body(trade()), text], {})


def test_a_later_body_of_another_kind_is_refused():
    with pytest.raises(WireError, match="it is no answer of Kraken's REST"):
        read([body(trade()), b"[1,2]"], {})

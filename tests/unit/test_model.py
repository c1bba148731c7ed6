from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from marketd.model import Asset, MktPair

BTC = Asset("btc", "crypto", Decimal("1E-8"))
USDT = Asset("usdt", "crypto", Decimal("1E-6"))


def spot(**changes: object) -> MktPair:
    fields = {"dst": BTC, "src": USDT, "venue": "spot", "backend": "binance", "type": "spot"} | changes
    return MktPair(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "market", [spot(), spot(dst="btc", src="usdt"), spot(src="usdt"), spot(price_tick=Decimal("0.10"))]
)
def test_round_trip_keeps_ticks_as_decimals_and_assets_as_assets(market: MktPair) -> None:
    """R42, R43: Decimal ticks survive with their digits; the three allowed forms of dst and src are kept apart."""
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(market), type=MktPair)
    assert again == market
    assert type(again.dst) is type(market.dst)
    assert type(again.src) is type(market.src)
    assert str(again.price_tick) == str(market.price_tick)


def test_name_as_dst_with_an_asset_as_src_is_refused() -> None:
    """R43."""
    with pytest.raises(ValueError, match="give the Asset for dst too"):
        spot(dst="btc")


@pytest.mark.parametrize("tick", ["0", "-1", "NaN", "Infinity"])
def test_impossible_tick_is_refused(tick: str) -> None:
    with pytest.raises(ValueError, match="price_tick"):
        spot(price_tick=Decimal(tick))


def test_wrong_types_are_refused_by_the_codec() -> None:
    """R42: raises on wrong types."""
    raw = msgspec.msgpack.encode({"dst": 5, "backend": "binance"})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(raw, type=MktPair)


def test_pair_and_fqme_show_the_assets_name() -> None:
    """R44."""
    assert spot().pair == "btc/usdt"
    assert spot().fqme == "btc/usdt.spot.binance"
    assert spot(suffix="20230616").fqme == "btc/usdt.spot.20230616.binance"
    assert MktPair(dst="mnq", venue="cme", suffix="20230616", backend="ib").fqme == "mnq.cme.20230616.ib"


def test_ticks_that_are_not_given_are_decimals() -> None:
    """R45."""
    market = msgspec.msgpack.decode(msgspec.msgpack.encode({"dst": "btc", "backend": "x"}), type=MktPair)
    assert isinstance(market.price_tick, Decimal)
    assert isinstance(market.size_tick, Decimal)


def test_prices_are_rounded_by_the_price_tick_and_sizes_by_the_size_tick() -> None:
    """R40: with a tick of a hundredth and whole lots, and the other way round."""
    stock = spot(price_tick=Decimal("0.01"), size_tick=Decimal(1))
    assert (stock.price_digits, stock.size_digits) == (2, 0)
    assert stock.quantize_price("10.006") == Decimal("10.01")
    assert stock.quantize_size(3.4) == 3
    bond = spot(price_tick=Decimal(5), size_tick=Decimal("0.001"))
    assert (bond.price_digits, bond.size_digits) == (0, 3)
    assert bond.quantize_price(12.4) == 10
    assert bond.quantize_size(0.0014) == Decimal("0.001")


def test_venue_id_is_text() -> None:
    """R77."""
    raw = msgspec.msgpack.encode({"dst": "btc", "backend": "x", "bs_mktid": 17})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(raw, type=MktPair)


@pytest.mark.parametrize(
    ("type_", "tick"),
    [("stock", "1"), ("future", "1"), ("option", "1"), ("fund", "1"), ("spot", "1E-8"), ("perpetual", "1E-8")],
)
def test_sizes_of_what_is_traded_in_whole_lots_are_whole_by_default(type_, tick):
    """R86: and stay what they are on the way through a message; a tick that is given counts."""
    market = MktPair(dst="a", src="b", venue="v", backend="x", type=type_)
    assert market.size_tick == Decimal(tick)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(market), type=MktPair) == market
    assert msgspec.structs.replace(market, size_tick=Decimal("0.001")).size_tick == Decimal("0.001")


@pytest.mark.parametrize("tick", ["NaN", "0", "-1", "Infinity"])
def test_size_tick_that_is_none_is_refused(tick):
    with pytest.raises(ValueError, match="size_tick"):
        MktPair(dst="a", backend="x", size_tick=Decimal(tick))

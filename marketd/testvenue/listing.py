"""What each venue lists: the same assets, in that venue's ticks."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from marketd.testvenue.market import PRICE_TICKS_MAX, Instrument

SECOND_NS = 1_000_000_000
TRADE_INTERVAL_NS_MIN = SECOND_NS // 2
TRADE_INTERVAL_NS_MAX = 240 * SECOND_NS
QUOTES_A_TRADE = 4


@dataclass(frozen=True)
class Asset:
    """An asset and the decimals that venues use for it against dollars."""

    name: str
    price: Decimal
    price_decimals: int
    size_decimals: int


@dataclass(frozen=True)
class Ticks:
    """How a venue differs from :class:`Asset`'s decimals."""

    quote: str
    size_max: int
    size_decimals: int | None = None  # the same for all
    price_ticks: tuple[tuple[str, str], ...] = ()  # base asset, tick
    cross: bool = False  # one pair against BTC, after the first two


ASSETS = tuple(
    Asset(name, Decimal(price), price_decimals, size_decimals)
    for name, price, price_decimals, size_decimals in (
        ("BTC", "90000", 2, 5),
        ("ETH", "3000", 2, 4),
        ("SOL", "140", 2, 3),
        ("XRP", "2.2", 4, 1),
        ("DOGE", "0.15", 5, 0),
        ("ADA", "0.45", 4, 1),
        ("LTC", "84", 2, 3),
        ("BNB", "850", 2, 3),
        ("LINK", "13", 2, 2),
        ("AVAX", "14", 2, 2),
        ("DOT", "2.3", 3, 2),
        ("ATOM", "2.5", 3, 2),
        ("UNI", "6", 3, 2),
        ("ALGO", "0.14", 4, 0),
        ("XLM", "0.24", 4, 0),
        ("TRX", "0.28", 4, 1),
        ("NEAR", "1.9", 3, 1),
        ("AAVE", "170", 2, 3),
        ("FIL", "1.6", 3, 2),
        ("SHIB", "0.0000085", 8, 0),
    )
)

BINANCE = Ticks("USDT", 1000, cross=True)
BINANCE_FUTURES = Ticks("USDT", 1000, price_ticks=(("BTC", "0.10"), ("LTC", "0.05")))
KRAKEN = Ticks("USD", 100_000, size_decimals=8, price_ticks=(("BTC", "0.1"),), cross=True)
KUCOIN = Ticks("USDT", 1000, price_ticks=(("BTC", "0.1"),), cross=True)


def instruments(ticks: Ticks, count: int, rate: float | None) -> list[Instrument]:
    """List ``count`` instruments of a venue.

    Args:
        rate: messages a second, trades and quotes together, over all instruments evenly. Without it the first is the
            busiest (two trades a second) and those from about the tenth on trade every few minutes.
    """
    pairs = [(_asset(number), ticks.quote) for number in range(count)]
    if ticks.cross and count > 2:
        pairs[2:] = [(ASSETS[1], "BTC"), *pairs[2:-1]]
    return [_instrument(ticks, *pair, *_intervals(rank, count, rate)) for rank, pair in enumerate(pairs)]


def _asset(number: int) -> Asset:
    if number < len(ASSETS):
        return ASSETS[number]
    # Made-up assets, at prices that differ.
    return Asset(f"SIM{number + 1:04d}", Decimal(1 + number * 37 % 400), 2, 2)


def _intervals(rank: int, count: int, rate: float | None) -> tuple[int, int]:
    if rate is not None:
        interval_ns = max(int(2 * count / rate * SECOND_NS), 1)
        return interval_ns, interval_ns
    interval_ns = min(int(TRADE_INTERVAL_NS_MIN * 1.7**rank), TRADE_INTERVAL_NS_MAX) if rank < 32 else 0
    interval_ns = interval_ns or TRADE_INTERVAL_NS_MAX
    return interval_ns, interval_ns // QUOTES_A_TRADE


def _instrument(ticks: Ticks, asset: Asset, quote: str, trade_interval_ns: int, quote_interval_ns: int) -> Instrument:
    if quote == "BTC":
        price, price_tick = Decimal("0.033"), Decimal("0.00001")
    else:
        price = asset.price
        price_tick = Decimal(dict(ticks.price_ticks).get(asset.name, Decimal(1).scaleb(-asset.price_decimals)))
    size_decimals = asset.size_decimals if ticks.size_decimals is None else ticks.size_decimals
    return Instrument(
        asset.name,
        quote,
        price_tick,
        Decimal(1).scaleb(-size_decimals),
        max(100, min(int(price / price_tick), PRICE_TICKS_MAX * 9 // 10)),
        ticks.size_max,
        trade_interval_ns,
        quote_interval_ns,
    )

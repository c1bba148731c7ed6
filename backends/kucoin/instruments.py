"""KuCoin's symbols -> instruments: from its list where there is one, else a guess from the symbol's two names.

A symbol keeps its name when what it trades is renamed: `BCHSV-USDT` is ``bsv/usdt.spot.kucoin``. So ``bs_mktid`` is the
symbol, and the instrument's name is made of the currencies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from urllib.parse import urlsplit

from backends.kucoin import wire
from backends.kucoin.rest import read
from marketd.model import Asset, MktPair

BACKEND = "kucoin"
VENUE = "spot"

_FIATS = frozenset({"USD", "EUR", "GBP", "TRY", "BRL", "UAH", "AUD", "JPY"})
_SYMBOL = re.compile(r"[0-9A-Za-z$.]{1,20}-[0-9A-Za-z]{1,20}")
_LISTS = ("/api/v1/symbols", "/api/v2/symbols")


@dataclass
class Directory:
    """The instruments by symbol. Empty when nobody has recorded or asked for the venue's list."""

    markets: dict[str, MktPair] = field(default_factory=dict)

    def find(self, symbol: str) -> MktPair | None:
        """Return what the venue says of a symbol, or a guess where nobody knows its list; None for what can't be."""
        known = self.markets.get(symbol)
        if known is not None or self.markets:
            return known
        return guess(symbol) if _SYMBOL.fullmatch(symbol) else None


def read_directory(metadata: Mapping[str, bytes]) -> Directory:
    """Find the list of symbols among recorded REST answers; those without trading at that moment are in it, too.

    Raises:
        WireError: it is there, and can't be used.
    """
    for url, body in metadata.items():
        if urlsplit(url).path in _LISTS:
            markets = parse_symbols(body, trading_only=False)
            return Directory({market.bs_mktid: market for market in markets})
    return Directory()


def parse_symbols(body: bytes, currencies: bytes | None = None, *, trading_only: bool = True) -> list[MktPair]:
    """Turn a list of symbols, with or without one of currencies, into instruments.

    Raises:
        WireError: one of them is no such answer, or says that the request failed.
    """
    symbols = read(body, wire.decode_symbols, "the list of symbols")
    known = [] if currencies is None else read(currencies, wire.decode_currencies, "the list of currencies")
    precisions = {currency.currency: currency.precision for currency in known}
    return [
        _market(symbol, precisions)
        for symbol in symbols
        if _SYMBOL.fullmatch(symbol.symbol) and (symbol.trading or not trading_only)
    ]


def guess(symbol: str) -> MktPair:
    """Take the names for what they are; ``dst`` stays plain text: the instrument is not resolved."""
    dst, _, src = symbol.partition("-")
    return MktPair(dst=_name(dst), src=_name(src), venue=VENUE, backend=BACKEND, type="spot", bs_mktid=symbol)


def _market(symbol: wire.Symbol, precisions: Mapping[str, int]) -> MktPair:
    return MktPair(
        dst=_asset(symbol.base, precisions),
        src=_asset(symbol.quote, precisions),
        venue=VENUE,
        backend=BACKEND,
        type="spot",
        bs_mktid=symbol.symbol,
        price_tick=_step(symbol.price_increment, "0.01"),
        size_tick=_step(symbol.base_increment, "1E-8"),
    )


def _asset(name: str, precisions: Mapping[str, int]) -> Asset:
    decimals = min(max(precisions.get(name, 8), 0), 18)
    return Asset(_name(name), "fiat" if name in _FIATS else "crypto", Decimal(1).scaleb(-decimals))


def _name(name: str) -> str:
    # A dot separates the parts of an FQME.
    return name.lower().replace(".", "-")


def _step(text: str, default: str) -> Decimal:
    try:
        step = Decimal(text).normalize()
    except InvalidOperation:
        return Decimal(default)
    return step if step.is_finite() and step > 0 else Decimal(default)

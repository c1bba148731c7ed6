"""Binance's symbols -> instruments: from exchangeInfo where there is one, else a guess from the symbol's letters."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec

from backends.binance import wire
from marketd.errors import WireError
from marketd.fqme import parse as parse_fqme
from marketd.model import Asset, AssetType, InstrumentType, MktPair

_FIATS = (
    *("USD", "EUR", "GBP", "AUD", "BRL", "TRY", "RUB", "UAH", "NGN", "ZAR", "PLN", "RON", "ARS", "JPY", "MXN", "CZK"),
    *("COP", "KZT", "CHF", "CAD"),
)
_CRYPTO_QUOTES = (
    *(
        "USDT",
        "USDC",
        "FDUSD",
        "BUSD",
        "TUSD",
        "USD1",
        "USDS",
        "USDP",
        "USDE",
        "DAI",
        "PAX",
        "BTC",
        "ETH",
        "BNB",
        "XRP",
    ),
    *("TRX", "DOGE", "SOL", "DOT", "BIDR", "IDRT", "BKRW", "BVND", "VAI", "GYEN", "EURI", "XUSD", "BFUSD"),
)
# Longest first, so that BTCFDUSD is not taken for a pair with USD.
_QUOTE_ASSETS = sorted((*_CRYPTO_QUOTES, *_FIATS), key=len, reverse=True)
_ASSET_TYPES: dict[str, AssetType] = {"INDEX": "index", "EQUITY": "stock", "COMMODITY": "commodity"}
_DELIVERY = re.compile(r"(.+)_(\d{6})")
# What has no market data now: delisted or suspended (BREAK), settled, or not begun. A delisted perpetual stays in the
# list as SETTLING. Any other status, one that is new to us too, is taken for a market that may speak.
_SILENT = frozenset({"BREAK", "PENDING_TRADING", "DELIVERED", "SETTLING", "CLOSE"})


class Host(NamedTuple):
    """What an address says: whose data, of which market."""

    backend: str
    futures: bool


# General information pages of spot, USD-M futures and https://docs.binance.us/#websocket-information
HOSTS = {
    "stream.binance.com": Host("binance", futures=False),
    "data-stream.binance.vision": Host("binance", futures=False),
    "api.binance.com": Host("binance", futures=False),
    "data-api.binance.vision": Host("binance", futures=False),
    "fstream.binance.com": Host("binance", futures=True),
    "fapi.binance.com": Host("binance", futures=True),
    "stream.binance.us": Host("binanceus", futures=False),
    "api.binance.us": Host("binanceus", futures=False),
}
URL_PREFIXES = tuple(f"wss://{host}" for host in HOSTS if "stream" in host)


@dataclass
class Directory:
    """The instruments of one market, by symbol. Empty when nobody has recorded or asked for the venue's list."""

    host: Host
    markets: dict[str, MktPair] = field(default_factory=dict)

    def find(self, symbol: str) -> MktPair:
        """Return what the venue says of a symbol, or a guess."""
        return self.markets.get(symbol) or guess(symbol, self.host)


def host_of(url: str) -> Host:
    """Tell the market by the address; an unknown host counts as Binance spot."""
    return HOSTS.get(urlsplit(url).hostname or "", Host("binance", futures=False))


def streams_of(url: str) -> list[str]:
    """List the streams that an address subscribes to, combined or raw, in its order and each once."""
    parts = urlsplit(url)
    text = parse_qs(parts.query).get("streams", [""])[0] or parts.path.partition("/ws/")[2]
    return list(dict.fromkeys(name for name in text.split("/") if name))


def time_unit_ns_of(url: str) -> int:
    """How many nanoseconds are one unit of the times on this connection."""
    unit = parse_qs(urlsplit(url).query).get("timeUnit", [""])[0]
    return 1_000 if unit.upper() == "MICROSECOND" else 1_000_000


def read_directory(host: Host, metadata: Mapping[str, bytes]) -> Directory:
    """Find this market's exchangeInfo among recorded REST answers.

    Raises:
        WireError: it is there, and can't be used.
    """
    for url, body in metadata.items():
        parts = urlsplit(url)
        if parts.path.endswith("/exchangeInfo") and HOSTS.get(parts.hostname or "") == host:
            return Directory(host, {market.bs_mktid: market for market in parse_exchange_info(body, host)})
    return Directory(host)


def parse_exchange_info(body: bytes, host: Host) -> list[MktPair]:
    """Turn an exchangeInfo answer into instruments, those that are no longer traded as well.

    Raises:
        WireError: it is no such answer.
    """
    return _markets(_symbols(body), host)


def parse_listed(body: bytes, host: Host) -> list[MktPair]:
    """Turn an exchangeInfo answer into the instruments that can be subscribed to, each name once.

    Raises:
        WireError: it is no such answer, or has no such instrument.
    """
    markets = _markets([symbol for symbol in _symbols(body) if symbol.status not in _SILENT], host)
    if not markets:
        raise WireError("exchangeInfo has no instrument that is traded")
    return list({market.fqme: market for market in markets}.values())


def guess(symbol: str, host: Host) -> MktPair:
    """Split a symbol by the quote assets we know; ``dst`` stays plain text: the instrument is not resolved."""
    delivery = _DELIVERY.fullmatch(symbol)
    pair, expiry = (delivery[1], f"20{delivery[2]}") if delivery else (symbol, "")
    src = next((quote for quote in _QUOTE_ASSETS if pair.endswith(quote) and pair != quote), "")
    dst = pair.removesuffix(src) if src else pair
    venue, kind = _venue(host, expiry)
    return MktPair(
        dst=dst.lower(),
        src=src.lower(),
        venue=venue,
        suffix=expiry,
        backend=host.backend,
        type=kind,
        bs_mktid=symbol,
        expiry=expiry,
    )


def _symbols(body: bytes) -> list[wire.Symbol]:
    """Read the list. An entry that can't be read is left out: it must not cost us all the others.

    Raises:
        WireError: it is no list, or nothing in it can be read.
    """
    try:
        entries = wire.decode_exchange_info(body).symbols
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise WireError(f"exchangeInfo can't be used: {error}") from error
    symbols: list[wire.Symbol] = []
    problem: Exception | None = None
    for entry in entries:
        try:
            symbols.append(wire.decode_symbol(entry))
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            problem = error
    if problem is not None and not symbols:
        raise WireError(f"exchangeInfo can't be used: {problem}") from problem
    return symbols


def _markets(symbols: Iterable[wire.Symbol], host: Host) -> list[MktPair]:
    """Make the instruments; one that can't have a name is left out."""
    markets: list[MktPair] = []
    for symbol in symbols:
        with contextlib.suppress(ValueError, OverflowError, OSError):  # the last two are of impossible dates
            market = _market(symbol, host)
            parse_fqme(market.fqme)
            markets.append(market)
    return markets


def _market(symbol: wire.Symbol, host: Host) -> MktPair:
    perpetual = symbol.contract_type in ("", "PERPETUAL", "TRADIFI_PERPETUAL") and "_" not in symbol.symbol
    expiry = "" if perpetual else datetime.fromtimestamp(symbol.delivery_date / 1000, UTC).strftime("%Y%m%d")
    venue, kind = _venue(host, expiry)
    return MktPair(
        dst=_asset(symbol.base_asset, symbol.base_precision, _ASSET_TYPES.get(symbol.underlying_type)),
        src=_asset(symbol.quote_asset, symbol.quote_precision),
        venue=venue,
        suffix=expiry,
        backend=host.backend,
        type=kind,
        bs_mktid=symbol.symbol,
        price_tick=_step((step.tick_size for step in symbol.filters if step.filter_type == "PRICE_FILTER"), "0.01"),
        size_tick=_step((step.step_size for step in symbol.filters if step.filter_type == "LOT_SIZE"), "1E-8"),
        expiry=expiry,
    )


def _venue(host: Host, expiry: str) -> tuple[str, InstrumentType]:
    if not host.futures:
        return "spot", "spot"
    return ("future", "future") if expiry else ("perp", "perpetual")


def _asset(name: str, precision: int, kind: AssetType | None = None) -> Asset:
    precision = min(max(precision, 0), 18)
    return Asset(name.lower(), kind or ("fiat" if name in _FIATS else "crypto"), Decimal(1).scaleb(-precision))


def _step(texts: Iterable[str], default: str) -> Decimal:
    """Take the first step that is one; some symbols have none, or say 0 for "any"."""
    for text in texts:
        try:
            step = Decimal(text).normalize()
        except InvalidOperation:
            continue
        if step.is_finite() and step > 0:
            return step
    return Decimal(default)

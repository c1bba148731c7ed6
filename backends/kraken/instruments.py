"""Kraken's pairs -> instruments: from AssetPairs where there is one, else a guess from the pair's two names.

An asset has three names: `XXBT` in REST's ids, `XBT` in REST's alternative names and `wsname`, `BTC` in websocket v2.
Instruments have the middle ones, ``xbt/usd.spot.kraken``, and `wsname` as ``bs_mktid``, from which all others follow:

    XBT/USD   `wsname`, websocket v1 (and nothing else: today v2 and REST both refuse it)
    BTC/USD   websocket v2
    XBTUSD    REST (`altname`)

https://support.kraken.com/articles/360000920306-api-symbols-and-tickers . That two assets only have names of their own
in v2 was found by those who compared all of `wsname` with v2's `instrument` channel; see also
https://github.com/nautechsystems/nautilus_trader/issues/3509 and 3960 there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from backends.kraken import wire
from backends.kraken.rest_names import split_rest_name
from marketd.errors import WireError
from marketd.model import Asset, AssetType, MktPair

T = TypeVar("T")

BACKEND = "kraken"
VENUE = "spot"

_V2_NAMES = {"XBT": "BTC", "XDG": "DOGE"}
_V1_NAMES = {new: old for old, new in _V2_NAMES.items()}
_FIATS = frozenset({"USD", "EUR", "GBP", "JPY", "CAD", "AUD", "CHF", "KRW", "AED", "ARS", "MXN", "BRL"})
_PAIR = re.compile(r"[0-9A-Za-z.]{1,20}/[0-9A-Za-z.]{1,20}")
_GONE = frozenset({"delisted", "hidden", "work_in_progress"})
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


@dataclass
class Directory:
    """The instruments by `wsname` and by REST's ids. Empty when nobody has recorded or asked for the venue's list."""

    markets: dict[str, MktPair] = field(default_factory=dict)
    rest: dict[str, MktPair] = field(default_factory=dict)

    def find(self, wsname: str) -> MktPair | None:
        """Return what the venue says of a pair, or a guess where nobody knows its list; None for what can't be one."""
        known = self.markets.get(wsname)
        if known is not None or self.markets:
            return known
        return guess(wsname) if _PAIR.fullmatch(wsname) else None

    def find_rest(self, name: str) -> MktPair | None:
        """Return what the venue says of a pair under REST's id, or a guess; None for what can't be a pair.

        REST answers for the pair, so it exists, even where a list of another day does not know it.
        """
        if name in self.rest:
            return self.rest[name]
        wsname = wsname_of(name if "/" in name else split_rest_name(name) or "")
        return self.markets.get(wsname) or (guess(wsname) if _PAIR.fullmatch(wsname) else None)


def v2_symbol(wsname: str) -> str:
    """``XBT/USD`` -> ``BTC/USD``."""
    return _rename(wsname, _V2_NAMES)


def wsname_of(v2_symbol: str) -> str:
    """``BTC/USD`` -> ``XBT/USD``."""
    return _rename(v2_symbol, _V1_NAMES)


def rest_pair(wsname: str) -> str:
    """``XBT/USD`` -> ``XBTUSD``."""
    return wsname.replace("/", "")


def read_directory(metadata: Mapping[str, bytes]) -> Directory:
    """Find AssetPairs among recorded REST answers.

    Raises:
        WireError: it is there, and can't be used.
    """
    for url, body in metadata.items():
        if urlsplit(url).path.endswith("/AssetPairs"):
            rest = _listed(body)
            return Directory({market.bs_mktid: market for market in rest.values()}, rest)
    return Directory()


def parse_pairs(body: bytes, assets: bytes | None = None) -> list[MktPair]:
    """Turn an AssetPairs answer, with or without an Assets answer, into instruments.

    Pairs that no websocket shows, and those that are gone or not there yet, are left out.

    Raises:
        WireError: one of them is no such answer, or says that the request failed.
    """
    return list(_listed(body, assets).values())


def guess(wsname: str) -> MktPair:
    """Take the names for what they are; ``dst`` stays plain text: the instrument is not resolved."""
    dst, _, src = wsname.partition("/")
    return MktPair(dst=_name(dst), src=_name(src), venue=VENUE, backend=BACKEND, type="spot", bs_mktid=wsname)


def _listed(body: bytes, assets: bytes | None = None) -> dict[str, MktPair]:
    """Read the instruments of an AssetPairs answer by REST's ids."""
    pairs = read("AssetPairs", wire.decode_pairs, body)
    known = {} if assets is None else read("Assets", wire.decode_assets, assets)
    decimals = {name: asset.decimals for name, asset in known.items()}
    return {
        name: _market(pair, decimals)
        for name, pair in pairs.items()
        if _PAIR.fullmatch(pair.wsname) and pair.status not in _GONE
    }


def read(what: str, decode: Callable[[bytes], wire.Answer[T]], body: bytes) -> T:
    """Read a REST answer. Raises WireError: it is none, or says that the request failed."""
    try:
        answer = decode(body)
    except _UNREADABLE as error:
        raise WireError(f"{what} can't be used: {error}") from error
    if answer.error or answer.result is None:
        raise WireError(f"{what} can't be used: Kraken says {', '.join(answer.error) or 'nothing'}")
    return answer.result


def _market(pair: wire.AssetPair, decimals: Mapping[str, int]) -> MktPair:
    dst, _, src = pair.wsname.partition("/")
    kind: AssetType | None = "stock" if pair.aclass_base == "tokenized_asset" else None
    return MktPair(
        dst=_asset(dst, decimals.get(pair.base, pair.lot_decimals), kind),
        src=_asset(src, decimals.get(pair.quote, 8)),
        venue=VENUE,
        backend=BACKEND,
        type="spot",
        bs_mktid=pair.wsname,
        price_tick=_tick(pair),
        size_tick=_step(pair.lot_decimals),
    )


def _asset(name: str, decimals: int, kind: AssetType | None = None) -> Asset:
    return Asset(_name(name), kind or ("fiat" if name in _FIATS else "crypto"), _step(decimals))


def _name(name: str) -> str:
    # A dot separates the parts of an FQME: staked ether, `ETH2.S`, is `eth2-s`.
    return name.lower().replace(".", "-")


def _tick(pair: wire.AssetPair) -> Decimal:
    """`tick_size` where there is one: it can be coarser than the last of `pair_decimals`."""
    try:
        tick = Decimal(pair.tick_size).normalize()
    except InvalidOperation:
        return _step(pair.pair_decimals)
    return tick if tick.is_finite() and tick > 0 else _step(pair.pair_decimals)


def _step(decimals: int) -> Decimal:
    return Decimal(1).scaleb(-min(max(decimals, 0), 18))


def _rename(pair: str, names: Mapping[str, str]) -> str:
    dst, slash, src = pair.partition("/")
    return names.get(dst, dst) + slash + names.get(src, src)

"""REST's ids of pairs -> `wsname`, for answers that no AssetPairs lies beside.

    XXBTZUSD    XBT/USD     an old asset has a letter before its name, X for a coin and Z for money,
    USDTZUSD    USDT/USD    but only in a pair of two old ones (and in this one)
    XBTUSDT     XBT/USDT    all others are the two names
    XTZUSD      XTZ/USD     and not XT and ZUSD

https://support.kraken.com/articles/360000920306-api-symbols-and-tickers . That this is right for every pair of a
recorded AssetPairs answer is tested. Newer assets have no such letter, so the old ones are a closed list.
"""

from __future__ import annotations

_OLD_COINS = (
    "XETC",
    "XETH",
    "XICN",
    "XLTC",
    "XMLN",
    "XNMC",
    "XREP",
    "XXBT",
    "XXDG",
    "XXLM",
    "XXMR",
    "XXRP",
    "XXVN",
    "XZEC",
)
_OLD_MONEY = ("ZAUD", "ZCAD", "ZEUR", "ZGBP", "ZJPY", "ZKRW", "ZUSD")
_OLD_NAMES = {name: name[1:] for name in (*_OLD_COINS, *_OLD_MONEY)}
_OLD_DSTS = _OLD_NAMES | {"USDT": "USDT"}

# What Kraken's pairs are paid with.
_MONEY = ("AED", "ARS", "AUD", "BRL", "CAD", "CHF", "EUR", "GBP", "JPY", "KRW", "MXN", "USD")
_STABLE = (
    "DAI",
    "EURC",
    "EUROP",
    "EURQ",
    "EURR",
    "PYUSD",
    "RLUSD",
    "USDC",
    "USDD",
    "USDG",
    "USDQ",
    "USDR",
    "USDS",
    "USDT",
)
_COINS = ("BTC", "DOT", "ETH", "SOL", "XBT")
_SRCS = sorted((*_MONEY, *_STABLE, *_COINS), key=len, reverse=True)


def split_rest_name(name: str) -> str | None:
    """Part a pair's REST id, or its alternative name, with a slash; None for what can't be parted.

    Where a pair may be parted in two ways it is paid with the longer (XRP/RLUSD, and not XRPRL/USD), but for that some
    three letters must be left (SPY/USD, and not S/PYUSD).
    """
    if name[:4] in _OLD_DSTS and name[4:] in _OLD_NAMES:
        return f"{_OLD_DSTS[name[:4]]}/{_OLD_NAMES[name[4:]]}"
    ways = [(name.removesuffix(src), src) for src in _SRCS if name.endswith(src) and name != src]
    if not ways:
        return None
    dst, src = next(((dst, src) for dst, src in ways if len(dst) >= 3), ways[0])
    return f"{dst}/{src}"
